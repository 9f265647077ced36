"""What `optipfair bias --attribute` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bias.attribution_result import Attribution, Interval, ModelAttribution

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, names of columns, rows

_SHOWN = 8  # parts, neurons and heads


def attribution_tables(models: Sequence[ModelAttribution]) -> Iterator[Table]:
    """For each contrast how large it is in each model, and of each model its largest parts."""
    header = ("contrast", "model", "nats", "95 % interval", "of all parts", "words", "prompts")
    rows = [
        [
            each.contrast,
            one.model,
            _signed(each.behaviour.value),
            _band(each.behaviour),
            _signed(each.total.value),
            " and ".join(map(str, each.words)),
            str(each.prompts),
        ]
        for one in models
        for each in one.contrasts
    ]
    yield "Contrasts: above 0 the model follows the stereotype", header, rows
    for one in models:
        for each in one.contrasts:
            yield _parts(one.model, each)
            yield _units(one.model, each)


def attribution_notes(found: Sequence[Attribution]) -> list[str]:
    """What a reader must know of the figures."""
    missing = {f"{what}: {why}" for each in found for what, why in each.left_out.items()}
    bare = [each.contrast for each in found if each.behaviour.low is None]
    notes = [f"Not looked at: {each}" for each in sorted(missing)]
    if bare:
        notes.append(f"{', '.join(bare)}: fewer than three words of a kind, so no interval")
    return notes


def _parts(model: str, found: Attribution) -> Table:
    patched = {(each.layer, each.component): each.patched for each in found.checks}
    largest = sorted(found.layers, key=lambda each: -abs(each.effect.value))[:_SHOWN]
    rows = []
    for each in largest:
        really = patched.get((each.layer, each.component))
        rows.append(
            [
                f"layer {each.layer}, {each.component}",
                _signed(each.effect.value),
                _band(each.effect),
                "-" if really is None else _signed(really),
            ]
        )
    title = f"{model}, {found.contrast}: largest parts"
    return title, ("part", "predicted", "95 % interval", "patched"), rows


def _units(model: str, found: Attribution) -> Table:
    rows = [
        [kind, f"layer {each.layer}, {each.unit}", _signed(each.effect)]
        for kind, units in (("neuron", found.neurons), ("head", found.heads))
        for each in units[: _SHOWN // 2]
    ]
    rows += [["tokens", place, _signed(value)] for place, value in found.tokens.items()]
    return f"{model}, {found.contrast}: neurons, heads, tokens", ("", "where", "nats"), rows


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _band(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "-"
    return f"[{_signed(interval.low)}, {_signed(interval.high)}]"
