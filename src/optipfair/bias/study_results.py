"""What `visualize_bias` returns of a study: how far pairs exceed their neutral controls.

It is computed in `study_summary`. The JSON Schema in `bias_metrics.schema.json` is made from these
classes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import field
from operator import itemgetter
from typing import Annotated, Any, ClassVar, Literal

from ..results import ABSENT, Count, Result, plain, spread
from ..uncertainty import LEVEL
from .activations.metrics import Component, Key, PairMetrics, Reasons
from .activations.other_names import also_named
from .prompts.tokens import Coverage, Positive

Measures = Literal[
    "how differently two words are represented, beyond arbitrary swaps as large; not harm"
]
CAUTION = (
    "no measure of bias: harmless differences of words raise it too (benchmarks/bias_validity.py)"
)
Interval = Annotated[list[float] | None, {"minItems": 2, "maxItems": 2}]
Text = Annotated[str, {"minLength": 1}]
Difference = Annotated[float | None, {"minimum": 0}, "mean over pairs and keys."]
PValue = Annotated[float | None, {"minimum": 0, "maximum": 1}]
Apart = Annotated[float, {"minimum": 0, "maximum": 2.000001}]
Layer = Annotated[str, {"pattern": "^[0-9]+$"}]


class Excess(Result):
    """How far pairs exceed their neutral controls.

    Attributes:
        control: mean over the pairs of the mean of their controls.
        excess: mean over the pairs of their own difference minus that of their controls.
        interval: of the excess, by Student over distinct swaps, what they share counted; null for
            fewer than five, with the reason in `undefined`.
        p_value: two-sided, of an excess of 0: pairs differ as arbitrary swaps as large do; null
            with the interval.
    """

    control: float | None
    excess: float | None
    interval: Interval
    p_value: PValue
    undefined: Reasons = field(default=None, metadata=ABSENT)

    @classmethod
    def without(cls, reason: str, *more: str) -> Excess:
        names = (*more, "control", "excess", "interval", "p_value")
        return cls(None, None, None, None, dict.fromkeys(names, reason))


class WordsApart(Result):
    """How far swapped words are from each other in the model's input embeddings."""

    pair: Annotated[Apart, "|a - b| over the mean of |a| and |b|, of the pair's words."]
    controls: Annotated[Apart, "the mean of the neutral words."]


class OverKeys(Excess):
    """How far pairs exceed their neutral controls, over all keys; all figures are of these pairs.

    Attributes:
        pairs: with controls; where none has any, all, and their difference alone is given.
        swaps: distinct ones among these pairs, whatever the sentence.
        left_out: pairs without controls, of which no figure speaks.
        words_apart: means over the pairs; null where it was not measured.
    """

    pairs: Positive = field(kw_only=True)
    swaps: Positive = field(kw_only=True)
    left_out: Count = field(kw_only=True)
    difference: Difference = field(kw_only=True)
    words_apart: WordsApart | None = field(kw_only=True)


class OfKey(Excess):
    """How far all pairs exceed their neutral controls in one layer's component."""

    p_holm: Annotated[PValue, "the p-value, corrected for the number of keys."] = field(
        kw_only=True
    )


class Summary(Result):
    """How far the pairs exceed their neutral controls: overall, by category and by key."""

    metric: Literal["relative_difference"]
    measures: Annotated[Measures, "what the figures say, and what they do not."]
    level: Annotated[float, {"const": LEVEL}, "of the intervals."]
    pairs: Positive
    controls: Count
    prompts: Annotated[Positive, "how many ran."]
    forward_passes: Positive
    overall: OverKeys
    categories: dict[str, OverKeys]
    keys_: Annotated[dict[Key, OfKey], {"minProperties": 1}]
    missing: Annotated[
        dict[Component, Annotated[dict[Layer, str], {"minProperties": 1}]],
        "component → layer → why it has none there.",
    ]
    notes: list[str]


class PairResult(Result):
    """One pair."""

    prompt1: Text
    prompt2: Text
    category: str | None
    coverage: Coverage
    controls: Annotated[list[tuple[str, str]], "the neutral control pairs."]
    words_apart: WordsApart | None
    metrics: PairMetrics


class StudiedModel(Result):
    """The model."""

    name: str
    model_type: str


class BiasMetrics(Result):
    """What optipfair.visualize_bias returns and writes.

    A figure that is not defined is null, with the reason in `undefined` beside it.
    """

    version: Literal[1]
    optipfair: Annotated[str, "version of the library."]
    model: StudiedModel
    summary: Summary
    pairs: dict[str, PairResult] = field(metadata=spread("^pair_[1-9][0-9]*$"))

    SCHEMA: ClassVar[Mapping[str, Any]] = {
        "required": ["version", "optipfair", "model", "summary", "pair_1"]
    }


class FoundBias(dict[str, Any]):
    """What `visualize_bias` returns: its items and values are the pairs, and it holds the rest too.

    `found["summary"]` and `found.summary` are there (so are `version`, `model` and `optipfair`),
    but not among `found.items()`. JSON and `to_dict()` hold all of it.
    """

    @classmethod
    def of(cls, metrics: BiasMetrics) -> FoundBias:
        found = metrics.to_dict()
        for name, pair in metrics.pairs.items():
            found[name]["metrics"] = also_named(pair.metrics)
        return cls(found)

    version = property(itemgetter("version"))
    optipfair = property(itemgetter("optipfair"))
    model = property(itemgetter("model"))
    summary = property(itemgetter("summary"))

    @property
    def pairs(self) -> dict[str, Any]:
        return {name: self[name] for name in self if name.startswith("pair_")}

    def values(self) -> Any:
        return self.pairs.values()

    def items(self) -> Any:
        # json asks a dict for its items as a loop does, and must get all of them.
        written = sys._getframe(1).f_globals.get("__name__") == "json.encoder"
        return super().items() if written else self.pairs.items()

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain data, as `bias_metrics.json` holds them."""
        return {key: plain(value) for key, value in super().items()}

    def __reduce__(self) -> Any:
        return type(self), (dict(super().items()),)
