"""`EvaluateOptions`: what can be asked of an evaluation or a comparison, one field an option."""
# ruff: noqa: RUF009 - these calls declare fields

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..option_fields import in_usual_case, option
from ..registry import Registry

QUICK = "quick"
PRESETS: Registry[int | None] = Registry("preset")  # tokens of both models together
PRESETS.add(QUICK, 200_000)
PRESETS.add("full", None)
PRODUCTS = AUTO, FAST, AS_LOADED = "auto", "bfloat16", "float32"
PROMPTS = (
    "The capital of France is",
    "The three most important things to know about cooking rice are",
)
CHOICE, SCORING, COMPARING = "choice", "scoring", "comparing"
_choice, _scoring = partial(option, section=CHOICE), partial(option, section=SCORING)
_comparing = partial(option, section=COMPARING)


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure, how to score, and what a comparison adds; nothing is checked here.

    The first two sections are keywords of `evaluate_model`, all three of `compare_models`.
    """

    tasks: Sequence[str] | None = _choice(
        None, "Names of the tasks to measure. [all whose data are there]", metavar="NAME,..."
    )
    data: str | Path | None = _choice(
        None, 'Folder of evaluation data, or "none". [$OPTIPFAIR_DATA]', metavar="DIR"
    )
    text: str | Path | None = _choice(
        None,
        "File to measure perplexity on: .txt, or .jsonl with a text, messages or an instruction in "
        "each line. [WikiText-2 of the data folder, else a short text that ships with the library]",
        metavar="FILE",
    )
    text_field: str | None = _choice(
        None,
        "Which field of each row is the text. [text or content]",
        metavar="NAME",
    )
    preset: str = _choice(
        QUICK,
        "quick draws items so that two models together score 200,000 tokens at most; full takes "
        "all.",
        allowed=lambda: tuple(PRESETS),
    )
    limit: int | None = _choice(None, "Most items of each task.", metavar="N")
    seed: int = _choice(0, "Seed of the draw of items and of resamples.")
    context: int | None = _choice(
        None, "Length of the text's windows in tokens. [512, or what the model has positions for]"
    )
    stride: int | None = _choice(
        None, "How far the windows move, in tokens. [the context: side by side]"
    )
    cache_dir: str | Path | None = _scoring(
        None,
        "Folder for scores, so that an interrupted run goes on where it stopped and no model is "
        'scored twice. [on the command line the user\'s cache folder, "none" for nowhere; in '
        "Python nowhere]",
        metavar="DIR",
    )
    batch_tokens: int | None = _scoring(
        None, "Most tokens of a batch. [by the vocabulary]", metavar="N"
    )
    products: str = _scoring(
        AUTO,
        "In which type float32 matrices are multiplied while texts are scored: bfloat16 where the "
        "processor has units for it, or float32; auto is bfloat16 with the preset quick, and "
        "float32 with full and where --dtype float32 is given.",
        allowed=lambda: PRODUCTS,
    )
    command: str | None = _scoring(None, "How it was started, for the record.", flag=None)
    show_progress: bool = _scoring(False, "Whether to show bars with the time left.", flag=None)
    prompts: Sequence[str] | None = _comparing(
        None,
        "What to time and to let both models continue; repeatable. [two short ones]",
        flag="--prompt",
        metavar="TEXT",
        repeatable=True,
    )
    max_new_tokens: int = _comparing(32, "Tokens to generate for each prompt.")
    num_runs: int = _comparing(5, "Timed runs of each prompt and model.")
    speed: bool = _comparing(True, "Whether to time both models.")
    layers: bool = _comparing(True, "Whether to look into the layers.")
    contrasts: Sequence[str] = _comparing(
        (),
        "Contrasts whose size in both models is compared, with the parts of the layers that make "
        "them, such as gender-occupation, or .json files; with commas between them.",
        metavar="NAME|FILE,...",
    )
    generation: bool = _comparing(
        True,
        "Whether both models write on from beginnings of the text, and finish calculations where "
        "the data are there.",
    )
    output_dir: str | Path | None = _comparing(
        None,
        "Folder for report.html, comparison.json and measures.csv. [nothing is written]",
        metavar="DIR",
    )
    names: tuple[str, ...] = _comparing(
        ("original", "pruned"), "How the models are called.", flag=None
    )

    def __post_init__(self) -> None:
        in_usual_case(self)

    @property
    def score_products(self) -> str:
        """What auto means: a quick comparison has too few items for rounding to matter."""
        if self.products != AUTO:
            return self.products
        return FAST if self.preset == QUICK else AS_LOADED
