"""Tokens that a model does not know, and more of them than it can count, are refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from optipfair import prune_model
from optipfair.arch.limits import positions
from optipfair.batches import Batch
from optipfair.errors import DataError
from optipfair.pruning.calibration.text_cost import final_states
from optipfair.testing import tiny_model

Refused = Callable[..., AbstractContextManager[None]]

WAYS: list[dict[str, Any]] = [
    {"neuron_selection_method": "AUTO"},
    {"neuron_selection_method": "MAW"},
    *(
        {"pruning_type": "DEPTH", "num_layers_to_remove": 1, "layer_selection_method": method}
        for method in ("block_influence", "angular", "block_perplexity", "auto")
    ),
]


def rows(length: int, count: int = 5) -> torch.Tensor:
    return torch.randint(0, 200, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: list(way.values())[-1])
@pytest.mark.parametrize("token", [-1, 272])
def test_a_token_outside_the_vocabulary_is_refused(
    refused: Refused, way: dict[str, Any], token: int
) -> None:
    model: Any = tiny_model("llama")
    assert model.config.vocab_size == 272
    ids = rows(8)
    ids[3, 5] = token
    with refused(model, f"token id {token}; the model knows 0 to 271.*tokenizer", DataError):
        prune_model(model, dataloader=[rows(8), ids], show_progress=False, **way)


LIMITED = [
    ("gpt2", "n_positions"),
    ("opt", "max_position_embeddings"),
    ("gptj", "n_positions"),
    ("gpt_bigcode", "n_positions"),
    ("mpt", "max_seq_len"),
]


@pytest.mark.parametrize(("family", "field"), LIMITED)
def test_a_sequence_longer_than_the_positions_is_refused_and_one_as_long_is_not(
    refused: Refused, family: str, field: str
) -> None:
    model = tiny_model(family, **{field: 12})
    ways = WAYS if family != "mpt" else WAYS[2:]
    for way in ways:
        with refused(model, "has 13 tokens; this .* has 12 positions. Give shorter", DataError):
            prune_model(model, dataloader=[rows(13)], show_progress=False, **way)
    prune_model(model, dataloader=[rows(12, 64)], show_progress=False, **ways[-1])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "falcon", "bloom", "mamba", "gemma2"])
def test_rotary_positions_have_no_end(family: str) -> None:
    assert positions(tiny_model(family)) is None


def test_rows_for_padding_are_no_positions() -> None:
    model = tiny_model("roberta", is_decoder=True)
    limit = positions(model)
    assert limit is not None
    model(rows(limit))
    with pytest.raises((IndexError, RuntimeError)):
        model(rows(limit + 1))


def test_held_back_text_is_checked_too() -> None:
    ids = rows(13)
    with pytest.raises(DataError, match="has 12 positions"):
        final_states(tiny_model("gpt2", n_positions=12), [Batch(ids, torch.ones_like(ids).bool())])
