#!/usr/bin/env bash
# Sets up and runs the main job: attacks and defences on real data, a table, a page. Arguments go to `taster run`.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec "${TASTER_VENV:-.venv}/bin/taster" run "$@"
