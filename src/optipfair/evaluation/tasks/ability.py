"""Zero-shot ability: is the right answer the likelier one. Asked and scored as lm-eval does.

Every context is given without examples; the continuation begins with the space that separates it.
Length-normalised accuracy divides by characters, as lm-eval's `acc_norm` does, and beside it by
bytes (`acc_bytes`); both lengths are those of the answer without the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..measures import SHARE, Columns, Floats, Measure, exponential_of, mean_of
from .reading import Place, Row, choice, json_rows, reading_of
from .task import Item, Items, Query, Reading, Scores, add

Asked = tuple[tuple[Query, ...], dict[str, Any]]  # the queries of an item, and its facts


def _lambada(_place: Place, row: Row) -> Asked:
    """A passage whose last word is asked for."""
    word = row["continuation"]
    return (Query(row["context"], f" {word}"),), {"answer": word}


def _piqa(place: Place, row: Row) -> Asked:
    """Two ways to reach a goal; label 0: sol1 is right."""
    return _choices(row["goal"], (row["sol1"], row["sol2"]), choice(place, row, "label", 2))


def _arc(place: Place, row: Row) -> Asked:
    """A question with choices; gold is the index of the right one."""
    answers = _texts(place, row, "choices")
    return _choices(row["question"], answers, choice(place, row, "gold", len(answers)))


def _winogrande(place: Place, row: Row) -> Asked:
    """Two beginnings of one sentence, and how it goes on."""
    contexts = _texts(place, row, "context_options")
    gold = choice(place, row, "gold", len(contexts))
    queries = tuple(Query(context, f" {row['continuation']}") for context in contexts)
    return queries, {"about": row["continuation"], "answers": contexts, "gold": gold}


def _choices(question: str, answers: Sequence[str], gold: int) -> Asked:
    context = f"Question: {question}\nAnswer:"
    queries = tuple(Query(context, f" {answer}") for answer in answers)
    return queries, {"about": question, "answers": answers, "gold": gold}


def _texts(place: Place, row: Row, name: str) -> tuple[str, ...]:
    texts = row[name]
    if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{place}: {name} is {texts!r}; expected are two or more texts.")
    return tuple(texts)


def _reader(asked: Callable[[Place, Row], Asked], **columns: type) -> Callable[[Path], Reading]:
    """Reads rows of these columns and an id, what is asked in each."""

    def item(place: Place, row: Row) -> Item:
        queries, facts = asked(place, row)
        return Item(str(row["id"]), queries, cluster=str(row["id"]), facts=facts)

    return lambda path: reading_of(json_rows(path, {"id": object, **columns}), item)


def last_words(_items: Items, scores: Scores) -> Columns:
    """`correct` (greedy decoding gives the word) and `logprob` (of the word), N rows each."""
    return {
        "correct": np.array([float(score.greedy) for (score,) in scores]),
        "logprob": np.array([score.total for (score,) in scores]),
    }


def likeliest(items: Items, scores: Scores) -> Columns:
    """`correct`: whether the right choice is the likeliest one, the first of equal ones."""
    return {"correct": _chosen(items, scores, lambda _: 1)}


def likeliest_by_length(items: Items, scores: Scores) -> Columns:
    """The same, beside it log-likelihoods per character and per byte of the answers."""
    return {
        **likeliest(items, scores),
        "correct_norm": _chosen(items, scores, len),
        "correct_bytes": _chosen(items, scores, lambda text: len(text.encode())),
    }


def _chosen(items: Items, scores: Scores, length: Callable[[str], int]) -> Floats:
    right = []
    for item, own in zip(items, scores, strict=True):
        answers = zip(own, item.facts["answers"], strict=True)
        values = [score.total / length(answer) for score, answer in answers]
        right.append(float(np.argmax(values) == item.facts["gold"]))
    return np.array(right)


def _shown_choices(item: Item) -> list[str]:
    answers = enumerate(item.facts["answers"])
    marks = {item.facts["gold"]: "right"}
    return [item.facts["about"], *(f"{marks.get(n, 'wrong')}: {text}" for n, text in answers)]


def _accuracy(chance: float | None, ending: str = "", told: str = "") -> Measure:
    return Measure(
        f"acc{ending}",
        told or "share of items answered right, 0 to 1",
        **mean_of(f"correct{ending}"),
        better="higher",
        scale=SHARE,
        answers="two",
        chance=chance,
        headline=not ending,
    )


def _with_lengths(chance: float) -> tuple[Measure, ...]:
    same = "the same, log-likelihoods divided by the answers' length in"
    return (
        _accuracy(chance),
        _accuracy(chance, "_norm", f"{same} characters"),
        _accuracy(chance, "_bytes", f"{same} bytes"),
    )


_ASKED = (
    "Context 'Question: {question}\\nAnswer:', continuation ' {answer}' for each answer; the "
    "answer with the largest summed log-likelihood is taken. No examples are given."
)
_add = partial(add, question="ability", answer="correct", texts=_shown_choices)

_add(
    "lambada",
    help="the last word of a passage, which needs the whole passage",
    source="Paperno et al. 2016; lm-eval's lambada_openai, version 1.0",
    path="lambada/lambada_shared.jsonl",
    read=_reader(_lambada, context=str, continuation=str),
    outcomes=last_words,
    measures=(
        _accuracy(None),
        Measure(
            "perplexity",
            "of the last word (all its tokens together), 1 or more",
            **exponential_of(lambda c: -c["logprob"], lambda c: np.ones(len(c["logprob"]))),
            better="lower",
            change="ratio",
            headline=False,
        ),
    ),
    texts=lambda item: [f"{item.queries[0].context} [{item.facts['answer']}]"],
    protocol=(
        "Context: the passage without its last word; continuation: a space and the word. Right "
        "if each of its tokens is the most likely one. Perplexity is exp of the mean negative "
        "summed log-likelihood of the word."
    ),
)
_add(
    "piqa",
    help="which of two ways reaches a physical goal",
    source="Bisk et al. 2020; lm-eval's piqa, version 1.0",
    path="piqa/piqa_shared.jsonl",
    read=_reader(_piqa, goal=str, sol1=str, sol2=str, label=int),
    outcomes=likeliest_by_length,
    measures=_with_lengths(0.5),
    protocol=_ASKED.replace("{question}", "{goal}"),
)
_add(
    "arc_easy",
    help="school science questions with three to five choices",
    source="Clark et al. 2018; lm-eval's arc_easy, version 1.0",
    path="arc_easy/arc_easy_shared.jsonl",
    read=_reader(_arc, question=str, choices=list, gold=int),
    outcomes=likeliest_by_length,
    measures=_with_lengths(0.25),
    protocol=_ASKED,
)
_add(
    "winogrande",
    help="which of two names a sentence goes on about",
    source="Sakaguchi et al. 2020; lm-eval's winogrande, version 1.0",
    path="winogrande/winogrande_shared.jsonl",
    read=_reader(_winogrande, context_options=list, continuation=str, gold=int),
    outcomes=likeliest,
    measures=(_accuracy(0.5),),
    protocol=(
        "Partial scoring (Trinh and Le 2018): context: the sentence up to and with each name; "
        "continuation: a space and the rest. The name after which the rest has the largest "
        "summed log-likelihood is taken."
    ),
)
