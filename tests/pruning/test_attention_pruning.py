"""Attention by a pass over the layers, what its scores are, and requests that are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import ArgumentError, UnknownNameError, plan_pruning, prune_model
from optipfair.arch.units.attention import by_attention
from optipfair.arch.view import describe
from optipfair.pruning import decision
from optipfair.pruning.cut.surgery import apply_plan
from optipfair.pruning.decision import decide
from optipfair.pruning.importance.criteria import CRITERIA, WEIGHTS
from optipfair.pruning.importance.selection import select_units
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.testing import tiny_model
from support.oracles import with_zeroed_heads

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
# phi3 reads the numbers of heads from its config in forward, qwen3_next has gates among queries.
CASES = [("llama", "group"), ("llama", "head"), ("qwen3", "group"), ("qwen3", "head")]
CASES += [("phi3", "group"), ("gpt_oss", "group"), ("gpt_oss", "head"), ("qwen3_next", "group")]
cases = pytest.mark.parametrize(("family", "unit"), CASES)


def toy(family: str) -> Any:
    return tiny_model(family, **(HEADS if family in ("llama", "qwen3", "phi3") else {}))


def batches(size: int = 8) -> list[dict[str, Tensor]]:
    ids = torch.randint(0, 250, (64, 16), generator=torch.Generator().manual_seed(2))
    return [{"input_ids": rows} for rows in ids.split(size)]


def request(unit: str, method: str = "AUTO", **more: Any) -> Any:
    return check_request(
        PruneOptions("ATTENTION", 50, neuron_selection_method=method, attention_unit=unit, **more),
        batches(),
    )


def outputs(model: Any) -> Tensor:
    """What the last layer gives, for all calibration tokens."""
    with torch.no_grad():
        return torch.cat([model.base_model(**batch).last_hidden_state for batch in batches()])


@cases
def test_kept_heads_make_up_for_lost_ones(family: str, unit: str) -> None:
    found = decide(describe(toy(family)), request(unit), batches())[0]
    errors = found.request["reconstruction_errors"]
    assert errors
    for each in errors:
        assert each["error"] <= each["sliced_error"] + 1e-12
    assert sum(e["error"] for e in errors) < 0.9 * sum(e["sliced_error"] for e in errors)


@cases
def test_only_the_projection_out_holds_other_values_than_a_plain_cut(
    family: str, unit: str
) -> None:
    model = toy(family)
    found = decide(describe(model), request(unit), batches())[0]
    own = {"weight", "bias"} if family == "gpt_oss" else {"weight"}
    assert {name.rpartition(".")[2] for _, _, name in found.replacements} == own
    plain = apply_plan(copy.deepcopy(model), found, {})
    fitted = apply_plan(copy.deepcopy(model), found)
    different = [
        name
        for (name, a), b in zip(plain.named_parameters(), fitted.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert different
    assert all(".o_proj." in name for name in different)
    before = outputs(model)
    errors = [float((outputs(each) - before).square().mean()) for each in (fitted, plain)]
    assert errors[0] < errors[1]


@cases
@pytest.mark.parametrize("sequential", [True, False])
def test_what_flows_on_is_what_the_layers_will_give(
    family: str, unit: str, sequential: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy(family)
    kept: list[Any] = []
    capture = decision.capture
    monkeypatch.setattr(
        decision, "capture", lambda *a, **k: kept.append(capture(*a, **k)) or kept[-1]
    )
    found = decide(describe(model), request(unit, sequential=sequential), batches())[0]
    if sequential:
        apply_plan(model, found)
    last: list[Tensor] = []
    layer = describe(model).layers[-1].module
    layer.register_forward_hook(
        lambda _m, _a, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    outputs(model)
    torch.testing.assert_close(
        torch.cat(list(kept[0].hidden)), torch.cat(last), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("method", sorted(n for n in CRITERIA if CRITERIA[n].needs != WEIGHTS))
@pytest.mark.parametrize(("family", "unit"), [("qwen3", "group"), ("qwen3", "head")])
def test_batch_size_does_not_matter_and_each_group_keeps_as_many(
    family: str, unit: str, method: str
) -> None:
    if method == "RANDOM":
        plans = [
            plan_pruning(toy(family), "ATTENTION", method, 50, attention_unit=unit, seed=seed)
            for seed in (0, 0, 1)
        ]
        assert plans[0] == plans[1] and plans[0].width_cuts != plans[2].width_cuts
    else:
        plans = [
            decide(describe(toy(family)), request(unit, method), batches(size))[0]
            for size in (8, 3)
        ]
        assert plans[0].width_cuts == plans[1].width_cuts
    for cut in plans[0].width_cuts:
        groups = [unit_ * 4 // cut.width for unit_ in cut.keep[0]]
        assert cut.kept == cut.width // 2
        assert unit == "group" or groups == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["ACT", "WACT", "FLAP"])
@pytest.mark.parametrize("unit", ["group", "head"])
def test_a_unit_scores_what_its_columns_score(unit: str, method: str) -> None:
    model = toy("qwen3")
    found = decide(describe(model), request(unit, method, sequential=False), batches())[0]
    seen: dict[int, list[Tensor]] = {i: [] for i in range(4)}
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _m, args, index=index: seen[index].append(args[0].flatten(0, 1).double())
        )
    outputs(model)
    for cut in found.width_cuts:
        x = torch.cat(seen[cut.layer])  # (T, heads * head_dim)
        weight = model.model.layers[cut.layer].self_attn.o_proj.weight.detach().double()
        by_column = {
            "ACT": x.norm(dim=0),
            "WACT": x.norm(dim=0) * weight.norm(dim=0),
            "FLAP": x.var(dim=0, unbiased=False) * weight.square().sum(dim=0),
        }[method]
        scores = by_column.view(cut.width, -1).sum(dim=1)
        kept = select_units(scores, cut.kept, 1 if unit == "group" else 4)
        assert cut.keep[0] == tuple(kept.tolist())


@pytest.mark.parametrize("method", ["PPM", "VOW", "PON", "L2"])
@pytest.mark.parametrize("unit", ["group", "head"])
def test_a_static_score_is_the_sum_over_the_rows_and_columns(unit: str, method: str) -> None:
    model = toy("qwen3")
    plan = plan_pruning(model, "ATTENTION", method, 50, attention_unit=unit)
    row = CRITERIA[method].function
    for cut in plan.width_cuts:
        attention = model.model.layers[cut.layer].self_attn
        names = ("q_proj", "k_proj", "v_proj") if unit == "group" else ("q_proj",)
        matrices = [getattr(attention, name).weight for name in names]
        matrices.append(attention.o_proj.weight.T)
        scores = sum(
            row(None, matrix.detach()).view(cut.width, -1).sum(dim=1) for matrix in matrices
        )
        kept = select_units(scores, cut.kept, 1 if unit == "group" else 4)
        assert cut.keep[0] == tuple(kept.tolist())


@pytest.mark.parametrize("unit", ["group", "head"])
def test_a_static_method_compensates_too_and_keeps_what_it_keeps_without(unit: str) -> None:
    model = toy("qwen3")
    found = decide(describe(model), request(unit, "L2", compensate=True), batches())[0]
    alone = plan_pruning(model, "ATTENTION", "L2", 50, attention_unit=unit)
    assert found.width_cuts == alone.width_cuts
    assert found.replacements


def test_a_silent_head_is_the_first_to_go() -> None:
    model = toy("qwen3")
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data[:, 8 * 2 : 8 * 3] = 0  # the third of eight heads
    for method in ("OBS", "WACT", "FLAP"):
        plan = decide(describe(model), request("head", method), batches())[0]
        assert all(2 not in cut.keep[0] for cut in plan.width_cuts)


def test_the_model_is_left_as_it_was(unchanged: Callable[..., Any]) -> None:
    model = toy("phi3")
    with unchanged(model):
        decide(describe(model), request("group"), batches())
        by_attention(describe(model), "group")


def test_nothing_comes_out_of_removed_heads_after_obs() -> None:
    model = toy("llama")
    found = decide(describe(model), request("head", "OBS"), batches())[0]
    zeroed = outputs(with_zeroed_heads(model, found))
    torch.testing.assert_close(outputs(apply_plan(model, found)), zeroed, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"expansion_rate": 100, "pruning_percentage": None}, "expansion_rate.*ATTENTION.*MLP_GLU"),
        ({"expansion_divisor": 32}, "expansion_divisor=32 does not go with.*ATTENTION"),
        ({"layer_indices": [1]}, "layer_indices=.1. does not go with"),
        ({"num_layers_to_remove": 1}, "num_layers_to_remove=1 does not go.*'DEPTH'"),
        ({"depth_pruning_percentage": 10}, "depth_pruning_percentage.*'DEPTH'"),
        ({"layer_selection_method": "first"}, "layer_selection_method.*'DEPTH'"),
        ({"pruning_percentage": 100}, "outside"),
        ({"pruning_percentage": None}, "Nothing says how much"),
        ({"dataloader": batches()}, "no data-driven form there.*'AUTO'"),
        ({"neuron_selection_method": "AUTO"}, "needs calibration data"),
        ({"pruning_type": "MLP_GLU", "attention_unit": "head"}, "use pruning_type='ATTENTION'"),
        ({"pruning_type": "BOTH", "attention_unit": "head"}, "use pruning_type='ATTENTION'"),
    ],
    ids=str,
)
def test_requests_that_do_not_fit_are_refused(
    more: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    given = {"pruning_type": "ATTENTION", "pruning_percentage": 50, **more}
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        prune_model(model, **given, show_progress=False)


@pytest.mark.parametrize("unit", ["groups", None, 3])
def test_an_unknown_unit_is_named(unit: Any, refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "attention_unit.*Available: group, head", UnknownNameError):
        prune_model(model, "ATTENTION", attention_unit=unit, show_progress=False)


@pytest.mark.parametrize("unit", ["group", "head"])
def test_weights_that_are_no_numbers_are_refused(unit: str, refused: Callable[..., Any]) -> None:
    model = tiny_model("gpt_oss")
    model.model.layers[1].self_attn.sinks.data[0] = float("nan")
    with refused(model, r"layer 1, self_attn.sinks holds NaN"):
        prune_model(
            model, "ATTENTION", pruning_percentage=50, attention_unit=unit, show_progress=False
        )
