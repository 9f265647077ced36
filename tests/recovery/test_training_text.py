"""Text to train on: whole documents are held back, and the rest is read as often as needed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from optipfair import ArgumentError, DataError
from optipfair.recovery.training_text import TrainingText
from optipfair.testing import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def decoded(rows: torch.Tensor) -> str:
    return str(TOKENIZER.decode(rows.flatten().tolist()))


DOCUMENTS = [f"<{number:03d}>" * 12 for number in range(60)]


def test_documents_that_are_held_back_are_not_trained_on(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", DOCUMENTS)
    drawn = TrainingText(file, 6000, 16).drawn(TOKENIZER)
    train, judged = decoded(drawn.rows), decoded(drawn.held_back)
    held = [each for each in DOCUMENTS if each[:5] in judged]
    assert len(held) == 3  # one in twenty
    assert all(2 * each[:5] not in train for each in held)
    assert sum(2 * each[:5] in train for each in DOCUMENTS) == 57


def test_as_many_documents_are_held_back_as_a_sequence_takes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", DOCUMENTS)
    drawn = TrainingText(file, 2000, 400).drawn(TOKENIZER)
    assert 1 <= len(drawn.held_back) <= 2  # three documents have 183 tokens, a sequence 400
    assert all(
        2 * each[:5] not in decoded(drawn.rows)
        for each in re.findall("<[0-9]{3}>", decoded(drawn.held_back))
    )


def test_what_is_held_back_does_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    one = TrainingText(write(tmp_path / "a.jsonl", DOCUMENTS), 2000, 16).drawn(TOKENIZER)
    other = TrainingText(write(tmp_path / "b.jsonl", DOCUMENTS[::-1]), 2000, 16).drawn(TOKENIZER)
    assert set(decoded(one.held_back)) == set(decoded(other.held_back))
    names = [
        {each[:5] for each in DOCUMENTS if each[:5] in decoded(d.held_back)} for d in (one, other)
    ]
    assert names[0] == names[1]


def test_each_domain_holds_some_back(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"text": text, "domain": "fg"[n % 3 == 0]} for n, text in enumerate(DOCUMENTS)]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    drawn = TrainingText(str(file), 2000, 16).drawn(TOKENIZER)
    held = [n for n, each in enumerate(DOCUMENTS) if each[:5] in decoded(drawn.held_back)]
    assert {n % 3 == 0 for n in held} == {True, False}


def test_a_copy_of_a_held_back_document_is_held_back_too(tmp_path: Path) -> None:
    drawn = TrainingText(write(tmp_path / "a.jsonl", DOCUMENTS * 2), 9000, 16).drawn(TOKENIZER)
    judged = decoded(drawn.held_back)
    held = [each for each in DOCUMENTS if each[:5] in judged]
    train = decoded(drawn.rows)
    assert held and all(2 * each[:5] not in train for each in held)


def test_short_text_is_read_again_in_another_order(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", DOCUMENTS)
    known = len(TrainingText(file, 10**4, 16).drawn(TOKENIZER).rows)
    drawn = TrainingText(file, 10**4, 16).drawn(TOKENIZER)
    assert len(drawn.rows) == 10**4 // 16 == known
    assert drawn.repeats == pytest.approx(10**4 / (57 * 61), rel=0.02)  # 60 bytes and an end each
    assert not torch.equal(drawn.rows[:200], drawn.rows[200:400])


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", DOCUMENTS)
    first, second, other = (
        TrainingText(file, 2000, 16, seed).drawn(TOKENIZER).rows for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_one_long_text_is_cut_into_its_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    drawn = TrainingText(str(file), 2000, 16).drawn(TOKENIZER)
    assert len(drawn.rows) == 125
    assert 1 <= len(drawn.held_back) <= 16


def test_the_bundled_text_and_a_file_share_the_tokens(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", DOCUMENTS)
    drawn = TrainingText(f"builtin,{file}", 3200, 16).drawn(TOKENIZER)
    of_file = sum("<0" in decoded(row) for row in drawn.rows)
    assert len(drawn.rows) == 200
    assert 90 <= of_file <= 100  # rows that hold the head of a document


def test_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ["one", "two"])
    with pytest.raises(DataError, match="in 2 documents"):
        TrainingText(file, 100, 16).drawn(TOKENIZER)


def test_self_written_text_needs_the_model() -> None:
    with pytest.raises(ArgumentError, match="written by the model"):
        TrainingText("self", 100, 16).drawn(TOKENIZER)


def test_a_model_writes_text_to_train_on_and_to_judge_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIPFAIR_CACHE", str(tmp_path))
    drawn = TrainingText("self", 320, 16).drawn(TOKENIZER, lambda: tiny_model("llama"))
    assert drawn.rows.shape == (20, 16)
    assert drawn.held_back.shape == (1, 16)
