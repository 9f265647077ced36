"""Whether an MLP's outputs simply add to what its layer gives, and with which factor.

Layers run on copies; the live model is only read.

Axes: `B` batch, `S` sequence, `T` real tokens, `H` hidden, `I` neurons.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...arch.slots import read
from ...arch.view import MLPView, ModelView, find_mlp
from ...hooks import recording_inputs
from ..calibration.activations import not_finite_on_data, token_mask
from ..calibration.stream import LIVE, Batches, LayerSource, mapped, run_layer

_LINEAR = 1e-3  # relative; float32 rounding is far below, a norm far above


def additive_scale(
    view: ModelView, stream: Batches, mlp: MLPView, source: LayerSource = LIVE
) -> float | None:
    """The factor between a change of the MLP's outputs and that of its layer's; None if it varies.

    Found by changing the weights of a copy, in float32, on the first batch.

    Args:
        view: the model.
        stream: what enters the first layer, or a later one: any states will do.
        mlp: which MLP.
        source: where the layers come from, by default from the model itself.

    Raises:
        DataError: activations that are NaN or Inf.
    """
    copied = source.copied(view.layers[mlp.layer]).float()
    own = own_mlp(mlp, copied)
    args, kwargs = mapped(stream.arguments[0][mlp.layer], _wide)
    hidden, mask = _wide(stream.hidden[0]), stream.masks[0]
    inputs, before = _inputs_and_outputs(own, copied, hidden, (args, kwargs), mask)
    down = read(own.tensors[own.spec.down], own.spec.down)["down"]  # (I, H), a view
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(down.shape, generator=generator).to(down.device)
    size = (before.norm(dim=1) / inputs.norm(dim=1).clamp_min(1e-30)).median()
    change *= size / down.shape[1] ** 0.5  # as large as what flows, so that rounding is small
    down += change
    _, after = _inputs_and_outputs(own, copied, hidden, (args, kwargs), mask)
    wanted, seen = (inputs @ change).double(), (after - before).double()  # (T, H)
    if not bool(seen.isfinite().all()):
        raise not_finite_on_data(f"activations of layer {mlp.layer}")
    scale = float((wanted * seen).sum() / wanted.square().sum().clamp_min(1e-30))
    misses = (seen - scale * wanted).norm(dim=1) / seen.norm(dim=1).clamp_min(1e-30)
    return scale if scale != 0 and float(misses.quantile(0.95)) < _LINEAR else None


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def own_mlp(mlp: MLPView, copied: nn.Module) -> MLPView:
    """The same MLP in a copy of its layer."""
    own = find_mlp(mlp.layer, copied, mlp.spec)
    assert own is not None
    return own


def _inputs_and_outputs(
    mlp: MLPView, layer: nn.Module, hidden: Tensor, arguments: tuple[Any, Any], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """What enters the down projection (T, I), and what the layer gives (T, H), real tokens only."""
    inputs, output = run_seeing(mlp, layer, hidden, arguments, mask)
    return inputs, real_tokens(output, mask)


def run_seeing(
    mlp: MLPView, layer: nn.Module, hidden: Tensor, arguments: tuple[Any, Any], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """What enters the down projection, (T, I) of the real tokens, and what the layer gives."""
    seen: list[Tensor] = []
    module = mlp.owner.get_submodule(mlp.spec.down.module)

    def keep(_module: nn.Module, args: tuple[object, ...]) -> None:
        assert isinstance(args[0], Tensor)
        seen.append(real_tokens(args[0], mask))

    with recording_inputs([(module, keep)]):
        output = run_layer(layer, hidden, arguments)
    return torch.cat(seen), output


def real_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """The real tokens in float32: (B, S, ...) → (T, ...)."""
    return values.flatten(0, -2)[token_mask(values, mask).to(values.device)].float()
