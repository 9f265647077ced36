"""How `mutations.py` damages a file: bytes of any, values and keys of JSON, cells, lines, headers.

Every function takes a `random.Random` and gives bytes, so that a seed gives the same file again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

_HERE = "@@here@@"  # stands in JSON for text that no value becomes
_DEEP = 20_000
STRANGE = (
    *("null", "true", "0", "-1", "1", "0.5", "-0.0", "3", "64", "1e999", "-1e400", "1e308"),
    *("NaN", "Infinity", "-Infinity", str(2**31), str(2**63), str(-(2**63)), str(2**64), "1e18"),
    *("9" * 5000, "-" + "7" * 400, "1000000000", '""', '"x"', '"1"', '"auto"', "[]", "{}", "[[]]"),
    *("[null]", '[1, "a"]', "[1e999]", "[0, 0, 0, 0]", "[-1, 99999999]", '{"a": null}'),
    *("[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP, "[" * 60 + "]" * 60),
    *(r'"\ud800"', r'"a\udfffb"', r'"\u001b[31mred\u0007"', r'"\u202eabc"', r'"\u0000"', r'"\n"'),
    *('"../../x"', '"/dev/zero"', '"/etc/passwd"', '"file:///x"', '"{{ 1/0 }}"'),
    '"' + "é" * 9999 + '"',
    '"{% for a in range(999999999) %}{% endfor %}"',
    '"' + "a" * 200_000 + '"',
    "[" + "1," * 100_000 + "1]",
)  # fmt: skip
_BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise("abcdefgh")
)
_NUMBERS = (0, 1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def damaged_bytes(  # noqa: PLR0911
    data: bytes, random: Random, most: int | None = None
) -> bytes:
    """Some bytes changed, gone, doubled or put in, within the first `most` of them."""
    size = min(len(data), most or len(data)) or 1
    place, length = random.randrange(size), random.randrange(1, 64)
    match random.randrange(8):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + data[place + length :]
        case 2:
            return data[: place + length] + data[place:]
        case 3:
            return data[:place] + random.randbytes(length) + data[place:]
        case 4:
            return data[:place] + bytes(length) + data[place + length :]
        case 5:
            return random.choice((b"", b"\xff\xfe", b"\n", b"\0", random.randbytes(length)))
        case _:
            changed = bytearray(data or b" ")
            for _ in range(random.choice((1, 1, 2, 8))):
                changed[random.randrange(min(size, len(changed)))] ^= 1 << random.randrange(8)
            return bytes(changed)


def damaged_json(data: bytes, random: Random) -> bytes:
    """One value or key of a JSON document is another; now and then two or three."""
    value = json.loads(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value, snippet = _with_place(value, random)
        text = json.dumps(value)
        if f'"{_HERE}"' in text:
            return text.replace(f'"{_HERE}"', snippet).encode()
    return text.encode()


def _with_place(value: Any, random: Random) -> tuple[Any, str]:
    """The document with a key changed, or with a place where a snippet is to stand."""
    holder, key = _somewhere(value, random)
    if holder is None:
        return _HERE, random.choice(STRANGE)
    old = holder[key]
    act = random.randrange(10)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, dict):
        other = random.choice(
            [*holder, f"{key}x", key.upper(), "", "\x1b[1m", "\ud800", "__class__"]
        )
        holder[other] = holder.pop(key)
    elif act == 2 and isinstance(holder, dict):  # the same key twice
        holder[f"{_HERE}{key}"] = old
        text = json.dumps(holder[f"{_HERE}{key}"])
        del holder[f"{_HERE}{key}"]
        holder[key] = _HERE
        return value, f"{text}, {json.dumps(key)}: {random.choice(STRANGE)}"
    elif act == 3 and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = random.choice((old + 1, old - 1, old * 2, -old, float(old), str(old), [old]))
    elif act == 4 and isinstance(old, list) and old:
        holder[key] = random.choice((old * 2, old[1:], old[::-1], [old], old[:1] * 5000))
    elif act == 5:
        holder[key] = holder[random.choice(list(holder) if isinstance(holder, dict) else [key])]
    else:
        holder[key] = _HERE
        return value, random.choice(STRANGE)
    return value, ""


def _somewhere(value: Any, random: Random) -> tuple[Any, Any]:
    """A dict or a list in the document and one of its keys; None for the document itself."""
    if random.random() < 0.03 or not isinstance(value, dict | list) or not value:
        return None, None
    while True:
        key = (
            random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        )
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or random.random() < 0.3:
            return value, key
        value = inner


def damaged_lines(data: bytes, random: Random) -> bytes:
    """One line of JSON lines is another, or the lines themselves are."""
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    if lines[place].startswith(b"{") and random.random() < 0.8:
        lines[place] = damaged_json(lines[place], random)
        if random.random() < 0.2:  # of every row
            lines = [lines[place] for _ in lines]
    else:
        lines[place] = random.choice(STRANGE).encode()
    return b"\n".join(lines)


def damaged_cells(data: bytes, random: Random) -> bytes:
    """A cell of a table, a name of a column, or how it is written is another."""
    rows = [line.split(b",") for line in data.split(b"\n")]
    row = random.choice(rows)
    odd = (b'"', b'"a', b'a"b', b"\0", b"", b"\xff", "\u202e".encode(), b"\x1b[2J", b"x" * 200_000)
    match random.randrange(4):
        case 0:
            row.append(random.choice(odd))
        case 1:
            del row[random.randrange(len(row))]
        case 2:
            rows = [row] * 3
        case _:
            row[random.randrange(len(row))] = random.choice(odd)
    text = b"\n".join(b",".join(row) for row in rows)
    return random.choice((text, text, text.replace(b",", b"\t"), text.replace(b"\n", b"\r")))


def damaged_yaml(data: bytes, random: Random) -> bytes:
    """A value of `key: value` lines is another, or YAML does what JSON cannot."""
    lines = data.decode().splitlines()
    place = random.randrange(len(lines))
    key = lines[place].partition(":")[0]
    odd = (
        "&a [*a]",
        "!!python/object/apply:os.getcwd []",
        "2001-01-01",
        "0x10",
        "1_0",
        "~",
        "|",
        "? ",
    )
    match random.randrange(6):
        case 0:
            lines[place] = f"{key}x: 1"
        case 1:
            lines.append(lines[place])
        case 2:
            return _BOMB.encode() if random.random() < 0.3 else b"[" * _DEEP
        case 3:
            lines[place] = f"{key}: {random.choice(odd)}"
        case _:
            lines[place] = f"{key}: {random.choice(STRANGE)}"
    return "\n".join(lines).encode()


def damaged_header(data: bytes, random: Random) -> bytes:
    """The header of a safetensors file is another, of the length that it says or not."""
    (size,) = struct.unpack_from("<Q", data)
    header, values = data[8 : 8 + size], data[8 + size :]
    if random.random() < 0.1:
        return struct.pack("<Q", random.choice((*_NUMBERS, size - 1, size + 1))) + header + values
    changed = random.choice((damaged_json, damaged_json, damaged_json, damaged_bytes))(
        header, random
    )
    return struct.pack("<Q", len(changed)) + changed + values


def damaged_gguf(data: bytes, random: Random) -> bytes:
    """A count, a type or a value at the head of a .gguf file is another."""
    head = data[: data.find(b"tokenizer.ggml.tokens")]
    ends = [4, 8, 16]  # version, number of tensors, number of fields
    place = 0
    while (place := head.find(b".", place + 1)) > 0:  # in every field's name
        end = place
        while 32 < head[end] < 127:
            end += 1
        ends.append(random.choice((end, end + 4)))  # its type, or its value
    place = random.choice(ends)
    kind = random.choice(("<I", "<Q"))
    number = random.choice(_NUMBERS) & (2**32 - 1 if kind == "<I" else 2**64 - 1)
    return data[:place] + struct.pack(kind, number) + data[place + struct.calcsize(kind) :]


def either(
    structured: Callable[[bytes, Random], bytes], most: int | None = None, share: float = 0.75
) -> Callable[[bytes, Random], bytes]:
    """Damage what is meant in most cases, and bytes in the others."""

    def damage(data: bytes, random: Random) -> bytes:
        if random.random() < share:
            return structured(data, random)
        return damaged_bytes(data, random, most)

    return damage
