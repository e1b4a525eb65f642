#!/usr/bin/env bash
# Runs the tests with another PyTorch than the pinned one, in an environment that is then thrown away.
#
#   dev/try_torch.sh PYTHON TORCH TORCHVISION [PYTEST ARGUMENTS]
#   dev/try_torch.sh python3.10 2.6.0 0.21.0 -m "not slow"
#
# All else is as new as pip finds it. Needs the 9 GB of disk space that set-up needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
(($# >= 3)) || {
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
python=$1 torch=$2 torchvision=$3
shift 3

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
py=$folder/venv/bin/python
sed "s/^torch==.*/torch==$torch/; s/^torchvision==.*/torchvision==$torchvision/" \
    dev/requirements/runtime.in >"$folder/requirements.in"
"$py" -m pip install --quiet --no-compile -r "$folder/requirements.in" -r dev/requirements/dev.in
"$py" dev/wheels/build.py --build-dir "$folder" dev/wheels/*.yaml >"$folder/wheels"
xargs -d '\n' "$py" -m pip install --quiet --no-deps <"$folder/wheels"
"$py" -m pip install --quiet --no-deps --no-build-isolation --editable .
"$py" dev/selfcheck.py
OMP_NUM_THREADS=1 "$py" -m pytest -n 2 "$@"
