"""The page of a comparison: no text becomes HTML, and everything that is there is shown."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from optipfair.report.formats import visible
from optipfair.report.report_files import comparison_page
from support.comparisons import HOSTILE, as_read, bare, estimate, hostile, ordinary

SCHEMA = json.loads(
    files("optipfair.report").joinpath("comparison.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA)
ALL = pytest.mark.parametrize("made", [ordinary, hostile, bare], ids=lambda made: made.__name__)
VOID = {"meta", "link", "br", "img", "input", "hr"}
# Elements of the template; anything else came out of a text.
TAGS = (
    " html head meta title style body header h1 h2 h3 dl dt dd div bdi small nav ul li a main "
    "section article span p figure figcaption svg line circle path rect g text polyline defs "
    "marker details summary table caption thead tbody tr th td button strong mark code time br "
    "script "
)
LINKING = ("href", "src", "action", "data", "xlink:href", "srcset", "formaction", "poster")


class Page(HTMLParser):
    """The elements of a page, its texts, and that every element is closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        kept = (parts for tag, parts in self.texts.items() if tag not in ("style", "script"))
        return " ".join(part for parts in kept for part in parts)


@ALL
def test_no_text_becomes_an_element_an_attribute_or_a_link(made: Any) -> None:
    page = Page(comparison_page(made()))
    assert [tag for tag, _ in page.elements if f" {tag} " not in TAGS] == []
    assert len(page.all("script")) == len(page.all("style")) == 1
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in LINKING:
            assert re.fullmatch(r"#[a-z0-9-]+", attributes.get(name) or "#a"), (tag, attributes)


@ALL
def test_links_lead_to_the_page_s_own_parts_and_ids_are_one(made: Any) -> None:
    page = Page(comparison_page(made()))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {each["href"] for each in page.all("a")} <= {f"#{each}" for each in ids}


def test_hostile_texts_are_there_as_texts() -> None:
    html = comparison_page(hostile())
    shown = Page(html).text()
    for text in HOSTILE:
        assert visible(text).split("\n")[0] in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000\u001b\ud800-\udfff]", html)


@ALL
def test_the_policy_names_the_style_and_the_script_and_nothing_else(made: Any) -> None:
    page = Page(comparison_page(made()))
    policies = [
        str(each["content"])
        for each in page.all("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    hashes = [
        base64.b64encode(hashlib.sha256("".join(page.texts[tag]).encode()).digest()).decode()
        for tag in ("style", "script")
    ]
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    ]


def test_the_page_follows_from_the_comparison_alone() -> None:
    given = hostile()
    before = copy.deepcopy(given)
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); "
        "from support.comparisons import hostile; "
        "from optipfair.report.report_files import comparison_page; "
        "page = comparison_page(hostile()); "
        "print(hashlib.sha256(page.encode()).hexdigest(), 'torch' in sys.modules)"
    )
    tests = str(next(path for path in sys.path if path.endswith("tests")))
    printed = subprocess.run(
        [sys.executable, "-c", code, tests], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == [hashlib.sha256(comparison_page(given).encode()).hexdigest(), "False"]
    assert given == before


def test_every_part_is_drawn_or_named_as_left_out() -> None:
    names = {
        "differences": "measures",
        "scores": "measures",
        "plane": "ability and bias",
        "flips": "flips",
        "generation": "generation",
        "samples": "samples",
        "speed": "speed",
        "layers": "layers",
    }
    for made in (ordinary(), bare()):
        page = Page(comparison_page(made))
        drawn = {str(each["id"]) for each in page.all("section")}
        said = " ".join(page.texts["strong"]).lower()
        for section, name in names.items():
            assert (section in drawn) != (name in said), section
        assert {"verdicts", "data", "protocol", "left-out"} <= drawn


def test_what_the_comparison_says_of_a_part_left_out_is_not_said_again() -> None:
    given = bare()
    given["left_out"] = [{"section": "speed", "reason": "no time", "how": "Take your time."}]
    text = Page(comparison_page(given)).text()
    assert "no time" in text and "speed and memory were not measured" not in text


def test_the_page_says_in_sentences_how_long_both_write_the_same() -> None:
    text = Page(comparison_page(ordinary())).text()
    assert (
        "The two models write the same first 8 tokens for 61 % and the same first 33 tokens for "
        "9.4 % of 32 beginnings. Half of them part after 11 tokens or fewer."
    ) in text
    assert "16-63" in text
    for half, told in (
        (40.0, "At least half of them do not part within 40 tokens."),
        (1.0, "Half of them part after 1 token or fewer."),
        (0.5, "Half of them part at the first token."),
        (2.5, "Half of them part after 2.5 tokens or fewer."),
    ):
        given = ordinary()
        given["generation"]["until_parting"] = estimate(half)
        assert told in Page(comparison_page(given)).text()


def test_a_comparison_from_before_generation_was_measured_is_drawn() -> None:
    given = ordinary()
    del given["generation"]
    page = Page(comparison_page(given))
    assert "generation" not in {each["id"] for each in page.all("section")}
    assert "how long both models write the same was not measured" in page.text()


def test_undefined_figures_show_a_dash_and_their_reason() -> None:
    given = ordinary()
    for row in given["measures"]:
        for key in ("original", "pruned", "change", "harm"):
            row[key] = {"value": None, "low": None, "high": None, "reason": "<b>too few</b>"}
    html = comparison_page(given)
    cells = [each for each in Page(html).all("td") if each.get("title") == "<b>too few</b>"]
    again = [row for row in given["measures"] if row["measure"] == "kl"]  # by position
    assert len(cells) == 4 * len(given["measures"]) + len(again)
    assert {each["data-value"] for each in cells} == {""}
    assert 'id="plane"' not in html


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, 1e-300, 100.0, 1e304, -1e304])
def test_any_number_finds_its_place(value: float) -> None:
    given = ordinary()
    for row in given["measures"]:
        for key in ("original", "pruned", "change", "harm"):
            ends = (value, min(value, 0.0), max(value, 1e-3))
            row[key] = dict(zip(("value", "low", "high"), ends, strict=True)) | {"reason": None}
    for point in given["layers"]["original"]:
        point["excess"] = value
    for _, attributes in Page(comparison_page(given)).elements:
        for name in ("x", "y", "x1", "x2", "y1", "y2"):
            if (attributes.get(name) or "").endswith("%"):
                assert 0 <= float(str(attributes[name])[:-1]) <= 100


def test_the_edited_words_are_marked() -> None:
    marks = Page(comparison_page(ordinary())).texts["mark"]
    assert marks[:4] == ["Women", "Men", "poor", "rich"]
    assert {"asylum seeker", "tourist from Norway"} <= set(marks)


def test_every_table_has_a_caption_and_headers_with_a_scope() -> None:
    page = Page(comparison_page(ordinary()))
    assert len(page.all("caption")) == len(page.all("table")) == 9
    assert {each["scope"] for each in page.all("th")} == {"col", "row"}
    for each in page.all("svg"):
        if each.get("role") == "img":
            assert each["aria-label"]


@ALL
def test_the_comparisons_of_these_tests_follow_the_schema(made: Any) -> None:
    VALIDATOR.validate(json.loads(json.dumps(made())))


def test_the_schema_is_that_of_the_class() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
    import schemas

    for name in schemas.SCHEMAS:
        published = files("optipfair").joinpath(name).read_text(encoding="utf-8")
        assert published == schemas.text_of(name), "run tools/schemas.py"


@ALL
def test_what_was_written_is_read_as_it_was(made: Any) -> None:
    assert as_read(made()).to_dict() == made()


@ALL
def test_what_an_earlier_version_wrote_is_read_too(made: Any) -> None:
    newer = {
        "measures": (
            *("p_change", "p_change_holm", "untested", "least_p"),
            *("against_control", "p_control_holm", "no_control"),
        ),
        "flips": ("answered", "untested"),
        "tasks": ("first_token",),
    }
    earlier, expected = made(), made()
    for section, names in newer.items():
        for old, new in zip(earlier[section], expected[section], strict=True):
            for name in names:
                del old[name]
                new[name] = None
    assert as_read(earlier).to_dict() == expected
    assert comparison_page(earlier)


def test_the_schema_takes_no_key_too_many_and_none_too_few() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    count = 0
    for spoilt in spoiled(ordinary()):
        assert not VALIDATOR.is_valid(spoilt)
        count += 1
    assert count > 500


def test_an_undefined_figure_needs_a_reason() -> None:
    given = ordinary()
    given["measures"][0]["change"] = dict.fromkeys(("value", "low", "high", "reason"))
    assert not VALIDATOR.is_valid(given)
    given["measures"][0]["change"]["reason"] = "no items"
    assert VALIDATOR.is_valid(given)


def spoiled(document: Any) -> Iterator[Any]:
    """The document with a key too many, or one of its keys gone, wherever keys are fixed."""
    for path in dicts(document):
        for key in ("surprise", *at(document, path)):
            copied = copy.deepcopy(document)
            target = at(copied, path)
            if key in target:
                del target[key]
            else:
                target[key] = 1
            yield copied


def dicts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and path[:1] + path[2:] != ("tasks", "left_out"):
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        if isinstance(each, dict | list):
            yield from dicts(each, (*path, key))


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def test_the_page_shows_how_the_pruned_model_was_trained() -> None:
    page = Page(comparison_page(ordinary()))
    assert "training" in {each["id"] for each in page.all("section")}
    said = " ".join(" ".join(texts) for texts in page.texts.values())
    assert "204,800 tokens" in said and "fell from 0.290 to 0.210" in said
    assert "204,800 tokens: 0.2100" in said  # of the last mark on the curve
    assert "training" not in {each["id"] for each in Page(comparison_page(bare())).all("section")}


def test_contrasts_have_a_section_where_they_were_asked_for() -> None:
    page = comparison_page(ordinary())
    assert 'id="contrasts"' in page and "layer 12 mlp" in page
    assert "gender-&lt;b&gt;occupation" in page
    assert 'id="contrasts"' not in comparison_page(bare())


def test_the_page_says_where_training_did_not_help() -> None:
    comparison = ordinary()
    comparison["training"] |= {"after": comparison["training"]["before"]}
    page = Page(comparison_page(comparison))
    said = " ".join(" ".join(texts) for texts in page.texts.values())
    assert "was 0.290 nats a token and never less" in said and "fell from" not in said


def test_a_control_has_its_column_where_there_is_one() -> None:
    given = ordinary()
    assert "Against the control" in comparison_page(given)
    for row in given["measures"]:
        row |= {"against_control": None, "p_control_holm": None}
    assert "Against the control" not in comparison_page(given)
