#!/usr/bin/env bash
# Feed mutated files to every reader of a foreign format, for SECONDS in all (an hour unless given).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-3600}
kinds=(header index config gguf plan pairs table recipe texts)
.venv/bin/python -m pip install --quiet atheris==3.0.0
for kind in "${kinds[@]}"; do
    echo "== $kind"
    .venv/bin/python tests/fuzz/fuzz_readers.py "$kind" -max_total_time=$((seconds / ${#kinds[@]}))
done
