"""Presets, and options as keywords."""

from __future__ import annotations

import inspect

import pytest
import torch

import optipfair
from optipfair import ArgumentError, presets, prune_model
from optipfair.option_fields import declared, flag_of
from optipfair.pruning.options.presets import PRESETS
from optipfair.pruning.options.prune_options import CHOICE, PRUNING_TYPES, TARGET, PruneOptions
from optipfair.testing import tiny_model


@pytest.mark.parametrize("kind", list(PRUNING_TYPES))
@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_a_value_for_every_pruning_type(name: str, kind: str) -> None:
    options = PRESETS[name].options(kind, seed=3)
    assert (options.pruning_type, options.seed) == (kind, 3)
    assert options == PruneOptions(**PRESETS[name].keywords(kind, seed=3))


def test_a_preset_prunes_a_model_in_memory() -> None:
    data = [torch.arange(240).view(20, 12)]
    keywords = presets.quality.keywords(pruning_percentage=50)
    one, other = (tiny_model("llama") for _ in range(2))
    prune_model(one, **keywords, dataloader=data, show_progress=False)
    prune_model(other, "MLP_GLU", "AUTO", 50, dataloader=data, show_progress=False)
    states = one.state_dict(), other.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_what_a_preset_sets_cannot_be_set_otherwise() -> None:
    with pytest.raises(
        ArgumentError, match="and the preset 'quality', which sets 'AUTO', are mutually"
    ):
        presets.quality.options(neuron_selection_method="OBS")
    assert presets.quality.options(neuron_selection_method="AUTO") == presets.quality.options()


def test_named_layers_need_no_choice_of_layers() -> None:
    assert presets.quality.options("DEPTH", layer_indices=[1]).layer_selection_method == "last"


def test_keywords_beyond_the_specification_come_from_the_options() -> None:
    options = declared(PruneOptions, TARGET, CHOICE)
    for function in (prune_model, optipfair.plan_pruning):
        assert options.keys() <= inspect.signature(function).parameters.keys()
        assert all(f"        {name}: " in (prune_model.__doc__ or "") for name in options)
    assert (
        declared(PruneOptions).keys()
        <= inspect.signature(optipfair.prune_checkpoint).parameters.keys()
    )


def test_an_unknown_keyword_is_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match=r"takes no keyword argument 'sede'\. Did you mean 'seed'"):
        prune_model(tiny_model("llama"), sede=1)


def test_every_option_has_a_whole_sentence_of_help() -> None:
    for name, (_, declaration) in declared(PruneOptions).items():
        assert declaration.help[0].isupper() and declaration.help.endswith("."), name
        assert flag_of(name, declaration) is None or flag_of(name, declaration).startswith("--")  # type: ignore[union-attr]


def test_names_are_taken_in_any_case_and_written_as_usual() -> None:
    options = PruneOptions(
        pruning_type="both",
        neuron_selection_method="auto",
        layer_selection_method="AUTO",
        dtype="BFloat16",
        verify="FULL",
    )
    assert options == PruneOptions(
        pruning_type="BOTH",
        neuron_selection_method="AUTO",
        layer_selection_method="auto",
        dtype="bfloat16",
        verify="full",
    )
    assert PruneOptions(pruning_type="depths").pruning_type == "depths"  # refused later, as given
