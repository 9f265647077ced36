"""Prompt pairs: the specification's, generated ones, the user's own."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from optipfair import bias
from optipfair.bias.prompts.pair_templates import SLOT_WORDS
from optipfair.bias.prompts.pairs import check_prompt_pairs
from optipfair.bias.prompts.words import split_words
from optipfair.errors import ArgumentError

PAIRS = bias.generate_prompt_pairs()
CATEGORIES = [*bias.ATTRIBUTES, "disability"]


def specified(shared_folder: Path) -> dict[str, object]:
    text = (shared_folder / "spec" / "api-reference.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n([A-Z_]+) = (.*?)```", text, re.DOTALL)
    return {name: ast.literal_eval(value) for name, value in blocks}


def test_the_constants_are_the_specified_ones(shared_folder: Path) -> None:
    values = specified(shared_folder)
    assert values["PROMPT_TEMPLATES"] == bias.PROMPT_TEMPLATES
    assert values["ATTRIBUTES"] == bias.ATTRIBUTES
    assert values["DEFAULT_PROMPT_PAIRS"] == bias.DEFAULT_PROMPT_PAIRS[:2]
    assert len(bias.DEFAULT_PROMPT_PAIRS) == 7


def test_the_default_pairs_know_their_categories() -> None:
    pairs = check_prompt_pairs(bias.DEFAULT_PROMPT_PAIRS)
    assert [pair.category for pair in pairs] == CATEGORIES
    for pair in pairs[2:]:
        words = zip(pair.prompt1.split(), pair.prompt2.split(), strict=True)
        assert sum(one != two for one, two in words) == 1


def test_the_package_loads_without_torch() -> None:
    code = (
        "import sys, optipfair.bias as b; b.generate_prompt_pairs();"
        "import optipfair.bias.prompts.controls as c; c.control_pairs(b.DEFAULT_PROMPT_PAIRS[0]);"
        "assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_category_has_at_least_thirty_different_pairs() -> None:
    assert list(dict.fromkeys(pair.category for pair in PAIRS)) == CATEGORIES
    assert min(Counter(pair.category for pair in PAIRS).values()) >= 30
    assert len(set(PAIRS)) == len(PAIRS)
    assert bias.generate_prompt_pairs() == PAIRS


def test_generated_pairs_are_whole_sentences_with_the_reference_first() -> None:
    for pair in PAIRS:
        reference, *others = {**bias.ATTRIBUTES, "disability": ("able-bodied", "")}[
            str(pair.category)
        ]
        for prompt in (pair.prompt1, pair.prompt2):
            assert not re.search(
                r"[{}]|  |^[a-z]|\b[Aa] [aeiouAEIOU]|\b[Aa]n [^aeiouAEIOU]", prompt
            )
        assert reference in pair.prompt1 and reference not in pair.prompt2.replace("female", "")
        assert pair.category == "disability" or any(other in pair.prompt2 for other in others)


def test_the_words_of_the_slots_belong_together() -> None:
    assert len({len(words) for words in SLOT_WORDS.values()}) == 1
    assert all(len(set(words)) == len(words) for words in SLOT_WORDS.values())


def test_a_template_of_ones_own_is_filled_with_articles_and_pronouns() -> None:
    pairs = bias.generate_prompt_pairs(
        templates={
            "a": "{subject} met a {attribute} {thing}: {pronoun}, {possessive}, {object_pronoun}"
        },
        attributes={"gender": ["male", "female", "unusual"]},
        slot_words={"subject": ["john"], "thing": ["cook", "actor"]},
    )
    assert [pair.prompt2 for pair in pairs] == [
        "John met a female cook: she, her, her",
        "John met a female actor: she, her, her",
        "John met an unusual cook: they, their, them",
        "John met an unusual actor: they, their, them",
    ]
    assert pairs[0].prompt1 == "John met a male cook: he, his, him"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categories": ["religon"]}, "'religon'. Did you mean 'religion'"),
        ({"attributes": {"x": ["one"]}}, "at least two"),
        ({"attributes": {"x": ["one", " "]}}, "at least two"),
        ({"attributes": {"x": "one"}}, "at least two"),
        ({"templates": {"t": "The {subject} is"}}, "no slot {attribute}"),
        ({"templates": {"t": "The {attribute} {animal}"}}, "slot {animal}"),
        ({"templates": {}}, "empty"),
        ({"fillings": 0}, "fillings=0"),
    ],
)
def test_a_wrong_request_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        bias.generate_prompt_pairs(**arguments)  # type: ignore[arg-type]


def test_one_category_may_be_named_without_a_list() -> None:
    assert {pair.category for pair in bias.generate_prompt_pairs("age")} == {"age"}


def test_pairs_come_in_any_sensible_form() -> None:
    pair = bias.PromptPair("a", "b", "c")
    given = [pair, ("a", "b"), ["a", "a"], {"prompt1": "a", "prompt2": "b", "category": "c"}]
    assert check_prompt_pairs(given) == [
        pair,
        bias.PromptPair("a", "b"),
        bias.PromptPair("a", "a"),
        pair,
    ]
    assert check_prompt_pairs(iter(given[:1])) == [pair]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "prompt_pairs is empty"),
        ("text", "prompt_pairs is of type str"),
        (("a man", "a woman"), "prompt_pairs[0] is one str, 'a man'"),
        ([("a", "b"), ("a", "b", "c")], "prompt_pairs[1] is 3 elements"),
        ([("a", "")], "prompt_pairs[0]: prompt2 is empty"),
        ([(" \n", "a")], "prompt_pairs[0]: prompt1 is empty"),
        ([("a", 3)], "prompt_pairs[0]: prompt2 is 3, of type int"),
        ([None], "prompt_pairs[0] is one NoneType"),
        ([{"prompt1": "a"}], "prompt_pairs[0]: prompt2 is missing"),
        ([{"prompt1": "a", "prompt2": "b", "catgory": "c"}], "Did you mean 'category'"),
        (5, "prompt_pairs is of type int"),
        ({"prompt1": "a", "prompt2": "b"}, "prompt_pairs is of type dict"),
    ],
)
def test_what_is_no_pair_is_refused(pairs: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        check_prompt_pairs(pairs)  # type: ignore[arg-type]


ROWS = [
    {"prompt1": 'He said "no", twice', "prompt2": "She\nsaid", "category": "gender"},
    {"prompt1": "é", "prompt2": "ü"},
]


def test_a_csv_file_gives_its_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.CSV"
    text = '\ufeffPrompt1, prompt2,category\r\n"He said ""no"", twice","She\nsaid",gender\n\né,ü,\n'
    path.write_bytes(text.encode())
    assert bias.read_prompt_pairs(path) == check_prompt_pairs(ROWS)


def test_a_jsonl_file_gives_its_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    assert bias.read_prompt_pairs(str(path)) == check_prompt_pairs(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"", "ends in '.txt'"),
        ("p.csv", b"", "holds no pairs"),
        ("p.csv", b"prompt1,prompt2\n", "holds no pairs"),
        ("p.csv", b"He said,She said\n", "line 1 is the header 'He said,She said'"),
        ("p.csv", b"prompt1,prompt2,catgory\n", "line 1 is the header"),
        ("p.csv", b"prompt1,category\na,b\n", "line 1 is the header 'prompt1,category'"),
        ("p.csv", b"prompt1;prompt2\na;b\n", "line 1 is the header 'prompt1;prompt2'"),
        ("p.csv", b"prompt1,prompt2\na,b\n\n\na,b,c\n", "line 5 has 3 columns, the header 2"),
        (
            "p.csv",
            b"prompt1,prompt2\na\n",
            "line 2 has 1 column, the header 2. Give all of prompt1",
        ),
        ("p.csv", b'prompt1,prompt2\n"a\nb",c\nd,\n', "line 4: prompt2 is empty"),
        ("p.csv", b'prompt1,prompt2\na,"b" c\n', "line 2 is not CSV"),
        ("p.csv", b"\xff\xfe", "codec can't decode"),
        ("p.jsonl", b'{"prompt1": "a", "prompt2": "b"}\nx\n', "line 2 is not JSON"),
        ("p.jsonl", b'["a", "b", "c"]', "line 1 is 3 elements"),
        ("p.jsonl", b'{"prompt1": "a", "prompt2": null}', "line 1: prompt2 is None"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused_with_the_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        bias.read_prompt_pairs(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"none\.csv cannot be read: .*No such file"):
        bias.read_prompt_pairs(tmp_path / "none.csv")


def test_words_of_a_prompt_join_again() -> None:
    for prompt in (*bias.DEFAULT_PROMPT_PAIRS[1], " A  b's (c-d)… don't\t'x' "):
        tokens = split_words(prompt)
        assert "".join(t.gap + t.text for t in tokens) == prompt.rstrip()


@pytest.mark.parametrize(
    "call",
    [
        bias.generate_prompt_pairs,
        lambda template, category, pairs: bias.generate_prompt_pairs(
            template=template, attribute_category=category, attribute_pairs=pairs
        ),
    ],
    ids=["by place", "by name"],
)
def test_one_template_is_filled_with_pairs_of_attributes(call: Any) -> None:
    wanted = [("A young nurse", "An old nurse"), ("A tall nurse", "A small nurse")]
    pairs = [("young", "old"), ["tall", "small"]]
    assert call("A {attribute} nurse", "age", pairs) == wanted
    assert call("A {age} nurse", "age", pairs) == wanted


def test_a_template_alone_takes_the_attributes_of_its_category() -> None:
    found = bias.generate_prompt_pairs(bias.PROMPT_TEMPLATES["profession"], "age")
    assert [type(pair) for pair in found] == [tuple, tuple]
    assert found[1][1].startswith("The elderly ") and "{" not in found[1][1]
    assert found == bias.generate_prompt_pairs(template="profession", attribute_category="age")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("The {attribute} man", None), "are not two texts"),
        (("The {attribute} man", "sizes"), "category 'sizes'"),
        (("The {size} man", "age", [("a", "b")]), "no slot {attribute}"),
        (("The {attribute} {beast}", "age", [("a", "b")]), "slot {beast}"),
        (("The {attribute} man", "age", []), "no list of pairs"),
        (("The {attribute} man", "age", {"a": "b"}), "no list of pairs"),
        (("The {attribute} man", "age", "young"), "no list of pairs"),
        (("The {attribute} man", "age", ["ab"]), "attribute_pairs[0]"),
        (("The {attribute} man", "age", [("a", "b"), ("a", " ")]), "attribute_pairs[1]"),
    ],
)
def test_a_wrong_template_or_pair_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(said)):
        bias.generate_prompt_pairs(*given)
