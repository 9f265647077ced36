"""Texts of data files: rows in the shapes that people publish, as a model would read them.

A row is a text, or an object with one: in a field of a known name or of one that was asked for, or
as messages, or as an instruction with its answer. What is none of these is refused, and its fields
are listed; so are blank texts and identifiers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..noted import warn
from .foreign import read_text, reading

_MOST = 4 * 2**30  # bytes of a file
_OF_ROWS = (".jsonl", ".ndjson", ".json")
_OTHERS = {
    **dict.fromkeys((".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx"), "a table"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z"), "packed"),
    **dict.fromkeys((".html", ".htm", ".xml", ".yaml", ".yml"), "markup"),
    **dict.fromkeys((".pdf", ".docx", ".epub"), "a document with a layout"),
}
_GIVE = "Give a .txt file, or a .jsonl file with a text, messages, or an instruction in each line"
_TEXTS = ("text", "content")
_MESSAGES = ("messages", "conversations", "conversation")
_SYSTEM = ("system", "system_prompt")
_QUESTIONS = ("instruction", "prompt", "question", "query")
_BESIDE = ("input", "context")  # what an instruction is about
_ANSWERS = ("output", "response", "completion", "answer")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
_IDENTIFIER = re.compile(r"(?=\D*\d)[\w.:/+#-]{1,80}", re.ASCII)

Message = dict[str, str]  # `role` and `content`


@dataclass(frozen=True)
class Texts:
    """The texts of a file, of which none is blank.

    Those that a chat template made hold the tokens that begin and end them.
    """

    rows: list[str]
    templated: bool = False
    domains: Sequence[str] = ()  # of each row, where the file names them in a field `domain`

    @property
    def joined(self) -> str:
        """All of them as one text; halves of characters are replaced."""
        text = ("" if self.templated else "\n\n").join(self.rows)
        return text.encode(errors="replace").decode()


@dataclass
class _Chat:
    """How messages become a text: by a tokenizer's template, or joined where it has none."""

    tokenizer: Any = None
    made: int = 0
    refused: list[str] = field(default_factory=list)

    def text(self, messages: list[Message]) -> str:
        said = [message for message in messages if message["content"].strip()]
        if said and getattr(self.tokenizer, "chat_template", None):
            try:
                text = str(self.tokenizer.apply_chat_template(said, tokenize=False))
            except Exception as exc:  # noqa: BLE001 - a template is a program of others
                self.refused.append(" ".join(str(exc).split())[:100] or type(exc).__name__)
            else:
                self.made += 1
                return text
        return "\n\n".join(message["content"] for message in said)


def read_texts(
    path: Path, *, name: str | None = None, option: str = "calibration_field", tokenizer: Any = None
) -> Texts:
    """Read the texts of a text file, or of the rows of a `.jsonl` or `.json` file.

    `name` is the field that was asked for, `option` what a user calls it.

    Raises:
        DataError: the file is of another kind, or its rows hold no text that is known as one.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise DataError(f"{path} is {_OTHERS[suffix]}, no text. {_GIVE}.")
    with reading(path, DataError, "Give a file of text in UTF-8."):
        text = read_text(path, _MOST).removeprefix("\ufeff")
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes, so it is no text. {_GIVE}, in UTF-8.")
    if suffix in _OF_ROWS:
        return texts_of(path, _rows(path, text), name=name, option=option, tokenizer=tokenizer)
    if name is not None:
        raise DataError(f"{option}={name!r} names a field, and {path} has none. Leave it out.")
    if not text.strip():
        raise DataError(f"{path} holds only blank text. {_GIVE}.")
    if _is_object(text.lstrip().split("\n", 1)[0]):
        raise DataError(f"{path} holds JSON in its lines, no text. Give it the ending .jsonl.")
    return Texts([text])


def texts_of(
    what: object,
    rows: Iterable[tuple[str, Any]],
    *,
    name: str | None = None,
    option: str = "calibration_field",
    tokenizer: Any = None,
) -> Texts:
    """The texts of rows, each with its place for messages, as in `read_texts`."""
    chat = _Chat(tokenizer)
    found, domains = [], []
    for place, row in rows:
        found.append(_text_of(place, row, name, option, chat))
        if found[-1].strip():
            domains.append(str(row.get("domain", "")) if isinstance(row, dict) else "")
    texts = [text for text in found if text.strip()]
    if not texts:
        raise DataError(f"{what} holds {'only blank text' if found else 'no rows'}. {_GIVE}.")
    if all(map(_IDENTIFIER.fullmatch, texts)):
        raise DataError(
            f"{what} holds identifiers such as {texts[0]!r} where text should be. Say by {option} "
            "which field holds the text."
        )
    if len(texts) < len(found) / 2:
        warn(f"{len(found) - len(texts):,} of {len(found):,} rows of {what} are blank.")
    if chat.refused:
        warn(
            f"The tokenizer's chat template refuses {len(chat.refused):,} of {len(found):,} rows "
            f"of {what} ({chat.refused[0]}). Their messages are joined without it."
        )
    return Texts(texts, templated=chat.made > 0, domains=domains)


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() == ".json":
        rows = _parsed(str(path), text)
        if not isinstance(rows, list):
            raise DataError(f"{path} is JSON, but no list of rows. {_GIVE}.")
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):  # other line breaks may be part of a text
        if line.strip():
            yield (place := f"{path}, line {number}"), _parsed(place, line)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        why = f"{exc.msg}, column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else exc
        raise DataError(f"{place} is not valid JSON ({why}). {_GIVE}.") from exc


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _text_of(place: str, row: Any, name: str | None, option: str, chat: _Chat) -> str:
    """The text of one row; blank where it says nothing."""
    if isinstance(row, str) and name is None:
        return row
    if not isinstance(row, Mapping):
        raise DataError(f"{place} holds a {type(row).__name__}, no object with fields. {_GIVE}.")
    if name is not None:
        messages = _messages(row.get(name), "user")
        if messages is None:
            raise DataError(_no_text(place, row, f"no text in the field {name!r}", option))
        return row[name] if isinstance(row[name], str) else chat.text(messages)
    for each in _TEXTS:
        if isinstance(row.get(each), str):
            return str(row[each])
    conversation = _conversation(row)
    if conversation is None:
        raise DataError(_no_text(place, row, "no field that is known as text", option))
    return chat.text(conversation)


def _conversation(row: Mapping[str, Any]) -> list[Message] | None:
    """What is said in a row of messages, or of an instruction with its answer."""
    system = next((_messages(row[each], "system") or [] for each in _SYSTEM if each in row), [])
    for each in _MESSAGES:
        messages = _messages(row.get(each), "user")
        if messages is not None and not isinstance(row[each], str):
            return [*system, *messages]
    asked = next((each for each in (*_QUESTIONS, "input") if each in row), None)
    answered = next((each for each in _ANSWERS if each in row), None)
    if asked is None or answered is None:
        return None
    question, answer = _messages(row[asked], "user"), _messages(row[answered], "assistant")
    if question is None or answer is None:
        return None
    about = [row[each] for each in _BESIDE if each != asked and isinstance(row.get(each), str)]
    if isinstance(row[asked], str):
        parts = [each for each in (row[asked], *about) if each.strip()]
        question = [{"role": "user", "content": "\n\n".join(parts)}]
    return [*system, *question, *answer]


def _messages(value: Any, role: str) -> list[Message] | None:
    """A text as one message, or a list of messages in one of two spellings; None for all else."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        return None
    messages = []
    for each in value:
        if not isinstance(each, Mapping):
            return None
        speaker, content = (
            each.get("role", each.get("from")),
            each.get("content", each.get("value")),
        )
        said = _content(content)
        if not isinstance(speaker, str) or said is None:
            return None
        messages.append({"role": _ROLES.get(speaker.lower(), speaker), "content": said})
    return messages


def _content(value: Any) -> str | None:
    """What a message says: a text, the texts of its parts, or nothing beside a call of a tool."""
    if isinstance(value, list):
        parts = [each.get("text") for each in value if isinstance(each, Mapping)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return "" if value is None else value if isinstance(value, str) else None


def _no_text(place: str, row: Mapping[str, Any], what: str, option: str) -> str:
    listed = ", ".join(repr(each) for each in [*row][:20]) or "none"
    textual = [each for each, value in row.items() if isinstance(value, str) and value.strip()]
    example = (
        f", for example {option}={max(textual, key=lambda n: len(row[n]))!r}" if textual else ""
    )
    flag = f"--{option.replace('_', '-')}"
    return (
        f"{place} holds {what}. Its fields are {listed}. Say which holds the text by {option} "
        f"({flag} on the command line){example}."
    )
