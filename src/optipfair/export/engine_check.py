"""What an engine computes of a written model, beside what PyTorch computes of its source.

The engine runs in its own Python: engines want other versions of the same packages than this
library. Both continue three prompts greedily, and say how likely they find PyTorch's continuation.

Axes: `T` tokens of a continuation, `V` vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..errors import ArgumentError, VerificationError
from ..hooks import ready_to_generate
from ..loading.models import load_model
from ..loading.tokenizers import load_tokenizer
from ..tokenized import tokenized
from ..visible import visible
from .targets import Engine

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a small village,",
)
TOKENS = 16
MOST = 0.05  # nats between log-probabilities, of weights that are plain numbers
_MOST_QUANTIZED = 0.5
_PLAIN = ("auto", "float32", "float16", "bfloat16")
_FOLDER = "OPTIPFAIR_ENGINES"


@dataclass(frozen=True)
class EngineCheck:
    """What an engine computed beside PyTorch.

    Attributes:
        equal: of each prompt, how many greedy tokens are the same until they part.
        tokens: how many there are for each prompt.
        difference: the largest difference of log-probabilities, in nats, on PyTorch's tokens.
    """

    equal: tuple[int, ...]
    tokens: int
    difference: float

    def in_words(self) -> str:
        """One line for the terminal."""
        same = ", ".join(map(str, self.equal))
        return (
            f"greedy tokens equal to PyTorch's: {same} of {self.tokens}; log-probabilities differ "
            f"by {self.difference:.5f} nats at most"
        )


def find_python(engine: Engine, given: str | None) -> str:
    """The Python that runs an engine: the given one, the one of its environment, or this one."""
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise ArgumentError(f"engine_python={given!r} is no program. Give a Python.")
        return found
    folder = os.environ.get(_FOLDER)
    own = Path(folder, engine.name.replace(".", "_"), "bin", "python") if folder else None
    if own is not None and own.is_file():
        return str(own)
    if importlib.util.find_spec(engine.module):
        return sys.executable
    raise ArgumentError(
        f"{engine.name} is not installed for this Python. Give one that has it (engine_python, "
        f"--engine-python), after: {engine.install}. Or leave verify_engine out."
    )


def checked_in_engine(
    engine: Engine, python: str, written: Path, source: Path, dtype: str
) -> EngineCheck:
    """Compare an engine with PyTorch.

    Raises:
        VerificationError: log-probabilities differ by more than `MOST`, or tokens by what is not
            as good as a tie; or the engine does not run.
    """
    expected = _of_torch(source)
    rows = [{"prompt": each["prompt"], "continuation": each["tokens"]} for each in expected]
    found = _of_engine(engine, python, {"model": str(written), "rows": rows})
    check, limit = _compared(expected, found), MOST if dtype in _PLAIN else _MOST_QUANTIZED
    parted = [
        place
        for number, (each, equal) in enumerate(zip(expected, check.equal, strict=True))
        if equal < TOKENS and each["margins"][equal] > 2 * limit
        for place in (f"prompt {number} at token {equal}",)
    ]
    if not check.difference <= limit or parted:
        raise VerificationError(
            f"{engine.name} does not compute what PyTorch does: {check.in_words()}"
            f"{'; they part in ' + ', '.join(parted) if parted else ''}. At most {limit} was "
            "expected. Nothing was written."
        )
    return check


def _compared(expected: list[Any], found: list[Any]) -> EngineCheck:
    equal, apart = [], []
    for mine, theirs in zip(expected, found, strict=True):
        pairs = zip(mine["tokens"], theirs["greedy"], strict=False)
        same = [a == b for a, b in pairs]
        equal.append(same.index(False) if False in same else len(same))
        apart += [np.subtract(mine["logprobs"], theirs["logprobs"])]
    difference = float(np.abs(apart).max())  # NaN where there is one
    return EngineCheck(tuple(equal), TOKENS, difference)


def _of_torch(folder: Path) -> list[dict[str, Any]]:
    """Of each prompt its tokens, PyTorch's greedy ones (T,), their log-probabilities, and how far
    the second best token is behind at each.
    """
    model: Any = load_model(folder, dtype="float32")
    tokenizer: Any = load_tokenizer(folder)
    found = []
    for prompt in _prompts(tokenizer, model):
        ids = torch.tensor([prompt])
        with ready_to_generate(model):
            whole = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
            logits = model(whole, use_cache=False).logits[0, len(prompt) - 1 : -1]
        answers = logits.float().log_softmax(dim=-1)  # (T, V)
        tokens = whole[0, len(prompt) :]
        best = answers.topk(2).values
        found.append(
            {
                "prompt": prompt,
                "tokens": answers.argmax(dim=-1).tolist(),
                "logprobs": answers.gather(1, tokens[:, None])[:, 0].tolist(),
                "margins": (best[:, 0] - best[:, 1]).tolist(),
            }
        )
    return found


def _prompts(tokenizer: Any, model: Any) -> list[list[int]]:
    if tokenizer is None:
        size = int(model.config.get_text_config().vocab_size)
        return [[(7 * n + 13 * row) % size for n in range(6)] for row in range(len(PROMPTS))]
    return [[int(each) for each in tokenized(tokenizer, text)["input_ids"]] for text in PROMPTS]


def _what_failed(output: str) -> str:
    """The line that names an error; some engines draw bars and warn behind it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\[\w+\]:\s+)?[\w.]+(Error|Exception):", line)]
    return next(reversed(errors or lines), "it said nothing").rstrip(".")


def _of_engine(engine: Engine, python: str, asked: dict[str, Any]) -> list[Any]:
    script = files("optipfair.export").joinpath("code", f"run_{engine.module}.py.txt")
    with TemporaryDirectory() as folder, as_file(script) as program:
        question, answer = Path(folder, "asked.json"), Path(folder, "found.json")
        question.write_text(json.dumps(asked), encoding="utf-8")
        done = subprocess.run(
            [python, str(program), str(question), str(answer)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        )
        if done.returncode or not answer.is_file():
            said = _what_failed(done.stderr or done.stdout)
            raise VerificationError(
                f"{engine.name} did not run the model: {visible(said)[:400]}. Nothing was written."
            )
        found: list[Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found
