"""Whether a text is the one that a model was calibrated on when it was pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import DataError
from ...files.foreign import read_json, reading
from ...noted import warn
from ...sources import Source
from .two_models import Text

_PLAN_FILE = "pruning_plan.json"


def marked(text: Text, sources: Sequence[Source]) -> Text:
    """The text, whose name says whether a model was calibrated on it; with a warning if so.

    It says nothing where no model is known to be calibrated on any text.
    """
    known = [(source, hashes) for source in sources if (hashes := _calibrated_on(source))]
    fitted = [source for source, hashes in known if text.sha256 in hashes]
    if not known:
        return text
    if not fitted:
        names = " and ".join(source.given for source, _ in known)
        verb = "were" if len(known) > 1 else "was"
        return replace(text, name=f"{text.name}, on which {names} {verb} not calibrated")
    warn(
        f"{fitted[0].given} was calibrated on {text.name} when it was pruned, so its perplexity "
        "there is better than on other text. Give other text (--text)."
    )
    return replace(text, name=f"{text.name}, on which {fitted[0].given} was calibrated")


def _calibrated_on(source: Source) -> list[str]:
    """The hashes of the texts that the plan in a model's folder names."""
    if source.kind != "folder" or source.path is None or not (source.path / _PLAN_FILE).is_file():
        return []
    try:
        with reading(_PLAN_FILE, DataError, ""):
            about = read_json(source.path / _PLAN_FILE)["request"]["calibration"]
            return str(about["text_sha256"]).split(",")  # of each source
    except DataError:  # another's plan, or none of calibration
        return []
