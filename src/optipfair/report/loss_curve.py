"""The loss of a training by the tokens that it has seen, as a picture for a card or a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from .charts import Scale, scale_of
from .comparison import Training

Curve = Sequence[tuple[float, float]]  # tokens, and nats a token

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 56  # around the axes
_COLOURS = ("#0072b2", "#d55e00")  # told apart by all eyes, on white and on black


def loss_curve(curves: Mapping[str, Curve]) -> str:
    """An SVG of up to two named curves; the last one's points are marked."""
    everything = [*chain.from_iterable(curves.values())]
    across = Scale(0.0, max([1.0, *(tokens for tokens, _ in everything)]))
    down = scale_of(loss for _, loss in everything)
    coloured = [*zip(curves.values(), _COLOURS, strict=False)]
    lines = [_line(curve, across, down, colour) for curve, colour in coloured]
    marked, colour = coloured[-1]
    marks = [_mark(point, across, down, colour) for point in marked]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{_title(curves)}" font-family="sans-serif" font-size="12" fill="#777">',
            *_axes(across, down),
            *lines,
            *marks,
            *_legend(list(curves)),
            "</svg>",
            "",
        ]
    )


def of_training(found: Training) -> str:
    """The picture of a training: the loss on its text, and on held-back text."""
    both = {"in training": found.training, "on held-back text": found.judged}
    curves = {name: [(each.tokens, each.loss) for each in curve] for name, curve in both.items()}
    return loss_curve({name: curve for name, curve in curves.items() if curve})


def _title(curves: Mapping[str, Curve]) -> str:
    said = (
        f"{name} from {curve[0][1]:.4f} to {curve[-1][1]:.4f}" for name, curve in curves.items()
    )
    return "Divergence from the original in nats a token: " + ", ".join(said)


def _count(tokens: float) -> str:
    """A round number of tokens: 200k, 1.5M."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= scale:
            return f"{tokens / scale:g}{unit}"
    return f"{tokens:g}"


def _x(per_cent: float) -> float:
    return _LEFT + per_cent / 100 * (_WIDTH - _LEFT - _RIGHT)


def _y(per_cent: float) -> float:
    return _HEIGHT - _BOTTOM - per_cent / 100 * (_HEIGHT - _TOP - _BOTTOM)


def _axes(across: Scale, down: Scale) -> list[str]:
    left, right, low, high = _x(0), _x(100), _y(0), _y(100)
    found = []
    for tick in down.ticks(lambda value: f"{value:g}"):
        y = _y(tick.at)
        found += [
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>',
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick.label}</text>',
        ]
    for tick in across.ticks(_count):
        x = _x(tick.at)
        found += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low}" y2="{low + 4}" stroke="#888"/>',
            f'<text x="{x:.1f}" y="{low + 18}" text-anchor="middle">{tick.label}</text>',
        ]
    found.append(f'<path d="M{left} {high}V{low}H{right}" fill="none" stroke="#888"/>')
    return found


def _line(curve: Curve, across: Scale, down: Scale, colour: str) -> str:
    places = " ".join(f"{_x(across.at(t)):.1f},{_y(down.at(loss)):.1f}" for t, loss in curve)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _mark(point: tuple[float, float], across: Scale, down: Scale, colour: str) -> str:
    tokens, loss = point
    x, y = _x(across.at(tokens)), _y(down.at(loss))
    said = f"{tokens:,.0f} tokens: {loss:.4f}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{said}</title></circle>'


def _legend(names: Sequence[str]) -> list[str]:
    y, width = _HEIGHT - 14, (_WIDTH - _LEFT) // 2
    found = []
    for number, (name, colour) in enumerate(zip(names, _COLOURS, strict=False)):
        x = _LEFT + number * width
        found.append(f'<rect x="{x}" y="{y - 9}" width="18" height="4" fill="{colour}"/>')
        found.append(f'<text x="{x + 26}" y="{y}">{name}</text>')
    return found
