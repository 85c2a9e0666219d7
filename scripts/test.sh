#!/usr/bin/env bash
# Sets up and runs every check: style, types, tests with coverage. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh dev
bin="${TASTER_VENV:-.venv}/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
exec "$bin/python" -m pytest -ra --cov=taster --cov-report=term "$@"
