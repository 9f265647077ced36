"""What is planted in a model is found: a toy of `benchmarks/bias_validity.py`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from optipfair import Attribution, Contrast, attribute_bias
from optipfair.testing import byte_tokenizer, tiny_model

WORDS = (("nurse", "maid", "dancer", "nun"), ("pilot", "miner", "boxer", "king"))
MEASURED = Contrast(
    "planted",
    ("Once the {word} said", "Then the {word} said"),
    WORDS,
    ((" x",), (" y",)),
)
TRAINED = ("The {word} said", "So the {word} said")
STEPS, LEARNING_RATE = 30, 1e-2  # twice as many saturate the answer, and first order falls short


class Found(NamedTuple):
    came: Attribution
    balanced: Attribution
    planted: Attribution


@pytest.fixture(scope="module")
def found() -> Found:
    """The same toy as it came, and trained as long on both kinds alike and on each its own."""
    return Found(*(_attributed(answers) for answers in (None, ("xy", "xy"), ("x", "y"))))


def test_what_was_planted_rises(found: Found) -> None:
    for before in (found.came, found.balanced):
        assert found.planted.behaviour.value > before.behaviour.value + 0.5
        assert found.planted.total.value > before.total.value + 0.5
    for rising in (found.planted.behaviour, found.planted.total):
        assert rising.low is not None and rising.low > 0


def test_training_alone_plants_nothing(found: Found) -> None:
    assert abs(found.balanced.behaviour.value) < found.planted.behaviour.value / 4
    assert abs(found.balanced.total.value) < found.planted.total.value / 4


def test_what_is_predicted_of_a_planted_model_is_what_patching_finds(found: Found) -> None:
    predicted = np.array([each.predicted for each in found.planted.checks])
    patched = np.array([each.patched for each in found.planted.checks])
    ranks = [np.argsort(np.argsort(each)) for each in (predicted, patched)]
    assert len(predicted) == 8 and np.corrcoef(*ranks)[0, 1] >= 0.8


def _attributed(answers: tuple[str, str] | None) -> Attribution:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    if answers is not None:
        _train(model, tokenizer, answers)
    return attribute_bias(model, tokenizer, MEASURED, checked=8)[0]


def _train(model: Any, tokenizer: Any, answers: tuple[str, str]) -> None:
    """Teach which letter follows the words of each kind; the last byte of a row is the letter."""
    rows = [
        torch.tensor(tokenizer(f"{template.replace('{word}', word)} {letter}")["input_ids"])
        for template in TRAINED
        for kind, words in enumerate(WORDS)
        for word in words
        for letter in answers[kind]
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    ends = torch.tensor([len(row) - 1 for row in rows])
    wanted = torch.stack([row[-1] for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        logits = model(input_ids=ids, use_cache=False).logits  # padding stands behind
        loss = torch.nn.functional.cross_entropy(logits[range(len(rows)), ends - 1], wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
