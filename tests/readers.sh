#!/usr/bin/env bash
# What other readers make of files that this library wrote or read: each in an environment of its
# own, with the versions that were tried. llama-cpp-python is built from its source, which takes a
# C++ compiler and some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
export OPTIPFAIR_READERS="$PWD/.venv-readers"
environment() { # NAME PACKAGE...
    local python="$OPTIPFAIR_READERS/$1/bin/python"
    [[ -x $python ]] || "${PYTHON:-python3}" -m venv "$OPTIPFAIR_READERS/$1"
    "$python" -m pip install --quiet "${@:2}"
}
environment transformers4 transformers==4.57.6 torch==2.13.0
environment llama_cpp --no-binary llama-cpp-python llama-cpp-python==0.3.36
.venv/bin/python -m pytest -rs tests/readers "$@"
