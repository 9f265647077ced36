"""What is summed up of a down projection's inputs, against the tokens themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from optipfair.arch.view import describe
from optipfair.errors import UnsupportedModelError
from optipfair.pruning.calibration.moments import Inputs, MLPInputs, Tokens, collecting, token_roles
from optipfair.testing import tiny_model

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def alike(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens that count alike."""
    return tokens, torch.ones(len(tokens))


def plain(mask: Tensor) -> Tokens:
    """Real tokens that count alike, none held back."""
    return Tokens(mask.int(), torch.ones(mask.shape))


def summed(parts: Sequence[Tensor], *, moments: bool = True) -> Inputs:
    inputs = Inputs(parts[0].shape[1], CPU, moments=moments)
    for part in parts:
        inputs.add(*alike(part))
    return inputs


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=atol)


def test_sums_of_three_tokens_by_hand() -> None:
    # Tokens (1, 0), (3, 4), (2, -1): squares 1 + 9 + 4 = 14 and 0 + 16 + 1 = 17, sums 6 and 3,
    # products 0 + 12 - 2 = 10. Means 2 and 1, variances 14/3 - 4 = 2/3 and 17/3 - 1 = 14/3.
    inputs = summed([torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, -1.0]])])
    assert inputs.tokens == 3
    close(inputs.moments, torch.tensor([[14.0, 10.0], [10.0, 17.0]]))
    close(inputs.norms, torch.tensor([14.0, 17.0]).sqrt())
    close(inputs.variances, torch.tensor([2 / 3, 14 / 3]))


def test_every_fifth_block_of_16_tokens_is_held_back() -> None:
    # 700 tokens: of 44 blocks, in the first sequence those that begin at 64, 144, 224, ..., in the
    # second one block earlier, and so on.
    roles = token_roles(torch.ones(7, 700).bool(), 0)
    for sequence, row in enumerate(roles):
        held = [start + n for start in range(64 - 16 * sequence, 700, 80) for n in range(16)]
        expected = [2 if place in set(held) else 1 for place in range(700)]
        assert row.tolist() == expected


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=12), ends=st.data())
def test_what_is_held_back_follows_from_the_place_alone(lengths: list[int], ends: Any) -> None:
    mask = torch.arange(200) < torch.tensor(lengths)[:, None]
    whole = token_roles(mask, 3)
    cut = ends.draw(st.integers(0, len(lengths)))
    longest = max(lengths)
    assert torch.equal(token_roles(mask[:cut], 3), whole[:cut])
    assert torch.equal(token_roles(mask[cut:, :longest], 3 + cut), whole[cut:, :longest])
    assert torch.equal(whole > 0, mask)


@pytest.mark.parametrize("length", [8, 20, 79, 512])
def test_a_fifth_is_held_back_of_short_and_of_long_sequences(length: int) -> None:
    roles = token_roles(torch.ones(50, length).bool(), 0)
    assert float((roles == 2).float().mean()) == pytest.approx(0.2, abs=0.01)


@given(
    cuts=st.lists(st.integers(0, 700), max_size=12), held=st.integers(0, 5), seed=st.integers(0, 9)
)
def test_how_tokens_come_in_parts_changes_nothing(cuts: list[int], held: int, seed: int) -> None:
    """Against float64; two strips of rows."""
    tokens = normal(700, 150, seed=seed)
    inputs = Inputs(150, CPU, moments=True)
    ends = [0, *sorted(cuts), 700]
    apart: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start, end in pairwise(ends):
        middle = start + (end - start) * held // 5
        inputs.add(*alike(tokens[start:middle]))
        inputs.add(*alike(tokens[middle:end]), held_back=True)
        apart[0].append(tokens[start:middle])
        apart[1].append(tokens[middle:end])
    assert inputs.tokens == 700
    wide = tokens.double()
    close(inputs.moments, wide.T @ wide, 1e-4)
    for found, rows in zip(inputs.split(), apart, strict=True):
        part = torch.cat(rows).double()
        close(found.inputs, part.T @ part, 1e-4)
    close(inputs.norms, wide.norm(dim=0))
    close(inputs.variances, wide.var(dim=0, correction=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sums_are_wide_whatever_the_dtype(dtype: torch.dtype) -> None:
    # 300 tokens of 200: 300 * 40000 = 12 000 000 is past what float16 holds.
    inputs = summed([torch.full((100, 2), 200.0, dtype=dtype)] * 3)
    assert inputs.moments.dtype == torch.float64
    assert inputs.moments.tolist() == [[12e6, 12e6], [12e6, 12e6]]
    assert inputs.variances.tolist() == [0, 0]


def test_without_moments_norms_and_variances_are_the_same() -> None:
    tokens = normal(400, 4)
    light, full = summed([tokens], moments=False), summed([tokens])
    assert light.products is None
    close(light.norms, full.norms)
    close(light.variances, tokens.double().var(dim=0, correction=0))


def test_tokens_count_by_their_scales_in_products_alone() -> None:
    tokens, scales = normal(40, 5), normal(40, seed=1).abs()
    inputs = Inputs(5, CPU, moments=True)
    inputs.add(tokens, scales)
    scaled = tokens * scales[:, None]
    close(inputs.moments, scaled.T @ scaled)
    close(inputs.norms, tokens.norm(dim=0))


def test_a_constant_input_gives_sums_and_the_total_weight() -> None:
    tokens, scales = normal(40, 5), normal(40, seed=1).abs()
    inputs = Inputs(5, CPU, moments=True, constant=True)
    inputs.add(tokens[:30], scales[:30])
    inputs.add(tokens[30:], scales[30:], held_back=True)
    for found, part in zip(inputs.split(), (slice(30), slice(30, None)), strict=True):
        weights = scales[part].square()
        assert found.constant
        close(found.inputs[-1, :-1], weights @ tokens[part])
        close(found.inputs[-1, -1], weights.sum())
        close(found.inputs[:-1, -1], weights @ tokens[part])
    scaled = tokens * scales[:, None]
    close(inputs.moments, scaled.T @ scaled)


def test_a_token_with_large_states_counts_less() -> None:
    hidden = torch.stack([torch.full((4,), 3.0), torch.full((4,), 300.0)])[None]
    scales = Tokens.of(hidden, torch.ones(1, 2).bool(), 0).scales
    torch.testing.assert_close(scales, torch.tensor([[1 / 3, 1 / 300]]))


def test_no_tokens_give_zeros() -> None:
    inputs = Inputs(3, CPU, moments=True)
    inputs.add(*alike(torch.zeros(0, 3)))
    assert inputs.tokens == 0
    for values in (inputs.norms, inputs.variances, inputs.moments):
        assert not values.any()


def entering(model: Any, ids: Tensor, layer: int) -> Tensor:
    """What enters a dense down projection, (B, S, I), seen with a hook of our own."""
    seen: list[Tensor] = []
    mlp = next(mlp for mlp in describe(model).mlps if mlp.layer == layer)
    down = mlp.owner.get_submodule(mlp.spec.down.module)
    handle = down.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        model(ids)
    handle.remove()
    return seen[0].reshape(*ids.shape, -1)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "falcon", "gpt_neox"])
def test_only_real_tokens_count(family: str, token_ids: Tensor) -> None:
    model = tiny_model(family)
    mask = torch.ones_like(token_ids).bool()
    mask[1, 5:] = False
    inputs = MLPInputs(next(mlp for mlp in describe(model).mlps if mlp.layer == 1), moments=True)
    with torch.no_grad(), collecting([inputs], [plain(mask)]):
        model(token_ids)
    real = entering(model, token_ids, 1)[mask]
    assert inputs.parts[0].tokens == 12 + 5
    close(inputs.parts[0].moments, real.T @ real)
    close(inputs.parts[0].norms, real.norm(dim=0))


def test_hooks_are_gone_after_the_block_even_when_it_fails(unchanged: Any) -> None:
    model = tiny_model("llama")
    inputs = [MLPInputs(mlp, moments=False) for mlp in describe(model).mlps]
    with (
        unchanged(model),
        pytest.raises(KeyError),
        collecting(inputs, [plain(torch.ones(1, 1).bool())]),
    ):
        raise KeyError


def test_each_expert_counts_the_tokens_that_it_gets() -> None:
    model = tiny_model("mixtral")
    mlp = describe(model).mlps[1]
    experts = mlp.owner.get_submodule(mlp.spec.down.module)
    calls: list[tuple[Tensor, Tensor]] = []
    handle = experts.register_forward_pre_hook(lambda _m, args: calls.append((args[0], args[1])))
    ids = torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids).bool()
    mask[2, 4:] = False
    inputs = MLPInputs(mlp, moments=True)
    with torch.no_grad(), collecting([inputs], [plain(mask)]):
        model(ids)
    handle.remove()
    (hidden, chosen) = calls[0]
    expected: list[list[Tensor]] = [[] for _ in range(4)]
    rows = zip(hidden.view(-1, 16), chosen.view(-1, 2), mask.flatten().tolist(), strict=True)
    for token, picked, real in rows:
        for expert in picked.tolist() if real else ():
            gate, up = (experts.gate_up_proj[expert] @ token).chunk(2)  # type: ignore[index]
            expected[expert].append((nn.functional.silu(gate) * up).detach())
    assert [part.tokens for part in inputs.parts] == [len(rows) for rows in expected]
    assert sum(part.tokens for part in inputs.parts) == 2 * (24 + 4)
    for part, rows_of in zip(inputs.parts, expected, strict=True):
        tokens = torch.stack(rows_of)
        close(part.moments, tokens.T @ tokens)


def test_experts_that_hide_their_activations_are_refused() -> None:
    model = tiny_model("jetmoe")
    mlp = next(mlp for mlp in describe(model).mlps if mlp.experts)
    with pytest.raises(UnsupportedModelError, match="do not show their activations"):
        MLPInputs(mlp, moments=True)
