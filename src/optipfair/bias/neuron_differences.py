"""How much each neuron of a projection differs between the prompts of pairs, nothing taken off.

Axes: `I` neurons, `M` aligned units of tokens of all comparisons of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arch.view import ModelView, describe
from ..checking import whole_number
from ..errors import ArgumentError, DataError, UnknownNameError
from ..registry import unknown_name
from .activations.capture import Groups, capture
from .activations.layer_keys import COMPONENTS, LayerKey, check_component, layer_numbers, read_key
from .prompts.pairs import check_prompt_pairs
from .settings import Settings
from .study import plan_study

_TARGETS = ("gate_proj", "up_proj")
_AGGREGATIONS = ("mean", "max")


def analyze_neuron_bias(
    model: Any,
    tokenizer: Any,
    prompt_pairs: Sequence[tuple[str, str]] | None = None,
    target_layers: Sequence[str | int] | None = None,
    aggregation: str = "mean",
    show_progress: bool = True,
) -> dict[str, Tensor]:
    """Measure how much each unit of a component differs between the prompts of pairs.

    Nothing is taken off for what any two words do: `neuron_bias_scores` sets neutral swaps against
    it, and is what to prune by.

    Args:
        model: a causal language model; it is left as it was.
        tokenizer: of the model.
        prompt_pairs: two prompts each; the seven `DEFAULT_PROMPT_PAIRS` if None.
        target_layers: components (`gate_proj`, `attention`), numbers of layers, or keys
            (`gate_proj_layer_5`); `gate_proj` and `up_proj` of all layers where it says nothing
            else.
        aggregation: `mean`, over the aligned tokens of a pair and then over pairs, or `max`, the
            largest of all.
        show_progress: whether to show a bar.

    Returns:
        Key → (I,), float32 on the CPU, of |a - b|.

    Raises:
        ArgumentError: a wrong argument, or targets that no layer has.
        DataError: a prompt that the model cannot read, or activations that are NaN or Inf.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> pairs = [("The tall man said", "The fair man said")]
        >>> found = analyze_neuron_bias(
        ...     tiny_model("llama"), byte_tokenizer(), pairs, ["up_proj"], show_progress=False
        ... )
        >>> tuple(found["up_proj_layer_3"].shape)
        (40,)
    """
    if aggregation not in _AGGREGATIONS:
        raise UnknownNameError(unknown_name("aggregation", aggregation, list(_AGGREGATIONS)))
    pairs = check_prompt_pairs(prompt_pairs)
    view = describe(model)
    keys = _targets(view, target_layers)
    plan = plan_study(view, tokenizer, pairs, Settings(controls=0))
    kept = _Aggregated(keys, aggregation)
    components = list(dict.fromkeys(key.component for key in keys))
    layers = sorted({key.layer for key in keys})
    capture(view, plan.comparisons, components, layers, [kept.add], show_progress=show_progress)
    if not kept.found:
        raise DataError("No tokens of these pairs can be compared in these layers. Give others.")
    return {str(key): kept.found[key] for key in keys if key in kept.found}


def _targets(view: ModelView, given: object) -> list[LayerKey]:
    """The keys that targets mean, by component and layer."""
    if given is None:
        given = ()
    elif isinstance(given, str) or not isinstance(given, Iterable) or not list(given):
        raise ArgumentError(
            f"target_layers={given!r} is no list of targets. Give some of: "
            f"{', '.join(COMPONENTS)}; or keys like 'gate_proj_layer_5'; or numbers of layers."
        )
    components, numbers, keys = [], [], set[LayerKey]()
    for target in given:
        if whole_number(target) is not None:
            numbers.append(target)
        elif isinstance(target, str) and "_layer_" in target:
            keys.add(read_key(target))
        else:
            components.append(check_component(target))
    whole = bool(components or numbers or not keys)
    chosen = numbers or "all"
    if whole:
        layers = layer_numbers(chosen, len(view.layers))
        keys |= {LayerKey(name, layer) for name in components or _TARGETS for layer in layers}
    layer_numbers(sorted({key.layer for key in keys}), len(view.layers))
    return sorted(keys)


class _Aggregated:
    """By key, the mean over comparisons of their mean |a - b|, or the largest |a - b|, (I,)."""

    def __init__(self, keys: Iterable[LayerKey], aggregation: str) -> None:
        self._wanted, self._largest = set(keys), aggregation == "max"
        self._counts: dict[LayerKey, int] = {}
        self.found: dict[LayerKey, Tensor] = {}

    def add(self, key: LayerKey, first: Tensor, second: Tensor, groups: Groups) -> None:
        """Take aligned activations (M, I) of both sides."""
        if key not in self._wanted:
            return
        difference = (first - second).abs_()
        for rows in torch.split(difference, list(groups.sizes)):
            if len(rows):
                self._take(key, rows.amax(dim=0) if self._largest else rows.mean(dim=0))

    def _take(self, key: LayerKey, values: Tensor) -> None:
        """One comparison's values; a mean of those so far is kept exact by its count."""
        values, before = values.cpu(), self.found.get(key)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if before is None:
            self.found[key] = values
        elif self._largest:
            self.found[key] = before.maximum(values)
        else:
            self.found[key] = before + (values - before) / count
