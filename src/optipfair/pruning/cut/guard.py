"""What a plan does to the config and to the modules' bookkeeping, proved before anything is cut.

A twin built on `meta` from the rewritten config may differ from the model only in what the plan
explains: widths, layer numbers and the number of layers. Then the saved model loads again as the
same model; anything else is refused with the reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...arch import heterogeneous
from ...arch.attention_form import ATTENTION, SKIP
from ...arch.config_rules import config_after_depth
from ...arch.spec import UNITS
from ...arch.twin import AttributeChange, TwinDifference, build_twin, compare_twins, tensor_shapes
from ...arch.view import MLPView, ModelView
from ...errors import UnsupportedModelError
from .plan import PruningPlan, WidthCut

_LAYER_NUMBERS = {"layer_idx", "layer_id", "layer_index", "layer_number", "kv_shared_layer_index"}

# Where configs say of what kind each layer is, stored or computed.
_LAYER_KINDS = ("layer_types", "layers_block_type", "block_types")


@dataclass(frozen=True)
class Rewrite:
    """What to set beside the tensors: fields of the config and attributes of modules.

    It was proved for `view`, the model as it is; `twin` is the model as it will be, on `meta`.
    """

    view: ModelView
    twin: Any
    config: Mapping[str, Any]
    attributes: tuple[AttributeChange, ...]
    numbers: Mapping[int, int]  # of each layer that stays, before → after


def prove(view: ModelView, plan: PruningPlan) -> Rewrite:
    """Return what to rewrite for `plan`; refuse where the result would not reload as itself.

    Layers and numbers of neurons decide; which neurons stay does not matter.
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
    numbers = {old: number for number, old in enumerate(plan.keep_layers)}
    return Rewrite(view, new, changes, attributes, numbers)


def cut_mlps(view: ModelView, plan: PruningPlan) -> list[tuple[WidthCut, MLPView]]:
    """The cuts of a plan, each with its MLP."""
    mlps = {mlp.key: mlp for mlp in view.mlps}
    return [(cut, mlps[cut.key]) for cut in plan.width_cuts]


def config_changes(view: ModelView, plan: PruningPlan) -> dict[str, Any]:
    """The config fields that the plan changes."""
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
    for cut, mlp in cut_mlps(view, plan):
        changes |= dict(mlp.spec.explicit)
        if mlp.spec.name == UNITS["attention"]:
            by_layer[plan.keep_layers.index(cut.layer)][SKIP] = [ATTENTION]
    after = {layer: fields for layer, fields in by_layer.items() if fields}
    if before or after:
        # Last, since transformers checks the overrides against the fields that are set before.
        changes.pop(heterogeneous.FIELD, None)
        changes[heterogeneous.FIELD] = after or None
    return changes


def _widths_by_key(view: ModelView, plan: PruningPlan) -> dict[str, dict[int, int]]:
    """Config fields of MLPs that are cut or differ → their value for each layer (new number)."""
    cuts = {cut.key: cut.kept for cut in plan.width_cuts}
    touched = {key for mlp in view.mlps if mlp.key in cuts for key in mlp.spec.keys}
    for fields in heterogeneous.overrides(view.text_config).values():
        touched |= fields.keys()
    number = {old: new for new, old in enumerate(plan.keep_layers)}
    widths: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for mlp in view.mlps:
        for key, factor in mlp.spec.keys.items():
            if mlp.layer not in number or key not in touched:
                continue
            value = int(cuts.get(mlp.key, mlp.width) / factor)
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
    """The new value of a width field, a list if it was one; else overrides say where layers differ.

    `widths` has its value for each layer that has it; its overrides in `by_layer` are set anew.
    """
    if isinstance(old, list | tuple):
        return [widths.get(layer, was) for layer, was in enumerate(old)]
    left = [value for value in widths.values() if value] or [0]  # of layers with an MLP
    common = Counter(left).most_common(1)[0][0]
    for layer, value in widths.items():
        by_layer[layer].pop(key, None)
        if value != common:
            by_layer[layer][key] = value
    return common


def _compare(
    view: ModelView, plan: PruningPlan, old: nn.Module, new: nn.Module, gone: set[str]
) -> tuple[TwinDifference, list[str]]:
    """What changes from `old` to the new twin, and what of it the plan does not explain."""
    path = view.layers_path
    renamed = {f"{path}.{i}": f"{path}.{keep}" for i, keep in enumerate(plan.keep_layers)}
    difference = compare_twins(old, new, renamed)
    # A tensor may disappear if it served a layer type that is gone.
    presence = [
        str(change)
        for change in difference.presence
        if change.what != "disappears" or not _serves(change.path.rpartition(".")[2], gone)
    ]
    built = tensor_shapes(new)
    expected = {name: was for name, (was, _) in difference.shapes.items()} | _cut_shapes(view, plan)
    shapes = [
        f"{name} would have shape {built.get(name)} instead of {shape}"
        for name, shape in expected.items()
        if built.get(name) != shape
    ]
    widths = list(_counted(view, plan))
    attributes = [
        f"{change.module or 'the model'}.{change.name} would change from {change.old!r} to "
        f"{change.new!r}"
        for change in difference.attributes
        if not _explained(change, plan, widths, gone, in_layer=change.module.startswith(f"{path}."))
    ]
    values = [f"{name} would hold other values" for name in difference.values]
    return difference, presence + shapes + attributes + values


def _cut_shapes(view: ModelView, plan: PruningPlan) -> dict[str, tuple[int, ...]]:
    """Names in the pruned model of the tensors that are cut → their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for cut, mlp in cut_mlps(view, plan):
        prefix = f"{view.layers_path}.{plan.keep_layers.index(cut.layer)}"
        for slot, tensor in mlp.tensors.items():
            shape = list(tensor.shape)
            shape[slot.axis] = slot.rows * cut.kept + slot.tail
            shapes[f"{prefix}.{slot.name}"] = tuple(shape)
    return shapes


def _counted(view: ModelView, plan: PruningPlan) -> Iterator[tuple[int, int]]:
    """Numbers, before and after, that follow the units of the cuts."""
    for cut, mlp in cut_mlps(view, plan):
        rows = {slot.rows for slot in mlp.tensors if slot.parts}
        for count in {1, 2, *rows}:  # 2: fused gate and up
            yield count * cut.width, count * cut.kept
        for tail in {slot.tail for slot in mlp.tensors if slot.tail}:
            yield cut.width + tail, cut.kept + tail
        for factor in mlp.spec.keys.values():
            yield int(cut.width / factor), int(cut.kept / factor)
        yield cut.width // mlp.spec.groups, cut.kept // mlp.spec.groups


def _explained(
    change: AttributeChange,
    plan: PruningPlan,
    widths: Sequence[tuple[int, int]],
    gone: set[str],
    *,
    in_layer: bool,
) -> bool:
    """Whether the plan is the reason why an attribute, of a layer or outside them, changes."""
    old, new, kept = change.old, change.new, plan.keep_layers
    if (old, new) in widths:
        return True
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        by_layer = len(old) == plan.num_layers and list(new) == [old[layer] for layer in kept]
        types_left = [kind for kind in old if kind not in gone]
        return by_layer or (not in_layer and bool(gone) and list(new) == types_left)
    if in_layer:  # its own number, or that of a layer it refers to
        number = new if change.name in _LAYER_NUMBERS and type(new) is int else -1
        return 0 <= number < len(kept) and old == kept[number]
    if old is True and new is False:  # whether there is a layer of a kind
        return any(kind.split("_")[0] in change.name for kind in gone)
    counted = "layer" in change.name and (old, new) == (plan.num_layers, len(kept))
    return counted or (new is None and _serves(change.name, gone))


def _check_live_model(view: ModelView, described: Mapping[str, tuple[int, ...]]) -> None:
    """The model in memory must be what its config describes, or nothing proved here holds."""
    live = tensor_shapes(view.model)
    wrong = [f"{name} is missing" for name in described if name not in live]
    for name, shape in live.items():
        if described.get(name, shape) != shape:
            wrong.append(f"{name} has shape {shape}, not {described[name]}")
        elif name not in described and name.startswith(f"{view.layers_path}."):
            wrong.append(f"{name} is not part of it")
    if wrong:
        raise UnsupportedModelError(
            f"This {type(view.model).__name__} is not what its config describes, so it would not "
            f"load again: {'; '.join(wrong[:3])}. Merge adapters or reload the model first."
        )


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


def _serves(name: str, gone: set[str]) -> bool:
    """Whether a buffer or attribute is named after a layer type that is gone."""
    return any(name.startswith(kind) for kind in gone)
