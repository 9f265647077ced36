"""What a plan does to the config and to the modules' bookkeeping, proved before anything is cut.

A twin built on `meta` from the rewritten config may differ from the model only in what the plan
explains: widths, layer numbers and the number of layers. Then the saved model loads again as the
same model; anything else is refused with the reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...arch import heterogeneous
from ...arch.config_rules import config_after_depth
from ...arch.twin import (
    AttributeChange,
    PresenceChange,
    ShapeChange,
    TwinDifference,
    build_twin,
    compare_twins,
    tensor_shapes,
)
from ...arch.view import MLPView, ModelView
from ...errors import UnsupportedModelError
from .plan import PruningPlan, WidthCut

_LAYER_NUMBERS = (
    *("layer_idx", "layer_id", "layer_index", "layer_number"),
    "kv_shared_layer_index",
)


# Where configs say of what kind each layer is, stored or computed.
_LAYER_KINDS = ("layer_types", "layers_block_type", "block_types")


@dataclass(frozen=True)
class Rewrite:
    """What to set beside the tensors, as it was proved for a view of a model.

    Attributes:
        view: of the model as it is.
        twin: the model as it will be, on `meta`.
        config: fields of the config.
        attributes: those of modules.
    """

    view: ModelView
    twin: Any
    config: Mapping[str, Any]
    attributes: tuple[AttributeChange, ...]


def prove(view: ModelView, plan: PruningPlan) -> Rewrite:
    """Return what to rewrite for `plan`; refuse where the result would not reload as itself.

    The numbers of neurons and the layers that stay decide; which neurons stay does not matter.

    Raises:
        UnsupportedModelError: naming what would differ.
    """
    changes = config_changes(view, plan)
    gone = vanished_types(view.text_config, changes)
    new = build_twin(view.model, changes)
    _check_attention_stays(view.text_config, new.config.get_text_config())
    _check_followers_keep_their_leader(view.text_config, plan)
    difference, problems = _compare(view, plan, view.model, new, gone)
    if problems:
        # What the live model already had beside its config is the user's own: a twin of the old
        # config tells it from what the new config would change.
        old = build_twin(view.model, {})
        _check_live_model(view, tensor_shapes(old))
        difference, problems = _compare(view, plan, old, new, gone)
    if problems:
        shown = "; ".join(problems[:3]) + (" ..." if len(problems) > 3 else "")
        raise UnsupportedModelError(
            f"The config of {view.spec.model_type!r} cannot express this pruning, so the result "
            f"would load as another model: {shown}."
        )
    attributes = tuple(c for c in difference.attributes if not _serves(c.name, gone))
    return Rewrite(view, new, changes, attributes)


def _compare(
    view: ModelView, plan: PruningPlan, old: nn.Module, new: nn.Module, gone: set[str]
) -> tuple[TwinDifference, list[str]]:
    """What changes from `old` to the new twin, and what of it the plan does not explain."""
    path = view.layers_path
    renamed = {f"{path}.{i}": f"{path}.{keep}" for i, keep in enumerate(plan.keep_layers)}
    difference = compare_twins(old, new, renamed)
    problems = [
        *(str(change) for change in difference.presence if not _is_of(change, gone)),
        *_unexplained_shapes(view, plan, difference.shapes),
        *_unexplained_attributes(view, plan, difference.attributes, gone),
        *_missing_cuts(view, plan, new),
        *(f"{name} would hold other values" for name in difference.values),
    ]
    return difference, problems


def config_changes(view: ModelView, plan: PruningPlan) -> dict[str, Any]:
    """The config fields that the plan changes.

    Raises:
        UnsupportedModelError: MLPs of one layer that share a config field would differ in width.
    """
    changes: dict[str, Any] = {}
    if plan.drop_layers:
        changes |= config_after_depth(
            view.text_config, plan.keep_layers, plan.num_layers, view.spec.layers_key
        )
    before = heterogeneous.overrides(view.text_config)
    by_layer = {new: dict(before.get(old, {})) for new, old in enumerate(plan.keep_layers)}
    for key, widths in _widths_by_key(view, plan).items():
        old = changes.get(key, heterogeneous.shared_value(view.text_config, key))
        changes[key] = _width_field(old, key, widths, by_layer)
    for cut in plan.width_cuts:
        changes |= dict(_mlp_of(view, cut).spec.explicit)
    after = {layer: fields for layer, fields in by_layer.items() if fields}
    if before or after:
        # Last, since transformers checks the overrides against the fields that are set before.
        changes.pop(heterogeneous.FIELD, None)
        changes[heterogeneous.FIELD] = after or None
    return changes


def _widths_by_key(view: ModelView, plan: PruningPlan) -> dict[str, dict[int, int]]:
    """Config fields of the MLPs that are cut or differ → their value for each layer (new number).

    Raises:
        UnsupportedModelError: MLPs of one layer that share a config field would differ in width.
    """
    cuts = {(cut.layer, cut.mlp): cut.kept for cut in plan.width_cuts}
    touched = {key for cut in plan.width_cuts for key in _mlp_of(view, cut).spec.keys}
    for fields in heterogeneous.overrides(view.text_config).values():
        touched |= fields.keys()
    number = {old: new for new, old in enumerate(plan.keep_layers)}
    widths: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for mlp in view.mlps:
        for key, factor in mlp.spec.keys.items():
            if mlp.layer not in number or key not in touched:
                continue
            value = int(cuts.get((mlp.layer, mlp.spec.name), mlp.width) / factor)
            if widths[key].setdefault(number[mlp.layer], value) != value:
                raise UnsupportedModelError(
                    f"The MLPs of layer {mlp.layer} would have different widths "
                    f"({widths[key][number[mlp.layer]]} and {value}), which the config field "
                    f"{key!r} of {view.spec.model_type!r} cannot express. Prune them alike."
                )
    return dict(widths)


def _width_field(
    old: object, key: str, widths: Mapping[int, int], by_layer: dict[int, dict[str, Any]]
) -> object:
    """The new value of a width field; where layers differ, a list if it was one, or overrides.

    Args:
        old: the field's value before.
        key: its name.
        widths: its value for each layer that has it.
        by_layer: overrides of each layer; those of this field are set anew.
    """
    common = Counter(widths.values()).most_common(1)[0][0]
    if isinstance(old, list | tuple):
        return [widths.get(layer, was) for layer, was in enumerate(old)]
    for layer, fields in by_layer.items():
        fields.pop(key, None)
        if widths.get(layer, common) != common:
            fields[key] = widths[layer]
    return common


def _check_live_model(view: ModelView, described: Mapping[str, tuple[int, ...]]) -> None:
    """The model in memory must be what its config describes, or nothing proved here holds."""
    live = tensor_shapes(view.model)
    path = f"{view.layers_path}."
    wrong = [f"{name} is missing" for name in described if name not in live]
    wrong += [
        f"{name} has shape {shape}, not {described[name]}"
        for name, shape in live.items()
        if name in described and shape != described[name]
    ]
    wrong += [
        f"{name} is not part of it"
        for name in live
        if name.startswith(path) and name not in described
    ]
    if wrong:
        raise UnsupportedModelError(
            f"This {type(view.model).__name__} is not what its config describes, so it would not "
            f"load again: {'; '.join(wrong[:3])}. Merge adapters or reload the model first."
        )


def _unexplained_shapes(
    view: ModelView,
    plan: PruningPlan,
    shapes: Mapping[str, ShapeChange],
) -> list[str]:
    expected = _cut_shapes(view, plan)
    return [
        f"{name} would have shape {new} instead of {expected.get(name, old)}"
        for name, (old, new) in shapes.items()
        if expected.get(name) != new
    ]


def _missing_cuts(view: ModelView, plan: PruningPlan, new: Any) -> list[str]:
    """Tensors that the plan cuts but the new config builds as they were."""
    built = tensor_shapes(new)
    return [
        f"{name} would have shape {built.get(name)} instead of {shape}"
        for name, shape in _cut_shapes(view, plan).items()
        if built.get(name) != shape
    ]


def _cut_shapes(view: ModelView, plan: PruningPlan) -> dict[str, tuple[int, ...]]:
    """Names in the pruned model of the tensors that are cut → their shapes."""
    number = {old: new for new, old in enumerate(plan.keep_layers)}
    shapes: dict[str, tuple[int, ...]] = {}
    for cut in plan.width_cuts:
        for slot, tensor in _mlp_of(view, cut).tensors.items():
            shape = list(tensor.shape)
            shape[slot.axis] = slot.rows * cut.kept
            shapes[f"{view.layers_path}.{number[cut.layer]}.{slot.name}"] = tuple(shape)
    return shapes


def _mlp_of(view: ModelView, cut: WidthCut) -> MLPView:
    return next(mlp for mlp in view.layers[cut.layer].mlps if mlp.spec.name == cut.mlp)


def _check_attention_stays(before: Any, after: Any) -> None:
    """A hybrid model without any attention layer cannot count the tokens of its cache."""

    def attends(kinds: Sequence[object]) -> bool:
        named = (str(kind) for kind in kinds)
        return any("hybrid" in k or ("attention" in k and "linear" not in k) for k in named)

    for name in _LAYER_KINDS:
        kinds = [getattr(config, name, None) or () for config in (before, after)]
        if attends(kinds[0]) and not attends(kinds[1]):
            raise UnsupportedModelError(
                "Removing these layers would leave no attention layer in a hybrid model, which "
                "cannot generate then. Keep at least one layer of full attention."
            )


def _check_followers_keep_their_leader(config: Any, plan: PruningPlan) -> None:
    """A layer that is `shared` uses what the nearest `full` layer before it has chosen."""
    for name, kinds in config.to_dict().items():
        if not (isinstance(kinds, list | tuple) and set(map(str, kinds)) == {"full", "shared"}):
            continue
        for layer in plan.keep_layers:
            leader = max((i for i in range(layer) if kinds[i] == "full"), default=0)
            if kinds[layer] == "shared" and leader in plan.drop_layers:
                raise UnsupportedModelError(
                    f"Layer {layer} shares what layer {leader} computes ({name}), so it cannot "
                    f"stay without it. Remove both, or keep layer {leader}."
                )


def vanished_types(config: Any, changes: Mapping[str, Any]) -> set[str]:
    """Layer types (`sliding_attention`, ...) that no kept layer has."""
    before = getattr(config, "layer_types", None) or ()
    return set(before) - set(changes.get("layer_types", before))


def _is_of(change: PresenceChange, gone: set[str]) -> bool:
    """Whether a tensor disappears because it served a layer type that is gone."""
    return change.what == "disappears" and _serves(change.path.rpartition(".")[2], gone)


def _serves(name: str, gone: set[str]) -> bool:
    """Whether a buffer or attribute is named after a layer type that is gone."""
    return any(name.startswith(kind) for kind in gone)


def _unexplained_attributes(
    view: ModelView, plan: PruningPlan, changes: Sequence[AttributeChange], gone: set[str]
) -> list[str]:
    widths = {(cut.width, cut.kept) for cut in plan.width_cuts}
    widths |= {(2 * old, 2 * new) for old, new in widths}  # fused gate and up
    for cut in plan.width_cuts:
        widths |= _unit_counts(_mlp_of(view, cut), cut)
    prefix = f"{view.layers_path}."

    def explained(change: AttributeChange) -> bool:
        if any((change.old, change.new) == width for width in widths):
            return True
        if change.module.startswith(prefix):
            return _renumbers(plan, change) or _lists_layers(plan, change)
        return (
            _counts_layers(plan, change)
            or _lists_layers(plan, change)
            or _lists_types(change, gone)
            or (change.new is None and _serves(change.name, gone))
        )

    return [
        f"{change.module or 'the model'}.{change.name} would change from {change.old!r} to "
        f"{change.new!r}"
        for change in changes
        if not explained(change)
    ]


def _unit_counts(mlp: MLPView, cut: WidthCut) -> set[tuple[int, int]]:
    """Numbers, before and after, that follow the units of a cut: rows, config fields, shares."""
    rows = {slot.rows for slot in mlp.tensors if slot.parts}
    pairs = {(count * cut.width, count * cut.kept) for count in rows}
    pairs |= {(int(cut.width / f), int(cut.kept / f)) for f in mlp.spec.keys.values()}
    return pairs | {(cut.width // mlp.spec.groups, cut.kept // mlp.spec.groups)}


def _renumbers(plan: PruningPlan, change: AttributeChange) -> bool:
    """A layer's own number, or that of a layer it refers to."""
    new = change.new
    if change.name not in _LAYER_NUMBERS or type(new) is not int:
        return False
    return 0 <= new < len(plan.keep_layers) and change.old == plan.keep_layers[new]


def _lists_layers(plan: PruningPlan, change: AttributeChange) -> bool:
    """A list with an entry for each layer keeps those of the kept layers."""
    old, new = change.old, change.new
    lists = isinstance(old, list | tuple) and isinstance(new, list | tuple)
    return (
        lists
        and len(old) == plan.num_layers  # type: ignore[arg-type]
        and list(new) == [old[i] for i in plan.keep_layers]  # type: ignore[call-overload, index]
    )


def _counts_layers(plan: PruningPlan, change: AttributeChange) -> bool:
    """Outside the layers: how many there are."""
    old, new = change.old, change.new
    return "layer" in change.name and (old, new) == (plan.num_layers, len(plan.keep_layers))


def _lists_types(change: AttributeChange, gone: set[str]) -> bool:
    """Outside the layers: which layer types there are, or whether there is one of a kind."""
    old, new = change.old, change.new
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return bool(gone) and list(new) == [kind for kind in old if kind not in gone]
    stems = {kind.split("_")[0] for kind in gone}
    return old is True and new is False and any(stem in change.name for stem in stems)
