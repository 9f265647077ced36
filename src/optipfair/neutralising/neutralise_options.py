"""`NeutraliseOptions`: what can be asked when a contrast is taken out, one field an option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..bias.contrasts.contrast_files import CONTRASTS
from ..checking import BUILTIN_TEXT
from ..option_fields import in_usual_case, option

WHAT, RUNNING = "what", "running"
_what, _running = partial(option, section=WHAT), partial(option, section=RUNNING)


@dataclass(frozen=True)
class NeutraliseOptions:
    """What to take out, and how far; nothing is checked here."""

    contrast: Sequence[str] = _what(
        ("gender-occupation",),
        f"Contrasts to take out, with commas between them: {', '.join(CONTRASTS)}, or .json files "
        "of your own.",
        metavar="NAME|FILE,...",
    )
    calibration: str = _what(
        BUILTIN_TEXT,
        "Ordinary text, which is to change as little as possible: a source as of optipfair prune.",
        metavar=f"{BUILTIN_TEXT}|FILE|DATASET",
    )
    calibration_samples: int = _what(32, "Sequences of this text.")
    layers: Sequence[int] | None = _what(
        None,
        "Layers whose down projections change. [six, evenly spaced]",
        metavar="I,J,...",
    )
    strength: float | None = _what(
        None,
        "How many times the change is made, up to 3; 1 takes the contrast away to first order. "
        "[what judges best on held-back words]",
    )
    max_divergence: float = _what(
        0.0005, "Most KL divergence from the model as it came on held-back text, in nats a token."
    )
    seed: int = _running(0, "Seed of the draw of text, and of the random change beside it.")
    show_progress: bool = _running(False, "Whether to show a bar.", flag=None)

    def __post_init__(self) -> None:
        in_usual_case(self)
