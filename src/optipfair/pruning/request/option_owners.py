"""Which options belong to which pruning type: those of another one are refused."""

from __future__ import annotations

from ...errors import ArgumentError
from ..options.prune_options import PruneOptions

_OF_WIDTH = (
    "neuron_selection_method",
    "expansion_rate",
    "expansion_divisor",
    "nearest_multiple",
    "sequential",
)
_OF_DEPTH = ("num_layers_to_remove", "depth_pruning_percentage", "layer_selection_method")
_OF_MLPS = ("expansion_rate", "expansion_divisor", "nearest_multiple", "layer_indices")
_OF_ATTENTION = ("ATTENTION", ("attention_unit",))
EXPERT_TARGETS = ("num_experts_to_remove", "experts_to_keep")
_OF_BLOCKS = ("BLOCKS", ("num_blocks_to_remove", "blocks", "block_kind"))
_OF_EXPERTS = ("EXPERTS", (*EXPERT_TARGETS, "expert_selection_method"))
_FITTED = ("compensate", "reconstruct", "layer_widths")
_FOREIGN: dict[str, list[tuple[str, tuple[str, ...]]]] = {  # type → options of another
    "MLP_GLU": [("DEPTH", _OF_DEPTH), _OF_ATTENTION, _OF_EXPERTS, _OF_BLOCKS],
    "DEPTH": [("MLP_GLU", _OF_WIDTH), _OF_ATTENTION, _OF_EXPERTS, _OF_BLOCKS],
    "BOTH": [_OF_ATTENTION, _OF_BLOCKS],
    "ATTENTION": [("DEPTH", _OF_DEPTH), ("MLP_GLU", _OF_MLPS), _OF_EXPERTS, _OF_BLOCKS],
    "BLOCKS": [
        ("DEPTH", _OF_DEPTH),
        ("MLP_GLU", (*_OF_WIDTH, "layer_indices", "reconstruct", "layer_widths")),
        _OF_ATTENTION,
        _OF_EXPERTS,
    ],
    "EXPERTS": [
        ("BOTH", _OF_DEPTH),
        ("MLP_GLU", (*_OF_WIDTH, "layer_indices", *_FITTED)),
        _OF_ATTENTION,
        _OF_BLOCKS,
    ],
}


def refuse_other_types(kind: str, options: PruneOptions) -> None:
    """Each pruning type takes its own options and no other's; `BOTH` takes those of two."""
    foreign = _FOREIGN[kind]
    if kind == "BOTH":  # layers, and either neurons or experts
        neurons = ("pruning_percentage", *_OF_WIDTH, *_FITTED)
        foreign = [*foreign, ("BOTH", neurons) if removes_experts(kind, options) else _OF_EXPERTS]
    for other, names in foreign:
        given = {name: getattr(options, name) for name in names if name in options.not_default()}
        if given:
            listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
            if other == kind:
                raise ArgumentError(
                    f"{listed} does not go with a number of experts: layers go either with neurons "
                    "or with experts. Prune experts first, and the neurons of the result after."
                )
            raise ArgumentError(
                f"{listed} does not go with pruning_type={kind!r}. Leave it out, or use "
                f"pruning_type={other!r}."
            )


def removes_experts(kind: str, options: PruneOptions) -> bool:
    """Whether experts go: by themselves, or with layers where their number is said."""
    named = any(getattr(options, name) is not None for name in EXPERT_TARGETS)
    return kind == "EXPERTS" or (kind == "BOTH" and named)
