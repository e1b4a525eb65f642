#!/usr/bin/env bash
# Pins dev/requirements/*.in into requirements*.txt, for Python 3.10 to 3.12 at once. Needs uv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock() { # lock NAME OUTPUT CONSTRAINTS...
    local name=$1 output=$2
    shift 2
    echo "Pinning dev/requirements/$name.in in $output"
    uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url \
        --custom-compile-command "make lock" "${@/#/--constraint=}" \
        --output-file "$output" "dev/requirements/$name.in"
}

lock runtime requirements.txt
lock dev requirements-dev.txt requirements.txt
lock bench requirements-bench.txt requirements.txt requirements-dev.txt
