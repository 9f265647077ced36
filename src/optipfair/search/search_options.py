"""`SearchOptions`: what can be asked of a search, one field an option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..checking import BUILTIN_TEXT
from ..option_fields import in_usual_case, option

WHAT, RUNNING = "what", "running"
_what, _running = partial(option, section=WHAT), partial(option, section=RUNNING)


@dataclass(frozen=True)
class SearchOptions:
    """Under which budgets, among which shapes, and on which text; nothing is checked here."""

    target_params: Sequence[str] | None = _what(
        None,
        "The most parameters that may be left, such as 120M; several with commas between them.",
        metavar="COUNT,...",
    )
    target_size: Sequence[str] | None = _what(
        None,
        "The most bytes of weights that may be left, such as 240MB; several with commas between "
        "them.",
        metavar="SIZE,...",
    )
    uniform: bool = _what(
        False, "Only shapes that every reader loads: the same width in each layer, or fewer layers."
    )
    calibration: str = _what(
        BUILTIN_TEXT,
        "Text to choose, fit and judge by: a source as of optipfair prune.",
        metavar=f"{BUILTIN_TEXT}|FILE|DATASET",
    )
    calibration_samples: int = _what(64, "Sequences of this text.", metavar="NUM")
    calibration_length: int | None = _what(
        None,
        "The length of each, in tokens: by default 512, or as many as the model has positions.",
        metavar="TOKENS",
    )
    seed: int = _running(0, "Seed of the draw of text.", metavar="NUM")
    show_progress: bool = _running(False, "Whether to show bars.", flag=None)

    def __post_init__(self) -> None:
        in_usual_case(self)
