"""Scores that are kept between comparisons: a run goes on where it stopped."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from optipfair import PruningWarning
from support.compared import QUICK, compared, read
from support.comparing_processes import models, steady

KEPT: dict[str, Any] = {"tasks": ["piqa", "crows_pairs"], "batch_tokens": 64, **QUICK}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, data: Path) -> None:
    original, pruned = models()

    def run(cache: Path) -> tuple[dict[str, Any], int, int]:
        with read(original) as first, read(pruned) as second:
            found = compared(original, pruned, data=data, cache_dir=cache, **KEPT)
        return steady(found), len(first), len(second)

    expected, passes, others = run(tmp_path / "other")
    calls: list[None] = []

    def stop(*_: object) -> None:
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = pruned.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache")
    handle.remove()
    found, first, second = run(tmp_path / "cache")
    assert found == expected
    assert second == others - 3
    scored = passes - first  # all of the original was scored before the stop
    assert scored > 3
    assert run(tmp_path / "cache") == (expected, first, others - scored)


def test_a_damaged_cache_is_named_and_rebuilt(tmp_path: Path, data: Path) -> None:
    original, pruned = models()
    options = {**KEPT, "data": data, "cache_dir": tmp_path}
    expected = compared(original, pruned, **options)
    whole = {file: file.read_text() for file in tmp_path.iterdir()}
    damaged = min(whole)
    damaged.write_text(whole[damaged][:-30])
    with pytest.warns(PruningWarning, match="damaged: 1 of its lines") as caught:
        found = compared(original, pruned, **options)
    assert str(damaged) in str(caught[0].message)
    assert steady(found) == steady(expected)
    assert {f: sorted(f.read_text()) for f in whole} == {f: sorted(t) for f, t in whole.items()}


def test_a_cache_whose_last_line_has_no_end_goes_on(tmp_path: Path, data: Path) -> None:
    """The next batch must not be written behind it on the same line."""
    original, pruned = models()
    options = {**KEPT, "data": data, "cache_dir": tmp_path}
    compared(original, pruned, **{**options, "tasks": ["piqa"]})
    for file in tmp_path.iterdir():
        file.write_text(file.read_text().removesuffix("\n"))
    compared(original, pruned, **options)
    found = compared(original, pruned, **options)
    assert all(each["reused"] == 2 * 2 * each["items"] for each in found["tasks"])


def test_the_original_is_not_scored_again_with_another_pruned_model(
    tmp_path: Path, data: Path
) -> None:
    original, pruned = models()
    options = {**KEPT, "data": data, "cache_dir": tmp_path}
    with read(original) as first:
        one = compared(original, pruned, **options)
    other = deepcopy(pruned)
    other.lm_head.weight.data *= 1.5
    with read(original) as again:
        two = compared(original, other, **options)
    assert [each["reused"] for each in one["tasks"]] == [0, 0]
    assert [each["reused"] for each in two["tasks"]] == [2 * each["items"] for each in two["tasks"]]
    with read(original) as unkept:  # the text and the samples, which no cache holds
        compared(original, other, **{**options, "tasks": []})
    assert again == unkept
    assert len(first) > len(again)
    own = [[row["original"] for row in found["measures"]] for found in (one, two)]
    assert own[0] == own[1]
