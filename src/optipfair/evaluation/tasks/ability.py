"""Zero-shot ability: is the right answer the likelier one. Asked and scored as lm-eval does.

Every context is given without examples; the continuation begins with the space that separates it.
Length-normalised accuracy divides by characters, as lm-eval's `acc_norm` does, and beside it by
bytes (`acc_bytes`); both lengths are those of the answer without the space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..measuring.measures import SHARE, Columns, Floats, Measure, mean_of, over
from .items import Item, Query, Score
from .reading import choice, json_rows
from .task import TASKS, Reading, Task

_LARGEST = 700.0  # exp of more is not a float


def read_lambada(path: Path) -> Reading:
    """Passages whose last word is asked for; columns id, context, continuation (text)."""
    columns = {"id": object, "context": str, "continuation": str}
    items = []
    for _, row in _rows(path, columns):
        query = Query(row["context"], f" {row['continuation']}")
        items.append(_item(row, (query,), {"answer": row["continuation"]}))
    return Reading(items)


def read_piqa(path: Path) -> Reading:
    """Two ways to reach a goal; columns id, goal, sol1, sol2 (text), label (0: sol1 is right)."""
    columns = {"id": object, "goal": str, "sol1": str, "sol2": str, "label": int}
    items = []
    for place, row in _rows(path, columns):
        gold, answers = choice(place, row, "label", 2), (row["sol1"], row["sol2"])
        items.append(_item(row, _asked(row["goal"], answers), _facts(row["goal"], answers, gold)))
    return Reading(items)


def read_arc(path: Path) -> Reading:
    """Questions with choices; columns id, question (text), choices (texts), gold (its index)."""
    columns = {"id": object, "question": str, "choices": list, "gold": int}
    items = []
    for place, row in _rows(path, columns):
        answers = _texts(place, row, "choices")
        gold = choice(place, row, "gold", len(answers))
        question = row["question"]
        items.append(_item(row, _asked(question, answers), _facts(question, answers, gold)))
    return Reading(items)


def read_winogrande(path: Path) -> Reading:
    """Two beginnings of one sentence; columns id, context_options (texts), continuation, gold."""
    columns = {"id": object, "context_options": list, "continuation": str, "gold": int}
    items = []
    for place, row in _rows(path, columns):
        contexts = _texts(place, row, "context_options")
        gold = choice(place, row, "gold", len(contexts))
        queries = tuple(Query(context, f" {row['continuation']}") for context in contexts)
        items.append(_item(row, queries, _facts(row["continuation"], contexts, gold)))
    return Reading(items)


def last_words(_items: Sequence[Item], scores: Sequence[Sequence[Score]]) -> Columns:
    """`correct` (greedy decoding gives the word) and `logprob` (of the word), N rows each."""
    return {
        "correct": np.array([float(score.greedy) for (score,) in scores]),
        "logprob": np.array([score.total for (score,) in scores]),
    }


def likeliest(items: Sequence[Item], scores: Sequence[Sequence[Score]]) -> Columns:
    """`correct`: whether the right choice is the likeliest one, the first of equal ones."""
    return {"correct": _chosen(items, scores, lambda _: 1)}


def likeliest_by_length(items: Sequence[Item], scores: Sequence[Sequence[Score]]) -> Columns:
    """The same, beside it log-likelihoods per character and per byte of the answers."""
    return {
        **likeliest(items, scores),
        "correct_norm": _chosen(items, scores, len),
        "correct_bytes": _chosen(items, scores, lambda text: len(text.encode())),
    }


def _chosen(
    items: Sequence[Item], scores: Sequence[Sequence[Score]], length: Callable[[str], int]
) -> Floats:
    right = []
    for item, own in zip(items, scores, strict=True):
        answers = zip(own, item.facts["answers"], strict=True)
        values = [score.total / length(answer) for score, answer in answers]
        right.append(float(np.argmax(values) == item.facts["gold"]))
    return np.array(right)


def _rows(path: Path, columns: dict[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    seen: dict[str, str] = {}
    for place, row in json_rows(path, columns):
        first = seen.setdefault(str(row["id"]), place)
        if first != place:
            raise DataError(
                f"{place}: id {row['id']!r} is that of {first} too. Give each row its own."
            )
        yield place, row


def _item(row: dict[str, Any], queries: tuple[Query, ...], facts: dict[str, Any]) -> Item:
    return Item(str(row["id"]), queries, cluster=str(row["id"]), facts=facts)


def _asked(question: str, answers: Sequence[str]) -> tuple[Query, ...]:
    return tuple(Query(f"Question: {question}\nAnswer:", f" {answer}") for answer in answers)


def _facts(about: str, answers: Sequence[str], gold: int) -> dict[str, Any]:
    return {"about": about, "answers": tuple(answers), "gold": gold}


def _texts(place: str, row: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = row[name]
    if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{place}: {name} is {texts!r}; expected are two or more texts.")
    return tuple(texts)


def _shown_word(item: Item) -> list[str]:
    return [f"{item.queries[0].context} [{item.facts['answer']}]"]


def _shown_choices(item: Item) -> list[str]:
    marks = ("right" if n == item.facts["gold"] else "wrong" for n in range(len(item.queries)))
    answers = zip(marks, item.facts["answers"], strict=True)
    return [item.facts["about"], *(f"{mark}: {answer}" for mark, answer in answers)]


def _loss(columns: Columns) -> Floats:
    """What is added for the perplexity: negative log-likelihood, and 1, for each item."""
    return np.stack([-columns["logprob"], np.ones(len(columns["logprob"]))], axis=1)


def _perplexity(sums: Floats) -> Floats:
    result: Floats = np.exp(np.minimum(over(sums[..., 0], sums[..., 1]), _LARGEST))
    return result


def _accuracy(chance: float | None) -> Measure:
    return Measure(
        "acc",
        "share of items answered right, 0 to 1",
        **mean_of("correct"),
        better="higher",
        scale=SHARE,
        chance=chance,
    )


def _normalised(name: str, column: str, unit: str, chance: float) -> Measure:
    return Measure(
        name,
        f"the same, log-likelihoods divided by the answers' length in {unit}",
        **mean_of(column),
        better="higher",
        scale=SHARE,
        headline=False,
        chance=chance,
    )


def _with_lengths(chance: float) -> tuple[Measure, ...]:
    return (
        _accuracy(chance),
        _normalised("acc_norm", "correct_norm", "characters", chance),
        _normalised("acc_bytes", "correct_bytes", "bytes", chance),
    )


_ASKED = (
    "Context 'Question: {question}\\nAnswer:', continuation ' {answer}' for each answer; the "
    "answer with the largest summed log-likelihood is taken. No examples are given."
)

TASKS.add(
    "lambada",
    Task(
        name="lambada",
        question="ability",
        help="the last word of a passage, which needs the whole passage",
        source="Paperno et al. 2016; lm-eval's lambada_openai, version 1.0",
        path="lambada/lambada_shared.jsonl",
        read=read_lambada,
        outcomes=last_words,
        measures=(
            _accuracy(None),
            Measure(
                "perplexity",
                "of the last word (all its tokens together), 1 or more",
                parts=_loss,
                value=_perplexity,
                better="lower",
                change="ratio",
                headline=False,
            ),
        ),
        texts=_shown_word,
        protocol=(
            "Context: the passage without its last word; continuation: a space and the word. Right "
            "if each of its tokens is the most likely one. Perplexity is exp of the mean negative "
            "summed log-likelihood of the word."
        ),
        answer="correct",
    ),
)
TASKS.add(
    "piqa",
    Task(
        name="piqa",
        question="ability",
        help="which of two ways reaches a physical goal",
        source="Bisk et al. 2020; lm-eval's piqa, version 1.0",
        path="piqa/piqa_shared.jsonl",
        read=read_piqa,
        outcomes=likeliest_by_length,
        measures=_with_lengths(0.5),
        texts=_shown_choices,
        protocol=_ASKED.replace("{question}", "{goal}"),
        answer="correct",
    ),
)
TASKS.add(
    "arc_easy",
    Task(
        name="arc_easy",
        question="ability",
        help="school science questions with three to five choices",
        source="Clark et al. 2018; lm-eval's arc_easy, version 1.0",
        path="arc_easy/arc_easy_shared.jsonl",
        read=read_arc,
        outcomes=likeliest_by_length,
        measures=_with_lengths(0.25),
        texts=_shown_choices,
        protocol=_ASKED,
        answer="correct",
    ),
)
TASKS.add(
    "winogrande",
    Task(
        name="winogrande",
        question="ability",
        help="which of two names a sentence goes on about",
        source="Sakaguchi et al. 2020; lm-eval's winogrande, version 1.0",
        path="winogrande/winogrande_shared.jsonl",
        read=read_winogrande,
        outcomes=likeliest,
        measures=(_accuracy(0.5),),
        texts=_shown_choices,
        protocol=(
            "Partial scoring (Trinh and Le 2018): context: the sentence up to and with each name; "
            "continuation: a space and the rest. The name after which the rest has the largest "
            "summed log-likelihood is taken."
        ),
        answer="correct",
    ),
)
