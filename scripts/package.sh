#!/usr/bin/env bash
# Builds wheel and sdist into dist/ (or the folder given), with a list of what they need and its licences (an SBOM in
# CycloneDX's form), and tries the wheel without the repository: in a clean environment with the highest versions of
# what it needs, and with the lowest that pyproject.toml admits; there the types of a user's file are checked too.
# PyTorch is the one of $TASTER_TORCH ("torch==2.13.0" by default); scripts/torch_versions.sh tries others.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:-dist}"
out="$(cd "${1:-dist}" && pwd)"
root="$PWD"
python="${PYTHON:-python3}"
torch="${TASTER_TORCH:-torch==2.13.0}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo "wheel and sdist"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet build cyclonedx-bom mypy pyright
rm -f "$out"/taster-*
# The wheel is made from the sdist, and so has only what that has.
"$work/tools/bin/python" -m build --outdir "$out" >"$work/build.log" || { cat "$work/build.log"; exit 1; }
wheel="$(ls "$out"/taster-*.whl)"

# check NAME REQUIREMENT...: the wheel in an environment of its own, tried from an empty folder
check() {
  local name="$1"
  shift
  "$python" -m venv "$work/$name"
  "$work/$name/bin/python" -m pip install --quiet "$torch" "$wheel" "$@"
  "$work/$name/bin/python" -m pip check
  mkdir "$work/$name-folder"
  (cd "$work/$name-folder" && "$work/$name/bin/python" "$root/scripts/smoke.py")
}

echo "highest versions"
check highest
"$work/highest/bin/python" -m pip freeze >"$out/highest.txt"
sbom="$out/$(basename "$wheel" | cut -d- -f1,2).cdx.json"
"$work/tools/bin/cyclonedx-py" environment "$work/highest/bin/python" --output-format JSON --output-file "$sbom"
"$python" scripts/finish_sbom.py "$sbom"

echo "types, as a user's file sees them"
cp scripts/typed_user.py "$work/typed_user.py"
(cd "$work" && tools/bin/mypy --strict --disallow-any-expr --python-executable highest/bin/python typed_user.py)
# Pyright finds the environment by its being active, and fails whenever a single symbol is of unknown type.
(. "$work/highest/bin/activate" && cd "$work/highest-folder" &&
  "$work/tools/bin/pyright" --verifytypes taster --ignoreexternal --outputjson || true) >"$work/types.json"
"$python" scripts/check_types.py <"$work/types.json"

echo "extras together"
extras="$("$python" scripts/dependency_bounds.py extras | paste -sd,)"
"$work/highest/bin/python" -m pip install --quiet --dry-run "taster[$extras] @ file://$wheel"

echo "lowest versions"
mapfile -t lowest < <("$python" scripts/dependency_bounds.py lowest)
check lowest "${lowest[@]}"
