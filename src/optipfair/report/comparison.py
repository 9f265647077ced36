"""What a comparison of two models, or an evaluation of one, says: every key of their JSON.

`tools/schemas.py` makes the JSON Schema in this folder from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ..results import Count, Probability, Result, Rules
from ..uncertainty import Estimate

Better = Literal["higher", "lower"] | float
Change = Literal["difference", "ratio"]
Answer = Literal["better", "no detectable change", "worse", "too damaged to say", "not measured"]
Ends = Annotated[list[float], Rules(minItems=2, maxItems=2)]
Hash = Annotated[str, Rules(pattern="^[0-9a-f]*$")]
_QUESTIONS = [{"properties": {"question": {"const": q}}} for q in ("quality", "fairness", "speed")]


class ModelFacts(Result):
    """A model as it was measured.

    Attributes:
        fingerprint: of config and weights
    """

    name: str
    model_type: str
    fingerprint: Annotated[str, Rules(pattern="^[0-9a-f]+$")]
    parameters: Count
    weight_bytes: Count
    dtype: str
    layers: Count | None
    device: str


class TwoModels(Result):
    """Both models."""

    original: ModelFacts
    pruned: ModelFacts


class Versions(Result):
    """Of what measured."""

    optipfair: str
    torch: str
    transformers: str
    python: str


class Protocol(Result):
    """How it was measured, when, and on what machine.

    Attributes:
        limit: items a task, at most
        tokens: scored, all models together
        resamples: draws of the bootstrap
        level: of intervals
        context: tokens of a window of text
        stride: tokens between windows
        date: ISO 8601
        processes: that shared the work
    """

    preset: Annotated[str, Rules(enum=["quick", "full"])]
    seed: int
    limit: Count | None
    tokens: Count
    resamples: Count
    level: Probability
    context: Count
    stride: Count
    date: str
    command: str | None
    versions: Versions
    device: str
    threads: Count
    processes: Annotated[int, Rules(minimum=1)]


class TimedProtocol(Protocol):
    """The same, and how many seconds it took."""

    seconds: Annotated[float, Rules(minimum=0)]


class Verdict(Result):
    """One question, answered in words.

    Attributes:
        because: ids of measures
    """

    question: Literal["quality", "fairness", "speed"]
    verdict: Answer
    sentence: str
    because: list[str]


class Figure(Result):
    """A measure of a task, over all items or over a group.

    Attributes:
        id: task.measure[group]
        better: a number is the best value
        scale: the least and the most the measure can be; null where it has no ends
    """

    id: str
    task: str
    measure: str
    group: str | None
    question: Literal["quality", "fairness"]
    help: str
    better: Better
    scale: Ends | None


class FigureOfOne(Figure):
    """A measure of one model with its 95 % bootstrap interval.

    Attributes:
        chance: what guessing gives
    """

    headline: bool
    value: float | None
    low: float | None
    high: float | None
    reason: str | None
    chance: float | None
    items_: Count
    clusters: Count


class FigureOfTwo(Figure):
    """A measure of both models, and how it changed.

    Attributes:
        change_kind: pruned - original, or pruned / original
        headline: whether it decides a verdict
        harm: positive: the pruned model is worse; for ratios the logarithm of the ratio
        chance: what guessing gives
        could_have_missed: in the unit of harm
    """

    change_kind: Change
    headline: bool
    original: Estimate
    pruned: Estimate
    change: Estimate
    harm: Estimate
    p: Probability | None
    p_holm: Probability | None
    chance: float | None
    could_have_missed: float | None
    items_: Count
    clusters: Count


class FlippedItem(Result):
    """An item that the two models answer differently."""

    id: str
    group: str | None
    from_: str
    to: str
    texts: Annotated[list[str], Rules(minItems=1, maxItems=4)]


class Flips(Result):
    """The answers of a task that changed.

    Attributes:
        lost: from answers[1] to answers[0]
        gained: from answers[0] to answers[1]
    """

    task: str
    lost: Count
    gained: Count
    p: Probability
    p_holm: Probability | None
    answers: Annotated[list[str], Rules(minItems=2, maxItems=2)]
    items_: list[FlippedItem]
    shown: Count
    total: Count


class TaskFacts(Result):
    """A task, its data, and how many items of how many were used.

    Attributes:
        sha256: empty where there is no file
        items_: used
        left_out: reason -> rows
        reused: items whose scores came from the cache
    """

    name: str
    question: str
    help: str
    source: str
    protocol: str
    file: str
    sha256: Hash
    items_: Count
    available: Count
    left_out: dict[str, Count]
    licence: str | None
    reused: Count


class TextFacts(Result):
    """The text that perplexity was measured on."""

    file: str
    sha256: Hash
    tokens: Count
    words: Count
    bytes: Count


class Spread(Result):
    """Seconds."""

    median: float
    min: float
    max: float


class Timed(Result):
    """What generation took one model."""

    peak_memory_bytes: Count | None
    peak_memory_kind: str
    kv_cache_bytes: Count | None
    weight_bytes: Count
    generated_tokens: Count
    time_to_first_token: Spread
    time_per_output_token: Spread


class SpeedRow(Result):
    """Speed at one batch size and length of the prompt."""

    batch_size: Count
    prompt_tokens: Count
    original_tokens_per_second: float
    pruned_tokens_per_second: float
    speedup: float
    speedup_interval: Ends | None


class Speed(Result):
    """How much faster one model generates than the other.

    Attributes:
        avg_original_time, avg_pruned_time: seconds
    """

    avg_original_time: float
    avg_pruned_time: float
    avg_original_tokens_per_second: float
    avg_pruned_tokens_per_second: float
    speedup: float
    speedup_interval: Ends | None
    tps_improvement_percent: float
    num_prompts: Count
    table: list[SpeedRow]
    original: Timed
    pruned: Timed


class Sample(Result):
    """Greedy continuations of a prompt."""

    prompt: str
    original: str
    pruned: str


class LayerExcess(Result):
    """How far a layer differs between prompts, beyond neutral swaps.

    Attributes:
        depth: 0 first, 1 last
    """

    layer: Count
    depth: Probability
    excess: float | None
    low: float | None
    high: float | None


class Layers(Result):
    """The layers of both models."""

    original: list[LayerExcess]
    pruned: list[LayerExcess]


class LeftOut(Result):
    """What was not measured, and why."""

    section: str
    reason: str


class LeftOutWithWay(LeftOut):
    """The same.

    Attributes:
        how: what to do to get it
    """

    how: str


class Comparison(Result):
    """What a comparison of two models found. A figure that is not defined is null, with the reason
    beside it.

    Attributes:
        verdicts: in this order: quality, fairness, speed
    """

    version: Literal[1]
    kind: Literal["comparison"]
    models: TwoModels
    protocol: TimedProtocol
    verdicts: Annotated[
        list[Verdict], Rules(minItems=3, maxItems=3, allOf=[{"prefixItems": _QUESTIONS}])
    ]
    measures: list[FigureOfTwo]
    flips: list[Flips]
    tasks: list[TaskFacts]
    text: TextFacts | None
    speed: Speed | None
    samples: list[Sample]
    layers: Layers | None
    left_out: list[LeftOutWithWay]
    limits: list[str]


class Evaluation(Result):
    """What an evaluation of one model found."""

    version: Literal[1]
    kind: Literal["evaluation"]
    model: ModelFacts
    protocol: Protocol
    measures: list[FigureOfOne]
    tasks: list[TaskFacts]
    text: TextFacts | None
    left_out: list[LeftOut]


class EvaluationWithHarness(Evaluation):
    """The same, and what lm-eval gave, null where it was not asked."""

    harness: dict[str, Any] | None
