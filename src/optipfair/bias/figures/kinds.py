"""The kinds of figures: what each of them shows of a study.

A new kind is one function here, registered under its name, and a file beside it that draws. What
draws knows numbers and labels only; it is imported late, since it needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...registry import Registry
from ...uncertainty import LEVEL
from ..activations.capture import Comparison
from ..activations.layer_keys import LayerKey, read_key
from ..study import Study
from ..study_comparison import excess_by_layer, find_shared
from ..study_results import CAUTION, BiasMetrics, OfKey
from ..swap_means import mean_of_swaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .canvas import Style
    from .panels import Line

_NAMED = 8  # tokens in a note, at most
_TITLE = 100  # characters of a prompt in a title, at most


@dataclass(frozen=True)
class DrawnPair:
    """Which pair of a study to draw, and which layers."""

    study: Study
    number: int
    layers: Sequence[int]
    style: Style
    highlight: bool = True  # whether edited tokens are ringed

    @property
    def title(self) -> str:
        """Both prompts, long ones around the place where they begin to differ."""
        pair = self.study.plan.pairs[self.number]
        texts = [" ".join(text.split()) for text in (pair.prompt1, pair.prompt2)]
        places = enumerate(zip(*texts, strict=False))
        differ = next((i for i, (one, two) in places if one != two), 0)
        return "\n".join(_part(text, max(differ - _TITLE // 3, 0)) for text in texts)

    def tokens(self) -> tuple[list[str], list[bool], str]:
        """The texts of aligned units of tokens, which are edited, and what is not compared."""
        comparison = self.study.plan.comparisons[self.number]
        first, second = comparison.sides
        units = comparison.alignment.units
        pairs = [(first.text_of(unit.first), second.text_of(unit.second)) for unit in units]
        texts = [one if one == two else f"{one} | {two}" for one, two in pairs]
        return texts, [unit.edited for unit in units], _left_out(comparison)

    def kept(self) -> Iterator[tuple[str, dict[str, tuple[Any, Any]]]]:
        """Each component, and by key the aligned activations (M, U) of both prompts."""
        for component in self.study.components:
            keys = [LayerKey(component, layer) for layer in self.layers]
            sides = {str(key): self.study.kept.get((self.number, key)) for key in keys}
            held = {key: (both[0].numpy(), both[1].numpy()) for key, both in sides.items() if both}
            if any(len(one) for one, _ in held.values()):
                yield component, held


@dataclass(frozen=True)
class FigureKind:
    """A kind of figure: `draw` gives a component's name (empty for all in one) and its figure."""

    draw: Callable[[DrawnPair], Iterator[tuple[str, Figure]]]
    activations: bool  # whether they must have been kept


FIGURE_KINDS: Registry[FigureKind] = Registry("visualization type")


def figure_kind(name: str, *, activations: bool) -> Callable[[Any], Any]:
    """Register what draws a kind of figure."""
    return lambda draw: FIGURE_KINDS.add(name, FigureKind(draw, activations))


@figure_kind("mean_diff", activations=False)
def mean_diff(pair: DrawnPair) -> Iterator[tuple[str, Figure]]:
    """A line over the layers for each component, with the band of the pair's controls."""
    from .panels import Line, mean_difference

    study, owned = pair.study, list(pair.study.plan.owned[pair.number])
    lines: dict[str, Line] = {}
    for component in study.components:
        keys = enumerate(study.measured.keys)
        places = [i for i, key in keys if key.component == component and key.layer in pair.layers]
        if places:
            controls = study.values[owned][:, places]
            band = (controls.min(axis=0), controls.max(axis=0)) if owned else None
            depth = [study.measured.keys[i].layer for i in places]
            lines[component] = Line(depth, study.values[pair.number, places].tolist(), band)
    if lines:
        yield "", mean_difference(lines, pair.style, title=pair.title)


@figure_kind("heatmap", activations=True)
def heatmap(pair: DrawnPair) -> Iterator[tuple[str, Figure]]:
    """Aligned tokens by the units that differ most."""
    from .panels import Panel, heatmap

    texts, edited, note = pair.tokens()
    for component, kept in pair.kept():
        panels = [Panel(key, _in_own_size(*both), texts, edited) for key, both in kept.items()]
        yield component, heatmap(panels, pair.style, title=pair.title, note=note)


@figure_kind("pca", activations=True)
def pca(pair: DrawnPair) -> Iterator[tuple[str, Figure]]:
    """Tokens on the two directions in which they vary most."""
    from .pca import Points, pca

    texts, edited, note = pair.tokens()
    for component, kept in pair.kept():
        points = [Points(key, *both, texts, edited) for key, both in kept.items()]
        figure = pca(points, pair.style, highlight=pair.highlight, title=pair.title, note=note)
        yield component, figure


def summary_figures(numbers: BiasMetrics, style: Style) -> Iterator[tuple[str, Figure]]:
    """The excess of all pairs by layer, and that of each category: name and figure."""
    from .summary_panels import Row, by_category, by_layer

    overall, model = numbers.summary.overall, numbers.model.name
    if overall.excess is None:
        return
    says = f"How differently two words are represented, beyond neutral swaps as large\n{CAUTION}"
    counts = f"mean of {overall.pairs} pairs, {_swaps(overall.swaps)}"
    missing = (overall.undefined or {}).get("interval", "")
    title = f"{says}\n{model}: {counts}" + f"\nno interval: {missing}" * bool(missing)
    yield "summary_by_layer", by_layer(_excess_lines(numbers), style, title=title)
    rows = [
        Row(
            name,
            row.excess,
            None if row.interval is None else (row.interval[0], row.interval[1]),
            f"{row.pairs} pair{'s' * (row.pairs != 1)}, {_swaps(row.swaps)}",
            (row.undefined or {}).get("interval", ""),
        )
        for name, row in {**numbers.summary.categories, "all": overall}.items()
        if row.excess is not None
    ]
    yield "summary_by_category", by_category(rows, style, title=f"{says}\n{model}")


def _swaps(count: int) -> str:
    return f"{count} distinct swap{'s' * (count != 1)}"


def _excess_lines(numbers: BiasMetrics) -> dict[str, Line]:
    """Each component's excess over the layers where it is defined."""
    from .panels import Line

    found: dict[str, list[tuple[int, OfKey]]] = {}
    for name, row in numbers.summary.keys_.items():
        key = read_key(name)
        if row.excess is not None:
            found.setdefault(key.component, []).append((key.layer, row))
    lines = {}
    for component, rows in found.items():
        ends = [row.interval for _, row in rows if row.interval is not None]
        band = ([low for low, _ in ends], [high for _, high in ends])
        values = [row.excess for _, row in rows if row.excess is not None]
        lines[component] = Line([layer for layer, _ in rows], values, band if ends else None)
    return lines


def comparison_figure(first: Study, second: Study, style: Style) -> Figure | None:
    """Both models' excess over the controls by relative depth; None where there is none.

    Each line is the mean over the pairs that both models saw, its band an interval over swaps.
    """
    from .panels import Line, layer_profile

    def line_of(study: Study, pairs: Sequence[int], component: str) -> Line:
        layers, excess = excess_by_layer(study, pairs, component)
        found = mean_of_swaps(excess, [study.plan.swaps[pair] for pair in pairs])
        depth = [layer / max(study.depth - 1, 1) for layer in layers]
        band = found.bounds and (found.bounds[0].tolist(), found.bounds[1].tolist())
        return Line(depth, found.mean.tolist(), band)

    shared = find_shared(first, second)
    if not shared.first or not shared.components:
        return None
    profiles = {
        f"{label}: {each.name} ({each.depth} layers)": {
            name: line_of(each, pairs, name) for name in shared.components
        }
        for label, each, pairs in (("a", first, shared.first), ("b", second, shared.second))
    }
    swaps = _swaps(shared.counts.swaps)
    title = (
        "How differently two words are represented, beyond neutral swaps as large\n"
        f"mean of {len(shared.first)} pairs, {swaps}, with {LEVEL:.0%} intervals, each layer alone"
    )
    return layer_profile(profiles, style, title=title)


def _part(text: str, start: int) -> str:
    if len(text) <= _TITLE:
        return text
    begin = min(start, len(text) - _TITLE)
    before, after = "... " * (begin > 0), " ..." * (begin + _TITLE < len(text))
    return f"{before}{text[begin : begin + _TITLE]}{after}"


def _left_out(comparison: Comparison) -> str:
    """Which tokens are not compared, and why."""
    by_reason: dict[str, dict[str, None]] = {}
    for encoded, left in zip(comparison.sides, comparison.alignment.left_out, strict=True):
        for place, reason in left.items():
            text = encoded.text_of((place,)) or "(no text)"
            by_reason.setdefault(reason, {})[text] = None
    parts = [
        f"{', '.join([*texts][:_NAMED])}{' and more' if len(texts) > _NAMED else ''} ({reason})"
        for reason, texts in by_reason.items()
    ]
    return f"not compared: {'; '.join(parts)}" if parts else ""


def _in_own_size(one: Any, two: Any) -> Any:
    """The difference over the root mean square of both, so that layers can be compared."""
    size = float(np.sqrt((np.square(one).mean() + np.square(two).mean()) / 2))
    return (two - one) / (size or 1.0)
