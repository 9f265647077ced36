"""Kept neurons make up for lost ones: by hand, by brute force, and never for the worse."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optipfair.pruning.compensation.least_squares import (
    SHRINKAGES,
    Moments,
    fit_kept,
)

# Two tokens, three inputs: x1 and x2 are unit vectors over the tokens, and x0 = x1 + 2 x2.
#   token a: x = (1, 1, 0)      token b: x = (2, 0, 1)
# With w = (3, 1, 1) the outputs are y_a = 3 + 1 = 4 and y_b = 6 + 1 = 7, so |y|^2 = 16 + 49 = 65.
DEPENDENT = torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
WEIGHT = torch.tensor([[3.0, 1.0, 1.0]], dtype=torch.float64)
KEEP = torch.tensor([1, 2])


def moments_of(tokens: Tensor, *, constant: bool = False) -> Moments:
    wide = tokens.double()
    return Moments(wide.T @ wide, constant=constant)


def with_ones(tokens: Tensor) -> Tensor:
    return torch.cat([tokens, torch.ones_like(tokens[:, :1])], dim=1)


def with_intercept(weight: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The same with a constant input at the end, which is kept and gives nothing."""
    width = weight.shape[1]
    return torch.nn.functional.pad(weight, (0, 1)), torch.tensor([*keep.tolist(), width])


def moments_with_targets(tokens: Tensor, outputs: Tensor) -> Moments:
    x, y = tokens.double(), outputs.double()
    return Moments(x.T @ x, y.T @ x, float(y.square().sum()))


def error_on(tokens: Tensor, wanted: Tensor, weight: Tensor, keep: Tensor) -> float:
    """The squared error over the squared outputs, straight from the tokens."""
    got = tokens[:, keep].double() @ weight.double().T
    return float((got - wanted.double()).square().sum() / wanted.double().square().sum())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_lost_input_that_others_sum_up_to_is_recovered_exactly() -> None:
    # 3 x0 + x1 + x2 = 3 (x1 + 2 x2) + x1 + x2 = 4 x1 + 7 x2.
    moments = moments_of(DEPENDENT)
    fit = fit_kept(WEIGHT, KEEP, moments, moments, [1e-12])
    torch.testing.assert_close(fit.weight, torch.tensor([[4.0, 7.0]], dtype=torch.float64))
    assert fit.error == pytest.approx(0, abs=1e-12)
    # Sliced, y is x1 + x2 = 1 on both tokens: (4 - 1)^2 + (7 - 1)^2 = 45.
    assert fit.sliced_error == pytest.approx(45 / 65)
    assert fit.shrinkage == 1e-12


def test_shrinkage_draws_towards_plain_slicing() -> None:
    # C's diagonal is (1 + 4, 1, 1), its mean 7/3: a shrinkage of 3/7 adds l = 1. C[S, S] is the
    # identity and B[S] = (4, 7), so W' = ((4, 7) + 1 (1, 1)) / (1 + 1) = (2.5, 4). Twice the
    # tokens doubles C, B and l alike. The error is 1.5^2 + 3^2 = 11.25.
    moments = moments_of(DEPENDENT)
    fit = fit_kept(WEIGHT, KEEP, moments, moments, [3 / 7])
    torch.testing.assert_close(fit.weight, torch.tensor([[2.5, 4.0]], dtype=torch.float64))
    assert fit.error == pytest.approx(11.25 / 65)


def test_the_shrinkage_that_does_best_on_held_back_tokens_is_taken() -> None:
    # Fitted on x0 = x1, the kept x1 takes weight 2 - l'. Where x0 = x1 / 2, 1.5 would be best: with
    # one kept input of moment 1 and mean diagonal 1, W' = (2 + s) / (1 + s), so s = 1 gives 1.5.
    weight = torch.ones(1, 2, dtype=torch.float64)
    keep = torch.tensor([1])
    fitting = moments_of(torch.tensor([[1.0, 1.0]]))
    held_back = moments_of(torch.tensor([[0.5, 1.0]]))
    fit = fit_kept(weight, keep, fitting, held_back, SHRINKAGES)
    assert fit.shrinkage == 1.0
    assert fit.error < fit.sliced_error


def test_useless_data_leaves_plain_slicing() -> None:
    # Where x0 = x1 the kept one doubles; on the held-back token x0 = -x1, the outputs cancel to
    # 0.5 x1 with w = (0.5, 1), and anything above 1 is farther from that than 1 is.
    weight = torch.tensor([[0.5, 1.0]])
    fitting, held_back = moments_of(torch.ones(1, 2)), moments_of(torch.tensor([[-1.0, 1.0]]))
    fit = fit_kept(weight, torch.tensor([1]), fitting, held_back)
    assert fit.shrinkage == math.inf
    assert torch.equal(fit.weight, weight[:, 1:])
    assert fit.error == fit.sliced_error == pytest.approx(1.0)  # (1 - 0.5)^2 / 0.5^2


def test_no_data_leaves_plain_slicing() -> None:
    nothing = Moments(torch.zeros(3, 3, dtype=torch.float64))
    fit = fit_kept(WEIGHT, KEEP, nothing, nothing)
    assert fit.shrinkage == math.inf
    assert torch.equal(fit.weight, WEIGHT[:, KEEP])


def test_keeping_all_changes_nothing() -> None:
    weight = normal(3, 5)
    moments = moments_of(normal(40, 5, seed=1))
    fit = fit_kept(weight, torch.arange(5), moments, moments)
    torch.testing.assert_close(fit.weight, weight)
    assert fit.error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "tokens",
    {
        "one token": normal(1, 6),
        "twice the same input": normal(30, 3)[:, [0, 0, 1, 1, 2, 2]],
        "an input that is always zero": normal(30, 6) * torch.tensor([1, 0, 1, 0, 1, 0]),
        "very small": 1e-9 * normal(30, 6),
        "very large": 1e9 * normal(30, 6),
    }.values(),
    ids=str,
)
def test_singular_moments_give_finite_weights_that_do_no_harm(tokens: Tensor) -> None:
    weight, keep = normal(4, 6, seed=2), torch.tensor([0, 1, 3])
    moments = moments_of(tokens)
    fit = fit_kept(weight, keep, moments, moments, [0.0, *SHRINKAGES])
    assert bool(torch.isfinite(fit.weight).all())
    assert fit.error <= fit.sliced_error
    wanted = tokens.double() @ weight.T
    assert error_on(tokens, wanted, fit.weight, keep) <= fit.sliced_error + 1e-9


def test_a_lost_input_that_never_changes_goes_into_the_intercept() -> None:
    # x0 is always 5 and x1 is 1 and -1, so y = 2 x0 + 3 x1 = 10 + 3 x1. With the intercept x1 keeps
    # its weight whatever the shrinkage; |y|^2 = 13^2 + 7^2 = 218, and sliced 2 * 10^2 are missed.
    tokens = with_ones(torch.tensor([[5.0, 1.0], [5.0, -1.0]]))
    weight, keep = with_intercept(torch.tensor([[2.0, 3.0]]), torch.tensor([1]))
    moments = moments_of(tokens, constant=True)
    for shrinkage in SHRINKAGES:
        fit = fit_kept(weight, keep, moments, moments, [shrinkage])
        torch.testing.assert_close(fit.weight, torch.tensor([[3.0, 10.0]]))
        assert fit.error == pytest.approx(0, abs=1e-12)
        assert fit.sliced_error == pytest.approx(200 / 218)


def test_without_shrinkage_it_is_least_squares_with_an_intercept() -> None:
    x, weight, keep = normal(60, 6) + 3, normal(4, 6, seed=1), torch.tensor([0, 2, 5])
    fit = fit_kept(
        *with_intercept(weight, keep),
        moments_of(with_ones(x[:40]), constant=True),
        moments_of(with_ones(x[40:]), constant=True),
        [1e-13],
    )
    solved = torch.linalg.lstsq(with_ones(x[:, keep]), x @ weight.T).solution.T
    torch.testing.assert_close(fit.weight, solved, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_an_intercept_is_a_fit_about_the_mean(shrinkage: float) -> None:
    """For tokens that count differently: W' from moments about m, b = W m - W' m[S]."""
    x, weight, keep = normal(50, 6) + 2, normal(4, 6, seed=1), torch.tensor([0, 2, 5])
    scales = normal(50, 1, seed=2).abs()
    moments = moments_of(with_ones(x) * scales, constant=True)
    fit = fit_kept(*with_intercept(weight, keep), moments, moments, [shrinkage])
    w = scales.square()
    mean = (w * x).sum(dim=0) / w.sum()
    centred = (x - mean).T @ (w * (x - mean))
    amount = shrinkage * float((w * x.square()).sum()) / 6
    right = weight @ centred[:, keep] + amount * weight[:, keep]
    new = torch.linalg.solve(centred[keep][:, keep] + amount * torch.eye(3), right.T).T
    torch.testing.assert_close(fit.weight[:, :-1], new)
    torch.testing.assert_close(fit.weight[:, -1], weight @ mean - new @ mean[keep])


def test_where_the_mean_is_far_from_zero_an_intercept_helps() -> None:
    keep = torch.tensor([1, 4])
    ratios = []
    for seed in range(50):  # one in some hundreds is a little worse on tokens that it did not see
        x, weight = normal(500, 6, seed=seed) + 5, normal(3, 6, seed=seed + 1)
        without = fit_kept(weight, keep, moments_of(x[:400]), moments_of(x[400:]))
        parts = (moments_of(with_ones(part), constant=True) for part in (x[:400], x[400:]))
        fit = fit_kept(*with_intercept(weight, keep), *parts)
        assert fit.sliced_error == pytest.approx(without.sliced_error)
        ratios.append(fit.error / without.error)
    assert statistics.median(ratios) < 0.9
    assert max(ratios) < 1.1


def test_other_outputs_can_be_aimed_at() -> None:
    # Inputs are unit vectors, the outputs aimed at 5 and 6: |y|^2 = 25 + 36 = 61. The kept input
    # takes 5, and 36 are left. Sliced it has 1: (5 - 1)^2 + 36 = 52.
    moments = moments_with_targets(torch.eye(2), torch.tensor([[5.0], [6.0]]))
    weight = torch.ones(1, 2, dtype=torch.float64)
    fit = fit_kept(weight, torch.tensor([0]), moments, moments, [1e-12])
    assert fit.weight.item() == pytest.approx(5)
    assert (fit.error, fit.sliced_error) == pytest.approx((36 / 61, 52 / 61))


def test_aiming_at_its_own_outputs_is_what_happens_without_targets() -> None:
    x, weight, keep = normal(50, 6), normal(4, 6, seed=1), torch.tensor([1, 2, 5])
    own = fit_kept(weight, keep, moments_of(x[:40]), moments_of(x[40:]))
    fitting = moments_with_targets(x[:40], x[:40] @ weight.T)
    held_back = moments_with_targets(x[40:], x[40:] @ weight.T)
    aimed = fit_kept(weight, keep, fitting, held_back)
    torch.testing.assert_close(aimed.weight, own.weight)
    assert aimed.error == pytest.approx(own.error)


def test_sums_of_moments_are_moments_of_all_tokens() -> None:
    x, y = normal(9, 4), normal(9, 2, seed=1)
    total = moments_with_targets(x[:5], y[:5]) + moments_with_targets(x[5:], y[5:])
    every = moments_with_targets(x, y)
    torch.testing.assert_close(total.inputs, every.inputs)
    torch.testing.assert_close(total.targets, every.targets)
    assert total.power == pytest.approx(every.power)
    assert (total + moments_of(x)).targets is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_keep_their_dtype(dtype: torch.dtype) -> None:
    moments = moments_of(DEPENDENT)
    fit = fit_kept(WEIGHT.to(dtype), KEEP, moments, moments)
    assert fit.weight.dtype == dtype
    assert fit.weight.float().tolist() == [pytest.approx([4, 7], rel=1e-2)]


@given(
    seed=st.integers(0, 10_000),
    width=st.integers(2, 8),
    few=st.integers(0, 6),
    constant=st.booleans(),
    data=st.data(),
)
def test_held_back_tokens_never_get_worse_and_errors_are_those_of_the_tokens(
    seed: int, width: int, few: int, constant: bool, data: st.DataObject
) -> None:
    keep = torch.tensor(
        sorted(data.draw(st.sets(st.integers(0, width - 1), min_size=1, max_size=width)))
    )
    mix = normal(width, width, seed=seed)
    fitting, held_back = normal(few, width, seed=seed + 1) @ mix, normal(4, width, seed=seed + 2)
    weight = normal(3, width, seed=seed + 3)
    if constant:
        fitting, held_back = with_ones(fitting), with_ones(held_back)
        weight, keep = with_intercept(weight, keep)
    moments = moments_of(held_back, constant=constant)
    fit = fit_kept(weight, keep, moments_of(fitting, constant=constant), moments)
    assert fit.error <= fit.sliced_error
    wanted = held_back @ weight.T
    direct = error_on(held_back, wanted, fit.weight, keep)
    assert fit.error == pytest.approx(direct, abs=1e-9)
    sliced = error_on(held_back, wanted, weight[:, keep], keep)
    assert fit.sliced_error == pytest.approx(sliced, abs=1e-9)
