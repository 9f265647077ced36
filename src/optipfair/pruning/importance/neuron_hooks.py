"""Activation norms of neurons step by step: watch, run calibration text, read the norms, let go.

Axes: `B` batch, `S` sequence, `I` neurons, `E` experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...arch.view import MLPView, describe
from ...errors import ArgumentError, DataError, UnsupportedModelError
from ..calibration.activations import SquareSums, own_batches, run_batches
from .given_scores import only_mlp

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NeuronHooks(list[RemovableHandle]):
    """The handles of `setup_mlp_hooks_for_importance`, and the sums that they keep."""

    def __init__(self, mlps: Iterable[MLPView]) -> None:
        super().__init__()
        self.sums = [SquareSums(mlp) for mlp in mlps]
        self.ran = False
        self._mask = torch.empty(0)  # (B, S), of the batch that runs

    def note(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Which tokens of the batch that begins are real."""
        given = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | kwargs
        mask, ids = given.get("attention_mask"), given.get("input_ids")
        if isinstance(mask, Tensor) and mask.dim() == 2:
            self._mask = mask.bool()
        else:
            shown = given["inputs_embeds"][..., 0] if ids is None else ids
            self._mask = torch.ones_like(shown, dtype=torch.bool)
        self.ran = True

    def watch(self, sums: SquareSums) -> RemovableHandle:
        return sums.module.register_forward_pre_hook(
            lambda _module, args: sums.update(args, self._mask)
        )


def setup_mlp_hooks_for_importance(model: PreTrainedModel, device: object = None) -> NeuronHooks:
    """Sum up what every neuron gives whenever the model runs, until the hooks are removed.

    `neuron_importance_scores(model, "MAW", dataloader)` does all the steps at once.

    Args:
        model: a transformers model of a supported family.
        device: not needed; each sum lies where its layer does.

    Returns:
        Handles for `get_activation_norms` and `optipfair.bias.activations.remove_hooks`.

    Raises:
        UnsupportedModelError: a layer has several MLPs, or none is of a known form.

    Example:
        >>> from optipfair.bias.activations import remove_hooks
        >>> from optipfair.testing import tiny_model
        >>> model = tiny_model("llama")
        >>> hooks = setup_mlp_hooks_for_importance(model)
        >>> run_calibration_forward_passes(model, [torch.arange(12)[None]], show_progress=False)
        >>> remove_hooks(hooks)
        >>> tuple(get_activation_norms(hooks)[3].shape)
        (40,)
    """
    view = describe(model)
    mlps = [mlp for mlp in map(only_mlp, view.layers) if mlp is not None]
    if not mlps:
        raise UnsupportedModelError("The model has no MLP of a known form, so nothing is measured.")
    hooks = NeuronHooks(mlps)
    base: Any = model.base_model
    hooks.append(base.register_forward_pre_hook(hooks.note, with_kwargs=True))
    hooks.extend(hooks.watch(sums) for sums in hooks.sums)
    return hooks


def run_calibration_forward_passes(
    model: PreTrainedModel,
    dataloader: Iterable[Any],
    device: object = None,
    show_progress: bool = True,
) -> None:
    """Run a model over calibration batches, without its head, in eval mode.

    Args:
        model: a transformers model; it is left as it was.
        dataloader: batches, as in `prune_model`.
        device: not needed; batches go where the model is.
        show_progress: whether to show a bar.

    Raises:
        DataError: no batch, or one of an unknown kind.
    """
    run_batches(describe(model), own_batches(dataloader), [], show_progress)


def get_activation_norms(hooks: NeuronHooks) -> dict[int, Tensor]:
    """Read the L2 norms, over all real tokens that ran, of each neuron's output.

    Args:
        hooks: of `setup_mlp_hooks_for_importance`.

    Returns:
        Layer index → (I,), or (E, I) for experts, float32 on the CPU, for
        `prune_neuron_pairs(activation_norms=...)`.

    Raises:
        ArgumentError: something else than such hooks.
        DataError: nothing ran, or activations that are NaN or Inf.
    """
    if not isinstance(hooks, NeuronHooks):
        raise ArgumentError(
            f"hooks is a {type(hooks).__name__}. Give what setup_mlp_hooks_for_importance returns."
        )
    if not hooks.ran:
        raise DataError("Nothing ran yet. Call run_calibration_forward_passes first.")
    return {sums.mlp.layer: sums.norms().float().cpu() for sums in hooks.sums}
