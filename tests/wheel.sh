#!/usr/bin/env bash
# Build the wheel, install it alone into an empty environment, and start every verb from there.
#
# usage: tests/wheel.sh [PYTHON]
#
# PYTHON (python3) has the package's dependencies and `build`. The new environment sees them, but
# not PYTHON's own (editable) installation of this package: a path in a .pth file is searched for
# modules, while the .pth files in it are not read.
set -euo pipefail

python=$(command -v "${1:-python3}")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export PYTHONNOUSERSITE=1

isolation=--quiet # nothing is fetched if the build backend is at hand
"$python" -c 'import hatchling' 2>/dev/null && isolation=--no-isolation
"$python" -m build --wheel $isolation --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 ||
  { cat "$work/build.log"; exit 1; }
wheel=$(echo "$work"/dist/mobilevit-*.whl)

"$python" - "$wheel" "$root" <<'CHECK'
import sys
import zipfile
from pathlib import Path

wheel, package = Path(sys.argv[1]), Path(sys.argv[2]) / "src" / "mobilevit"
inside = set(zipfile.ZipFile(wheel).namelist())
source = {
    path.relative_to(package.parent).as_posix()
    for path in package.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
assert "mobilevit/py.typed" in source and any(name.endswith(".yaml") for name in source)
assert source <= inside, f"missing: {sorted(source - inside)}"
strange = {n for n in inside - source if not n.split("/")[0].endswith(".dist-info")}
assert not strange, f"does not belong there: {sorted(strange)}"
assert any(name.endswith("/licenses/LICENSE") for name in inside), "the licence is missing"
print(f"{wheel.name}: {len(inside)} files, {wheel.stat().st_size / 1e3:.0f} kB")
CHECK

"$python" -m venv --without-pip "$work/venv"
fresh=$work/venv/bin/python
"$python" -m pip --python "$fresh" install --quiet --disable-pip-version-check \
  --no-deps --no-index "$wheel"
where='import sysconfig; print("\n".join({sysconfig.get_path(k) for k in ("purelib", "platlib")}))'
"$python" -c "$where" >"$("$fresh" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libraries.pth"

cd "$work"
"$fresh" - "$work/venv" <<'CHECK'
import sys
from pathlib import Path

import mobilevit

assert Path(mobilevit.__file__).is_relative_to(Path(sys.argv[1])), mobilevit.__file__
CHECK
for verb in train evaluate predict export convert benchmark sensitivity starter compare doctor models demo; do
  "$work/venv/bin/mobilevit" "$verb" --help >help.txt
  grep -q "usage: mobilevit $verb" help.txt
done
"$work/venv/bin/mobilevit" models
"$work/venv/bin/mobilevit" doctor
echo "the wheel works"
