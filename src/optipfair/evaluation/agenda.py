"""What is going to be measured: checked, read and chosen before any model runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..bias.contrasts.contrast_files import find_contrasts
from ..checking import check_count, whole_number
from ..errors import ArgumentError, UnknownNameError
from ..files.text_rows import read_texts
from ..registry import unknown_name
from ..report.comparison import Training
from ..report.report_files import check_report_folder
from ..tokenized import tokenized
from .evaluate_options import PRESETS, PRODUCTS, PROMPTS, EvaluateOptions
from .generation.continuations import unable
from .likelihoods.query_tokens import encode
from .likelihoods.score import check_batch_tokens
from .tasks import TASKS
from .tasks.choosing import Chosen, find_data, named_tasks, read_tasks, within_budget
from .tasks.reading import detokenised
from .tasks.task import Item, Task
from .text.two_models import TEXT_MEASURES, Text, check_windows, enough

CONTEXT = 512  # tokens
WIKITEXT = "wikitext2/valid.txt"
_SWITCHES = ("speed", "generation")  # what thresholds may name beside tasks
_UNASKED = "not asked for"
_TEXT_SHARE = 0.2  # of the tokens of a model


@dataclass(frozen=True)
class Agenda:
    """What is measured, and how."""

    options: EvaluateOptions  # what was asked for
    tasks: Sequence[Chosen]  # with their items
    missing: Mapping[str, str]  # names of tasks that cannot be measured -> why
    text: Text  # to predict
    context: int  # of its windows, in tokens
    stride: int
    tokens: int  # to score for one model
    # names of tasks that are answered by writing, where no model is to write, or cannot -> why
    unwritten: Mapping[str, str] = field(default_factory=dict)
    training: Training | None = None  # of the pruned model, where its folder says so

    def unmeasured(self) -> dict[str, str]:
        """Why tasks, the speed or the generation are not measured."""
        others = set(TASKS) - {each.task.name for each in self.tasks}
        unasked = dict.fromkeys(others, "it is not among the chosen tasks")
        off = {n: f"--no-{n} was given" for n in _SWITCHES if not getattr(self.options, n)}
        return unasked | off | dict(self.missing) | dict(self.unwritten)

    def for_models(self, models: Sequence[Any]) -> Agenda:
        """The same without tasks that are answered by writing, where a model cannot write."""
        most = max((each.task.writes for each in self.tasks), default=0)
        reasons = [why for model in models if (why := unable(model, most + 1))]
        return _without_writing(self, reasons[0]) if most and reasons else self

    def measure_ids(self) -> list[str]:
        """Identifiers of all measures, without those of groups."""
        tasks = {"text": TEXT_MEASURES} | {one.task.name: one.task.measures for one in self.tasks}
        return [identifier(task, measure.name) for task, own in tasks.items() for measure in own]

    def in_words(self) -> str:
        """What is going to be measured, with the counts."""
        parts = [f"{self.text.tokens:,} tokens of {self.text.name}"]
        parts += [f"{one.task.name} {len(one.items):,} of {one.available:,}" for one in self.tasks]
        total = f"{len(self.options.names) * self.tokens:,} tokens to score"
        asked = f"Preset {self.options.preset}, seed {self.options.seed}"
        return f"{asked}: {'; '.join(parts)}. {total}."


def identifier(task: str, measure: str, group: str | None = None) -> str:
    """What a row of figures is called: `crows_pairs.stereotyped[gender]`."""
    return f"{task}.{measure}" + (f"[{group}]" if group is not None else "")


def prompts_of(asked: EvaluateOptions) -> Sequence[str]:
    """The prompts that were given, else the usual ones."""
    return PROMPTS if asked.prompts is None else asked.prompts


def make_agenda(tokenizer: Any, options: EvaluateOptions, *configs: Any) -> Agenda:
    """Choose what to measure of one model, or of two.

    The positions of the configs bound the context; a task asked for by name must have its data.
    """
    _check_options(options)
    budget, limit, seed = PRESETS[options.preset], options.limit, options.seed
    positions = min(
        getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf
        for config in configs
    )
    usual = int(min(positions, CONTEXT)) if options.context is None else options.context
    length, step = check_windows(usual, usual if options.stride is None else options.stride)
    if length > positions:
        raise ArgumentError(
            f"context={length} is more than the {positions} positions of the model. Give "
            f"{positions} or less."
        )
    check_count("seed", seed, 0)
    folder = find_data(options.data)
    named = named_tasks(options.tasks)
    unasked = [] if options.generation or options.tasks is not None else _written_ones(named)
    chosen, missing = read_tasks(
        [task for task in named if task.name not in unasked],
        folder,
        required=options.tasks is not None,
    )
    name, content = _read_text(options, folder, tokenizer)
    predicted = enough(
        len(tokenized(tokenizer, content, add_special_tokens=False, verbose=False)["input_ids"])
    )
    left = None if budget is None else budget // 2
    if left is not None:
        predicted = min(int(left * _TEXT_SHARE), predicted)
        left -= predicted
    counted = within_budget(chosen, partial(_tokens, tokenizer), left, limit=limit, seed=seed)
    text = Text(name, content, hashlib.sha256(content.encode()).hexdigest(), predicted)
    tokens = predicted + sum(each.tokens for each in counted)
    unwritten = dict.fromkeys(unasked, _UNASKED)
    return Agenda(options, counted, missing, text, length, step, tokens, unwritten)


def _written_ones(tasks: Sequence[Task]) -> list[str]:
    """The names of tasks that are answered by writing."""
    return [task.name for task in tasks if task.writes]


def _without_writing(agenda: Agenda, reason: str) -> Agenda:
    kept = [each for each in agenda.tasks if not each.task.writes]
    names = _written_ones([each.task for each in agenda.tasks])
    unwritten = dict(agenda.unwritten) | dict.fromkeys(names, reason)
    tokens = agenda.text.tokens or 0
    return replace(
        agenda,
        tasks=kept,
        unwritten=unwritten,
        tokens=tokens + sum(each.tokens for each in kept),
    )


def _check_options(asked: EvaluateOptions) -> None:
    """Refuse what needs no model to be known as wrong, before hours of scoring."""
    tokens, runs, prompts = asked.max_new_tokens, asked.num_runs, prompts_of(asked)
    if (whole_number(tokens) or 0) < 2 or (whole_number(runs) or 0) < 1:
        raise ArgumentError(
            f"max_new_tokens={tokens!r} and num_runs={runs!r}: a time per token takes 2 new tokens "
            "and a run at least."
        )
    check_batch_tokens(asked.batch_tokens)
    if asked.products not in PRODUCTS:
        raise UnknownNameError(unknown_name("products", asked.products, list(PRODUCTS)))
    if isinstance(prompts, str) or not prompts or not all(prompts):
        raise ArgumentError(f"prompts={prompts!r} must be a list of texts that are not empty.")
    if asked.contrasts:
        find_contrasts(asked.contrasts)
    if asked.output_dir is not None:
        check_report_folder(asked.output_dir)


def _tokens(tokenizer: Any, items: Sequence[Item]) -> list[int]:
    """What a model reads for each item; queries that differ in their last token share a row."""
    encoded = iter(encode(tokenizer, [query for item in items for query in item.queries]))
    rows = [{next(encoded).inputs for _ in item.queries} for item in items]
    return [sum(map(len, inputs)) for inputs in rows]


def _read_text(asked: EvaluateOptions, folder: Path | None, tokenizer: Any) -> tuple[str, str]:
    """Name and content."""
    if asked.text is not None:
        path, field = Path(asked.text), asked.text_field
        texts = read_texts(path, name=field, option="text_field", tokenizer=tokenizer)
        return path.name, texts.joined
    if asked.text_field is not None:
        raise ArgumentError(
            f"text_field={asked.text_field!r} names a field of a text's rows, and no text is "
            "given. Give text too, or leave it out."
        )
    if folder is not None and (folder / WIKITEXT).is_file():
        return f"{WIKITEXT}, detokenised", detokenised(read_texts(folder / WIKITEXT).joined)
    shipped = files("optipfair.demo").joinpath("evaluation.txt")
    return "the text that ships with the demo", shipped.read_text(encoding="utf-8")
