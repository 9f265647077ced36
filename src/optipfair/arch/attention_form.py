"""The form of a layer's attention: its projections, and what is left when all its heads go.

An attention without heads keeps its modules, with tensors of size zero, so that no reader takes
its folder for that of a whole one. It gives zeros, or the bias of its projection out.

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .spec import Role

SKIP, ATTENTION = "skip", "attention"  # in `per_layer_config`: the parts that a layer is without

_INTO: tuple[tuple[tuple[str, Role], ...], ...] = (
    (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")),
    (("qkv_proj", "query+key+value"),),
)
_OUT = ("o_proj", "out_proj", "dense")


def attentions_in(layer: nn.Module) -> list[str]:
    """Paths below a layer of the modules that are attention of a known form."""
    return [path for path, module in layer.named_modules() if path and projections(module)]


def projections(module: nn.Module) -> dict[str, Role]:
    """The projections of an attention module with their roles; empty for other modules."""
    out = next((name for name in _OUT if _is_matrix(module, name)), None)
    for names in _INTO:
        present: dict[str, Role] = {name: role for name, role in names if _is_matrix(module, name)}
        if out is not None and len(present) == len(names):
            return {**present, out: "down"}
    return {}


def _is_matrix(module: nn.Module, name: str) -> bool:
    child = module._modules.get(name)
    weight = None if child is None else child._parameters.get("weight")
    return weight is not None and weight.dim() == 2


def has_heads(attention: nn.Module) -> bool:
    """Whether an attention module has any heads left."""
    out = next(name for name, role in projections(attention).items() if role == "down")
    return attention.get_parameter(f"{out}.weight").numel() > 0


def keeps_keys(attention: nn.Module) -> bool:
    """Whether it attends to keys that a cache keeps, as linear attention and its kin do not."""
    return "past_key_values" in inspect.signature(type(attention).forward).parameters


def without_heads(attention: nn.Module) -> None:
    """Take the heads out of an attention module whose layer is said to have none, in place."""
    for name, role in projections(attention).items():
        module: Any = attention.get_submodule(name)
        axis, size = (1, "in_features") if role == "down" else (0, "out_features")
        for key, parameter in list(module.named_parameters()):
            if key == "bias" and role == "down":
                continue
            shape = list(parameter.shape)
            shape[axis] = 0
            empty = torch.empty(shape, dtype=parameter.dtype, device=parameter.device)
            setattr(module, key, nn.Parameter(empty, parameter.requires_grad))
        setattr(module, size, 0)
    let_pass(attention)


def let_pass(attention: nn.Module) -> None:
    """Let an attention module whose projections are empty give what these give."""
    vars(attention)["forward"] = partial(_nothing, attention)


def _nothing(
    attention: Any, hidden_states: Tensor, *_args: Any, past_key_values: Any = None, **_more: Any
) -> tuple[Tensor, None]:
    """Zeros (B, S, H), or the bias of the projection out.

    A cache is told of the tokens all the same, since it counts them by the first layer: one number
    a token.
    """
    out = next(name for name, role in projections(attention).items() if role == "down")
    if past_key_values is not None:
        mark = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
        past_key_values.update(mark, mark, attention.layer_idx)
    return attention.get_submodule(out)(hidden_states[..., :0]), None
