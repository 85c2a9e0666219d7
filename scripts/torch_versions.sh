#!/usr/bin/env bash
# Passes the tests with the lowest and the highest version of PyTorch that pyproject.toml names, each in a virtual
# environment of its own; or with the versions given as arguments. Takes as many times as long as scripts/test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
versions=("$@")
if [ ${#versions[@]} = 0 ]; then
  mapfile -t versions < <("${PYTHON:-python3}" scripts/dependency_bounds.py torch)
fi
for version in "${versions[@]}"; do
  echo "torch $version"
  TASTER_VENV="$(mktemp -d)/venv"
  export TASTER_VENV
  "${PYTHON:-python3}" -m venv "$TASTER_VENV"
  "$TASTER_VENV/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$version.*"
  scripts/test.sh
  rm -rf "$(dirname "$TASTER_VENV")"
done
