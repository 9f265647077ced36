"""What a comparison of two models, or an evaluation of one, says: every key of their JSON.

`tools/schemas.py` makes the JSON Schema in this folder from these classes.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from ..results import Count, Probability, Result, Rules
from ..uncertainty import Estimate

Better = Literal["higher", "lower"] | float
Change = Literal["difference", "ratio"]
Answer = Literal[
    "better",
    "no detectable change",
    "reversed",
    "worse",
    "too damaged to say",
    "too few to tell",
    "not measured",
]
Ends = Annotated[list[float], Rules(minItems=2, maxItems=2)]
Hash = Annotated[str, Rules(pattern="^[0-9a-f]*$")]
_QUESTIONS = [{"properties": {"question": {"const": q}}} for q in ("quality", "fairness", "speed")]


class ModelFacts(Result):
    """A model as it was measured."""

    name: str
    model_type: str
    fingerprint: Annotated[str, Rules(pattern="^[0-9a-f]+$"), "of config and weights"]
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
    """How it was measured, when, and on what machine."""

    preset: Annotated[str, Rules(enum=["quick", "full"])]
    seed: int
    limit: Annotated[Count | None, "items a task, at most"]
    tokens: Annotated[Count, "scored, all models together"]
    resamples: Annotated[Count, "draws of the bootstrap"]
    level: Annotated[Probability, "of intervals"]
    context: Annotated[Count, "tokens of a window of text"]
    stride: Annotated[Count, "tokens between windows"]
    date: Annotated[str, "ISO 8601"]
    command: str | None
    versions: Versions
    device: str
    threads: Count
    processes: Annotated[int, Rules(minimum=1), "that shared the work"]
    scored_in: Annotated[str, "dtype of the products while texts were scored"]


class TimedProtocol(Protocol):
    """The same, and how many seconds it took."""

    seconds: Annotated[float, Rules(minimum=0)]


class Verdict(Result):
    """One question, answered in words."""

    question: Literal["quality", "fairness", "speed"]
    verdict: Answer
    sentence: str
    because: Annotated[list[str], "ids of measures"]


class Figure(Result):
    """A measure of a task, over all items or over a group."""

    id: Annotated[str, "task.measure[group]"]
    task: str
    measure: str
    group: str | None
    question: Literal["quality", "fairness"]
    help: str
    better: Annotated[Better, "a number is the best value"]
    scale: Annotated[
        Ends | None, "the least and the most the measure can be; null where it has no ends"
    ]


class FigureOfOne(Figure):
    """A measure of one model with its 95 % interval."""

    headline: bool
    value: float | None
    low: float | None
    high: float | None
    reason: str | None
    chance: Annotated[float | None, "what guessing gives"]
    items_: Count
    clusters: Count


class FigureOfTwo(Figure):
    """A measure of both models, and how it changed."""

    change_kind: Annotated[Change, "pruned - original, or pruned / original"]
    headline: Annotated[bool, "whether it decides a verdict"]
    original: Estimate
    pruned: Estimate
    change: Estimate
    harm: Annotated[
        Estimate, "positive: the pruned model is worse; for ratios the logarithm of the ratio"
    ]
    p: Annotated[Probability | None, "of no harm and no good"]
    p_holm: Probability | None
    chance: Annotated[float | None, "what guessing gives"]
    could_have_missed: Annotated[float | None, "in the unit of harm"]
    items_: Count
    clusters: Annotated[Count, "of items that share something; an effective number if in many ways"]
    p_change: Annotated[
        Probability | None, "of no change in either direction, where the best value has two sides"
    ] = None
    p_change_holm: Probability | None = None
    untested: Annotated[str | None, "why a test was not made, or could find nothing"] = None
    least_p: Annotated[Probability | None, "the smallest p that the test could have given"] = None
    against_control: Annotated[
        Estimate | None, "negative: better than a model that was damaged as much by chance"
    ] = None
    p_control_holm: Probability | None = None
    no_control: Annotated[str | None, "why the control that was given tells nothing"] = None


class FlippedItem(Result):
    """An item that the two models answer differently."""

    id: str
    group: str | None
    from_: str
    to: str
    texts: Annotated[list[str], Rules(minItems=1, maxItems=4)]


class Flips(Result):
    """The answers of a task that changed."""

    task: str
    lost: Annotated[Count, "from answers[1] to answers[0]"]
    gained: Annotated[Count, "from answers[0] to answers[1]"]
    p: Probability | None
    p_holm: Probability | None
    answers: Annotated[list[str], Rules(minItems=2, maxItems=2)]
    items_: list[FlippedItem]
    shown: Count
    total: Count
    answered: Annotated[Count | None, "items that both models answer"] = None
    untested: Annotated[str | None, "why a test was not made"] = None


class TaskFacts(Result):
    """A task, its data, and how many items of how many were used."""

    name: str
    question: str
    help: str
    source: str
    protocol: str
    file: str
    sha256: Annotated[Hash, "empty where there is no file"]
    items_: Annotated[Count, "used"]
    available: Count
    left_out: Annotated[dict[str, Count], "reason -> rows"]
    licence: str | None
    reused: Annotated[Count, "items whose scores came from the cache"]
    first_token: Annotated[str | None, "the special token that its texts begin with"] = None


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
    """How much faster one model generates than the other."""

    avg_original_time: Annotated[float, "seconds"]
    avg_pruned_time: Annotated[float, "seconds"]
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


class SameTokens(Result):
    """How often two models write the same first tokens."""

    tokens: Count
    share: Annotated[Estimate, "of the prompts"]


class Generation(Result):
    """How long two models write the same: greedy continuations of beginnings of the text."""

    prompts: Count
    prompt_tokens: Annotated[Count, "of each prompt"]
    new_tokens: Annotated[Count, "after each prompt"]
    until_parting: Annotated[
        Estimate, "median number of tokens that are the same; new_tokens where all of them are"
    ]
    same: list[SameTokens]


class LayerExcess(Result):
    """How far a layer differs between prompts, beyond neutral swaps."""

    layer: Count
    depth: Annotated[Probability, "0 first, 1 last"]
    excess: float | None
    low: float | None
    high: float | None


class Layers(Result):
    """The layers of both models."""

    original: list[LayerExcess]
    pruned: list[LayerExcess]


class PartOfContrast(Result):
    """How much of a contrast one part of a layer makes, to first order, in nats."""

    layer: Count
    component: Annotated[str, "mlp or attention"]
    effect: float


class ContrastOfOne(Result):
    """How large a contrast is in one model, in nats; above 0 it follows the stereotype."""

    value: float
    low: float | None
    high: float | None
    parts: Annotated[list[PartOfContrast], "the largest"]


class ContrastOfTwo(Result):
    """One contrast in both models."""

    contrast: str
    original: ContrastOfOne
    pruned: ContrastOfOne


class LeftOut(Result):
    """What was not measured, and why."""

    section: str
    reason: str


class LeftOutWithWay(LeftOut):
    """The same."""

    how: Annotated[str, "what to do to get it"]


class Judged(Result):
    """How far a model was from the original at one time of its training."""

    tokens: Annotated[Count, "that it had been trained on"]
    loss: Annotated[float, "mean KL divergence from the original, in nats a token"]


class Training(Result):
    """How the pruned model was trained after its pruning, as its folder says."""

    before: Annotated[float, "divergence on held-back text, in nats a token"]
    after: float
    tokens: Count
    seconds: float
    judged: Annotated[list[Judged], "on held-back text"]
    training: Annotated[list[Judged], "on the text that was trained on"]


class Comparison(Result):
    """What a comparison of two models found; a figure not defined is null, with its reason."""

    version: Literal[1]
    kind: Literal["comparison"]
    models: TwoModels
    protocol: TimedProtocol
    verdicts: Annotated[
        list[Verdict],
        Rules(minItems=3, maxItems=3, allOf=[{"prefixItems": _QUESTIONS}]),
        "in this order: quality, fairness, speed",
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
    generation: Generation | None = None
    training: Training | None = None
    contrasts: list[ContrastOfTwo] = field(default_factory=list)


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
