"""From what a study found to figures: which lines, which rows, which labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from .capture import Comparison
from .layer_keys import LayerKey
from .plots import Line, Panel, Points, Style, heatmap, mean_difference, pca
from .study import Study


def figures(
    study: Study,
    number: int,
    kind: str,
    layers: Sequence[int],
    style: Style,
    label: str,
    *,
    highlight: bool = True,
) -> Iterator[tuple[str, Figure]]:
    """The figures of one kind for one pair, each with its file's name.

    Args:
        study: what was found.
        number: of the pair in the study.
        kind: `mean_diff`, `heatmap` or `pca`.
        layers: which to draw.
        style: of the figures.
        label: of the pair, like `pair_1`.
        highlight: whether edited tokens are ringed.
    """
    pair = study.plan.pairs[number]
    title = "\n".join(" ".join(text.split()) for text in (pair.prompt1, pair.prompt2))
    if kind == "mean_diff":
        lines = lines_of(study, number, layers)
        if lines:
            yield f"mean_diff_{label}", mean_difference(lines, style, title=title)
        return
    rows, edited = _rows(study.plan.comparisons[number])
    components = dict.fromkeys(key.component for key in study.measured.keys)
    for component in components:
        keys = [LayerKey(component, layer) for layer in layers]
        found = [(str(key), study.kept[number, key]) for key in keys if (number, key) in study.kept]
        if not found or not rows:
            continue
        name = f"{kind}_{component}_{label}"
        if kind == "heatmap":
            panels = [
                Panel(key, _in_own_size(one.numpy(), two.numpy()), rows, edited)
                for key, (one, two) in found
            ]
            yield name, heatmap(panels, style, title=title)
        else:
            points = [
                Points(key, one.numpy(), two.numpy(), rows, edited) for key, (one, two) in found
            ]
            yield name, pca(points, style, highlight=highlight, title=title)


def lines_of(study: Study, number: int, layers: Sequence[int]) -> dict[str, Line]:
    """A line for each component, with the band of the pair's controls."""
    values, band = study.values[number], study.band(number)
    found: dict[str, Line] = {}
    for component in dict.fromkeys(key.component for key in study.measured.keys):
        places = [
            i
            for i, key in enumerate(study.measured.keys)
            if key.component == component and key.layer in layers
        ]
        if places:
            own = None if band is None else (band[0][places], band[1][places])
            depth = [study.measured.keys[i].layer for i in places]
            found[component] = Line(depth, values[places].tolist(), own)
    return found


def _rows(comparison: Comparison) -> tuple[list[str], list[bool]]:
    """The text of each aligned unit of tokens, and whether it is edited."""
    rows = []
    for unit in comparison.alignment.units:
        one = comparison.first.text_of(unit.first)
        two = comparison.second.text_of(unit.second)
        rows.append(one if one == two else f"{one} | {two}")
    return rows, [unit.edited for unit in comparison.alignment.units]


def _in_own_size(
    one: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    two: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The difference over the root mean square of both, so that layers can be compared."""
    size = float(np.sqrt((np.square(one).mean() + np.square(two).mean()) / 2))
    return (two - one) / (size or 1.0)
