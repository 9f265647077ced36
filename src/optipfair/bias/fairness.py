"""How much each neuron takes part in what differs between two prompts, for pruning.

Axes: `I` neurons, `M` aligned units of tokens of all comparisons of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..arch.view import check_finite, describe
from ..errors import DataError, UnsupportedModelError
from ..noted import warn
from .activations.capture import Groups, capture, find_taps
from .activations.layer_keys import LayerKey
from .prompts.controls import Words
from .prompts.pairs import check_prompt_pairs
from .settings import Settings
from .study import Plan, plan_study

_COMPONENT = "neuron_output"


def neuron_bias_scores(
    model: Any,
    tokenizer: Any,
    prompt_pairs: Sequence[tuple[str, str]] | None = None,
    *,
    controls: int = 8,
    seed: int = 0,
    control_words: Words | None = None,
    show_progress: bool = False,
) -> dict[int, Tensor]:
    """Score how much more each neuron differs between the prompts of pairs than of neutral swaps.

    Of a pair, a neuron's difference is the mean over the aligned tokens of |a - b|, times the L2
    norm of its down column, where a and b are what the neuron gives in either prompt. The mean of
    the same over the pair's controls is taken off, and the pairs are averaged. So 0 means no
    more than for neutral words; less than 0 is possible. It says how differently words are
    represented: harmless differences raise it as a planted bias does (benchmarks/bias_validity.py).

    Every prompt runs once, and the memory does not grow with the number of pairs.

    Args:
        model: a causal language model with one dense MLP in a layer; it is left as it was.
        tokenizer: of the model.
        prompt_pairs: (reference, comparison) each; the seven `DEFAULT_PROMPT_PAIRS` if None.
        controls: neutral control pairs for each pair; 0 takes nothing off.
        seed: of the choice of controls.
        control_words: your own neutral words, as in `visualize_bias`.
        show_progress: whether to show a bar.

    Returns:
        Layer index → (I,), float32 on the CPU. Layers without an MLP are not in it.

    Raises:
        ArgumentError: a wrong argument.
        UnsupportedModelError: experts, several MLPs in a layer, or none of a known form; NaN or Inf
            in a down projection.
        DataError: a prompt that the model cannot read, no pair that can be compared, or
            activations that are NaN or Inf.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> scores = neuron_bias_scores(tiny_model("llama"), byte_tokenizer(), controls=2)
        >>> tuple(scores[0].shape)
        (40,)
    """
    settings = Settings(controls=controls, seed=seed, control_words=control_words)
    pairs = check_prompt_pairs(prompt_pairs)
    view = describe(model)
    layers = [layer for layer in view.layers if layer.mlps]
    if not layers:
        raise UnsupportedModelError("The model has no MLP of a known form, so there is no score.")
    indices = [layer.index for layer in layers]
    for index, reason in find_taps(view, [_COMPONENT], indices)[1].get(_COMPONENT, {}).items():
        names = ", ".join(mlp.spec.name for mlp in view.layers[index].mlps)
        raise UnsupportedModelError(
            f"Layer {index} ({names}) has no bias scores: {reason}. Models with one dense MLP in a "
            "layer have them."
        )
    for layer in layers:
        check_finite(layer.mlps[0], {"down"})
    plan = plan_study(view, tokenizer, pairs, settings)
    sums = WeightedDifferences(_weights(plan, controlled=controls > 0))
    captured = capture(
        view, plan.comparisons, [_COMPONENT], indices, [sums.add], show_progress=show_progress
    )
    for index, reason in captured.missing.get(_COMPONENT, {}).items():
        raise UnsupportedModelError(f"The neurons of layer {index} cannot be watched: {reason}.")
    scores: dict[int, Tensor] = {}
    for layer in layers:  # differences times the norms of the down columns
        norms = layer.mlps[0].matrices()["down"].float().norm(dim=1).cpu().double()
        scores[layer.index] = (sums.totals[layer.index] * norms).float()
    return scores


class WeightedDifferences:
    """By layer, the weighted sum over comparisons of their mean |a - b|, (I,)."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self.totals: dict[int, Tensor] = {}

    def add(self, key: LayerKey, first: Tensor, second: Tensor, groups: Groups) -> None:
        """Take aligned activations (M, I) of both sides."""
        sized = zip(self._weights[groups.start :], groups.sizes, strict=False)
        rows = [weight / size for weight, size in sized for _ in range(size)]
        difference = (first - second).abs_()
        total = (difference.new_tensor(rows) @ difference).double().cpu()
        self.totals[key.layer] = self.totals.get(key.layer, 0) + total


def _weights(plan: Plan, *, controlled: bool) -> list[float]:
    """Of each comparison, so that the weighted sum is the mean over pairs of pair minus controls.

    Pairs that cannot be compared, or of which there are no controls, weigh nothing.
    """
    owned = [[i for i in own if plan.comparisons[i].alignment.units] for own in plan.owned]
    used: list[int] = []
    unused: list[int] = []
    for number, own in enumerate(owned):
        compared = plan.comparisons[number].alignment.units and (own or not controlled)
        (used if compared else unused).append(number)
    why = f": {plan.controls[unused[0]].reason or 'no tokens are compared'}" if unused else ""
    if not used:
        raise DataError(f"No pair can be compared with neutral controls{why}. Give other pairs.")
    if unused:
        warn(
            f"{len(unused)} of {len(plan.pairs)} pairs are left out, since nothing neutral can be "
            f"set against them. pair_{unused[0] + 1}{why}.",
        )
    weights = [0.0] * len(plan.comparisons)
    for number in used:
        weights[number] = 1 / len(used)
        for control in owned[number]:
            weights[control] = -1 / len(used) / len(owned[number])
    return weights
