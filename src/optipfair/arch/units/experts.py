"""A model seen by its routed experts: whole experts in the place of neurons.

An expert is a slice of each tensor that the experts of a layer share, with its row of the router
and its entry in whatever the router adds or scales. So it is cut and scored like a neuron. Which
tensors follow the number of experts is not guessed but asked: a twin is built with fewer of them,
and what changes in it is the answer.

Axes: `E` experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ArgumentError, UnsupportedModelError
from .. import heterogeneous
from ..spec import UNITS, MLPSpec, TensorSlot
from ..twin import ShapeChange, build_twin, tensor_shapes
from ..view import LayerView, ModelView, find_mlp

# Config fields, by what they say. Their spelling differs from family to family.
_COUNT = re.compile(r"expert(?!.*\.)")
_OTHER_COUNTS = re.compile("per_tok|top_?k|shared|group|zero|null|selected|dense")
_CHOSEN = re.compile(
    r"experts_per_tok|\bmoe_(router_)?(top_?)?k$|top_?k_experts|selected_experts|experts_top_?k"
)
_GROUPS = re.compile(r"\b(moe_)?(n_groups?|num_expert_groups?)$")
_CHOSEN_GROUPS = re.compile(r"\b(moe_)?(topk_groups?|limited_groups?)$")


@dataclass(frozen=True)
class Routing:
    """How a router chooses, as the config says it."""

    chosen: int  # experts for each token, 1 where it does not say
    groups: int = 1  # in which experts lie, one after the other
    chosen_groups: int = 1  # from which a token's experts come

    def why_not(self, kept: int) -> str:
        """Why so many experts are too few; empty where they are enough."""
        in_groups = kept // self.groups * self.chosen_groups
        if in_groups < self.chosen:
            of = f" in the {self.chosen_groups} of {self.groups} groups that are chosen first"
            return f"each token is routed to {self.chosen}{of if self.groups > 1 else ''}"
        if self.groups > 1 and kept // self.groups < 2:
            return f"its {self.groups} groups are compared by their best two experts"
        return ""


def by_experts(view: ModelView) -> ModelView:
    """The view with the routed experts of each layer in the place of its MLPs.

    Raises:
        UnsupportedModelError: there are none, or they cannot be cut.
    """
    found = [each for each in _candidates(view.text_config) if _follows(view, *each)]
    if not found:
        raise _refusal(view, "it has no routed experts whose number its config states")
    name, total = found[0]
    fewer, twin = _smaller(view, name, total)
    groups = routing(view).groups
    layers = []
    for layer in view.layers:
        after = twin.get_submodule(f"{view.layers_path}.{layer.index}")
        slots = tuple(_slots(view, layer, after, total, fewer))
        spec = MLPSpec(UNITS["expert"], slots, name, groups=groups, routed=True)
        mlp = find_mlp(layer.index, layer.module, spec) if slots else None
        layers.append(replace(layer, mlps=() if mlp is None else (mlp,)))
    return replace(view, spec=replace(view.spec, mlps=()), layers=tuple(layers))


def routing(view: ModelView) -> Routing:
    """How the routers of a model choose."""
    fields = _whole_numbers(view.text_config)
    chosen = max((v for n, v in fields.items() if _CHOSEN.search(n)), default=1)
    chosen = max([chosen, *_chosen_by_layer(view.text_config)])
    # Where a field is of experts' groups, its plural is of something else (of a Mamba mixer).
    named = {n for n in fields if _GROUPS.search(n)}
    named -= {f"{n}s" for n in named}
    groups = max((fields[n] for n in named), default=1)
    of = max((v for n, v in fields.items() if _CHOSEN_GROUPS.search(n)), default=groups)
    return Routing(chosen, groups, of) if groups > 1 else Routing(chosen)


def _chosen_by_layer(config: Any) -> list[int]:
    """How many experts each token is sent to, where the config lists it for each layer."""
    stated = config.to_dict().items()
    lists = [value for name, value in stated if isinstance(value, list) and _CHOSEN.search(name)]
    return [each for value in lists for each in value if type(each) is int]


def check_experts_left(view: ModelView, kept: int) -> None:
    """Refuse a number of experts that is too small for the router, and name those that are not."""
    found, experts = routing(view), view.mlps[0]
    reason = found.why_not(kept)
    if kept % found.groups:
        reason = f"its experts lie in {found.groups} groups, of which each keeps the same number"
    if not reason:
        return
    possible = [
        count
        for count in range(found.groups, experts.width, found.groups)
        if not found.why_not(count)
    ]
    listed = f"{possible[0]} to {possible[-1]}" if len(possible) > 1 else str(possible or "none")
    step = f", in steps of {found.groups}" if found.groups > 1 else ""
    raise ArgumentError(
        f"{kept} of {experts.width} experts cannot stay: {reason}. Possible are {listed}{step}."
    )


def _whole_numbers(config: Any) -> dict[str, int]:
    """The fields that are whole numbers; those of a part with its name and a dot before theirs."""
    shared = heterogeneous.with_overrides(config, {}, {})
    found: dict[str, int] = {}
    for name in shared.to_dict():
        value: Any = getattr(shared, name, None)
        if type(value) is int:
            found[name] = value
        elif name.endswith("_config") and hasattr(value, "to_dict"):
            inside = {key: getattr(value, key, None) for key in value.to_dict()}
            found |= {f"{name}.{key}": v for key, v in inside.items() if type(v) is int}
    return found


def _candidates(config: Any) -> list[tuple[str, int]]:
    """Fields that may say how many routed experts a layer has, with what they say."""
    fields = _whole_numbers(config).items()
    named = ((n, v) for n, v in fields if _COUNT.search(n) and not _OTHER_COUNTS.search(n))
    return [(name, value) for name, value in named if value > 1]


def _follows(view: ModelView, name: str, total: int) -> bool:
    """Whether tensors of the layers follow a field."""
    try:
        _, twin = _smaller(view, name, total)
    except UnsupportedModelError:
        return False
    return any(
        _changed(layer, twin.get_submodule(f"{view.layers_path}.{layer.index}"))
        for layer in view.layers
    )


def _smaller(view: ModelView, name: str, total: int) -> tuple[int, Any]:
    """A twin with fewer experts, and how many it has."""
    groups = routing(view).groups
    reason: UnsupportedModelError | None = None
    for fewer in sorted({total - groups, total // 2, total - 1}, reverse=True):
        if not 0 < fewer < total:
            continue
        try:
            return fewer, build_twin(view.model, {name: fewer})
        except UnsupportedModelError as exc:
            reason = reason or exc
    raise _refusal(view, f"no smaller number of experts gives a model ({reason})")


def _changed(layer: LayerView, after: Any) -> dict[str, ShapeChange]:
    """Tensors of a layer whose shape is another in the twin → their shapes."""
    old, new = tensor_shapes(layer.module), tensor_shapes(after)
    return {n: (shape, new[n]) for n, shape in old.items() if n in new and new[n] != shape}


def _slots(
    view: ModelView, layer: LayerView, after: Any, total: int, fewer: int
) -> Iterator[TensorSlot]:
    """The tensors of a layer that follow the number of experts."""
    gone = tensor_shapes(layer.module).keys() - tensor_shapes(after).keys()
    if gone:
        raise _refusal(
            view, f"its experts are modules of their own in memory ({min(gone)} of {layer.index})"
        )
    changed = _changed(layer, after)
    heads = {name.split(".")[0] for name, (old, _) in changed.items() if len(old) > 2}
    if len(heads) > 1:
        raise _refusal(
            view,
            f"{' and '.join(sorted(heads))} of layer {layer.index} have experts of their own, of "
            "which the config states one number",
        )
    numbers = _tables_of_numbers(layer) if changed else []
    if numbers:
        raise _refusal(
            view,
            f"{numbers[0]} of layer {layer.index} says by number which experts a token is sent to",
        )
    owner = _experts_module(view, layer, changed) if changed else ""
    down = max((n for n in changed if n.rpartition(".")[0] == owner), default="", key=_is_out)
    for name, (old, new) in changed.items():
        axis = next(axis for axis, size in enumerate(old) if size != new[axis])
        rows, rest = divmod(old[axis] - new[axis], total - fewer)
        tail = old[axis] - rows * total
        if rest or rows < 1 or tail < 0 or (tail and rows > 1) or _elsewhere(old, new, axis):
            raise _refusal(view, f"with {fewer} experts {name} would be {new} instead of {old}")
        yield TensorSlot(
            name,
            "down" if name == down else "other",
            axis,
            parts=(rows,) if rows > 1 else (),
            tail=tail,
        )


def _tables_of_numbers(layer: LayerView) -> list[str]:
    """Stored tensors of whole numbers: a router that looks experts up has such a table."""
    state = layer.module.state_dict(keep_vars=True)
    return [n for n, each in state.items() if each.dim() > 1 and not each.is_floating_point()]


def _experts_module(view: ModelView, layer: LayerView, changed: Mapping[str, ShapeChange]) -> str:
    """Path of the module that holds the experts: the largest of what follows their number."""
    sizes = tensor_shapes(layer.module)
    largest = max(changed, key=lambda name: _elements(sizes[name]))
    owner = largest.rpartition(".")[0]
    inside = view.layers[layer.index].module.get_submodule(owner)
    if not inside._parameters:
        raise _refusal(view, f"the form of its experts ({type(inside).__name__}) is not known")
    return owner


def _is_out(name: str) -> bool:
    return re.search("down|output|w2|wo", name.rpartition(".")[2]) is not None


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _elsewhere(old: tuple[int, ...], new: tuple[int, ...], axis: int) -> bool:
    """Whether shapes differ along another axis too."""
    return old[:axis] != new[:axis] or old[axis + 1 :] != new[axis + 1 :]


def _refusal(view: ModelView, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"Cannot remove experts of {view.spec.model_type!r}: {reason}. Width and depth may work: "
        "optipfair analyze says what does."
    )
