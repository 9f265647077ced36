"""Numbers and hostile text as people read them. It knows no models and no HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..visible import visible

NOTHING = "–"  # noqa: RUF001
_MINUS = "−"  # noqa: RUF001


def all_visible(value: Any) -> Any:
    """Plain data with every text in it made visible, keys included."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): all_visible(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [all_visible(inner) for inner in value]
    return value


def number(value: float | None, like: float | None = None) -> str:
    """Three decimals for small numbers, fewer for large ones, as many as `like` would have."""
    if value is None:
        return NOTHING
    magnitude = abs(value)
    text = f"{magnitude:{_digits(abs(value if like is None else like))}}"
    return _MINUS + text if value < 0 and not is_nothing(text) else text


def is_nothing(text: str) -> bool:
    """Whether a written number is 0, however many digits of it are shown."""
    return not any(digit in text for digit in "123456789")


def fixed(value: float, digits: int) -> str:
    """So many decimals, and no minus before nothing; for terminals."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if is_nothing(text) else text


def change(percentage: float, digits: int) -> str:
    """By how many per cent something became smaller, as a change: -11.2 %, 0.0 %."""
    return f"{fixed(-percentage, digits)} %"


def signed(value: float | None, like: float | None = None) -> str:
    """As `number`, with a plus where it is more than nothing."""
    text = number(value, like)
    return f"+{text}" if value is not None and value > 0 and not is_nothing(text) else text


def plain(value: float) -> str:
    """A round number without zeros that say nothing: 0.5, 100."""
    return f"{value:.6g}".replace("-", _MINUS)


def with_interval(estimate: Mapping[str, Any], write: Callable[..., str]) -> tuple[str, str | None]:
    """A figure, and its interval in brackets where it has one, to the same digits."""
    ends = [estimate[key] for key in ("value", "low", "high")]
    if ends[0] is None:
        return NOTHING, None
    if None in ends:
        return write(ends[0]), None
    largest = max(map(abs, ends))
    value, low, high = (write(end, largest) for end in ends)
    return value, f"[{low}, {high}]"


def _digits(magnitude: float) -> str:
    if magnitude >= 1e7:
        return ".3g"
    if magnitude >= 1000:
        return ",.0f"
    if magnitude >= 10:
        return ".1f"
    if magnitude >= 1:
        return ".2f"
    return ".3f" if magnitude >= 0.0005 or magnitude == 0 else ".2g"


def points(value: float, like: float | None = None) -> str:
    """Hundredths with a sign and one decimal, whatever it is like."""
    text = f"{100 * value:+.1f}"
    return text[1:] if is_nothing(text) else text.replace("-", _MINUS)


def percent(value: float | None, like: float | None = None) -> str:
    """A share in whole hundredths, with a decimal where it is small: 61 %."""
    if value is None:
        return NOTHING
    largest = 100 * (value if like is None else like)
    return f"{100 * value:.{0 if largest >= 10 or largest == 0 else 1}f} %"


def times(value: float, like: float | None = None) -> str:
    """A ratio: x1.23, with fewer decimals where it, or what it is like, is large."""
    largest = value if like is None else like
    digits = 2 if largest < 10 else 1 if largest < 100 else 0
    return f"×{value:.3g}" if value >= 1e6 or value < 0.01 else f"×{value:,.{digits}f}"  # noqa: RUF001


def count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "<\N{NO-BREAK SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def memory(value: float | None) -> str:
    return NOTHING if value is None else size(value)


def seconds(value: float | None) -> str:
    """A duration in the unit that suits it."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{1000 * value:.1f} ms"
    if value < 120:
        return f"{value:.2f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in decimal units, as disks and hubs state them: 538.1 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
