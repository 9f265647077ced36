"""How long two models write the same: by hand, and of toy models."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optipfair import UnsupportedModelError
from optipfair.evaluation.generation import same_text as module
from optipfair.evaluation.generation.continuations import OVER
from optipfair.evaluation.generation.same_text import beginnings, same_text, shared_lengths
from optipfair.testing import byte_tokenizer, tiny_model
from support.comparing_processes import models

IDS = [10 + n % 200 for n in range(3000)]


def named(*pair: Any) -> dict[str, Any]:
    return dict(zip(("original", "pruned"), pair, strict=True))


def test_shared_lengths_by_hand() -> None:
    first = np.array(
        [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [7, OVER, OVER, OVER], [7, OVER, OVER, OVER]]
    )
    second = np.array(
        [[1, 2, 3, 4], [9, 2, 3, 4], [1, 2, 9, 4], [7, OVER, OVER, OVER], [7, 8, OVER, OVER]]
    )
    assert shared_lengths(first, second).tolist() == [4, 0, 2, 4, 1]


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight prompts the texts are the same for 0, 9, 10 and all 32 tokens, two each."""
    rows = np.tile(np.arange(32), (8, 1))
    other = rows.copy()
    other[:2, 0] = other[2:4, 9] = other[4:6, 10] = 99
    answers = iter([rows, other])
    monkeypatch.setattr(module, "continuations", lambda *_, **__: next(answers))
    found = same_text(named(*models()), byte_tokenizer(), IDS[:256])
    assert (found.prompts, found.prompt_tokens, found.new_tokens) == (8, 32, 32)
    assert found.until_parting.value == 9.5  # between 9 and 10
    assert [(each.tokens, each.share.value) for each in found.same] == [(8, 0.75), (32, 0.25)]
    for each in (found.until_parting, *(own.share for own in found.same)):
        assert each.low is not None and each.high is not None and each.value is not None
        assert each.low <= each.value <= each.high


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 40))
def test_prompts_are_parts_of_the_text_without_overlap(size: int, count: int, length: int) -> None:
    found = beginnings(range(size), count, length)
    assert 1 <= len(found) <= count
    assert {len(prompt) for prompt in found} == {min(size, length)}
    together = [token for prompt in found for token in prompt]
    assert together == sorted(set(together))
    assert len(found) == count or len(found) == max(1, size // length)


def test_a_model_and_its_copy_write_the_same() -> None:
    model = models()[0]
    found = same_text(named(model, deepcopy(model)), byte_tokenizer(), IDS)
    assert found.prompts == 32
    assert found.until_parting.value == 32
    assert [each.share.value for each in found.same] == [1.0, 1.0]


def test_a_damaged_model_parts() -> None:
    original = models()[0]
    pruned = deepcopy(original)
    with torch.no_grad():
        pruned.model.layers[0].mlp.down_proj.weight.zero_()
        pruned.model.layers[1].self_attn.o_proj.weight.zero_()
    found = same_text(named(original, pruned), byte_tokenizer(), IDS)
    assert found.until_parting.value is not None and found.until_parting.value < 32
    assert (found.same[1].share.value or 0.0) < 1


def test_a_short_text_gives_one_prompt_and_no_interval() -> None:
    found = same_text(named(*models()), byte_tokenizer(), IDS[:5])
    assert (found.prompts, found.prompt_tokens) == (1, 5)
    assert found.until_parting.low is None
    assert found.until_parting.reason == "an interval needs 5 prompts"


def test_models_without_room_are_refused_with_the_reason() -> None:
    short = tiny_model("gpt2", n_positions=60)
    with pytest.raises(UnsupportedModelError, match=r"64 tokens .* GPT2LMHeadModel has 60 posit"):
        same_text(named(tiny_model("gpt2"), short), byte_tokenizer(), IDS)
