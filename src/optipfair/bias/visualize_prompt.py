"""`visualize_prompt_heatmap`: how strongly the units of one layer answer to each token of a prompt.

Axes: `S` tokens, `U` units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checking import check_count, check_flag, real_number
from ..errors import ArgumentError, UnknownNameError
from ..registry import unknown_name
from .activations.layer_keys import read_key
from .activations.raw_activations import get_prompt_activations
from .prompts.tokens import encode_for
from .settings import BiasFolder

_REDUCTIONS = ("mean", "first")


def visualize_prompt_heatmap(
    model: Any,
    tokenizer: Any,
    prompt: str | Sequence[str],
    layer_key: str,
    bin_size: int = 64,
    output_dir: str | None = None,
    figure_format: str = "png",
    cmap: str = "YlOrRd",
    vmax_percentile: float = 99.0,
    reduce_batch: str = "mean",
    show: bool = True,
) -> None:
    """Draw one prompt's tokens by bins of a layer's units, the mean of |activation| in each.

    Args:
        model: a causal language model; it is left as it was.
        tokenizer: of the model.
        prompt: a text, or several.
        layer_key: a component of a layer, like `mlp_output_layer_3`.
        bin_size: how many units that follow each other make a bin; the last one may be smaller.
        output_dir: folder for the figure, `prompt_heatmap_<layer_key>.<format>`; None to save
            nothing.
        figure_format: `png`, `pdf` or `svg`.
        cmap: a colour map of matplotlib.
        vmax_percentile: the percentile of the values at which colours end, above 0 to 100: the
            first token's are often far larger than all others.
        reduce_batch: of several prompts, `mean` draws the mean of all, which must have as many
            tokens as the first; `first` the first.
        show: whether to show the figure in a notebook.

    Raises:
        ArgumentError: a wrong argument.
        DataError: a prompt that the model cannot read.
        OutputError: the folder cannot be written.
    """
    key = read_key(layer_key)
    size = check_count("bin_size", bin_size)
    percentile = _percentile(vmax_percentile)
    prompts = _prompts(prompt, reduce_batch)
    shown = check_flag("show", show, default=True)
    folder = BiasFolder(output_dir, figure_format, {"cmap": cmap})
    encoded = [encode_for(model, tokenizer, each) for each in prompts]
    unequal = [each for each in encoded if len(each) != len(encoded[0])]
    if unequal:
        raise ArgumentError(
            f"The prompt {unequal[0].text[:40]!r} has {len(unequal[0])} tokens, the first one "
            f"{len(encoded[0])}, so there is no mean of them. Use reduce_batch='first'."
        )
    found = [
        get_prompt_activations(model, tokenizer, each, [key.component], [key.layer])[str(key)]
        for each in prompts
    ]
    values = torch.stack([_binned(each[0], size) for each in found]).mean(dim=0)  # (bins, S)
    from .figures.prompt_heatmap import prompt_heatmap

    figure = prompt_heatmap(
        values.T.numpy(),
        [encoded[0].text_of((place,)) for place in range(len(encoded[0]))],
        folder.style,
        title=f"{key}: {prompts[0]}",
        bin_size=size,
        percentile=percentile,
    )
    folder.save(f"prompt_heatmap_{key}", figure, show=shown)


def _binned(values: Tensor, size: int) -> Tensor:
    """Mean |activation| of each bin of units: (S, U) → (bins, S), float32 on the CPU."""
    parts = torch.split(values.float().abs(), size, dim=-1)
    return torch.stack([part.mean(dim=-1) for part in parts]).cpu()


def _percentile(value: object) -> float:
    number = real_number(value)
    if number is None or not 0 < number <= 100:
        raise ArgumentError(
            f"vmax_percentile={value!r} is no percentile. Give a number above 0, up to 100."
        )
    return number


def _prompts(given: object, reduction: str) -> list[str]:
    """The prompts to draw."""
    if reduction not in _REDUCTIONS:
        raise UnknownNameError(unknown_name("reduce_batch", reduction, list(_REDUCTIONS)))
    listed = [given] if isinstance(given, str) else given
    texts = list(listed) if isinstance(listed, Sequence) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ArgumentError(f"prompt={given!r} is no text. Give one, or a list of them.")
    return texts if reduction == "mean" else texts[:1]
