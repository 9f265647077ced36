"""From what a study found to figures: which lines, which rows, which labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..uncertainty import bootstrap_bounds
from .activations.capture import Comparison
from .activations.layer_keys import LayerKey
from .figures.plots import Line, Panel, Points, Style, heatmap, layer_profile, mean_difference, pca
from .study import LEVEL, Study
from .study_comparison import Subject, excess_by_layer, shared_pairs

_NAMED = 8  # tokens in a note, at most
_TITLE = 100  # characters of a prompt in a title, at most


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
    title = _title(pair.prompt1, pair.prompt2)
    if kind == "mean_diff":
        lines = lines_of(study, number, layers)
        if lines:
            yield f"mean_diff_{label}", mean_difference(lines, style, title=title)
        return
    rows, edited = _rows(study.plan.comparisons[number])
    note = _left_out(study.plan.comparisons[number])
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
            yield name, heatmap(panels, style, title=title, note=note)
        else:
            points = [
                Points(key, one.numpy(), two.numpy(), rows, edited) for key, (one, two) in found
            ]
            yield name, pca(points, style, highlight=highlight, title=title, note=note)


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


def comparison_figure(first: Subject, second: Subject, style: Style) -> Figure | None:
    """Both models' excess over the controls by relative depth; None where there is none.

    Each line is the mean over the pairs that both models saw, its band a bootstrap interval.
    """
    shared = shared_pairs(first.study, second.study)
    names = [name for name in first.components() if name in second.components()]
    if not shared.first or not names:
        return None
    profiles = {
        f"{label}: {each.name} ({each.layers} layers)": {
            name: _excess_line(each, pairs, name, shared.clusters) for name in names
        }
        for label, each, pairs in (("a", first, shared.first), ("b", second, shared.second))
    }
    title = (
        f"Mean excess of {len(shared.first)} pairs over their neutral controls, "
        f"with {LEVEL:.0%} intervals over the pairs, each layer by itself"
    )
    return layer_profile(profiles, style, title=title, ylabel="excess of the relative difference")


def _excess_line(
    subject: Subject, pairs: Sequence[int], component: str, clusters: Sequence[Hashable]
) -> Line:
    layers, excess = excess_by_layer(subject.study, pairs, component)
    bounds = bootstrap_bounds(excess, level=LEVEL, clusters=clusters)
    depth = [layer / max(subject.layers - 1, 1) for layer in layers]
    band = None if bounds is None else (bounds[0].tolist(), bounds[1].tolist())
    return Line(depth, excess.mean(axis=0).tolist(), band)


def _title(first: str, second: str) -> str:
    """Both prompts, long ones around the place where they begin to differ."""
    texts = [" ".join(text.split()) for text in (first, second)]
    places = enumerate(zip(*texts, strict=False))
    differ = next((i for i, (one, two) in places if one != two), 0)
    return "\n".join(_part(text, max(differ - _TITLE // 3, 0)) for text in texts)


def _part(text: str, start: int) -> str:
    if len(text) <= _TITLE:
        return text
    begin = min(start, len(text) - _TITLE)
    before, after = "... " * (begin > 0), " ..." * (begin + _TITLE < len(text))
    return f"{before}{text[begin : begin + _TITLE]}{after}"


def _rows(comparison: Comparison) -> tuple[list[str], list[bool]]:
    """The text of each aligned unit of tokens, and whether it is edited."""
    rows = []
    for unit in comparison.alignment.units:
        one = comparison.first.text_of(unit.first)
        two = comparison.second.text_of(unit.second)
        rows.append(one if one == two else f"{one} | {two}")
    return rows, [unit.edited for unit in comparison.alignment.units]


def _left_out(comparison: Comparison) -> str:
    """Which tokens are not compared, and why."""
    found: dict[str, list[str]] = {}
    sides = (comparison.first, comparison.second)
    for encoded, left in zip(sides, comparison.alignment.left_out, strict=True):
        for place, reason in left.items():
            texts = found.setdefault(reason, [])
            text = encoded.text_of((place,)) or "(no text)"
            if text not in texts:
                texts.append(text)
    parts = [
        f"{', '.join(texts[:_NAMED])}{' and more' if len(texts) > _NAMED else ''} ({reason})"
        for reason, texts in found.items()
    ]
    return f"not compared: {'; '.join(parts)}" if parts else ""


def _in_own_size(
    one: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    two: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """The difference over the root mean square of both, so that layers can be compared."""
    size = float(np.sqrt((np.square(one).mean() + np.square(two).mean()) / 2))
    return (two - one) / (size or 1.0)
