#!/usr/bin/env bash
# Sets up and runs every check: style, types, import contracts, tests. Arguments go to pytest; --thorough runs the long
# fuzzing, tracing and killing with more cases, and measures coverage.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev,docs
bin="${TASTER_VENV:-.venv}/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports" --no-logo
coverage=()
for argument in "$@"; do
  if [ "$argument" = --thorough ]; then coverage=(--cov=taster --cov-report=term); fi
done
# A process for each core, each with one thread: of small models two threads make one core's worth.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$bin/python" -m pytest -ra -n auto --dist loadfile ${coverage[@]+"${coverage[@]}"} "$@"
