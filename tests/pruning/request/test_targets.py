"""How much: percentages, rates and counts become exact integers, or are refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from optipfair import ArgumentError, calculate_pruning_percentage_from_expansion_rate
from optipfair.pruning.options.prune_options import EXPANSION_DIVISORS
from optipfair.pruning.request.depth_targets import depth_request
from optipfair.pruning.request.shares import check_percentage, explicit_percentage, removed_count
from optipfair.pruning.request.width_targets import (
    check_expansion_rate,
    round_to_divisor,
    width_target,
)

widths = st.integers(1, 20000)
percentages = st.floats(0, 100, exclude_max=True)
no_numbers = st.one_of(
    st.text(), st.booleans(), st.lists(st.integers()), st.just(math.nan), st.just(math.inf)
)


def depth_target(total: int, **arguments: object) -> tuple[int, ...]:
    return depth_request(**arguments).resolve(total)  # type: ignore[arg-type]


def test_the_exact_numbers_of_the_design() -> None:
    # 450 % of 896 = 4032, which 4864 neurons reach; 100 * 4864 / 896 is no finite decimal.
    assert width_target(None, 450).kept(4864, 896) == 4032
    share = calculate_pruning_percentage_from_expansion_rate(4864, 896, 450)
    assert 4864 - removed_count(4864, share) == 4032
    # 90 % of 896 = 806.4: rounded up to 807.
    assert width_target(None, 90).kept(4864, 896) == 807
    assert 4864 - removed_count(4864, _share(4864, 896, 90)) == 807


def _share(width: int, hidden: int, rate: float) -> float:
    return calculate_pruning_percentage_from_expansion_rate(width, hidden, rate)


def test_a_percentage_rounds_down_what_goes() -> None:
    assert removed_count(40, 20) == 8
    assert removed_count(40, 19.9) == 7  # 7.96
    assert removed_count(40, 2.4) == 0  # 0.96
    assert removed_count(4, 25) == 1
    assert removed_count(4, 99) == 3


@given(widths, percentages)
def test_removal_is_the_documented_formula(width: int, percentage: float) -> None:
    removed = removed_count(width, percentage)
    assert removed == min(math.floor(width * percentage / 100 + 1e-9 * width), width - 1)


@given(widths, st.data())
def test_the_percentage_of_a_count_removes_that_count(width: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, width - 1))
    assert removed_count(width, 100 * count / width) == count


@given(widths, percentages, st.integers(1, 5000))
def test_a_percentage_keeps_one_to_all(width: int, percentage: float, hidden: int) -> None:
    assert 1 <= width_target(percentage, None).kept(width, hidden) <= width


@given(widths, st.integers(1, 5000), st.integers(1, 9000))
def test_an_expansion_rate_keeps_its_share_of_the_hidden_size(
    width: int, hidden: int, tenths: int
) -> None:
    exact = Fraction(tenths, 1000) * hidden  # the rate is tenths / 10 percent
    assume(exact <= width)
    kept = width_target(None, tenths / 10).kept(width, hidden)
    assert kept == math.ceil(exact)
    share = calculate_pruning_percentage_from_expansion_rate(width, hidden, tenths / 10)
    assert 0 <= share < 100
    assert width - removed_count(width, share) == kept


@given(widths, st.integers(1, 5000))
def test_the_rate_that_statistics_report_keeps_everything(width: int, hidden: int) -> None:
    assert width_target(None, 100 * width / hidden).kept(width, hidden) == width
    assert removed_count(width, _share(width, hidden, 100 * width / hidden)) == 0


@given(st.integers(256, 20000), percentages, st.sampled_from(EXPANSION_DIVISORS))
def test_a_divisor_rounds_down_to_a_multiple_and_keeps_one(
    width: int, percentage: float, divisor: int
) -> None:
    exact = width - removed_count(width, percentage)
    kept = width_target(percentage, None, divisor).kept(width, 100)
    assert kept == max(exact - exact % divisor, divisor)


@pytest.mark.parametrize(
    ("width", "percentage", "kept"),
    [
        (1536, 10, 1376),  # 1383 as asked for
        (1536, 12, 1344),  # 1352: the nearer one below
        (1536, 2, 1506),  # fewer than 32 go, and nothing is rounded
        (1000, 10, 900),  # the width is no multiple itself
        (64, 90, 32),  # 7 as asked for; one multiple stays
    ],
)
def test_the_nearest_multiple_is_kept_where_the_width_is_one(
    width: int, percentage: float, kept: int
) -> None:
    target = width_target(percentage, None, nearest_multiple=32)
    assert target.kept(width, 576) == kept


def test_two_ways_to_round_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="one rounds down, the other to the nearest"):
        width_target(10, None, 32, nearest_multiple=32)
    with pytest.raises(ArgumentError, match="nearest_multiple=0 is no whole number of 1 or more"):
        width_target(10, None, nearest_multiple=0)


def test_a_divisor_above_the_width_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"width of 40 .*multiple of 64.*smaller"):
        width_target(20, None, 64).kept(40, 16)


@given(st.one_of(no_numbers, st.floats(max_value=0, exclude_max=True), st.floats(min_value=100)))
def test_impossible_percentages_are_refused(percentage: object) -> None:
    with pytest.raises(ArgumentError, match="pruning_percentage="):
        width_target(percentage, None)


@given(st.one_of(no_numbers, st.floats(max_value=0)))
def test_impossible_expansion_rates_are_refused(rate: object) -> None:
    with pytest.raises(ArgumentError, match="expansion_rate="):
        width_target(None, rate)


@pytest.mark.parametrize("divisor", [0, 1, 16, 33, -32, True, "32", 512, 32.5], ids=repr)
def test_unknown_divisors_are_refused(divisor: object) -> None:
    with pytest.raises(ArgumentError, match=r"expansion_divisor.*32, 64, 128, 256"):
        width_target(20, None, divisor)


@pytest.mark.parametrize("number", [20, 20.0, np.float32(20), np.int64(20), Fraction(20)], ids=repr)
def test_any_real_number_is_a_percentage(number: object) -> None:
    assert width_target(number, None).kept(40, 16) == 32


def test_both_width_targets_or_none_are_refused() -> None:
    with pytest.raises(ArgumentError, match="are mutually exclusive"):
        width_target(20, 140)
    with pytest.raises(ArgumentError, match="how much to prune"):
        width_target(None, None)


@pytest.mark.parametrize(
    ("width", "hidden", "rate", "match"),
    [
        (40, 16, 251, "above the current 250"),
        (40, 16, 0, "not above 0"),
        (40, 16, -140, "not above 0"),
        (40, 16, math.nan, "finite"),
        (40, 16, "140", "finite"),
        (0, 16, 140, "current_intermediate_size"),
        (40, 0, 140, "current_hidden_size"),
        (40.5, 16, 140, "current_intermediate_size"),
        (True, 16, 140, "current_intermediate_size"),
    ],
)
def test_expansion_rates_that_cannot_be_are_refused(
    width: object, hidden: object, rate: object, match: str
) -> None:
    with pytest.raises(ArgumentError, match=match):
        calculate_pruning_percentage_from_expansion_rate(width, hidden, rate)  # type: ignore[arg-type]


def test_the_untouched_default_counts_as_absent_beside_another_target() -> None:
    assert explicit_percentage("MLP_GLU", 10, None) == 10
    assert explicit_percentage("MLP_GLU", 10, 140) is None
    assert explicit_percentage("DEPTH", 10, None) is None
    assert explicit_percentage("MLP_GLU", 20, 140) == 20
    assert explicit_percentage("DEPTH", 20, None) == 20


@given(st.integers(2, 200), st.data())
def test_a_layer_count_removes_so_many(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total - 1))
    assert depth_target(total, num_layers_to_remove=count) == tuple(range(total - count, total))


@given(st.integers(2, 200), percentages)
def test_a_share_of_layers_removes_its_floor_or_is_refused(total: int, share: float) -> None:
    expected = removed_count(total, share)
    if expected:
        assert len(depth_target(total, depth_pruning_percentage=share)) == expected
    else:
        with pytest.raises(ArgumentError, match="smallest"):
            depth_target(total, depth_pruning_percentage=share)


@given(st.integers(2, 200))
def test_the_smallest_share_that_a_refusal_names_works(total: int) -> None:
    with pytest.raises(ArgumentError, match="smallest") as caught:
        depth_target(total, depth_pruning_percentage=0)
    named = float(str(caught.value).rstrip(".").split()[-1])
    assert len(depth_target(total, depth_pruning_percentage=named)) == 1
    assert removed_count(total, named - 0.02) == 0


@given(st.integers(2, 60), st.one_of(no_numbers, st.floats(100), st.floats(max_value=-1e-6)))
def test_impossible_layer_shares_are_refused(total: int, share: object) -> None:
    with pytest.raises(ArgumentError):
        depth_target(total, depth_pruning_percentage=share)


@given(st.integers(2, 60), st.data())
def test_layer_indices_mean_custom(total: int, data: st.DataObject) -> None:
    drop = data.draw(st.sets(st.integers(0, total - 1), min_size=1, max_size=total - 1))
    request = depth_request(layer_indices=list(drop))
    assert (request.resolve(total), request.method) == (tuple(sorted(drop)), "custom")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((20, 140), "mutually exclusive"),
        ((None, None), "Must specify"),
        ((20, None, 48), "expansion_divisor must be one of"),
        ((None, None, 64), "cannot be used alone"),
        ((20, None, None, [-1]), "Invalid layer indices"),
        ((20, None, None, []), "cannot be an empty list"),
        ((20, None, None, [1, 1]), "duplicate"),
    ],
)
def test_refusals_keep_the_words_that_others_match(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        width_target(*given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "Must specify"),
        ((1, [1]), "mutually exclusive"),
        ((None, [-1]), "Invalid layer indices"),
        ((None, []), "cannot be an empty list"),
        ((None, [1, 1]), "duplicate"),
    ],
)
def test_refused_depths_keep_them_too(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        depth_request(*given)


@pytest.mark.parametrize(
    ("value", "divisor", "nearest"),
    [(100, 32, 96), (112, 32, 128), (111, 32, 96), (1, 64, 64), (128, 128, 128), (7, 1, 7)],
)
def test_a_width_is_rounded_to_the_nearest_multiple(value: int, divisor: int, nearest: int) -> None:
    assert round_to_divisor(value, divisor) == nearest


@pytest.mark.parametrize(("value", "divisor"), [(0, 8), (8, 0), (8.5, 8), (8, True)])
def test_what_is_no_width_is_not_rounded(value: Any, divisor: Any) -> None:
    with pytest.raises(ArgumentError, match="no whole number"):
        round_to_divisor(value, divisor)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), "20", True])
def test_what_no_float_can_hold_is_no_percentage(value: Any) -> None:
    with pytest.raises(ArgumentError, match="is no finite number"):
        check_percentage("pruning_percentage", value)
    with pytest.raises(ArgumentError, match="is no finite number"):
        check_expansion_rate(value)
