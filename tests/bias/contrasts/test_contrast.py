"""`Contrast`: what it refuses, how it is filled, and what it holds back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from optipfair import CONTRASTS, ArgumentError, Contrast, UnknownNameError
from optipfair.bias.contrasts.contrast_files import find_contrasts

GIVEN: dict[str, Any] = {
    "name": "mine",
    "templates": ["The {word} said", "I am a {word} and"],
    "words": [["nurse", "artist"], ["miner"]],
    "continuations": [[" she"], [" he"]],
}
DATA = Path(os.environ.get("OPTIPFAIR_DATA", Path(__file__).parents[4] / "shared" / "data"))


def test_the_article_follows_the_word_and_the_first_letter_is_large() -> None:
    contrast = Contrast.of_dict(GIVEN)
    assert contrast.filled(1, "artist") == "I am an artist and"
    assert contrast.filled(1, "nurse") == "I am a nurse and"
    assert Contrast.of_dict({**GIVEN, "templates": ["{word}s say"]}).filled(0, "nurse") == (
        "Nurses say"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"templates": ["The nurse said"]}, "does not hold {word} once"),
        ({"templates": ["{word} and {word}"]}, "does not hold {word} once"),
        ({"templates": []}, "templates"),
        ({"templates": "The {word} said"}, "templates"),
        ({"words": [["nurse"]]}, "words needs two lists"),
        ({"words": [["nurse"], []]}, "words"),
        ({"words": [["nurse"], ["nurse"]]}, "'nurse' stands in both lists"),
        ({"words": [["nurse", "nurse"], ["miner"]]}, "'nurse' is there twice"),
        ({"continuations": [[" she"], [" she"]]}, "' she' stands in both lists"),
        ({"continuations": [[1], [" he"]]}, "continuations"),
        ({"name": " "}, "no name"),
    ],
)
def test_what_makes_no_contrast_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said.replace("{", "[{]")):
        Contrast.of_dict({**GIVEN, **change})


def test_keys_that_are_missing_or_unknown_are_named() -> None:
    with pytest.raises(ArgumentError, match="lacks words, continuations"):
        Contrast.of_dict({"name": "mine", "templates": ["The {word} said"]})
    with pytest.raises(UnknownNameError, match="Did you mean 'words'"):
        Contrast.of_dict({**GIVEN, "word": []})
    with pytest.raises(ArgumentError, match="not a list"):
        Contrast.of_dict([])


@pytest.mark.parametrize("contrast", CONTRASTS.values(), ids=list(CONTRASTS))
def test_the_halves_of_a_shipped_contrast_share_no_word_and_no_template(contrast: Contrast) -> None:
    own, judged = contrast.halves()
    assert not set(own.templates) & set(judged.templates)
    for kind in (0, 1):
        assert not set(own.words[kind]) & set(judged.words[kind])
        assert set(own.words[kind]) | set(judged.words[kind]) == set(contrast.words[kind])
        assert len(judged.words[kind]) >= 2
    assert own.continuations == judged.continuations == contrast.continuations


def test_a_contrast_of_few_words_judges_by_those_that_it_has() -> None:
    own, judged = Contrast.of_dict(GIVEN).halves()
    assert own == judged == Contrast.of_dict(GIVEN)


def test_no_shipped_occupation_is_one_of_the_test_sets() -> None:
    if not DATA.is_dir():
        pytest.skip(f"the evaluation data are not in {DATA}")
    lists = [DATA / "winobias" / f"{sex}_occupations.txt" for sex in ("female", "male")]
    known = {line.strip().lower() for file in lists for line in file.read_text().split("\n")}
    rows = (DATA / "winogender" / "occupations-stats.tsv").read_text().split("\n")[1:]
    known |= {row.split("\t")[0] for row in rows}
    shipped = {word for kind in CONTRASTS["gender-occupation"].words for word in kind}
    assert not shipped & (known - {""})


def test_contrasts_are_found_by_name_in_files_and_as_values(tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps([GIVEN]), encoding="utf-8")
    found = find_contrasts(["Gender-Occupation", str(mine)])
    assert [each.name for each in found] == ["gender-occupation", "mine"]
    assert find_contrasts(found[1]) == [Contrast.of_dict(GIVEN)]


def test_what_cannot_be_found_is_said_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'race-blame'"):
        find_contrasts("race-blam")
    with pytest.raises(ArgumentError, match=r"nothing\.json cannot be read"):
        find_contrasts(str(tmp_path / "nothing.json"))
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"bad\.json cannot be read"):
        find_contrasts(str(tmp_path / "bad.json"))
    (tmp_path / "half.json").write_text('{"name": "x"}', encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"half\.json: A contrast lacks"):
        find_contrasts(str(tmp_path / "half.json"))
    with pytest.raises(ArgumentError, match="given twice"):
        find_contrasts(["race-blame", "race-blame"])
    with pytest.raises(ArgumentError, match="No contrast is given"):
        find_contrasts([])
