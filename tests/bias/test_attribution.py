"""`attribute_bias`: effects add up, are what patching finds, and see what was planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from optipfair import ArgumentError, Contrast, attribute_bias
from optipfair.arch.view import describe
from optipfair.bias.attribution import effects_of_prompts, effects_of_units, parts_of
from optipfair.bias.contrasts.aligned import aligned, removal, without
from optipfair.bias.contrasts.contrast_prompts import interaction, prompts_of
from optipfair.bias.contrasts.tracing import projection
from optipfair.testing import byte_tokenizer, tiny_model

CONTRAST = Contrast(
    "mine",
    ("The {word} said", "I met the {word} when", "The {word} is"),
    (("nurse", "maid", "dancer", "nun"), ("pilot", "miner", "boxer", "king")),
    ((" she",), (" he",)),
)
FAMILIES = ["llama", "gpt2", "gemma2", "phi3", "opt", "falcon"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_parts_do_what_was_predicted(family: str) -> None:
    (found,) = attribute_bias(tiny_model(family), byte_tokenizer(), CONTRAST, checked=4)
    predicted = np.array([each.predicted for each in found.checks])
    patched = np.array([each.patched for each in found.checks])
    assert abs(predicted - patched).max() <= 0.25 * abs(patched).max()
    assert np.sign(predicted[0]) == np.sign(patched[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_it_was(family: str) -> None:
    model = tiny_model(family)
    model.train()
    next(iter(model.parameters())).requires_grad_(False)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    wanted = [each.requires_grad for each in model.parameters()]
    attribute_bias(model, byte_tokenizer(), CONTRAST)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert [each.requires_grad for each in model.parameters()] == wanted
    assert all(each.grad is None for each in model.parameters())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_units_and_prompts_add_up_to_the_layer() -> None:
    model = tiny_model("llama")
    view = describe(model)
    prompts = prompts_of([CONTRAST], model, byte_tokenizer())
    parts = parts_of(view)
    seen = aligned(view, [each for _, each in parts.all], prompts)
    for _, part in parts.all:
        by_prompt = interaction(effects_of_prompts(seen, part.key), prompts)
        by_unit = effects_of_units(seen, part.key, part.spec.down.rows)
        assert len(by_unit) == part.width
        assert float(by_unit.sum()) == pytest.approx(by_prompt, abs=1e-6)


def test_a_part_before_the_head_is_linear_so_that_patching_finds_just_what_was_predicted() -> None:
    """Without a last norm the last MLP only adds to the logits: first order is all there is."""
    model: Any = tiny_model("llama")
    model.model.norm = torch.nn.Identity()
    view = describe(model)
    prompts = prompts_of([CONTRAST], model, byte_tokenizer())
    part = view.mlps[-1]
    seen = aligned(view, [part], prompts)
    whole = interaction(seen.values, prompts)
    for unit in (None, slice(3, 4)):
        taken: Any = {projection(part): removal(part, seen.groups[part.key], unit)}
        gone = whole - interaction(without(view, prompts, taken), prompts)
        effects = effects_of_units(seen, part.key)
        expected = effects.sum() if unit is None else effects[3]
        assert gone == pytest.approx(float(expected), abs=1e-5)


def test_a_planted_neuron_is_found_first() -> None:
    """One neuron that fires on the last letter of the first words and writes `she` less `he`."""
    model: Any = tiny_model("llama")
    view = describe(model)
    layer = len(view.layers) - 1
    prompts = prompts_of([CONTRAST], model, byte_tokenizer())
    first, second = (each[0] for each in prompts[0].continuations)
    head = model.get_output_embeddings().weight
    (before,) = attribute_bias(model, byte_tokenizer(), CONTRAST)
    part = view.mlps[layer]
    seen = aligned(view, [part], prompts)
    # The direction of the planted neuron's input is the one that differs most by the two kinds.
    kinds = torch.zeros(seen.groups[part.key][0].differences.shape[-1])
    for group in seen.groups[part.key]:
        for place, difference in zip(group.places, group.differences, strict=True):
            kinds += prompts[place].weight * difference[-1]
    neuron = int(kinds.abs().argmax())
    with torch.no_grad():
        down = model.model.layers[layer].mlp.down_proj.weight
        down[:, neuron] += 40 * kinds[neuron].sign() * (head[first] - head[second])
    (after,) = attribute_bias(model, byte_tokenizer(), CONTRAST)
    assert after.behaviour.value > before.behaviour.value + 0.01
    assert after.total.value > before.total.value
    assert (after.neurons[0].layer, after.neurons[0].unit) == (layer, neuron)
    assert after.neurons[0].effect > 0


def test_few_words_have_no_interval() -> None:
    few = Contrast(
        "few", CONTRAST.templates, (("nurse", "maid"), ("miner",)), ((" she",), (" he",))
    )
    (found,) = attribute_bias(tiny_model("llama"), byte_tokenizer(), few)
    assert found.behaviour.low is None and found.behaviour.high is None
    (found,) = attribute_bias(tiny_model("llama"), byte_tokenizer(), CONTRAST)
    assert found.behaviour.low is not None and found.behaviour.low < found.behaviour.value
    assert found.words == [4, 4] and found.prompts == 24


def test_experts_are_left_out_with_a_reason() -> None:
    (found,) = attribute_bias(tiny_model("mixtral"), byte_tokenizer(), CONTRAST)
    assert found.left_out == {"mlp": "experts are not looked into"}
    assert {each.component for each in found.layers} == {"attention"}


@pytest.mark.parametrize("name", ["top", "checked"])
def test_numbers_that_make_no_sense_are_refused(name: str) -> None:
    options: dict[str, Any] = {name: -1}
    with pytest.raises(ArgumentError, match=name):
        attribute_bias(tiny_model("llama"), byte_tokenizer(), CONTRAST, **options)
