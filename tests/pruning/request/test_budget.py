"""Budgets: text becomes an exact amount or is refused, and the search finds the largest step."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair import ArgumentError
from optipfair.pruning.request.budget import Budget, largest_that_fits, read_budget, read_size


@pytest.mark.parametrize(
    ("given_", "parameters"),
    [
        (1, 1),
        (350_000_000, 350_000_000),
        (np.int64(7), 7),
        ("1234", 1234),
        ("1234.0", 1234),
        ("1.0B", 10**9),
        ("1.5b", 1_500_000_000),
        ("2G", 2 * 10**9),
        ("350M", 350_000_000),
        (" 12.5 k ", 12_500),
        ("0.000003T", 3_000_000),
        ("1.0000001K", 1000),  # 1000.0001: a part of a parameter is none
    ],
)
def test_counts_are_read_exactly(given_: int | str, parameters: int) -> None:
    assert read_budget(given_, None) == Budget(parameters, None)


@pytest.mark.parametrize(
    ("given_", "size"),
    [
        (1, 1),
        ("17", 17),
        ("17B", 17),
        ("2kB", 2000),
        ("2KiB", 2048),
        ("500MB", 500 * 10**6),
        ("500 MiB", 500 * 2**20),
        ("1.1GB", 1_100_000_000),  # 1.1 is no binary fraction
        ("0.5gib", 2**29),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 * 2**40),
    ],
)
def test_sizes_are_decimal_or_binary_as_written(given_: int | str, size: int) -> None:
    assert read_budget(None, given_) == Budget(None, size)
    assert read_size("max_shard_size", given_) == size


@given(st.integers(1, 10**15), st.sampled_from([("", 1), ("K", 10**3), ("M", 10**6), ("B", 10**9)]))
def test_what_is_written_out_is_read_back(count: int, unit: tuple[str, int]) -> None:
    whole, part = divmod(count, unit[1])
    digits = len(str(unit[1])) - 1
    text = f"{whole}.{part:0{digits}d}{unit[0]}" if digits else str(whole)
    assert read_budget(text, None) == Budget(count, None)


NO_AMOUNTS = [0, -1, 1.0, 2e9, math.nan, math.inf, True, False, [3], b"1B", {}, 1 + 0j]
NO_TEXTS = ["", " ", "B", "-1B", "+1", "0", "0.0B", "0.1", "1.B", ".5B", "1e9", "1,000", "1_000"]
NO_TEXTS += ["nan", "inf", "1 B B", "1X", "one", "1.2.3", "1.0B parameters", "0x10"]


@pytest.mark.parametrize("value", [*NO_AMOUNTS, *NO_TEXTS, "2.5", "1GiB", "1KB"], ids=repr)
def test_what_is_no_count_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"target_params=.* is no amount.*1\.0B") as caught:
        read_budget(value, None)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", [*NO_AMOUNTS, *NO_TEXTS, "2.5", "2.5B", "1K", "1G", "1M"], ids=repr
)
def test_what_is_no_size_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ArgumentError, match=r"target_size=.* is no amount.*2GB"):
        read_budget(None, value)
    with pytest.raises(ArgumentError, match=r"max_shard_size=.* is no amount"):
        read_size("max_shard_size", value)


def test_both_budgets_exclude_each_other_and_none_is_none() -> None:
    with pytest.raises(
        ArgumentError, match=r"target_params='1B' and target_size='2GB' are mutually"
    ):
        read_budget("1B", "2GB")
    assert read_budget(None, None) is None


def test_a_budget_says_its_unit() -> None:
    assert str(Budget(1_500_000_000, None)) == "1,500,000,000 parameters"
    assert str(Budget(None, 2048)) == "2,048 bytes of weights"


@given(st.lists(st.integers(0, 50), max_size=70).map(sorted), st.integers(-5, 60))
def test_the_largest_step_that_fits_is_found(sizes: list[int], limit: int) -> None:
    """`sizes[i]` is the size of step i + 1; equal sizes in a row are one size."""
    fitting = bisect_right(sizes, limit)
    found = largest_that_fits(lambda step: sizes[step - 1], len(sizes), limit)
    assert found == (fitting or None)


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_few_steps_are_weighed(steps: int, limit: int) -> None:
    weighed: list[int] = []

    def size_of(step: int) -> int:
        weighed.append(step)
        return step

    assert largest_that_fits(size_of, steps, limit) == min(steps, limit)
    assert len(weighed) <= steps.bit_length()
    assert all(1 <= step <= steps for step in weighed)
