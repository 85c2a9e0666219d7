#!/usr/bin/env bash
# Makes a virtual environment in .venv (or $TASTER_VENV) and installs taster into it, with the extras given as argument.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${TASTER_VENV:-.venv}"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".${1:+[$1]}"
