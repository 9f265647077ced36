"""Calibration text: which files are read, and what is said of those that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair.errors import ArgumentError, DataError
from optipfair.pruning.calibration.calibration_texts import (
    CalibrationText,
    calibration_loader,
    digest,
)
from optipfair.pruning.calibration.text_sources import read_source, sources_of, strands_of
from optipfair.testing import byte_tokenizer

WORDS = "words and more of them " * 20


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("x.txt", b"a\r\n\xe2\x80\xa8b\n\nc", ["a\n\u2028b\n\nc"]),
        ("x.txt", b"\xef\xbb\xbfmarked", ["marked"]),
        ("noted", b"without a suffix", ["without a suffix"]),
        ("x.jsonl", b'{"text": "a"}\r\n\n{"b": 1, "text": "c"}\n \n', ["a", "c"]),
        ("X.JSONL", b'{"id": 3, "content": "first string"}', ["first string"]),
        ("x.json", b'[{"text": "a"}, "b"]', ["a", "b"]),
        ("x.jsonl", '"a\u2028b\x85c"'.encode(), ["a\u2028b\x85c"]),  # no ends of lines
        ("x.jsonl", b'\xef\xbb\xbf{"text": "marked"}', ["marked"]),
    ],
    ids=str,
)
def test_texts_are_read_as_they_were_written(
    tmp_path: Path, name: str, content: bytes, texts: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    text = CalibrationText(str(tmp_path / name))
    text.check()
    assert read_source(text.source).rows == texts


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.txt", "words".encode("utf-16"), "cannot be read: .* Give a file of text in UTF-8"),
        ("x.txt", b"a\0b", "holds zero bytes, so it is no text. Give a .txt"),
        ("x.json", b'{"text": "a"}', "is JSON, but no list of rows. Give a .txt file, or a .jsonl"),
        ("x.csv", b"text\na", "is a table, no text. Give a .txt"),
        ("x.txt.gz", b"\x1f\x8b", "is packed, no text. Give a .txt"),
        ("x.txt", b'{"text": "a"}\n{"text": "b"}', "holds JSON in its lines.*ending .jsonl"),
        ("x.txt", b" \n\t\n", "holds only blank text. Give"),
        ("x.jsonl", b"", "holds no rows. Give"),
        ("x.jsonl", b'"a"\n{"text": "b', r"line 2 is not valid JSON \(Untermin.* column 10\)"),
        ("x.jsonl", b"[" * 100_000, r"line 1 is not valid JSON \(maximum recursion"),
        ("x.jsonl", b"1" * 9999, r"line 1 is not valid JSON \(Exceeds the limit"),
        ("x.jsonl", b'{"a": 1, "b": null}', "line 1 holds no field.* Its fields are 'a', 'b'. Say"),
        ("x.jsonl", b'{"text": null, "b": "c"}', "Its fields are 'text', 'b'. Say .*_field='b'"),
        ("x.jsonl", b'["a"]', "line 1 holds a list, no object with fields. Give"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_of_another_kind_are_refused(
    tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        text = CalibrationText(str(tmp_path / name))
        text.check()
        read_source(text.source)


@pytest.mark.parametrize(
    "source",
    [
        "x.txt",
        "x.TXT",
        "x.csv",
        "org/x.jsonl",
        "/none/x",
        "./x",
        "a/b/c",
        "",
        " ",
        "a\0b",
        "x" * 999,
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_neither_file_nor_dataset_is_refused_before_any_work(source: str) -> None:
    with pytest.raises(DataError, match=r"no calibration file '.*Give a \.txt .* id of a"):
        CalibrationText(source).check()


@pytest.mark.parametrize("source", ["org/name", "wikitext", "org/name.v1-raw_2"])
def test_a_dataset_says_what_to_install(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    text = CalibrationText(source)
    text.check()
    with pytest.raises(DataError, match=f"{source}' is no file. .*install: pip install datasets"):
        read_source(text.source)


def test_a_folder_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    text = CalibrationText(str(tmp_path))
    text.check()
    with pytest.raises(DataError, match="is a folder, no file"):
        read_source(text.source)


@pytest.mark.parametrize(
    ("numbers", "match"),
    [
        ({"samples": 0}, "calibration_samples=0 is outside .*1 or more"),
        ({"samples": "8"}, "calibration_samples='8' is no whole number"),
        ({"samples": True}, "calibration_samples=True is no whole number"),
        ({"length": 1}, "calibration_length=1 is no whole number of 2 or more"),
        ({"length": 2.0}, "calibration_length=2.0 is no whole number of 2 or more"),
        ({"length": float("nan")}, "calibration_length=nan is no whole"),
        ({"seed": -1}, r"seed=-1 is no whole number from 0 to 2\*\*64 - 1"),
        ({"seed": 2**64}, f"seed={2**64} is no whole number from"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, numbers: dict[str, Any], match: str
) -> None:
    (tmp_path / "x.txt").write_text(WORDS)
    with pytest.raises(ArgumentError, match=match):
        CalibrationText(str(tmp_path / "x.txt"), **numbers).check()


def test_no_more_sequences_are_drawn_than_there_are_places(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(WORDS)  # 460 tokens, of which 5 * 9 are held back
    for samples in (406, 1025, 10**30):  # 1024 always go, on an accelerator unasked
        text = CalibrationText(str(tmp_path / "x.txt"), samples=samples, length=9, seed=2**64 - 1)
        if samples == 406:
            assert sum(len(batch.input_ids) for batch in text.draw(byte_tokenizer()).batches) == 406
            continue
        with pytest.raises(ArgumentError, match=f"samples={samples} is more than the 406 places"):
            text.draw(byte_tokenizer())


def test_half_a_surrogate_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": f"{WORDS}\ud800{WORDS}"}))
    drawn = CalibrationText(str(tmp_path / "x.jsonl"), length=32).draw(byte_tokenizer())
    assert len(drawn.batches) == 32


def test_the_batch_size_changes_the_batches_alone(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("Some words, and some more of them. " * 99)
    source = str(tmp_path / "x.txt")
    drawn = [
        CalibrationText(source, 10, 32, batch_size=size).draw(byte_tokenizer()) for size in (3, 8)
    ]
    assert [[len(batch.input_ids) for batch in each.batches] for each in drawn] == [
        [3, 3, 3, 1],
        [8, 2],
    ]
    assert digest(drawn[0].batches) == digest(drawn[1].batches)
    with pytest.raises(ArgumentError, match="calibration_batch_size=0 is outside"):
        CalibrationText(source, batch_size=0).check()


ROWS = [{"id": f"row-{n}", "title": "T", "story": f"A story of {n} hats. " * 9} for n in range(40)]


def test_a_field_that_is_asked_for_is_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    drawn = CalibrationText(str(tmp_path / "x.jsonl"), 4, 32, field="story").draw(byte_tokenizer())
    shown = byte_tokenizer().decode(drawn.batches[0].input_ids[0])
    assert "hats" in shown
    with pytest.raises(DataError, match=r"Its fields are 'id', 'title', 'story'. Say .*='story'"):
        read_source(str(tmp_path / "x.jsonl"))
    with pytest.raises(ArgumentError, match="calibration_field='' is no name of a field"):
        CalibrationText(str(tmp_path / "x.jsonl"), field="").check()


def test_text_that_repeats_itself_says_that_what_is_held_back_was_seen(tmp_path: Path) -> None:
    (tmp_path / "again.txt").write_text("The same sentence comes again, word by word. " * 90)
    (tmp_path / "once.txt").write_text(" ".join(f"{n * n} hats and {n} coats." for n in range(300)))
    draw = [
        CalibrationText(str(tmp_path / name), 4, 32).draw(byte_tokenizer()).repeated
        for name in ("again.txt", "once.txt")
    ]
    assert draw == [1.0, 0.0]


def test_a_template_writes_the_tokens_that_begin_a_text_and_none_come_before(
    tmp_path: Path,
) -> None:
    said = [{"role": "user", "content": WORDS}, {"role": "assistant", "content": WORDS}]
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "<bos>{% for m in messages %}{{ m.role }}: {{ m.content }}<eos>{% endfor %}"
    )
    text = read_source(str(tmp_path / "x.jsonl"), None, tokenizer)
    assert text.joined == f"<bos>user: {WORDS}<eos>assistant: {WORDS}<eos>"
    assert text.templated


def test_the_bundled_text_gives_batches_for_any_tokenizer() -> None:
    options: dict[str, Any] = {"samples": 6, "length": 32, "batch_size": 4}
    batches = list(calibration_loader("builtin", byte_tokenizer(), **options))
    assert [tuple(each["input_ids"].shape) for each in batches] == [(4, 32), (2, 32)]
    assert all(bool(each["attention_mask"].all()) for each in batches)
    again = list(calibration_loader("builtin", byte_tokenizer(), **options))
    other = list(calibration_loader("builtin", byte_tokenizer(), seed=1, **options))
    assert batches[0]["input_ids"].equal(again[0]["input_ids"])
    assert not batches[0]["input_ids"].equal(other[0]["input_ids"])


def test_several_sources_take_turns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 900)
    (tmp_path / "b.txt").write_text("b" * 900)
    source = f"{tmp_path / 'a.txt'}, {tmp_path / 'b.txt'}"
    drawn = CalibrationText(source, 5, 16).draw(byte_tokenizer())
    rows = torch.cat([batch.input_ids for batch in drawn.batches])
    letters = [byte_tokenizer().decode(row[-1:]) for row in rows]
    assert letters == ["a", "b", "a", "b", "a"]
    assert len(drawn.sha256.split(",")) == 2
    assert {byte_tokenizer().decode(row[-1:]) for row in drawn.held_back[0].input_ids} == {"a", "b"}


def test_a_file_may_have_commas_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a,b.txt").write_text(WORDS)
    assert sources_of(str(tmp_path / "a,b.txt")) == (str(tmp_path / "a,b.txt"),)
    with pytest.raises(DataError, match=r"no calibration file 'b\.txt'"):
        CalibrationText("builtin,b.txt").check()


def test_a_field_needs_rows_that_have_it() -> None:
    with pytest.raises(ArgumentError, match=r"calibration_field='x' names a field .* is neither"):
        CalibrationText("builtin,self", field="x").check()


def test_more_sources_than_sequences_are_refused() -> None:
    with pytest.raises(ArgumentError, match="calibration_samples=1 is less than the 2 sources"):
        CalibrationText("builtin,builtin", 1).check()


def test_numbers_that_were_not_given_suit_the_model_and_the_device() -> None:
    text = CalibrationText("builtin")
    assert (text.settled().samples, text.settled().length) == (256, 512)
    assert text.settled(128).length == 128
    assert text.settled(accelerated=True).samples == 1024
    assert CalibrationText("builtin", 7, 600).settled(128, accelerated=True).length == 600


def test_story_like_text_has_the_larger_part_of_the_bundled_text() -> None:
    text = read_source("builtin")
    strands = strands_of("builtin", text)
    assert sorted(row for strand in strands for row in strand.texts.rows) == sorted(text.rows)
    assert [strand.share for strand in strands] == [8, 12, 6, 3, 4, 1]
    drawn = CalibrationText("builtin", samples=68, length=64).draw(byte_tokenizer())
    rows = torch.cat([batch.input_ids for batch in drawn.batches])
    counts = [_among(rows, strand.texts.joined) for strand in strands]
    assert counts == [16, 24, 12, 6, 8, 2]
    assert [_among(rows[:34], strand.texts.joined) for strand in strands] == [8, 12, 6, 3, 4, 1]
    assert all(_among(drawn.held_back[0].input_ids, strand.texts.joined) for strand in strands)


def test_a_domain_that_is_shorter_than_a_sequence_is_left_out() -> None:
    (longest,) = {
        max(len(s.texts.joined.encode()) for s in strands_of("builtin", read_source("builtin")))
    }
    drawn = CalibrationText("builtin", samples=3, length=longest - 1000).draw(byte_tokenizer())
    assert torch.cat([batch.input_ids for batch in drawn.batches]).shape == (3, longest - 1000)
    with pytest.raises(DataError, match=r"The calibration text builtin has .* tokens, a sequence"):
        CalibrationText("builtin", samples=3, length=longest * 2).draw(byte_tokenizer())


def _among(rows: torch.Tensor, text: str) -> int:
    """How many rows of token ids stand in a text."""
    whole = torch.tensor(byte_tokenizer()(text)["input_ids"]).numpy().tobytes()
    return sum(row.numpy().tobytes() in whole for row in rows)
