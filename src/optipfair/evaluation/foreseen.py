"""How long an evaluation or a comparison will take, from a few of its batches that are timed.

The first model is timed; another takes as long for each of its weights. What is counted is what
will run: batches of the tasks, windows of the text, tokens that are written one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..bias.prompts.pairs import check_prompt_pairs
from ..errors import OptiPFairError
from ..hooks import evaluating, ready_to_generate
from ..noted import unheard
from ..progress import duration
from .agenda import Agenda, prompts_of
from .comparing import CONTROLS
from .generation.continuations import in_batches, unable, written
from .generation.same_text import NEW_TOKENS, beginnings
from .likelihoods.query_tokens import encode
from .likelihoods.score import answered, planned, readable
from .likelihoods.score_dtype import multiplying, scored_in
from .text.two_models import logits_of, text_ids, windows

_TIMED = 2  # batches, of middle size; the first that runs is slow and not timed
_STEPS = 4  # tokens that are written to be timed
_ROWS = 16  # prompts that they are written after
_WARM_UP = 1  # runs of each prompt before timed ones
_PROMPT = 16  # tokens of a prompt that layers are looked into with


@dataclass(frozen=True)
class Foreseen:
    """What an evaluation takes."""

    seconds: float
    read: int  # tokens that one model reads to score them, each common beginning once
    written: int  # steps in which one model writes a token, after several prompts at once
    models: int

    def in_words(self) -> str:
        """One line for the terminal."""
        each = "Each model" if self.models > 1 else "The model"
        writes = f" and takes {self.written:,} steps to write" if self.written else ""
        return (
            f"This will take about {duration(self.seconds)}, less where scores are kept from "
            f"before. {each} reads {self.read:,} tokens{writes}."
        )


def foreseen(agenda: Agenda, models: Sequence[Any], tokenizer: Any) -> Foreseen | None:
    """Time some of what is on the agenda, and say what all of it takes; None where that fails."""
    try:
        with unheard():
            timed = _Timed(agenda.for_models(models), models[0], tokenizer)
            reading, read = timed.reading()
            writing, steps = timed.writing() if len(models) > 1 or timed.prompts else (0.0, 0)
            layers = timed.layers() if len(models) > 1 else 0.0
    except OptiPFairError:  # what is wrong is said where it is needed
        return None
    sizes = [model.num_parameters() for model in models]
    seconds = (reading + writing + layers) * sum(sizes) / sizes[0]
    return Foreseen(seconds, read, steps, len(models))


class _Timed:
    """An agenda, and a model that parts of it are timed with."""

    def __init__(self, agenda: Agenda, model: Any, tokenizer: Any) -> None:
        self.agenda, self.asked = agenda, agenda.options
        self.model, self.tokenizer = model, tokenizer
        self.text = text_ids(tokenizer, agenda.text)
        self.prompts = [
            (encoded.ids[: encoded.start], each.task.writes)
            for each in agenda.tasks
            if each.task.writes
            for encoded in encode(tokenizer, [item.queries[0] for item in each.items])
        ]

    def reading(self) -> tuple[float, int]:
        """Seconds for the tasks' batches and the text's windows, and their tokens."""
        model, products = self.model, self.asked.score_products
        queries = [
            [query for item in each.items for query in item.queries]
            for each in self.agenda.tasks
            if not each.task.writes
        ]
        batches = [
            batch
            for own in queries
            for batch in planned(
                model, readable(model, self.tokenizer, own), self.asked.batch_tokens
            )
        ]
        sizes = [len(batch) * max(len(row.inputs) for row in batch) for batch in batches]
        usual = sorted(range(len(batches)), key=sizes.__getitem__)[len(batches) // 2 :][:_TIMED]
        places = list(windows(len(self.text), self.agenda.context, self.agenda.stride))
        start, end, last = places[0]
        with evaluating(model), multiplying(model, scored_in(model, products)):
            window = _second(lambda: logits_of(model, self.text[start:end], last))
            spent = sum(_once(lambda n=n: answered(model, batches[n])) for n in usual)  # type: ignore[misc]
        each = spent / max(1, sum(sizes[n] for n in usual))
        tokens = sum(end - start for start, end, _ in places)
        return each * sum(sizes) + window * tokens / (end - start), sum(sizes) + tokens

    def writing(self) -> tuple[float, int]:
        """Seconds for all that is written, and how many steps that is."""
        asked, model = self.asked, self.model
        ids = self.text.tolist()
        if unable(model, 2 * NEW_TOKENS):
            return 0.0, 0
        rows = torch.tensor(beginnings(ids)[:_ROWS])
        with ready_to_generate(model):
            first = _second(lambda: written(model, rows, 1, [], ""))
            more = _once(lambda: written(model, rows, 1 + _STEPS, [], ""))
        step = max(more - first, 0.0) / _STEPS
        batches = in_batches([list(ids) for ids, _ in self.prompts])
        steps = len(batches) * max((count for _, count in self.prompts), default=0)
        read = sum(len(ids) for ids, _ in self.prompts)
        if asked.generation and len(asked.names) > 1:
            steps += -(-len(beginnings(ids)) // _ROWS) * NEW_TOKENS
            read += rows.numel()
        if len(asked.names) > 1:
            runs = 1 + (_WARM_UP + asked.num_runs if asked.speed else 0)
            steps += len(prompts_of(asked)) * runs * asked.max_new_tokens
        return step * steps + first * read / rows.numel(), steps

    def layers(self) -> float:
        """Seconds to look into the layers."""
        if not self.asked.layers:
            return 0.0
        tokens = len(check_prompt_pairs(None)) * (1 + CONTROLS) * _PROMPT
        row = self.text[None, : min(len(self.text), 8 * _PROMPT)]
        device = self.model.get_input_embeddings().weight.device
        with evaluating(self.model):
            spent = _second(lambda: self.model(input_ids=row.to(device), use_cache=False))
        return spent * tokens / row.shape[1]


def _once(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _second(work: Callable[[], object]) -> float:
    """How long it takes when it has run before."""
    work()
    return _once(work)
