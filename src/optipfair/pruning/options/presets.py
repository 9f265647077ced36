"""Presets: named values of `PruneOptions` for each pruning type. A new preset is one entry here.

The command line fills in what it was not told from the preset `quality` (`chosen_by_data`).

>>> from optipfair import presets
>>> presets.quality.options("DEPTH", num_layers_to_remove=4).layer_selection_method
'auto'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...checking import BUILTIN_TEXT, NO_TEXT
from ...errors import ArgumentError
from ...option_fields import declared
from ...registry import Registry
from ..importance.criteria import CRITERIA
from ..importance.expert_scores import EXPERT_SCORES
from ..layers.strategies import ranks_layers
from .prune_options import PRUNING_TYPES, TEXT, WIDTH_MULTIPLE, PruneOptions


@dataclass(frozen=True)
class Preset:
    """A named choice of options."""

    name: str
    help: str  # what it is for, in whole sentences
    by_type: Mapping[str, Mapping[str, Any]]  # pruning type → the options that it sets

    def keywords(self, pruning_type: str = "MLP_GLU", **more: Any) -> dict[str, Any]:
        """The options it sets for a pruning type, with `more`, as keywords.

        Raises:
            ArgumentError: one of `more` is what the preset sets, with another value.
        """
        chosen = dict(self.by_type[PRUNING_TYPES.canonical(pruning_type)])
        if more.get("layer_indices") is not None:  # they say already which layers go
            chosen.pop("layer_selection_method", None)
        for name in chosen.keys() & more.keys():
            if more[name] != chosen[name]:
                raise ArgumentError(
                    f"{name}={more[name]!r} and the preset {self.name!r}, which sets "
                    f"{chosen[name]!r}, are mutually exclusive. Give one of them."
                )
        return {"pruning_type": pruning_type, **chosen, **more}

    def options(self, pruning_type: str = "MLP_GLU", **more: Any) -> PruneOptions:
        """The same as a value."""
        return PruneOptions(**self.keywords(pruning_type, **more))


quality = Preset(
    "quality",
    "quality keeps most of the model: AUTO chooses neurons and compensates, and those that stay "
    "are trained; with DEPTH or BOTH the layers that are missed least go, and the layers before "
    "them make up for them; with EXPERTS the experts that add least; with BLOCKS the blocks that "
    "are missed least, and the blocks before them make up for them. It needs calibration data.",
    {
        "MLP_GLU": {"neuron_selection_method": "AUTO", "reconstruct": True},
        "ATTENTION": {"neuron_selection_method": "AUTO"},
        "BOTH": {
            "neuron_selection_method": "AUTO",
            "layer_selection_method": "auto",
            "reconstruct": True,
        },
        "DEPTH": {"layer_selection_method": "auto", "compensate": True},
        "EXPERTS": {"expert_selection_method": "REAP"},
        "BLOCKS": {"compensate": True},
    },
)

quality_and_recovery = Preset(
    "quality+recover",
    "quality+recover does the same, and trains the result to say what the original says.",
    {kind: {**chosen, "recover": True} for kind, chosen in quality.by_type.items()},
)

_BY_WEIGHTS = {"expert_selection_method": "NORM"}
ONE_AT_A_TIME = "block_influence"  # chooses layers without the whole model in memory

PRESETS: Registry[Preset] = Registry("preset")
for _preset in (quality, quality_and_recovery):
    PRESETS.add(_preset.name, _preset)


def chosen_by_data(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, and beside it what is missing for data to choose.

    That is what `quality` sets, the bundled text, widths in multiples of 32, and training of what
    is kept. Nothing is replaced, and nothing is added where weights alone are asked for
    (`--calibration none`, a static method, layers that are named and only removed).

    >>> chosen_by_data({"pruning_type": "DEPTH", "num_layers_to_remove": 4})["calibration"]
    'builtin'
    >>> chosen_by_data({"neuron_selection_method": "VOW"})
    {'neuron_selection_method': 'VOW'}
    """
    kind = _kind(asked)
    if _without_data(kind, asked):
        return {**(_BY_WEIGHTS if _of_experts(asked) else {}), **asked}
    choices = {"calibration": BUILTIN_TEXT, **_by_preset(kind, asked)}
    if asked.get("layer_indices") is not None:
        choices.pop("layer_selection_method", None)
    rounded = asked.get("expansion_divisor") is not None
    if kind in ("MLP_GLU", "BOTH") and not rounded and not _with_experts(asked):
        choices["nearest_multiple"] = WIDTH_MULTIPLE
    if not _fits(asked) or _with_experts(asked):
        choices.pop("reconstruct", None)
    return {**choices, **asked}


def instead_of_data(asked: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What to do where `chosen`, which was filled in, cannot be done; one after the other.

    First, nothing makes up for the layers, or blocks, that data choose. Then layers are chosen by a
    method that needs one of them in memory at a time, made up for or not. Last, weights alone
    choose. Only what was filled in is given up.
    """
    ways = []
    blocks = _kind(asked) == "BLOCKS" and asked.get("blocks") is None
    if chosen.get("compensate") and "compensate" not in asked and (_ranks(chosen) or blocks):
        ways.append({**chosen, "compensate": False})
    if _ranks(chosen) and "layer_selection_method" not in asked:
        by_layers = {**chosen, "layer_selection_method": ONE_AT_A_TIME}
        ways += [by_layers, *({**by_layers, "compensate": False} for _ in ways)]
    if "calibration" in chosen and "calibration" not in asked and not _needs_data(asked):
        of_text = declared(PruneOptions, TEXT).keys() - {"evaluate"}
        without = {name: value for name, value in asked.items() if name not in of_text}
        ways.append({**without, **(_BY_WEIGHTS if _of_experts(asked) else {})})
    return ways


def _by_preset(kind: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What `quality` sets; with a number of experts, layers go with these."""
    if kind == "BOTH" and _with_experts(asked):
        layers = {"layer_selection_method": quality.by_type[kind]["layer_selection_method"]}
        return {**quality.by_type["EXPERTS"], **layers}
    return dict(quality.by_type[kind])


def _of_experts(asked: Mapping[str, Any]) -> bool:
    return _kind(asked) == "EXPERTS" or _with_experts(asked)


def _with_experts(asked: Mapping[str, Any]) -> bool:
    return any(asked.get(name) is not None for name in ("num_experts_to_remove", "experts_to_keep"))


def _fits(asked: Mapping[str, Any]) -> bool:
    """Whether kept neurons are fitted, one layer after the other, so that they can be trained."""
    method = CRITERIA[asked.get("neuron_selection_method", "AUTO")]
    fitted = method.compensates if asked.get("compensate") is None else asked["compensate"]
    return bool(fitted) and asked.get("sequential") is not False


def _kind(asked: Mapping[str, Any]) -> str:
    return PRUNING_TYPES.canonical(asked.get("pruning_type", "MLP_GLU"))


def _without_data(kind: str, asked: Mapping[str, Any]) -> bool:
    """Whether weights alone are asked for, or a static method, which says what it reads."""
    method = asked.get("neuron_selection_method")
    if method is not None and not CRITERIA[method].needs_data:
        return True
    score = asked.get("expert_selection_method")
    if score is not None and not EXPERT_SCORES[score].needs_data:
        return True
    if kind in ("DEPTH", "BLOCKS") and asked.get("compensate") is False and _names_layers(asked):
        return True
    return asked.get("calibration", BUILTIN_TEXT) in (None, NO_TEXT)


def _names_layers(asked: Mapping[str, Any]) -> bool:
    """Whether layers or blocks to remove are named, by their numbers or as the first or last."""
    method = asked.get("layer_selection_method")
    named = any(asked.get(name) is not None for name in ("layer_indices", "blocks"))
    return named or not (method is None or ranks_layers(method))


def _ranks(options: Mapping[str, Any]) -> bool:
    """Whether data choose layers."""
    method = options.get("layer_selection_method")
    return method is not None and ranks_layers(method)


def _needs_data(asked: Mapping[str, Any]) -> bool:
    """Whether one of the options cannot be had without data."""
    method = asked.get("neuron_selection_method")
    by_method = method is not None and CRITERIA[method].needs_data
    score = asked.get("expert_selection_method")
    by_method = by_method or (score is not None and EXPERT_SCORES[score].needs_data)
    by_loss = asked.get("layer_widths", "uniform") != "uniform"
    flags = asked.get("compensate") or asked.get("sequential")
    if _kind(asked) == "BLOCKS" and asked.get("blocks") is None:
        return True
    return by_method or by_loss or bool(flags) or _ranks(asked)
