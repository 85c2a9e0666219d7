#!/usr/bin/env bash
# Sets up and runs every check: style, types, import contracts, tests. Arguments go to pytest; --thorough runs the long
# fuzzing, tracing and killing with more cases, and measures coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev
bin="${TASTER_VENV:-.venv}/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports" --no-logo
coverage=()
for argument in "$@"; do
  if [ "$argument" = --thorough ]; then coverage=(--cov=taster --cov-report=term); fi
done
exec "$bin/python" -m pytest -ra ${coverage[@]+"${coverage[@]}"} "$@"
