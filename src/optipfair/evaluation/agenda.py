"""What is going to be measured: checked, read and chosen before any model runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..checking import check_count
from ..errors import ArgumentError
from .evaluate_options import EvaluateOptions
from .likelihoods.query_tokens import encode
from .tasks import TASKS
from .tasks.choosing import (
    Chosen,
    check_preset,
    find_data,
    named_tasks,
    read_tasks,
    within_budget,
)
from .tasks.reading import detokenised, document
from .tasks.task import Item
from .text.two_models import TEXT_MEASURES, check_windows, enough

CONTEXT = 512  # tokens
WIKITEXT = "wikitext2/valid.txt"
_TEXT_SHARE = 0.2  # of the tokens of a model


@dataclass(frozen=True)
class Text:
    """A text to predict: all of it, with its hash; of its tokens the first `tokens` are used."""

    name: str
    content: str
    sha256: str
    tokens: int


@dataclass(frozen=True)
class Agenda:
    """What is measured, and how.

    Attributes:
        tasks: with their items.
        missing: names of tasks that cannot be measured -> why.
        text: to predict.
        context, stride: of its windows, in tokens.
        options: what was asked for.
        tokens: to score for one model.
    """

    tasks: tuple[Chosen, ...]
    missing: Mapping[str, str]
    text: Text
    context: int
    stride: int
    options: EvaluateOptions
    tokens: int

    def unmeasured(self) -> dict[str, str]:
        """Why tasks are not measured."""
        others = set(TASKS) - {each.task.name for each in self.tasks}
        return {name: self.missing.get(name, "it is not among the chosen tasks") for name in others}

    def measure_ids(self) -> list[str]:
        """Identifiers of all measures, without those of groups."""
        tasks = {"text": TEXT_MEASURES} | {one.task.name: one.task.measures for one in self.tasks}
        return [identifier(task, measure.name) for task, own in tasks.items() for measure in own]


def identifier(task: str, measure: str, group: str | None = None) -> str:
    """What a row of figures is called: `crows_pairs.stereotyped[gender]`."""
    return f"{task}.{measure}" + (f"[{group}]" if group is not None else "")


def make_agenda(tokenizer: Any, config: Any, options: EvaluateOptions) -> Agenda:
    """Choose what to measure.

    The positions of the config bound the context; a task asked for by name must have its data.
    """
    budget, limit, seed = check_preset(options.preset), options.limit, options.seed
    length, step = _windows(options.context, options.stride, config)
    check_count("seed", seed, 0)
    folder = find_data(options.data)
    chosen, missing = read_tasks(
        named_tasks(options.tasks), folder, required=options.tasks is not None
    )
    name, content = _read_text(options.text, folder)
    one = None if budget is None else budget // 2
    predicted = _count(tokenizer, content, None if one is None else int(one * _TEXT_SHARE))
    left = None if one is None else one - predicted
    counted = within_budget(chosen, partial(_tokens, tokenizer), left, limit=limit, seed=seed)
    return Agenda(
        tuple(counted),
        missing,
        Text(name, content, hashlib.sha256(content.encode()).hexdigest(), predicted),
        length,
        step,
        options,
        predicted + sum(each.tokens for each in counted),
    )


def _tokens(tokenizer: Any, items: Sequence[Item]) -> list[int]:
    """What a model reads for each item; queries that differ in their last token share a row."""
    encoded = iter(encode(tokenizer, [query for item in items for query in item.queries]))
    rows = [{next(encoded).inputs for _ in item.queries} for item in items]
    return [sum(map(len, inputs)) for inputs in rows]


def _windows(context: object, stride: object, config: Any) -> tuple[int, int]:
    positions = _positions(config)
    usual = int(min(positions, CONTEXT)) if context is None else context
    length, step = check_windows(usual, usual if stride is None else stride)
    if length > positions:
        raise ArgumentError(
            f"context={length} is more than the {positions} positions of the model. Give "
            f"{positions} or less."
        )
    return length, step


def fewest_positions(*configs: Any) -> Any:
    """The config of the model that can read the least at once, the first of equal ones."""
    return min(configs, key=_positions)


def _positions(config: Any) -> float:
    return getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf


def _read_text(text: str | Path | None, folder: Path | None) -> tuple[str, str]:
    """Name and content."""
    if text is not None:
        return Path(text).name, document(Path(text))
    if folder is not None and (folder / WIKITEXT).is_file():
        return f"{WIKITEXT}, detokenised", detokenised(document(folder / WIKITEXT))
    shipped = files("optipfair.demo").joinpath("evaluation.txt")
    return "the text that ships with the demo", shipped.read_text(encoding="utf-8")


def _count(tokenizer: Any, text: str, most: int | None) -> int:
    count = enough(len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))
    return count if most is None else min(most, count)
