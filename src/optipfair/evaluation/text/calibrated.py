"""What a model's folder says of the texts that it has seen: in its pruning, and in its recovery."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...errors import DataError
from ...files.foreign import read_json, reading
from ...loading.sources import Source
from ...noted import warn
from ...report.comparison import Training
from .two_models import Text

_PLAN_FILE, _RECOVERY_FILE = "pruning_plan.json", "recovery.json"


def marked(text: Text, sources: Sequence[Source]) -> Text:
    """The text, whose name says whether a model was fitted to it; with a warning if so.

    It says nothing where no model is known to be fitted to any text.
    """
    by_way = {"calibrated": _calibrated_on, "trained": _trained_on}
    known = {
        (source.given, way): hashes
        for source in sources
        for way, of in by_way.items()
        if (hashes := of(source))
    }
    fitted = [each for each, hashes in known.items() if text.sha256 in hashes]
    if not known:
        return text
    if not fitted:
        names = list(dict.fromkeys(name for name, _ in known))
        ways = " or ".join(dict.fromkeys(way for _, way in known))
        verb = "were" if len(names) > 1 else "was"
        return replace(text, name=f"{text.name}, on which {' and '.join(names)} {verb} not {ways}")
    name, way = fitted[0]
    warn(
        f"{name} was {way} on {text.name}, so its perplexity there is better than on other text. "
        "Give other text (--text)."
    )
    return replace(text, name=f"{text.name}, on which {name} was {way}")


def training_of(source: Source) -> Training | None:
    """How a model was trained after its pruning, as its folder says."""
    found = _record(source, _RECOVERY_FILE).get("found")
    if not isinstance(found, dict):
        return None
    try:
        training = Training.from_dict(found)
        for each in (*training.judged, *training.training):
            if not (each.tokens >= 0 and math.isfinite(each.loss)):
                return None
        ends = (training.before, training.after, training.seconds)
        known = training.judged and all(map(math.isfinite, ends))
    except (TypeError, ValueError, AttributeError):  # another tool's
        return None
    return training if known else None


def _calibrated_on(source: Source) -> list[str]:
    """The hashes of the texts that the plan names."""
    return _hashes(_record(source, _PLAN_FILE), "request", "calibration")


def _trained_on(source: Source) -> list[str]:
    return _hashes(_record(source, _RECOVERY_FILE), "found")


def _hashes(found: Any, *path: str) -> list[str]:
    """Those of each source of the text, at a place in a record."""
    for name in (*path, "text_sha256"):
        found = found.get(name) if isinstance(found, dict) else None
    return found.split(",") if isinstance(found, str) else []


def _record(source: Source, name: str) -> dict[str, Any]:
    """A file of a model's folder; empty where it is none of ours."""
    if source.kind != "folder" or source.path is None or not (source.path / name).is_file():
        return {}
    try:
        with reading(name, DataError, ""):
            found = read_json(source.path / name)
            return found if isinstance(found, dict) else {}
    except DataError:
        return {}
