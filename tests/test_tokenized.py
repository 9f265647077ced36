"""The boundary to tokenizers: whatever one raises is one error, and nobody else calls one."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optipfair import ArgumentError, DataError
from optipfair.testing import byte_tokenizer, tiny_model
from optipfair.tokenized import detokenized, tokenized

SOURCE = Path(__file__).parents[1] / "src" / "optipfair"
OWN = {"tokenized.py", "demo/demonstration.py"}  # the latter calls the embedded model's
CALLS = {"decode", "batch_decode", "encode", "batch_encode_plus", "convert_ids_to_tokens"}


class PanicError(BaseException):
    """As the tokenizers' Rust raises it."""

    __module__ = "pyo3_runtime"


@pytest.mark.parametrize("error", [TypeError("'>' not\nsupported"), KeyError("a"), PanicError("x")])
def test_whatever_a_tokenizer_raises_is_one_error(error: BaseException) -> None:
    class Failing:
        def __call__(self, *_: Any, **__: Any) -> Any:
            raise error

        decode = __call__

    for ask in (tokenized, detokenized):
        with pytest.raises(DataError, match=r"^The tokenizer fails: [^\n]+\. Give the tokenizer"):
            ask(Failing(), "x")


def test_ctrl_c_and_missing_memory_stay_what_they_are() -> None:
    for error in (KeyboardInterrupt, MemoryError):

        def fail(*_: Any, error: Any = error) -> Any:
            raise error

        with pytest.raises(error):
            tokenized(fail, "x")


@pytest.mark.parametrize("text", ["a\ud800", ["whole", "\udfff"]], ids=ascii)
def test_half_a_character_is_said(text: Any) -> None:
    with pytest.raises(DataError, match=r"holds half a character .* leave it out"):
        tokenized(byte_tokenizer(), text)


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match=r"tokenizer is a str\. Give the tokenizer of the model"
    ):
        tokenized("gpt2", "x")


def test_a_tokenizer_gives_what_it_gives() -> None:
    tokenizer: Any = byte_tokenizer()
    ids = tokenized(tokenizer, "héllo", add_special_tokens=False)["input_ids"]
    assert ids == tokenizer("héllo", add_special_tokens=False)["input_ids"]
    assert detokenized(tokenizer, ids) == "héllo"


def test_prompts_of_half_characters_are_refused_by_the_functions_too(
    refused: Callable[..., Any],
) -> None:
    from optipfair import visualize_bias

    model = tiny_model("llama")
    with refused(model, "half a character"):
        visualize_bias(model, byte_tokenizer(), [("a\ud800", "b")], [], show_progress=False)


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_nobody_else_calls_a_tokenizer(path: Path) -> None:
    if str(path.relative_to(SOURCE)) in OWN:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name, _, method = called.rpartition(".")
            assert called not in ("tokenizer", "self.tokenizer"), ast.unparse(node)
            assert method not in CALLS or "tokenizer" not in name, ast.unparse(node)
