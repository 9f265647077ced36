"""A model seen by its attention: units of heads in the place of neurons.

A unit is a group (a key/value head with its query heads) or a query head. It takes some rows of the
projections into it and some columns of the projection out of it, so it is cut, scored and
compensated like a neuron that takes one. Which tensors follow the heads is not guessed but
asked: a twin is built with fewer heads, and what changes in it is the answer.

Axes: `U` units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import nn

from ...errors import UnsupportedModelError
from .. import heterogeneous
from ..attention_form import attentions_in, has_heads, projections
from ..spec import ATTENTION_UNITS, MLPSpec, Role, TensorSlot
from ..twin import build_twin, config_refusal
from ..view import LayerView, ModelView, find_mlp

_HEADS, _KEY_VALUE_HEADS, _HEAD_DIM = "num_attention_heads", "num_key_value_heads", "head_dim"


@dataclass(frozen=True)
class _Heads:
    """How many query heads and groups the config states, and in which fields."""

    heads: int
    groups: int
    head_dim: int | None  # None where the config states none
    grouped: bool  # whether it has a field for the groups

    @property
    def share(self) -> int:
        """Query heads of a group."""
        return self.heads // self.groups


def by_attention(view: ModelView, unit: str) -> ModelView:
    """The view with each layer's attention, in units of `group` or `head`, in place of its MLPs."""
    try:
        return _by_attention(view, unit)
    except _RefusedError as refusal:
        raise UnsupportedModelError(
            f"Cannot prune the attention of {view.spec.model_type!r}: {refusal}."
        ) from refusal


def check_count(view: ModelView, kept: int) -> None:
    """Refuse a number of units to stay that the config cannot state, and name those it can."""
    attention = view.mlps[0]
    reason = config_refusal(view.model.config, _fields(attention.spec, kept))
    if not reason:
        return
    units, groups = attention.width, attention.spec.groups
    possible = [
        f"{count} ({100 * (units - count) / units:.4g} %)"
        for count in range(groups, units, groups)
        if not config_refusal(view.model.config, _fields(attention.spec, count))
    ]
    raise UnsupportedModelError(
        f"The config of {view.spec.model_type!r} cannot state that {kept} of {units} "
        f"{attention.spec.name} stay: {reason.rstrip('.')}. It can state, with the percentage to "
        f"remove: {', '.join(possible) or 'none'}."
    )


class _RefusedError(Exception):
    """Why a model's attention cannot be cut."""


def _by_attention(view: ModelView, unit: str) -> ModelView:
    modules = {layer.index: _attention_of(layer) for layer in view.layers}
    found = {index: path for index, path in modules.items() if path is not None}
    if not found:
        raise _RefusedError("its layers hold no attention of a known form")
    heads = _heads(view.text_config)
    _check_units(view.text_config, heads, unit)
    head_dim = _head_dim(view, found, heads)
    kept, twin = _smaller_twin(view, heads, unit, head_dim)
    layers = []
    for layer in view.layers:
        after = twin.get_submodule(f"{view.layers_path}.{layer.index}")
        changed = _changed(layer.module, after)
        if layer.index not in found:
            _check_unchanged(layer, changed)
            layers.append(replace(layer, mlps=()))
            continue
        slots = tuple(_slots(layer, found[layer.index], heads, unit, kept, changed, head_dim))
        attention = find_mlp(layer.index, layer.module, _spec(slots, heads, unit, head_dim))
        assert attention is not None
        layers.append(replace(layer, mlps=(attention,)))
    return replace(view, spec=replace(view.spec, mlps=()), layers=tuple(layers))


def _heads(config: Any) -> _Heads:
    heads = heterogeneous.shared_value(config, _HEADS)
    if not isinstance(heads, int):
        raise _RefusedError("its config does not state one number of attention heads")
    groups = heterogeneous.shared_value(config, _KEY_VALUE_HEADS)
    head_dim = heterogeneous.shared_value(config, _HEAD_DIM)
    grouped = isinstance(groups, int)
    groups = groups if grouped else heads
    if heads % groups:
        raise _RefusedError(f"{heads} query heads are no multiple of {groups} key/value heads")
    return _Heads(heads, groups, head_dim if isinstance(head_dim, int) else None, grouped)


def _check_units(config: Any, heads: _Heads, unit: str) -> None:
    if unit == "group" and heads.groups == 1:
        raise _RefusedError(
            'it has one key/value group, which must stay; use attention_unit="head"'
        )
    if unit == "head" and heads.share == 1:
        raise _RefusedError(
            'each key/value group has one query head, which must stay; use attention_unit="group"'
        )
    if unit == "group" and heterogeneous.shared_value(config, "num_kv_shared_layers"):
        raise _RefusedError(
            "some layers use the keys and values of others, so their groups cannot be chosen apart"
        )


def _attention_of(layer: LayerView) -> str | None:
    """Path of the attention module below a layer, None in a layer without one."""
    found = attentions_in(layer.module)
    if len(found) > 1:
        raise _RefusedError(f"layer {layer.index} has several attentions ({', '.join(found)})")
    there = [path for path in found if has_heads(layer.module.get_submodule(path))]
    return there[0] if there else None


def _head_dim(view: ModelView, found: Mapping[int, str], heads: _Heads) -> int:
    """The size of a head: what the config states, or what the layers have."""
    if heads.head_dim is not None:
        return heads.head_dim
    index, path = next(iter(found.items()))
    attention = view.layers[index].module.get_submodule(path)
    name = next(name for name, role in projections(attention).items() if role == "down")
    return int(attention.get_parameter(f"{name}.weight").shape[1]) // heads.heads


def _smaller_twin(view: ModelView, heads: _Heads, unit: str, head_dim: int) -> tuple[int, Any]:
    """A twin with fewer units, and how many it has: of each group, where units are heads."""
    spec = _spec((), heads, unit, head_dim)
    reason: UnsupportedModelError | None = None
    for kept in range(1, (heads.groups if unit == "group" else heads.share)):
        try:
            return kept, build_twin(view.model, _fields(spec, kept * spec.groups))
        except UnsupportedModelError as exc:
            reason = reason or exc
    raise _RefusedError(f"no smaller number of heads gives a model. {reason}".rstrip("."))


def _fields(spec: MLPSpec, kept: int) -> dict[str, int]:
    """The config fields of a model that keeps so many units."""
    return {key: int(kept / factor) for key, factor in spec.keys.items()} | dict(spec.explicit)


def _spec(slots: tuple[TensorSlot, ...], heads: _Heads, unit: str, head_dim: int) -> MLPSpec:
    explicit = () if heads.head_dim is not None else ((_HEAD_DIM, head_dim),)
    if unit == "head":
        return MLPSpec(ATTENTION_UNITS[unit], slots, _HEADS, groups=heads.groups, explicit=explicit)
    if not heads.grouped:
        return MLPSpec(ATTENTION_UNITS[unit], slots, _HEADS, explicit=explicit)
    more = ((_HEADS, Fraction(1, heads.share)),)
    name = ATTENTION_UNITS[unit]
    return MLPSpec(name, slots, _KEY_VALUE_HEADS, more_keys=more, explicit=explicit)


Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def _changed(before: nn.Module, after: nn.Module) -> dict[str, Shapes]:
    """Parameters of a layer whose shape is another in the twin → their shapes."""
    new = dict(after.named_parameters(remove_duplicate=False))
    return {
        name: (tuple(parameter.shape), tuple(new[name].shape))
        for name, parameter in before.named_parameters(remove_duplicate=False)
        if name in new and new[name].shape != parameter.shape
    }


def _check_unchanged(layer: LayerView, changed: Mapping[str, Shapes]) -> None:
    if changed:
        raise _RefusedError(
            f"the number of heads also governs {next(iter(changed))} of layer {layer.index}, which "
            "is no attention of a known form"
        )


def _slots(
    layer: LayerView,
    path: str,
    heads: _Heads,
    unit: str,
    kept: int,
    changed: Mapping[str, Shapes],
    head_dim: int,
) -> Iterator[TensorSlot]:
    """The tensors of a layer that follow the heads."""
    attention = layer.module.get_submodule(path)
    roles = {f"{path}.{name}": role for name, role in projections(attention).items()}
    _check_projections(roles, unit, changed)
    _check_rest(attention, path, roles, changed, head_dim)
    units, smaller = (heads.groups, kept) if unit == "group" else (heads.heads, kept * heads.groups)
    for name, (old, new) in changed.items():
        axis = next(axis for axis, size in enumerate(old) if size != new[axis])
        rows, rest = divmod(old[axis], units)
        expected = (*old[:axis], rows * smaller, *old[axis + 1 :])
        if rest or new != expected:
            raise _RefusedError(f"with fewer heads {name} would be {new} instead of {expected}")
        owner, _, kind = name.rpartition(".")
        role = roles.get(owner)
        if role is None:
            _check_other(layer, path, name)
        parts = _parts(heads, rows) if role == "query+key+value" else (rows,)
        cut_as: Role = (role if kind == "weight" else "bias") if role else "other"
        yield TensorSlot(name, cut_as, axis, len(parts), parts=parts)


def _check_projections(roles: Mapping[str, Role], unit: str, changed: Mapping[str, Shapes]) -> None:
    for name, role in roles.items():
        if unit == "head" and role == "query+key+value":
            raise _RefusedError(
                f'{name} holds queries, keys and values in one; use attention_unit="group"'
            )
        governed = unit == "group" or role in ("query", "down")
        if governed and f"{name}.weight" not in changed:
            raise _RefusedError(f"its config does not state how many heads {name} has")


def _check_other(layer: LayerView, path: str, name: str) -> None:
    """What stands beside the projections must be of each head by itself, as sinks and gates are."""
    if not name.startswith(f"{path}."):
        raise _RefusedError(f"the number of heads also governs {name} of layer {layer.index}")
    owner = layer.module.get_submodule(name.rpartition(".")[0])
    is_norm = "norm" in f"{type(owner).__name__} {name}".lower()
    if is_norm and layer.module.get_parameter(name).dim() == 1:
        raise _over_all_heads(name)


def _over_all_heads(name: str) -> _RefusedError:
    return _RefusedError(f"{name} normalizes over all heads, so each of them changes the others")


def _check_rest(
    attention: nn.Module,
    path: str,
    roles: Mapping[str, Role],
    changed: Mapping[str, Shapes],
    head_dim: int,
) -> None:
    """What does not follow the heads must serve each of them alike, as a norm of one head does."""
    inside = len(f"{path}.")
    matrices = [attention.get_parameter(f"{name[inside:]}.weight") for name in roles]
    spans = {size for matrix in matrices for size in matrix.shape} - {head_dim}
    for short, parameter in attention.named_parameters():
        name = f"{path}.{short}"
        owner = name.rpartition(".")[0]
        if name in changed or owner in roles:
            continue
        module = attention.get_submodule(short.rpartition(".")[0])
        is_norm = module is not attention and "norm" in f"{type(module).__name__}{owner}".lower()
        if not is_norm:
            raise _RefusedError(f"{name} belongs to no head by itself")
        if len(parameter) in spans:
            raise _RefusedError(
                f"{name} normalizes over all heads, so each of them changes the others"
            )


def _parts(heads: _Heads, rows: int) -> tuple[int, ...]:
    """How the rows of a group are spread over queries, keys and values."""
    size, rest = divmod(rows, heads.share + 2)
    if rest:
        raise _RefusedError("the projection of queries, keys and values is of an unknown form")
    return (heads.share * size, size, size)
