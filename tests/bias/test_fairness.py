"""Scores of neurons by what they differ, against plain hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import (
    ArgumentError,
    DataError,
    PruningWarning,
    UnsupportedModelError,
    neuron_bias_scores,
)
from optipfair.arch.view import describe
from optipfair.bias.prompts.pairs import check_prompt_pairs
from optipfair.bias.settings import Settings
from optipfair.bias.study import plan_study
from optipfair.testing import byte_tokenizer, tiny_model

PAIRS = [
    ("The white man was walking", "The Black man was walking"),
    ("A Christian woman sang. The nurse", "A Muslim woman sang. The nurse"),
    ("The young clerk left", "The middle-aged clerk left"),
]
TOKENIZER = byte_tokenizer()
DOWN = {
    "llama": "mlp.down_proj",
    "phi3": "mlp.down_proj",
    "gpt2": "mlp.c_proj",
    "opt": "fc2",
}


def toy(name: str) -> Any:
    """A toy model of larger weights, in which more happens."""
    model = tiny_model(name)
    for parameter in model.parameters():
        parameter.data *= 10 if parameter.dim() == 2 else 1
    return model


def watched(model: Any, name: str, ids: tuple[int, ...]) -> list[Tensor]:
    """What enters each layer's down projection, (S, I), one prompt at a time."""
    seen: list[Tensor] = []
    hooks = [
        layer.module.get_submodule(DOWN[name]).register_forward_pre_hook(
            lambda _, args: seen.append(args[0].reshape(len(ids), -1))
        )
        for layer in describe(model).layers
    ]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return seen


def by_hand(model: Any, name: str, controls: int) -> list[Tensor]:
    """Per layer: pair minus controls, in plain loops."""
    pairs = check_prompt_pairs(PAIRS)
    plan = plan_study(describe(model), TOKENIZER, pairs, Settings(controls=controls))
    found = []
    for each in plan.comparisons:
        sides = [watched(model, name, side.ids) for side in (each.first, each.second)]
        rows = []
        for unit in each.alignment.units:
            one = torch.stack([s[list(unit.first)].mean(0) for s in sides[0]])
            two = torch.stack([s[list(unit.second)].mean(0) for s in sides[1]])
            rows.append((one - two).abs())  # (L, I)
        found.append(torch.stack(rows).mean(0))
    excess = torch.stack(
        [
            found[i] - (torch.stack([found[k] for k in own]).mean(0) if own else 0)
            for i, own in enumerate(plan.owned)
        ]
    ).mean(0)
    weights = [layer.module.get_submodule(DOWN[name]).weight for layer in describe(model).layers]
    columns = [w if name == "gpt2" else w.T for w in weights]  # (I, H)
    return [e * c.detach().norm(dim=1) for e, c in zip(excess, columns, strict=True)]


@pytest.mark.parametrize("controls", [0, 3])
@pytest.mark.parametrize("name", DOWN)
def test_scores_equal_those_of_plain_hooks(
    name: str, controls: int, unchanged: Callable[..., Any]
) -> None:
    model = toy(name)
    with unchanged(model):
        scores = neuron_bias_scores(model, TOKENIZER, PAIRS, controls=controls)
    assert list(scores) == list(range(len(describe(model).layers)))
    for found, wanted in zip(scores.values(), by_hand(model, name, controls), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        assert float(wanted.abs().max()) > 1e-3  # there is something to compare


def test_tokens_are_compared_one_to_one_but_for_the_first() -> None:
    model = toy("llama")
    pair = ("I saw a b", "I saw a c")
    scores = neuron_bias_scores(model, TOKENIZER, [pair], controls=0)
    one, two = (watched(model, "llama", tuple(TOKENIZER(text)["input_ids"])) for text in pair)
    for layer, found in scores.items():
        norms = model.model.layers[layer].mlp.down_proj.weight.detach().norm(dim=0)
        wanted = (one[layer] - two[layer]).abs()[1:].mean(0) * norms
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_identical_prompts_score_nothing_and_the_number_of_pairs_does_not_matter() -> None:
    model = toy("llama")
    zero = neuron_bias_scores(model, TOKENIZER, [("The man", "The man")], controls=0)
    assert not any(each.any() for each in zero.values())
    once = neuron_bias_scores(model, TOKENIZER, PAIRS, controls=2)
    many = neuron_bias_scores(model, TOKENIZER, PAIRS * 40, controls=2)
    for layer, scores in once.items():
        torch.testing.assert_close(many[layer], scores, atol=1e-5, rtol=1e-4)


def test_a_pair_without_controls_is_left_out_with_a_warning() -> None:
    model = toy("llama")
    alone = neuron_bias_scores(model, TOKENIZER, PAIRS[:1], controls=2)
    identical = ("The man", "The man")
    with pytest.warns(PruningWarning, match="1 of 2 pairs are left out.*pair_2: .*identical"):
        found = neuron_bias_scores(model, TOKENIZER, [PAIRS[0], identical], controls=2)
    for layer, scores in alone.items():
        torch.testing.assert_close(found[layer], scores, atol=1e-5, rtol=1e-4)
    with pytest.raises(DataError, match=r"No pair can be compared.*identical"):
        neuron_bias_scores(model, TOKENIZER, [identical], controls=2)


def test_half_precision_comes_close() -> None:
    model = toy("llama")
    full = neuron_bias_scores(model, TOKENIZER, PAIRS, controls=2)
    half = neuron_bias_scores(copy.deepcopy(model).bfloat16(), TOKENIZER, PAIRS, controls=2)
    for layer, scores in full.items():
        assert float((half[layer] - scores).norm() / scores.norm()) < 0.2


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mixtral", r"Layer 0 \(experts\) has no bias scores: each token has experts of its own"),
        ("qwen2_moe", "has no bias scores"),
        ("mamba", "no MLP of a known form"),
    ],
)
def test_models_without_dense_mlps_are_refused(
    name: str, match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model(name)
    with refused(model, match, UnsupportedModelError):
        neuron_bias_scores(model, TOKENIZER, PAIRS)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"controls": -1}, "controls=-1"),
        ({"control_words": {"colour": ["red", "blue"]}}, "'colour'"),
        ({"prompt_pairs": ["The man"]}, "The man"),
        ({"prompt_pairs": []}, "pair"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(
    options: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = toy("llama")
    with refused(model, match, ArgumentError):
        neuron_bias_scores(model, TOKENIZER, **options)


@pytest.mark.parametrize(
    ("projection", "match"),
    [("up_proj", "neuron_output_layer_2 gives NaN"), ("down_proj", "layer 2, mlp.down_proj")],
)
def test_nan_is_refused_naming_the_layer(
    projection: str, match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    model.model.layers[2].mlp.get_submodule(projection).weight.data[1] = float("nan")
    with refused(model, match):
        neuron_bias_scores(model, TOKENIZER, PAIRS, controls=0)
