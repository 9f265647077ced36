"""What results are compared with: the state of a model, and models changed the obvious way."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from optipfair import PruningPlan, get_model_layers
from optipfair.arch.slots import zero_
from optipfair.arch.units.attention import by_attention
from optipfair.arch.units.experts import by_experts
from optipfair.arch.view import describe


def model_state(model: Any) -> dict[str, Any]:
    """Everything of a model that a call which only reads must leave alone."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors = {**parameters, **dict(model.named_buffers(remove_duplicate=False))}
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        "tensors": {name: (id(tensor), *_bits(tensor)) for name, tensor in tensors.items()},
        "requires_grad": {name: tensor.requires_grad for name, tensor in parameters.items()},
        "gradients": {name: _bits(tensor.grad) for name, tensor in parameters.items()},
        "modules": {name: (type(module), id(module)) for name, module in modules.items()},
        "attributes": {name: plain_attributes(module) for name, module in modules.items()},
        "hooks": {
            name: [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]
            for name, module in modules.items()
        },
        "config": model.config.to_dict() if hasattr(model, "config") else None,
    }


def _bits(tensor: Tensor | None) -> tuple[object, ...]:
    """Shape, type and bytes, so that NaN equals NaN and -0 differs from 0."""
    if tensor is None or tensor.is_meta:
        return (None if tensor is None else tuple(tensor.shape),)
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tuple(tensor.shape), tensor.dtype, data


def plain_attributes(module: nn.Module) -> dict[str, object]:
    """Numbers, flags and strings among a module's own attributes, `training` included.

    `name_or_path`, where transformers notes what a model was loaded from, is left out.
    """
    return {
        key: value
        for key, value in vars(module).items()
        if (value is None or isinstance(value, bool | int | float | str)) and key != "name_or_path"
    }


def with_zeroed_neurons(model: Any, plan: PruningPlan) -> Any:
    """A copy in which the neurons that a plan removes are zero, expert by expert."""
    zeroed = copy.deepcopy(model)
    mlps = {(mlp.layer, mlp.spec.name): mlp for mlp in describe(zeroed).mlps}
    for cut in plan.width_cuts:
        for slot, tensor in mlps[cut.layer, cut.mlp].tensors.items():
            for expert, keep in enumerate(cut.keep):
                drop = torch.tensor(sorted(set(range(cut.width)) - set(keep)))
                if mlps[cut.layer, cut.mlp].spec.experts:
                    zero_(tensor.data[expert], replace(slot, axis=slot.axis - 1), drop)
                else:
                    zero_(tensor.data, slot, drop)
    return zeroed


def with_zeroed_heads(model: Any, plan: PruningPlan) -> Any:
    """A copy in which nothing comes out of the heads that a plan removes."""
    zeroed = copy.deepcopy(model)
    (unit,) = plan.units
    view = by_attention(describe(zeroed), unit)
    for cut in plan.width_cuts:
        (attention,) = view.layers[cut.layer].mlps
        down = attention.tensors[attention.spec.down].data  # (H, heads * head_dim)
        size = down.shape[1] // cut.width
        for unit in set(range(cut.width)) - set(cut.keep[0]):
            down[:, unit * size : (unit + 1) * size] = 0
    return zeroed


def with_skipped_layers(model: Any, drop: Sequence[int]) -> Any:
    """A copy whose dropped layers pass their input on, in the form of their own output."""
    skipped = copy.deepcopy(model)
    for index in drop:
        layer = get_model_layers(skipped)[index]
        layer.forward = MethodType(_passing_on(layer.forward), layer)
    return skipped


def _passing_on(run: Any) -> Any:
    def forward(_self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        if hasattr(output, "_fields"):
            return output._replace(**_streams(output._fields, kwargs))
        hidden_states = args[0] if args else kwargs["hidden_states"]
        return (hidden_states, *output[1:]) if isinstance(output, tuple | list) else hidden_states

    return forward


def _streams(fields: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The inputs that a layer gives back under their name (reformer: `prev_attn_output` too)."""
    return {field: given[name] for field in fields for name in given if name.endswith(field)}


def greedy(model: Any, token_ids: Tensor, *, cache: bool) -> list[list[int]]:
    """Five more tokens, so that the text outgrows the toy models' sliding window of 16."""
    generated: Tensor = model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        use_cache=cache,
    )
    return generated.tolist()  # type: ignore[no-any-return]


@contextmanager
def masked_experts(model: Any, plan: PruningPlan) -> Iterator[Any]:
    """A copy whose routers cannot choose the experts that a plan removes.

    What a router's weight gives for them is minus infinity, before anything is normalized or
    chosen, and so is a bias that is added to it.
    """
    masked = copy.deepcopy(model)
    rows: list[tuple[Tensor, Tensor]] = []  # a router's weight, and the rows that go
    layers = {layer.index: layer for layer in by_experts(describe(masked)).layers}
    for cut in plan.width_cuts:
        (experts,) = layers[cut.layer].mlps
        gone = torch.tensor(sorted(set(range(cut.width)) - set(cut.keep[0])))
        for slot, tensor in experts.tensors.items():
            if slot.module == experts.spec.down.module:
                continue
            if tensor.squeeze().dim() == 2:
                rows.append((tensor.detach(), gone))
            elif "bias" in slot.name:
                tensor.data.index_fill_(slot.axis, gone, -torch.inf)
    with _MaskedRows(rows) as mode:
        yield masked
    assert mode.seen == len(rows), "every router must have been masked"


class _MaskedRows(TorchFunctionMode):
    """What linear maps of some weights give in some rows is minus infinity."""

    def __init__(self, rows: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.rows, self.found = rows, set[int]()

    @property
    def seen(self) -> int:
        return len(self.found)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is nn.functional.linear:
            weight = args[1]
            for number, (of, gone) in enumerate(self.rows):
                if weight.shape == of.shape and torch.equal(weight.float(), of.float()):
                    self.found.add(number)
                    return output.index_fill(-1, gone, -torch.inf)
        return output
