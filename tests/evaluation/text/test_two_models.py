"""Models on the same text: against the one-model function, and a slow oracle."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
import torch

from optipfair import ModelOutputError, perplexity, prune_model
from optipfair.evaluation.changes import compare
from optipfair.evaluation.measures import groups, taken
from optipfair.evaluation.one_figure import estimate
from optipfair.evaluation.text.two_models import TEXT_MEASURES, Text, on_text, pieces, windows
from optipfair.testing import byte_tokenizer, tiny_model

TEXT = "A low, flat boat carried grain and salt along the river in summer. " * 3


def whole(tokens: int | None = None) -> Text:
    return Text("text", TEXT, "", tokens)


def pair() -> tuple[Any, Any]:
    original, pruned = tiny_model("llama"), tiny_model("llama")
    prune_model(pruned, pruning_percentage=40, show_progress=False)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pruned.lm_head.weight += torch.randn(pruned.lm_head.weight.shape, generator=noise)
    return original, pruned


@pytest.mark.parametrize(("context", "stride"), [(32, 32), (32, 8), (128, 100)])
def test_perplexity_is_that_of_one_model(context: int, stride: int) -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    columns, facts = on_text({"m": model}, tokenizer, whole(), context=context, stride=stride)
    expected = perplexity(model, tokenizer, TEXT, context=context, stride=stride)
    value = estimate(TEXT_MEASURES[0], columns[0], range(len(columns[0]["nll"]))).value
    assert value == pytest.approx(expected.value, rel=1e-6)
    assert facts.tokens == expected.tokens


def test_two_models_against_an_oracle() -> None:
    models, tokenizer = pair(), byte_tokenizer()
    columns, facts = on_text(
        dict(zip("ab", models, strict=True)), tokenizer, whole(), context=48, stride=48
    )
    ids = tokenizer(TEXT, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    divergence, same, count = 0.0, 0, 0
    for start in range(0, len(ids), 48):
        window = ids[start : start + 48][None]
        with torch.no_grad():
            old, new = (m(window).logits[0, :-1].double().log_softmax(-1) for m in models)
        divergence += float((old.exp() * (old - new)).sum())
        same += int((old.argmax(-1) == new.argmax(-1)).sum())
        count += len(old)
    windows = range(len(columns[0]["nll"]))
    by_name = {m.name: compare(m, *columns, windows) for m in TEXT_MEASURES}
    assert facts.tokens == count
    assert by_name["kl"].pruned.value == pytest.approx(divergence / count, rel=1e-4)
    assert by_name["kl"].original.value == pytest.approx(0.0, abs=1e-9)
    assert by_name["agreement"].pruned.value == pytest.approx(same / count)
    assert by_name["agreement"].original.value == 1.0
    ratio = by_name["perplexity"]
    assert ratio.change.value == pytest.approx(
        (ratio.pruned.value or 0) / (ratio.original.value or 1)
    )
    words = by_name["word_perplexity"].original.value
    loss = sum(columns[0]["nll"])
    assert words == pytest.approx(math.exp(loss / len(TEXT.split())))
    bits = by_name["bits_per_byte"].original.value
    assert bits == pytest.approx(loss / math.log(2) / len(TEXT.encode()))


def test_the_first_tokens_only() -> None:
    _, facts = on_text({"m": tiny_model("llama")}, byte_tokenizer(), whole(20))
    assert (facts.tokens, facts.bytes) == (19, 20)


def test_numbers_that_are_not_finite_name_the_model() -> None:
    original, pruned = pair()
    with torch.no_grad():
        pruned.model.norm.weight.fill_(math.nan)
    with pytest.raises(ModelOutputError, match="model pruned gives predictions that are not"):
        on_text({"original": original, "pruned": pruned}, byte_tokenizer(), whole())


def test_positions_are_grouped_by_the_tokens_before_them() -> None:
    """A window of 300 tokens predicts positions 1 to 299; 16, 64 and 256 begin groups."""
    found = pieces(1, 299)
    assert [(each.start, each.end, each.positions) for each in found] == [
        (0, 15, "0-15"),  # positions 1 to 15
        (15, 63, "16-63"),
        (63, 64, "64-255"),  # position 64, drawn with the 63 before it
        (64, 128, "64-255"),
        (128, 192, "64-255"),
        (192, 255, "64-255"),  # positions 193 to 255
        (255, 256, "256-"),
        (256, 299, "256-"),
    ]
    assert [tuple(each) for each in pieces(16, 2)] == [(0, 2, "16-63")]
    assert [tuple(each) for each in pieces(500, 65)] == [(0, 64, "256-"), (64, 65, "256-")]


@pytest.mark.parametrize(("context", "stride"), [(100, 100), (100, 30)])
def test_divergence_by_position_is_that_of_an_oracle(context: int, stride: int) -> None:
    models, tokenizer = pair(), byte_tokenizer()
    columns, _ = on_text(
        dict(zip("ab", models, strict=True)), tokenizer, whole(), context=context, stride=stride
    )
    ids = tokenizer(TEXT, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    expected: dict[str, list[float]] = defaultdict(list)
    for start, end, last in windows(len(ids), context, stride):
        with torch.no_grad():
            old, new = (
                m(ids[start:end][None]).logits[0, :-1].double().log_softmax(-1) for m in models
            )
        own = (old.exp() * (old - new)).sum(-1).tolist()
        for position, value in list(enumerate(own, start=1))[-last:]:
            name = "0-15" if position < 16 else "16-63" if position < 64 else "64-255"
            expected[name].append(value)
    (kl,) = [each for each in TEXT_MEASURES if each.name == "kl"]
    found = {name: rows for name, rows in groups(kl, columns[0]).items() if name is not None}
    assert list(found) == ["0-15", "16-63", "64-255"]
    for name, rows in found.items():
        own_rows = taken(columns[1], rows)
        assert own_rows["tokens"].sum() == len(expected[name])
        value = estimate(kl, own_rows, range(int(rows.sum()))).value
        assert value == pytest.approx(sum(expected[name]) / len(expected[name]), rel=1e-4)
