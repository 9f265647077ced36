"""Runs → figures, with made-up runs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair.evaluation.speed.speed_measures import Run, figures, speedup

SECONDS = st.floats(0.001, 1000)


def run(seconds: float, *, peak: int | None = None, cache: int | None = None) -> Run:
    return Run(seconds, (seconds / 4, seconds / 2, seconds), 3, peak, "kind", cache)


def test_the_figures_by_hand() -> None:
    found = figures([run(4.0, peak=5), run(8.0, peak=9), run(6.0)], 77)
    assert (found["avg_time"], found["median_time"], found["std_time"]) == (6, 6, 2)
    assert (found["min_time"], found["max_time"], found["tokens_per_second"]) == (4, 8, 0.5)
    assert found["time_to_first_token"] == {
        "median": 1.5, "min": 1.0, "max": 2.0, "runs": [1.0, 2.0, 1.5]
    }  # fmt: skip
    assert found["time_per_output_token"] == {
        "median": 2.25, "min": 1.5, "max": 3.0, "runs": [1.5, 3.0, 2.25], "reason": None
    }  # fmt: skip
    assert (found["peak_memory_bytes"], found["kv_cache_bytes"], found["weight_bytes"]) == (
        9,
        None,
        77,
    )
    assert "no cache" in found["kv_cache_reason"]


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=2, max_size=9))
def test_the_interval_holds_the_ratio_and_turns_with_the_models(
    times: list[tuple[float, float]],
) -> None:
    pairs = [(run(first), run(second)) for first, second in times]
    there = speedup(pairs, seed=0)
    back = speedup([(second, first) for first, second in pairs], seed=0)
    (low, high), slack = there["speedup_interval"], 1 + 1e-9
    assert low <= there["speedup"] * slack and there["speedup"] <= high * slack
    assert there["speedup"] * back["speedup"] == pytest.approx(1)
    assert low * back["speedup_interval"][1] == pytest.approx(1)


@given(st.lists(SECONDS, min_size=3, max_size=9), st.floats(0.1, 10))
def test_what_slows_both_runs_of_a_pair_does_not_count(paces: list[float], ratio: float) -> None:
    found = speedup([(run(pace * ratio), run(pace)) for pace in paces], seed=0)
    assert found["speedup"] == pytest.approx(ratio)
    assert found["speedup_interval"] == pytest.approx([ratio, ratio])


def test_one_hiccup_does_not_move_the_ratio() -> None:
    pairs = [(run(2.0), run(1.0))] * 4 + [(run(2.0), run(100.0))]
    assert speedup(pairs, seed=0)["speedup"] == pytest.approx(2)
    average = math.fsum(p[0].seconds for p in pairs) / math.fsum(p[1].seconds for p in pairs)
    assert average < 0.1


def test_one_pair_has_a_ratio_and_a_reason() -> None:
    found = speedup([(run(3.0), run(2.0))], seed=0)
    assert (found["speedup"], found["speedup_interval"]) == (pytest.approx(1.5), None)
    assert found["speedup_interval_reason"] is not None
