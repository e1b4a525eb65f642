#!/usr/bin/env bash
# Makes the virtual environment in which everything else runs; `make setup` calls this.
# Safe to interrupt and to run again; does nothing when there is nothing to do.
#
#   VENV=DIR      the environment, .venv in the project if not given. One that exists is used as it
#                 is, and if it has a Detectron2 of its own, then that, PyTorch and NumPy are kept.
#   PYTHON=EXE    the Python 3.10 to 3.12 to make it with; found by itself if not given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
BUILD=.build                    # downloaded sources and the wheels made from them
MADE=$VENV/.made-by-setup       # exists if the environment is ours, not the user's
DONE=$VENV/.setup-done          # written last: what the environment was made from
VENV_GB=6                       # disk space of the finished environment ...
TEMP_GB=3                       # ... and of the downloads while pip installs them

say() { printf '\n==> %s\n' "$*"; }
die() {
    printf 'set-up failed: %s\n' "$*" >&2
    exit 1
}
py() { "$VENV/bin/python" "$@"; }
has() { py -c "import $1" &>/dev/null; }

# Whatever changes one of these makes set-up run again.
inputs() {
    pwd
    cat dev/setup.sh dev/wheels/* dev/requirements/*.in requirements{,-dev}.txt setup.py
}

# ------------------------------------------------------------------------- the environment

suitable() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' &>/dev/null; }

find_python() {
    local candidate found candidates=(python3 python3.12 python3.11 python3.10)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    found=$("${candidates[0]}" --version 2>/dev/null) || found="not found"
    die "needs Python 3.10, 3.11 or 3.12, but ${candidates[0]} is: $found. Name one with PYTHON=/path/to/python3.11"
}

free_gb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }'; }
device() { df -Pk "$1" | awk 'NR == 2 { print $1 }'; }

check_disk() {
    local temp=${TMPDIR:-/tmp} need used
    used=$(du -sk "$VENV" | awk '{ print int($1 / 1048576) }')
    need=$((VENV_GB > used ? VENV_GB - used : 0))
    if [[ $(device "$VENV") == "$(device "$temp")" ]]; then
        need=$((need + TEMP_GB))
    elif (($(free_gb "$temp") < TEMP_GB)); then
        die "needs $TEMP_GB GB of disk space for downloads, $temp has $(free_gb "$temp") GB free. Name another folder with TMPDIR="
    fi
    if (($(free_gb "$VENV") < need)); then
        die "needs $need GB of disk space, $VENV has $(free_gb "$VENV") GB free. Name another folder with VENV="
    fi
}

# pip writes a package's RECORD last: one without it was interrupted and is installed again.
remove_half_installed() {
    local package
    for package in "$VENV"/lib/python3*/site-packages/{*.dist-info,~*}; do
        if [[ -e $package && ! -e $package/RECORD || ${package##*/} == "~"?* ]]; then
            rm -rf "$package"
        fi
    done
}

make_environment() {
    local python
    if ! py -m pip --version &>/dev/null; then
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$python cannot make environments. Install its venv package (python3-venv on Debian and Ubuntu)"
    fi
    mkdir -p "$VENV" 2>/dev/null && touch "$MADE" 2>/dev/null || die "cannot write to $VENV"
    check_disk
    remove_half_installed
    if ! py -m pip --version &>/dev/null; then
        say "Making $VENV with $("$python" --version) ($python)"
        rm -f "$VENV"/bin/python* # may be links to a Python that was removed
        "$python" -m venv "$VENV" || die "$python -m venv $VENV failed, see above"
    fi
}

check_environment() {
    if [[ -e $VENV && ! -e $MADE && ! -x $VENV/bin/python ]]; then
        die "VENV=$VENV exists and is not a Python environment"
    fi
    if [[ ! -e $VENV || -e $MADE ]]; then
        make_environment
    fi
    suitable "$VENV/bin/python" ||
        die "needs Python 3.10, 3.11 or 3.12, but $VENV has $(py --version 2>&1). Remove it or name another with VENV="
}

# ------------------------------------------------------------------------- its packages

pip_install() { # pip's progress bars on a terminal, a line for each download elsewhere
    if [[ -t 1 ]]; then
        py -m pip install --no-compile "$@"
    else
        py -m pip install --no-compile "$@" | sed -un -e '/^ *Downloading/p' -e '/^Successfully/p'
    fi || die "pip failed, see above. Run set-up again to go on"
}

check_index() { # by fetching a small package that is needed anyway
    local said
    said=$(py -m pip download --quiet --no-deps --retries 1 --timeout 20 \
        --dest "$BUILD" panopticapi-lite==0.2.0 2>&1 >/dev/null) ||
        die "no Python package index is reachable. pip says: $(grep -m 1 '^ERROR' <<<"$said")"
}

# Version of the Detectron2 that the user brought, or nothing.
users_detectron2() {
    py - <<'EOF'
import importlib.metadata
import importlib.util

try:
    version = importlib.metadata.version("detectron2")
except importlib.metadata.PackageNotFoundError:
    version = "of unknown version"
if importlib.util.find_spec("detectron2") and not version.endswith("+pure"):
    print(version)
EOF
}

install_wheels() { # install_wheels RECIPE...
    local wheels
    say "Building what the index does not have"
    wheels=$(py dev/wheels/build.py --build-dir "$BUILD" "$@") || die "see above"
    # shellcheck disable=SC2086  # one path a word, relative and without spaces
    pip_install --no-deps --force-reinstall $wheels
}

install_pinned() {
    say "Installing the pinned packages in $VENV (about 3 GB to download)"
    pip_install -r requirements.txt -r requirements-dev.txt
    install_wheels dev/wheels/detectron2.yaml dev/wheels/panopticapi.yaml
    pip_install --no-deps --no-build-isolation --editable .
    py -m pip check || die "packages do not fit together, see above"
}

install_missing() { # install_missing VERSION: beside the user's own Detectron2
    local kept=$BUILD/kept.txt
    say "Keeping Detectron2 $1, PyTorch and NumPy of $VENV; installing what else is missing"
    py -m pip list --format freeze | grep -iE '^(detectron2|torch|torchvision|numpy)==' >"$kept" || true
    pip_install --constraint "$kept" -r dev/requirements/dev.in
    has cv2 || pip_install --constraint "$kept" opencv-python-headless
    has panopticapi || install_wheels dev/wheels/panopticapi.yaml
    pip_install --constraint "$kept" --no-build-isolation --editable '.[all]'
}

main() {
    local key users
    key=$(inputs | sha256sum)
    if [[ -e $DONE && $(<"$DONE") == "$key" && -x $VENV/bin/python ]]; then
        echo "Set-up of $VENV is up to date"
        return
    fi
    trap 'die "interrupted. Run it again to go on"' INT TERM
    check_environment
    exec 9>"$VENV/.setup-lock"
    flock 9
    rm -f "$DONE"
    mkdir -p "$BUILD"
    check_index
    users=$(users_detectron2)
    if [[ -n $users ]]; then
        install_missing "$users"
    else
        install_pinned
    fi
    say "Self-check"
    py dev/selfcheck.py || die "the self-check did, see above"
    echo "$key" >"$DONE"
    say "Set-up of $VENV is done"
}

main
