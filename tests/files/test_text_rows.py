"""Rows of data files as texts: the shapes that people publish, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from optipfair.errors import DataError, PruningWarning
from optipfair.files.text_rows import read_texts
from optipfair.testing import byte_tokenizer

ASK, ANSWER = "Name a hat.", "A fedora is a hat."
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def _written(folder: Path, *rows: Any, name: str = "x.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def _chatting(template: str = TEMPLATE) -> Any:
    tokenizer: Any = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


SHAPES: dict[str, dict[str, Any]] = {
    "messages": {
        "prompt_id": "a1",
        "prompt": ASK,
        "messages": [{"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}],
    },
    "conversations": {
        "id": "identity_0",
        "conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}],
    },
    "conversation": {"conversation": [
        {"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}
    ]},
    "alpaca": {"instruction": ASK, "input": "", "output": ANSWER},
    "dolly": {"instruction": ASK, "context": "", "response": ANSWER, "category": "open_qa"},
    "completion": {"prompt": ASK, "completion": ANSWER},
    "messages on both sides": {
        "prompt": [{"role": "user", "content": ASK}],
        "completion": [{"role": "assistant", "content": ANSWER}],
    },
    "question": {"id": "q1", "question": ASK, "answer": ANSWER},
    "input and output": {"input": ASK, "output": ANSWER},
    "parts": {"messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASK}]},
        {"role": "assistant", "content": ANSWER},
    ]},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_chats_and_instructions_go_through_the_chat_template(tmp_path: Path, shape: str) -> None:
    path = _written(tmp_path, SHAPES[shape])
    texts = read_texts(path, tokenizer=_chatting())
    assert texts.rows == [f"[user]{ASK}[assistant]{ANSWER}"]
    assert texts.templated


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_template_messages_are_joined(tmp_path: Path, shape: str) -> None:
    texts = read_texts(_written(tmp_path, SHAPES[shape]), tokenizer=byte_tokenizer())
    assert texts.rows == [f"{ASK}\n\n{ANSWER}"]
    assert not texts.templated


def test_an_instruction_comes_with_what_it_is_about_and_a_system_prompt(tmp_path: Path) -> None:
    row = {"system": "Be kind.", "instruction": ASK, "input": "It is red.", "output": ANSWER}
    texts = read_texts(_written(tmp_path, row), tokenizer=_chatting())
    assert texts.rows == [f"[system]Be kind.[user]{ASK}\n\nIt is red.[assistant]{ANSWER}"]


def test_a_list_of_rows_in_a_json_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "alpaca_data.json"
    path.write_text(json.dumps([SHAPES["alpaca"], SHAPES["alpaca"]], indent=2), encoding="utf-8")
    assert read_texts(path).rows == [f"{ASK}\n\n{ANSWER}"] * 2


def test_a_field_that_holds_messages_can_be_asked_for(tmp_path: Path) -> None:
    row = {"id": 1, "chosen": SHAPES["messages"]["messages"], "rejected": []}
    texts = read_texts(_written(tmp_path, row), name="chosen", tokenizer=_chatting())
    assert texts.rows == [f"[user]{ASK}[assistant]{ANSWER}"]


def test_a_template_that_refuses_a_row_is_left_out_with_a_warning(tmp_path: Path) -> None:
    refusing = "{{ raise_exception('no system role') }}"
    with pytest.warns(PruningWarning, match="refuses 1 of 1 rows.*no system role.*without it"):
        texts = read_texts(_written(tmp_path, SHAPES["alpaca"]), tokenizer=_chatting(refusing))
    assert texts.rows == [f"{ASK}\n\n{ANSWER}"]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (
            [{"id": "a", "body": "Long text."}],
            "fields are 'id', 'body'. Say .*for example x='body'",
        ),
        ([{"question": ASK, "answer": 3}], "fields are 'question', 'answer'"),
        ([{"conversations": []}], "fields are 'conversations'"),
        ([{"messages": [{"role": "user"}, 3]}], "fields are 'messages'"),
        ([{"text": " "}, {"text": ""}], "holds only blank text"),
        ([{"instruction": "", "input": " ", "output": ""}], "holds only blank text"),
        ([{"text": "identity_0"}, {"text": "identity_1"}], "identifiers such as 'identity_0'"),
        ([{"content": "3f2a-77"}], "identifiers such as '3f2a-77' .* Say by x which field"),
        ([{}], "Its fields are none"),
        ([None], "holds a NoneType, no object"),
    ],
    ids=str,
)
def test_rows_without_text_are_refused_with_their_fields(
    tmp_path: Path, rows: list[Any], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        read_texts(_written(tmp_path, *rows), option="x")


def test_identifiers_are_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    path = _written(tmp_path, SHAPES["conversations"])
    with pytest.raises(DataError, match="holds identifiers such as 'identity_0'"):
        read_texts(path, name="id")
    with pytest.raises(DataError, match=r"no text in the field 'body'\. Its fields are 'id', 'con"):
        read_texts(path, name="body")
    with pytest.raises(DataError, match=r"names a field, and .* has none"):
        read_texts(_written(tmp_path, "words", name="x.txt"), name="text")


def test_blank_rows_among_others_are_left_out(tmp_path: Path) -> None:
    rows = [{"text": text} for text in ("", " = Title = ", "", "", "Words.", "")]
    with pytest.warns(PruningWarning, match="4 of 6 rows of .* are blank"):
        assert read_texts(_written(tmp_path, *rows)).rows == [" = Title = ", "Words."]


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.txt")
    with pytest.raises(DataError, match="cannot be read: it is no regular file"):
        read_texts(tmp_path / "x.txt")
