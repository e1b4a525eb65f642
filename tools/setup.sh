#!/usr/bin/env bash
# Makes the virtual environment in which everything else runs: `make setup` calls this.
# Safe to interrupt and to run again; does nothing when there is nothing to do.
#
#   VENV=DIR      the environment, .venv in the project if not given. One that exists is used as it
#                 is, and if it has a Detectron2 of its own, then that, PyTorch and NumPy are kept.
#   PYTHON=EXE    the Python 3.10 to 3.12 to make it with; found by itself if not given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
BUILD=.build                       # downloaded sources and the wheels made from them
MADE=$VENV/.made-by-setup          # the environment is ours: half-installed packages may be removed
DONE=$VENV/.setup-done             # written last; holds what the environment was made from
VENV_GB=6                          # disk space of the finished environment ...
TEMP_GB=3                          # ... and of the downloads while pip installs them

say() { printf '\n==> %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
py() { "$VENV/bin/python" "$@"; }

# What the environment is made from; any change runs set-up again.
inputs() {
    pwd
    cat tools/setup.sh tools/wheels/* tools/requirements/*.in requirements{,-dev}.txt setup.py
}

suitable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' &>/dev/null; }

find_python() {
    local candidate found
    for candidate in "${PYTHON:-python3}" ${PYTHON:-python3.12 python3.11 python3.10}; do
        if suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>&1 | tail -n 1) || true
    die "needs Python 3.10, 3.11 or 3.12; ${PYTHON:-python3} is: $found. Name one with PYTHON=/path/to/python3.11"
}

free_gb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }'; }
disk() { df -Pk "$1" | awk 'NR == 2 { print $1 }'; }

check_disk() {
    local temp=${TMPDIR:-/tmp} need=$VENV_GB
    if [[ $(disk "$VENV") == "$(disk "$temp")" ]]; then
        need=$((need + TEMP_GB))
    elif (($(free_gb "$temp") < TEMP_GB)); then
        die "needs $TEMP_GB GB of disk space for downloads in $temp, which has $(free_gb "$temp") GB; name another folder with TMPDIR="
    fi
    if (($(free_gb "$VENV") < need)); then
        die "needs $need GB of disk space for $VENV, which has $(free_gb "$VENV") GB; name another folder with VENV="
    fi
}

# pip writes a package's RECORD last: one without it was interrupted and is installed again.
remove_half_installed() {
    local package
    for package in "$VENV"/lib/python3*/site-packages/{*.dist-info,~*}; do
        if [[ -e $package && ! -e $package/RECORD ]] || [[ ${package##*/} == "~"* ]]; then
            rm -rf "$package"
        fi
    done
}

make_environment() {
    local python
    if [[ -e $VENV && ! -e $MADE ]]; then
        [[ -x $VENV/bin/python ]] || die "VENV=$VENV exists and is not a Python environment"
        suitable "$VENV/bin/python" || die "VENV=$VENV has $(py --version 2>&1), needs 3.10, 3.11 or 3.12"
        return
    fi
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python cannot make environments: install its venv package (python3-venv on Debian and Ubuntu)"
    mkdir -p "$VENV" 2>/dev/null || die "cannot write to $VENV"
    touch "$MADE" 2>/dev/null || die "cannot write to $VENV"
    check_disk
    remove_half_installed
    if ! py -m pip --version &>/dev/null; then
        say "Making $VENV with $("$python" --version) ($python)"
        "$python" -m venv "$VENV" || die "$python -m venv $VENV failed, see above"
    fi
    suitable "$VENV/bin/python" || die "$VENV has $(py --version 2>&1), needs 3.10, 3.11 or 3.12: remove it"
}

# Version of a Detectron2 that is not ours, or nothing.
own_detectron2() {
    py - <<'EOF'
import importlib.metadata, importlib.util

try:
    version = importlib.metadata.version("detectron2")
except importlib.metadata.PackageNotFoundError:
    version = "of unknown version"
if importlib.util.find_spec("detectron2") and not version.endswith("+pure"):
    print(version)
EOF
}

pip_install() { # progress bars on a terminal, one line per download elsewhere
    local quiet=(cat)
    [[ -t 1 ]] || quiet=(sed -un -e '/^ *Downloading/p' -e '/^ *Building/p' -e '/^Successfully/p')
    if [[ -t 1 ]]; then
        py -m pip install "$@"
    else
        py -m pip install "$@" | "${quiet[@]}"
    fi || die "pip failed, see above; run set-up again to go on where it stopped"
}

check_index() {
    local error
    error=$(py -m pip download --quiet --no-deps --no-cache-dir --retries 1 --timeout 20 \
        --dest "$BUILD/probe" "$(grep -o '^wheel==[^ ]*' requirements-dev.txt)" 2>&1 >/dev/null) ||
        die "no Python package index is reachable; pip says: $(grep -i error <<<"$error" | head -n 1)"
    rm -rf "$BUILD/probe"
}

main() {
    local key own
    key=$(inputs | sha256sum)
    if [[ -f $DONE && $(<"$DONE") == "$key" && -x $VENV/bin/python ]]; then
        return
    fi
    trap 'die "interrupted; run it again to go on"' INT TERM
    make_environment
    exec 9>"$VENV/.setup-lock"
    flock 9
    rm -f "$DONE"
    mkdir -p "$BUILD"
    check_index

    own=$(own_detectron2)
    if [[ -n $own ]]; then
        say "Keeping Detectron2 $own, PyTorch and NumPy of $VENV; adding what is missing"
        py -m pip list --format freeze | grep -iE '^(detectron2|torch|torchvision|numpy)==' >"$BUILD/kept.txt"
        pip_install --constraint "$BUILD/kept.txt" --editable '.[all]' -r tools/requirements/dev.in
    else
        say "Installing the pinned packages in $VENV (about 3 GB to download)"
        pip_install -r requirements.txt -r requirements-dev.txt
    fi

    say "Building wheels that the index does not have"
    local recipes=(tools/wheels/panopticapi.yaml) wheels
    [[ -n $own ]] || recipes+=(tools/wheels/detectron2.yaml)
    wheels=$(py tools/wheels/build.py --build-dir "$BUILD" "${recipes[@]}") || die "stopped, see above"
    # shellcheck disable=SC2086
    pip_install --no-deps --force-reinstall $wheels
    pip_install --no-deps --no-build-isolation --editable .

    say "Self-check"
    py tools/selfcheck.py || die "the self-check failed, see above"
    echo "$key" >"$DONE"
    say "Set-up is done: $VENV"
}

main
