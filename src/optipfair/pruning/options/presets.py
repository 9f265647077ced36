"""Presets: named values of `PruneOptions` for each pruning type. A new preset is one entry here.

>>> from optipfair import presets
>>> presets.quality.options("DEPTH", num_layers_to_remove=4).layer_selection_method
'auto'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError
from ...registry import Registry
from .prune_options import PRUNING_TYPES, PruneOptions


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
    "quality keeps most of the model: AUTO chooses neurons and compensates; with DEPTH or BOTH "
    "the layers that are missed least go, and the layers before them make up for them. It needs "
    "calibration data.",
    {
        "MLP_GLU": {"neuron_selection_method": "AUTO"},
        "ATTENTION": {"neuron_selection_method": "AUTO"},
        "BOTH": {"neuron_selection_method": "AUTO", "layer_selection_method": "auto"},
        "DEPTH": {"layer_selection_method": "auto", "compensate": True},
    },
)

PRESETS: Registry[Preset] = Registry("preset")
PRESETS.add(quality.name, quality)
