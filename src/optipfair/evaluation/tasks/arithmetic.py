"""Small calculations that a model finishes by writing: does it write the right number.

They are read from worked solutions of word problems, which state them as people do:
`Judy brought 2*12 = 24`. The model is given the line up to the sign of equality. A calculation
counts only where its sides are equal, so no answer is wrong by itself.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from ...files.held_back import LEAST, held_back
from ..measures import SHARE, Columns, Measure, mean_of
from .reading import json_rows
from .task import Item, Items, Query, Reading, add, facts

DOMAIN = "math"
_NEW_TOKENS = 8
_LONGEST = 6  # characters of a result, so that it fits into them
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}|[0-9]{1,9})(?:\.[0-9]{1,6})?(?![0-9])"
_TERM = rf"\({{0,3}}\$?{_NUMBER}\){{0,3}}"
_CALCULATION = re.compile(
    rf"(?<![\w.,)/*+x×-])(?<![)/*+x×-] )"  # noqa: RUF001 - a calculation is taken from its beginning
    rf"(?P<left>{_TERM}(?:\s?[-+*/x×]\s?{_TERM}){{1,9}})\s?=\s?\$?(?P<right>{_NUMBER})"  # noqa: RUF001
)
_WRITTEN = re.compile(rf"\s*\$?({_NUMBER})")
_BY_HAND = str.maketrans({"x": "*", "×": "*", "$": None, ",": None})  # noqa: RUF001
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def read_arithmetic(path: Path) -> Reading:
    """The calculations of the documents of mathematics that are held back.

    A document holds problems, each `Question: ...`, a line that begins with `Answer:`, and further
    lines of the solution. Calculations of one problem are one cluster.
    """
    rows = [row for _, row in json_rows(path, {"domain": str, "text": str})]
    documents = [row for row in rows if row["domain"] == DOMAIN]
    texts = [str(row["text"]) for row in documents]
    kept = [texts[place] for place in held_back(texts, LEAST)]
    problems = [text for document in kept for text in document.split("Question: ")[1:]]
    items = [item for n, text in enumerate(problems) for item in _items(n, text)]
    return Reading(
        items,
        {
            "not of mathematics": len(rows) - len(documents),
            "not held back from training": len(documents) - len(kept),
        },
    )


def calculations(line: str) -> list[tuple[str, str]]:
    """Of each calculation in a line, the line up to its sign of equality, and the result.

    Example:
        >>> calculations("She paid 4 + 5 = $9, and he 2 x $3 = $6; 1/3 = 0.33.")
        [('She paid 4 + 5 =', '9'), ('She paid 4 + 5 = $9, and he 2 x $3 =', '6')]
    """
    return [
        (line[: found.end("left")].strip() + " =", found["right"])
        for found in _CALCULATION.finditer(line)
        if len(found["right"]) <= _LONGEST and value_of(found["left"]) == number_of(found["right"])
    ]


def value_of(text: str) -> Fraction | None:
    """What sums, differences, products and quotients of numbers come to, exactly; None if nothing.

    Example:
        >>> value_of("$1,000 - 2 x (3 + 1/2)")
        Fraction(993, 1)
    """
    try:
        return _value(ast.parse(text.translate(_BY_HAND).strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, ValueError):
        return None


def number_of(text: str) -> Fraction:
    """A number as people write it: `1,250.50`."""
    return Fraction(text.replace(",", ""))


def begins_with(text: str, wanted: str) -> bool:
    """Whether a text begins with a number, after spaces or a `$`, and whether it is the wanted."""
    found = _WRITTEN.match(text)
    return found is not None and number_of(found[1]) == number_of(wanted)


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    raise ValueError("no calculation")


def _items(problem: int, text: str) -> Iterator[Item]:
    lines = text.partition("\nAnswer:")[2].splitlines()
    found = [both for line in lines for both in calculations(line)]
    for number, (context, result) in enumerate(found):
        yield Item(
            f"{problem}.{number}",
            (Query(context, f" {result}"),),
            cluster=str(problem),
            facts={"result": result, "texts": [f"{context} [{result}]"]},
        )


def _outcomes(items: Items, written: Sequence[str]) -> Columns:
    results = facts(items, "result").tolist()
    right = [begins_with(text, own) for text, own in zip(written, results, strict=True)]
    return {"right": np.array(right, dtype=np.float64)}


add(
    "arithmetic",
    question="ability",
    help="small calculations, whose result the model writes",
    source="our own reading of worked solutions (Cobbe et al. 2021, GSM8K)",
    path="text_mix/train.jsonl",
    read=read_arithmetic,
    outcomes=_outcomes,
    writes=_NEW_TOKENS,
    answer="right",
    measures=(
        Measure(
            "exact",
            "share of calculations after which the right number is written, 0 to 1",
            **mean_of("right"),
            better="higher",
            scale=SHARE,
            answers="two",
        ),
    ),
    protocol=(
        "Prompt: the line of a worked solution up to the sign of equality, no examples. The model "
        f"writes {_NEW_TOKENS} tokens, the most likely one each time; right if they begin with the "
        "result, as a number. Only calculations whose two sides are equal are asked."
    ),
)
