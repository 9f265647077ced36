"""`--trust-remote-code`: what a model's own code needs, in `prune` and in `analyze`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class MineConfig(LlamaConfig):
    model_type = "mine"

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.mark.parametrize("command", ["prune", "analyze"])
def test_the_flag_lets_a_models_own_code_run(
    llama_copy: Path, tmp_path: Path, run: Run, command: str
) -> None:
    (llama_copy / "mine.py").write_text(CODE)
    config = json.loads((llama_copy / "config.json").read_text())
    auto_map = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    config |= {"model_type": "mine", "architectures": ["MineForCausalLM"], "auto_map": auto_map}
    (llama_copy / "config.json").write_text(json.dumps(config))
    given: list[object] = [command, "--model-path", llama_copy]
    if command == "prune":
        given += ["--output-path", tmp_path / "out", "--pruning-percentage", 50]
    code, _, error = run(*given)
    assert code == 2 and "--trust-remote-code" in error
    assert run(*given, "--trust-remote-code")[0] == 0
