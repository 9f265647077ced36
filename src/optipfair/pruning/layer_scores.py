"""Importance of neurons as numbers by layer, for those who combine scores of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..arch.view import describe
from ..errors import ArgumentError, UnsupportedModelError
from ..progress import track
from .calibration.activations import own_batches
from .cut.checks import check_cuttable
from .importance.criteria import CRITERIA
from .importance.given_scores import only_mlp
from .options.prune_options import PruneOptions
from .planning import scorer
from .request.pruning_request import check_request

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def neuron_importance_scores(
    model: PreTrainedModel,
    neuron_selection_method: str = "MAW",
    dataloader: Iterable[Any] | None = None,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[int, Tensor]:
    """Score the neurons of every layer as `prune_model` would, without pruning.

    Args:
        model: a transformers model of a supported family; it is only read.
        neuron_selection_method: `"MAW"` (alias `"PPM"`), `"VOW"`, `"PON"`, `"L2"` or `"RANDOM"`.
        dataloader: calibration batches for the data-driven form of `"MAW"`.
        seed: of `"RANDOM"`.
        show_progress: whether to show bars.

    Returns:
        Layer index → (I,), or (E, I) for experts, float32 on the CPU; higher stays. Layers without
        an MLP are not in it.

    Raises:
        ArgumentError: an unknown method, one that decides while it prunes, or data that the method
            does not read.
        UnsupportedModelError: a layer has several MLPs, or its weights hold NaN or Inf.
        DataError: the calibration data cannot be used.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> scores = neuron_importance_scores(tiny_model("llama"))
        >>> list(scores), tuple(scores[0].shape)
        ([0, 1, 2, 3], (40,))
    """
    if CRITERIA[neuron_selection_method].needs_data:
        raise ArgumentError(
            f"neuron_selection_method={neuron_selection_method!r} has no scores beforehand: it "
            "decides each layer by what the pruned layers before it give. Use 'MAW' with a "
            "dataloader, or a static method."
        )
    request = check_request(
        PruneOptions(
            neuron_selection_method=neuron_selection_method, pruning_percentage=0, seed=seed
        ),
        dataloader,
    )
    view = describe(model)
    check_cuttable(view)
    mlps = [mlp for mlp in map(only_mlp, view.layers) if mlp is not None]
    if not mlps:
        raise UnsupportedModelError("The model has no MLP of a known form, so there is no score.")
    batches = None if dataloader is None else own_batches(dataloader)
    score = scorer(view, request, batches, show_progress)
    shown = track(mlps, "scoring", show_progress, unit="MLP")
    return {mlp.layer: score(mlp).float().cpu() for mlp in shown}
