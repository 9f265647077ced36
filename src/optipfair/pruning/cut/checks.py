"""What must hold before a model is cut: weights that can be cut, and a plan that fits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch

from ...arch.spec import ATTENTION_UNITS, NEURON
from ...arch.units.attention import by_attention
from ...arch.units.experts import by_experts, routing
from ...arch.units.whole_attention import by_whole_attention
from ...arch.view import MLPView, ModelView, beside
from ...errors import ArgumentError, UnsupportedModelError
from ..calibration.holding import Key, Replacements, peek
from .plan import PruningPlan, WidthCut

_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SEEN: Mapping[str, Callable[[ModelView], ModelView]] = {
    "expert": by_experts,
    "attention": by_whole_attention,
    **{unit: partial(by_attention, unit=unit) for unit in ATTENTION_UNITS},
}
_QUANTIZATIONS = ("quantization_config", "compression_config", "quantization")  # fields


def seen_by(view: ModelView, units: Collection[str]) -> ModelView:
    """The view as a pruning sees it: what it cuts of heads or experts, and of MLPs if these too."""
    seen = view if NEURON in units or not units else None
    for unit in sorted({*units} - {NEURON}):
        own = _SEEN[unit](view)
        seen = own if seen is None else beside(seen, own)
    assert seen is not None
    return seen


def check_cuttable(view: ModelView) -> None:
    """Refuse models whose weights cannot be cut: on `meta`, or quantized."""
    check_unquantized(view.model)
    for name, parameter in view.model.named_parameters():
        if parameter.device.type == "meta":
            raise UnsupportedModelError(
                f"{name} is on the 'meta' device: it has a shape but no values. Load the model "
                "with its weights (without disk offload) before pruning it."
            )
        if parameter.dtype not in _PLAIN:
            raise no_plain_number(name, str(parameter.dtype).removeprefix("torch."))


def check_unquantized(model: Any) -> None:
    """Refuse a quantized model."""
    check_config_unquantized(model.config)
    if getattr(model, "hf_quantizer", None) is not None:
        raise UnsupportedModelError(_quantized("hf_quantizer"))


def check_config_unquantized(config: Any) -> None:
    """Refuse a config, an object or plain fields, that says itself or in a part of it that weights
    are quantized.
    """
    for place in _quantizations(config):
        raise UnsupportedModelError(_quantized(place))


def _quantizations(config: Any, path: str = "") -> Iterator[str]:
    fields: Mapping[str, Any] = config if isinstance(config, Mapping) else vars(config)
    for name, value in fields.items():
        if name in _QUANTIZATIONS and value not in (None, False):
            yield f"{path}{name}"
        elif name.endswith("_config") and (isinstance(value, Mapping) or hasattr(value, "to_dict")):
            yield from _quantizations(value, f"{path}{name}.")


def _quantized(place: str) -> str:
    return (
        f"The model is quantized ({place}), so its weights cannot be cut. Prune the unquantized "
        "model (of a .gguf file: as optipfair.load_model loads it), and quantize the result."
    )


def no_plain_number(name: str, dtype: str) -> UnsupportedModelError:
    """The error about a weight that stands for other numbers, or may."""
    return UnsupportedModelError(
        f"{name} is of dtype {dtype}, as weights are that were quantized or packed. They must be "
        "of float64, float32, float16 or bfloat16. Prune the model before it was quantized."
    )


def check_sharing(view: ModelView) -> None:
    """Refuse MLPs that share some of their tensors: what one keeps the other would lose."""
    owners: dict[int, tuple[int, ...]] = {}
    for mlp in view.mlps:
        for slot, tensor in mlp.tensors.items():
            if owners.setdefault(id(tensor), identity(mlp)) != identity(mlp):
                raise UnsupportedModelError(
                    f"{mlp.tensor_name(slot)} is shared with another MLP, but not all tensors are, "
                    "so the two cannot keep the same neurons. Untie the tensor first."
                )


def identity(mlp: MLPView) -> tuple[int, ...]:
    """Which tensors it has; layers that share an MLP have the same."""
    return tuple(id(tensor) for tensor in mlp.tensors.values())


def check_plan_fits(view: ModelView, plan: PruningPlan) -> None:
    """Refuse a plan, or replaced tensors of it, that were made for another model."""
    for problem in chain(_misfits(view, plan), _expert_misfits(view, plan)):
        raise ArgumentError(problem)
    check_shared_cuts(view, plan)
    for problem in _replacement_misfits(view, plan, plan.replacements or {}):
        raise ArgumentError(problem)


def _misfits(view: ModelView, plan: PruningPlan) -> Iterator[str]:
    have = (view.spec.model_type, len(view.layers))
    if have != (plan.model_type, plan.num_layers):
        yield (
            f"The plan is for a {plan.model_type!r} of {plan.num_layers} layers; this is a "
            f"{have[0]!r} of {have[1]}."
        )
    if not plan.keep_layers or not _increasing(plan.keep_layers, plan.num_layers):
        yield f"The plan's keep_layers is no increasing list of layers from 0 to {have[1] - 1}."
    mlps = {mlp.key: mlp for mlp in view.mlps if mlp.layer in plan.keep_layers}
    for cut in plan.width_cuts:
        if cut.key not in mlps:
            yield (
                f"The plan cuts {cut.mlp!r} of layer {cut.layer}, which the model does not have, "
                "which it removes, or which it cuts twice."
            )
        yield from _cut_misfits(mlps.pop(cut.key), cut)


def _expert_misfits(view: ModelView, plan: PruningPlan) -> Iterator[str]:
    """Numbers of experts that a router, or a config with one number for all layers, cannot have."""
    routed = (mlp for mlp in view.mlps if mlp.spec.routed and mlp.layer in plan.keep_layers)
    counts = {mlp.key: mlp.width for mlp in routed}
    counts |= {cut.key: cut.kept for cut in plan.width_cuts if cut.key in counts}
    if len(set(counts.values())) > 1:
        yield (
            f"The plan keeps {', '.join(map(str, sorted(set(counts.values()))))} experts in "
            "different layers, and a config states one number. Keep as many in each."
        )
    for kept in set(counts.values()):
        if reason := routing(view).why_not(kept):
            yield f"The plan keeps {kept} experts of each layer, but {reason}. Keep more."


def _cut_misfits(mlp: MLPView, cut: WidthCut) -> Iterator[str]:
    where, sets, groups = f"{cut.mlp} of layer {cut.layer}", mlp.experts or 1, mlp.spec.groups
    if mlp.width != cut.width:
        what = "experts" if mlp.spec.routed else "neurons"
        yield f"The plan cuts {where} from {cut.width} {what}; the model has {mlp.width} there."
    if cut.count is not None:
        yield (
            f"The plan says how many neurons of {where} stay, not which. Give what plan_pruning "
            "decided."
        )
    if len(cut.keep) != sets:
        yield f"The plan has {len(cut.keep)} kept sets for {where}; {sets} are needed."
    lengths = {len(keep) for keep in cut.keep}
    if len(lengths) > 1 or (0 in lengths and not _may_go(mlp)):
        yield f"The plan keeps {sorted(lengths)} neurons in {where}."
    if not all(_increasing(keep, mlp.width) for keep in cut.keep):
        yield f"The plan's kept neurons of {where} are no increasing numbers below {mlp.width}."
    in_group = Counter(unit * groups // mlp.width for unit in cut.keep[0])
    counts = [in_group[group] for group in range(groups)]
    if groups > 1 and (0 in counts or len(set(counts)) > 1):
        yield f"The plan keeps {counts} of {where}; the same number must stay in every group."


def _may_go(mlp: MLPView) -> bool:
    """Whether a layer can be without it: a dense MLP, or the whole attention."""
    return not (mlp.spec.experts or mlp.spec.routed or mlp.spec.name in ATTENTION_UNITS.values())


def _replacement_misfits(
    view: ModelView, plan: PruningPlan, replacements: Replacements
) -> Iterator[str]:
    """Tensors that cannot take the place of what stays or is cut."""
    kept = {cut.key: cut.kept for cut in plan.width_cuts}
    shapes: dict[Key, tuple[int, ...]] = {}
    for mlp in view.mlps:
        for slot, tensor in mlp.tensors.items() if mlp.layer in plan.keep_layers else ():
            shape = list(tensor.shape)
            shape[slot.axis] = slot.rows * kept.get(mlp.key, mlp.width) + slot.tail
            shapes[*mlp.key, slot.name] = tuple(shape)
        if mlp.down_bias is not None and mlp.key in kept:
            shapes[*mlp.key, mlp.spec.down_bias] = tuple(mlp.down_bias.shape)
    for key in replacements:
        shape_given = tuple(peek(replacements, key).shape)
        if shapes.get(key) != shape_given:
            yield (
                f"The replacement of {key[2]!r} in layer {key[0]} has shape {shape_given}, which "
                "no tensor that stays has there. Give what was decided for this model."
            )


def _increasing(indices: Sequence[int], end: int) -> bool:
    return all(a < b for a, b in zip((-1, *indices), (*indices, end), strict=True))


def check_shared_cuts(view: ModelView, plan: PruningPlan) -> None:
    """Layers that share an MLP must all keep the same of it, or all of it."""
    keeps = {cut.key: (cut.kept, cut.keep) for cut in plan.width_cuts}
    owners: dict[int, MLPView] = {}
    for mlp in view.mlps:
        if mlp.layer not in plan.keep_layers:
            continue
        first = owners.setdefault(id(mlp.tensors[mlp.spec.down]), mlp)
        if keeps.get(mlp.key) != keeps.get(first.key):
            raise ArgumentError(
                f"Layers {first.layer} and {mlp.layer} share their {mlp.spec.name}, so their "
                "neurons go together. Name both layers, or none of them."
            )
