"""Raw activations are what the model computes, token by token, under the names of its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optipfair import (
    calculate_activation_differences,
    calculate_bias_metrics,
    get_activation_pairs,
    get_prompt_activations,
)
from optipfair.bias.activations import (
    get_layer_names,
    process_prompt,
    register_hooks,
    remove_hooks,
    select_layers,
)
from optipfair.bias.activations.layer_keys import COMPONENTS, DEFAULT_COMPONENTS
from optipfair.errors import ArgumentError, DataError, UnknownNameError
from optipfair.testing import byte_tokenizer, tiny_model

TEXT = "The tall man"
TOKENIZER = byte_tokenizer()


def test_they_are_those_of_plain_hooks(unchanged: Callable[..., Any]) -> None:
    model: Any = tiny_model("llama")
    seen: list[Any] = []
    mlp = model.model.layers[2].mlp
    handle = mlp.gate_proj.register_forward_hook(lambda _module, _given, out: seen.append(out))
    model(**TOKENIZER(TEXT, return_tensors="pt"))
    handle.remove()
    with unchanged(model):
        found = get_prompt_activations(model, TOKENIZER, TEXT)
    assert torch.equal(found["gate_proj_layer_2"], seen[0])
    assert len(found) == 4 * len(DEFAULT_COMPONENTS)
    assert {len(TEXT)} == {values.shape[1] for values in found.values()}


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "qwen3_moe", "bloom"])
def test_every_component_has_a_row_for_each_token(family: str) -> None:
    model = tiny_model(family)
    found = get_prompt_activations(model, TOKENIZER, TEXT, list(COMPONENTS), [0, 1])
    assert found
    assert {values.shape[:2] for values in found.values()} == {(1, len(TEXT))}
    assert set(found) == set(get_layer_names(found))


def test_a_pair_of_them_is_what_metrics_are_calculated_of() -> None:
    model = tiny_model("llama")
    one, two = get_activation_pairs(model, TOKENIZER, TEXT, "The fair man")
    metrics = calculate_bias_metrics(one, two)
    apart = calculate_activation_differences(one, two)
    for key, values in metrics["layer_metrics"].items():
        assert values["mean"] == pytest.approx(apart[key].mean().item())
    assert process_prompt(model, TOKENIZER, TEXT).keys() == one.keys()


def test_differences_of_unequal_prompts_pair_tokens_from_both_ends() -> None:
    key = "mlp_output_layer_0"
    one, two = torch.arange(3.0)[None, :, None], torch.arange(5.0)[None, :, None]
    found = calculate_activation_differences({key: one, "x": one}, {key: two})
    assert found[key].flatten().tolist() == [0, 2, 2] and list(found) == [key]


def test_hooks_keep_what_runs_until_they_are_removed() -> None:
    model: Any = tiny_model("llama")
    hooks = register_hooks(model, ["attention", "down_proj_input"], "first_middle_last")
    model(torch.arange(5)[None])
    kept = dict(hooks.activations)
    assert list(kept) == get_layer_names(kept)
    assert {tuple(values.shape) for values in kept.values()} == {(1, 5, 16), (1, 5, 40)}
    remove_hooks(hooks)
    model(torch.arange(7)[None])
    assert hooks.activations.keys() == kept.keys()
    assert all(hooks.activations[name] is kept[name] for name in kept)
    assert not any(module._forward_hooks for module in model.modules())


def test_keys_are_listed_and_selected() -> None:
    model = tiny_model("llama")
    names = get_layer_names(model)
    assert len(names) == 4 * len(DEFAULT_COMPONENTS)
    ups = get_layer_names(model, "up_proj")
    assert ups == get_layer_names(dict.fromkeys(names), "up_proj")
    assert ups == [f"up_proj_layer_{layer}" for layer in range(4)]
    assert select_layers(ups) == [ups[0], ups[2], ups[3]]
    assert select_layers(ups[1:], "all") == ups[1:]
    assert select_layers(ups, [3, 1]) == [ups[1], ups[3]]


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda m: get_prompt_activations(m, TOKENIZER, ""), DataError, "no token"),
        (lambda m: get_prompt_activations(m, TOKENIZER, TEXT, ["up"]), UnknownNameError, "'up'"),
        (lambda m: get_prompt_activations(m, TOKENIZER, TEXT, layers=[4]), ArgumentError, "0 to 3"),
        (lambda m: get_prompt_activations(m, None, TEXT), ArgumentError, "tokenizer is a None"),
        (lambda m: get_prompt_activations(m, TOKENIZER, "x" * 999), DataError, "positions"),
        (lambda _: get_layer_names(3), ArgumentError, "int has no layers"),
        (lambda _: select_layers([]), ArgumentError, "no layer keys"),
        (lambda _: select_layers(["up_proj_layer_1"], [7]), ArgumentError, "out of range"),
    ],
)
def test_what_cannot_be_captured_is_refused(
    call: Callable[[Any], Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        call(tiny_model("gpt2", n_layer=4))


def test_hooks_are_gone_after_an_error() -> None:
    model: Any = tiny_model("llama")
    model.model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        get_prompt_activations(model, TOKENIZER, TEXT)
    assert not any(module._forward_hooks for module in model.modules())
