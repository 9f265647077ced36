"""Which layers go by data: the strategies against what they stand for, done the slow way."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optipfair import get_model_layers, plan_pruning, prune_model
from optipfair.arch.view import describe
from optipfair.errors import DataError, UnsupportedModelError
from optipfair.pruning.layers.influence import block_angles, flattest_block
from optipfair.pruning.layers.removal_loss import TextLoss, sampled
from optipfair.testing import TINY_FAMILIES, tiny_model

FAMILIES = ["llama", "gemma2", "gpt2", "mixtral", "opt", "falcon", "bloom"]


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(6, 20, (12,), generator=generator).tolist()
    return [torch.randint(0, 256, (length,), generator=generator) for length in lengths]


def batches(size: int = 4, side: str = "right") -> list[dict[str, Tensor]]:
    found = []
    for start in range(0, 12, size):
        part = rows()[start : start + size]
        longest = max(map(len, part))
        ids, mask = torch.full((len(part), longest), 7), torch.zeros(len(part), longest).long()
        for index, row in enumerate(part):
            where = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
            ids[index, where], mask[index, where] = row, 1
        found.append({"input_ids": ids, "attention_mask": mask})
    return found


def loss_of(model: Any) -> float:
    """Mean loss of a token, each row by itself."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows():
            logits = model(row[None]).logits[0, :-1]
            total += float(nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
            count += len(row) - 1
    return total / count


def without(model: Any, drop: list[int]) -> Any:
    return prune_model(copy.deepcopy(model), "DEPTH", layer_indices=drop, show_progress=False)


def choice(model: Any, method: str, count: int, data: Any = None) -> tuple[int, ...]:
    return plan_pruning(
        model,
        "DEPTH",
        num_layers_to_remove=count,
        layer_selection_method=method,
        dataloader=data or batches(),
    ).drop_layers


# By angle.


@pytest.mark.parametrize("family", FAMILIES)
def test_angles_are_those_between_the_hidden_states(family: str) -> None:
    model: Any = tiny_model(family)
    layers = get_model_layers(model)
    ends: list[Tensor] = []  # what leaves the last layer; the model gives it after a norm
    handle = layers[-1].register_forward_hook(
        lambda _m, _a, out: ends.append(out[0] if isinstance(out, tuple) else out)
    )
    flow = []
    with torch.no_grad():
        for row in rows():
            states = model(row[None], output_hidden_states=True).hidden_states
            flow.append(torch.cat([*states[:4], ends[-1]]))  # (L + 1, S, H)
    handle.remove()
    states = torch.cat(flow, dim=1).double()
    found = block_angles(describe(model), batches())
    for first, last in itertools.combinations(range(5), 2):
        cosine = torch.cosine_similarity(states[first], states[last], dim=-1).clamp(-1, 1)
        expected = float(torch.arccos(cosine).mean()) / math.pi
        assert found[first][last] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_the_flattest_block_goes(family: str, unchanged: Callable[..., Any]) -> None:
    model = tiny_model(family)
    with unchanged(model):
        angles = block_angles(describe(model), batches())
        for count in (1, 2, 3):
            drop = choice(model, "angular", count)
            assert drop == tuple(range(drop[0], drop[0] + count))
            assert angles[drop[0]][drop[0] + count] == min(
                angles[start][start + count] for start in range(5 - count)
            )


def test_ties_between_blocks_go_to_the_lower_index() -> None:
    assert flattest_block([[0.0, 0.5, 0.1], [0.5, 0.0, 0.5], [0.1, 0.5, 0.0]], 1) == (0,)
    assert flattest_block([[0.0, 0.5, 0.1], [0.5, 0.0, 0.5], [0.1, 0.5, 0.0]], 2) == (0, 1)


@pytest.mark.parametrize("data", [batches(1), batches(5, "left")], ids=["alone", "left"])
def test_angles_do_not_depend_on_batches(data: Any) -> None:
    view = describe(tiny_model("llama"))
    for one, other in zip(block_angles(view, data), block_angles(view, batches()), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_angles_of_nan_are_refused(refused: Callable[..., Any]) -> None:
    model: Any = tiny_model("llama")
    with torch.no_grad():
        get_model_layers(model)[1].input_layernorm.weight[0] = torch.nan
    for method in ("angular", "perplexity"):
        with refused(model, "NaN or Inf", DataError):
            choice(model, method, 1)


# By perplexity.


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_models_without_the_layer(
    family: str, unchanged: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    with unchanged(model):
        text = TextLoss(describe(model), batches(), most_tokens=10**6)
        found, again = text.without_each([]), text.without_each([1])
    assert found == pytest.approx({i: loss_of(without(model, [i])) for i in range(4)}, abs=1e-5)
    expected = {i: loss_of(without(model, [1, i])) for i in (0, 2, 3)}
    assert again == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_one_layer_after_the_other_goes_each_the_least_missed(family: str) -> None:
    model = tiny_model(family)
    gone: list[int] = []
    for _ in range(2):
        left = [index for index in range(4) if index not in gone]
        gone.append(min(left, key=lambda index: loss_of(without(model, [*gone, index]))))
    text = TextLoss(describe(model), batches())
    assert (text.greedy(2), text.greedy(1)) == (tuple(sorted(gone)), (gone[0],))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_block_that_is_missed_least_goes(family: str, count: int) -> None:
    model = tiny_model(family)
    found = [list(range(first, first + count)) for first in range(5 - count)]
    best = min(found, key=lambda drop: loss_of(without(model, drop)))
    assert choice(model, "block_perplexity", count) == tuple(best)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_block_or_the_least_influence_goes_whichever_is_missed_less(
    family: str, count: int
) -> None:
    model = tiny_model(family)
    found = [choice(model, method, count) for method in ("block_perplexity", "block_influence")]
    best = min(found, key=lambda drop: loss_of(without(model, list(drop))))
    assert choice(model, "auto", count) == best


@pytest.mark.parametrize("data", [batches(1), batches(5, "left")], ids=["alone", "left"])
def test_the_sample_does_not_depend_on_batches(data: Any) -> None:
    for most in (1, 50, 10**6):
        expected = sampled(batches(), most)
        found = sampled(data, most)
        assert [batch.tokens for batch in found] == [batch.tokens for batch in expected]
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(
                one.input_ids[one.attention_mask], other.input_ids[one.attention_mask]
            )


def test_a_sample_is_taken_evenly() -> None:
    ids = torch.arange(10)[:, None].expand(10, 4)
    picked = torch.cat([batch.input_ids for batch in sampled([ids], 20)])
    assert picked[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert [len(batch.input_ids) for batch in sampled([ids.repeat(40, 50)], 10**6)] == [2] * 200


def test_a_budget_removes_the_layers_that_greed_finds() -> None:
    model = tiny_model("llama")
    total = sum(parameter.numel() for parameter in model.parameters())
    for method in ("angular", "perplexity", "block_perplexity", "auto"):
        plan = plan_pruning(
            model,
            "DEPTH",
            target_params=total - 1,
            layer_selection_method=method,
            dataloader=batches(),
        )
        assert plan.drop_layers == choice(model, method, 1)


def test_sequences_of_one_token_predict_nothing(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "two tokens", DataError):
        choice(model, "perplexity", 1, [torch.tensor([[3]])])


def test_a_model_without_a_head_has_no_perplexity(refused: Callable[..., Any]) -> None:
    model: Any = tiny_model("llama").base_model
    with refused(model, "gives no logits", UnsupportedModelError):
        choice(model, "perplexity", 1)
