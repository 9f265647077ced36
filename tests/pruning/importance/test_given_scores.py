"""Scores that the caller gives: the highest stay, in memory and on disk, or they are refused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optipfair import (
    ArgumentError,
    PruningPlan,
    PruningWarning,
    UnsupportedModelError,
    apply_plan,
    load_model,
    neuron_importance_scores,
    plan_pruning,
    prune_checkpoint,
    prune_model,
)
from optipfair.arch.view import describe
from optipfair.pruning.importance.criteria import CRITERIA
from optipfair.testing import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")

FAMILIES = ("llama", "phi3", "gpt2", "opt", "mixtral")
STATIC = [name for name in CRITERIA.names() if not CRITERIA[name].needs_data]


def scores_of(model: Any, seed: int = 0) -> dict[int, Tensor]:
    """Random ones of few values, so that some are equal."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        mlp.layer: (mlp.width,) if mlp.experts is None else (mlp.experts, mlp.width)
        for mlp in describe(model).mlps
    }
    return {i: torch.randint(0, 9, shape, generator=draw) / 4 for i, shape in shapes.items()}


def batches() -> list[Tensor]:
    return [torch.randint(0, 256, (8, 40), generator=torch.Generator().manual_seed(2))]


def kept(plan: PruningPlan) -> dict[int, tuple[tuple[int, ...], ...]]:
    return {cut.layer: cut.keep for cut in plan.width_cuts}


def highest(scores: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """Of each row, by numpy: the highest, of equal ones the first."""
    rows = np.atleast_2d(np.asarray(scores))
    order = [np.lexsort((np.arange(len(row)), -row)) for row in rows]
    return tuple(tuple(sorted(each[:count].tolist())) for each in order)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_highest_scores_stay(name: str, unchanged: Callable[..., Any]) -> None:
    model = tiny_model(name)
    scores = scores_of(model)
    with unchanged(model):
        plan = plan_pruning(model, pruning_percentage=40, neuron_scores=scores)
    (count,) = {cut.kept for cut in plan.width_cuts}
    assert kept(plan) == {layer: highest(values, count) for layer, values in scores.items()}
    pruned = prune_model(
        copy.deepcopy(model), pruning_percentage=40, neuron_scores=scores, show_progress=False
    )
    carried_out = apply_plan(model, PruningPlan.from_json(plan.to_json()))
    assert torch.equal(pruned(batches()[0]).logits, carried_out(batches()[0]).logits)


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s.numpy(),
        lambda s: s.tolist(),
        lambda s: s.to(torch.bfloat16).requires_grad_(),
        lambda s: (4 * s).int(),
        lambda s: (4 * s).numpy().astype(np.uint8)[::-1][::-1],
        list,
    ],
)
def test_any_form_of_numbers_is_read(form: Callable[[Tensor], Any]) -> None:
    model = tiny_model("llama")
    scores = scores_of(model)
    given = {np.int64(layer): form(values) for layer, values in scores.items()}
    plans = [plan_pruning(model, expansion_rate=100, neuron_scores=s) for s in (scores, given)]
    assert kept(plans[0]) == kept(plans[1])


def test_the_plan_says_that_the_scores_were_the_callers() -> None:
    model = tiny_model("llama")
    records = [
        plan_pruning(model, pruning_percentage=40, neuron_scores=scores_of(model, seed)).request
        for seed in (0, 0, 1)
    ]
    assert {record["neuron_selection_method"] for record in records} == {"custom"}
    digests = [record["scores_digest"] for record in records]
    assert digests[0] == digests[1] != digests[2]
    assert "scores_digest" not in plan_pruning(model, pruning_percentage=40).request


def test_only_layers_that_are_cut_need_scores() -> None:
    model = tiny_model("llama")
    scores = scores_of(model)
    some = plan_pruning(
        *(model, "MLP_GLU"), pruning_percentage=40, layer_indices=[1], neuron_scores={1: scores[1]}
    )
    assert kept(some) == {1: highest(scores[1], 24)}
    del scores[2]
    both = plan_pruning(
        model, "BOTH", pruning_percentage=40, layer_indices=[2], neuron_scores=scores
    )
    assert both.drop_layers == (2,)
    assert kept(both) == {layer: highest(values, 24) for layer, values in scores.items()}
    ranked = plan_pruning(
        model,
        "BOTH",
        pruning_percentage=40,
        num_layers_to_remove=1,
        layer_selection_method="block_influence",
        dataloader=batches(),
        neuron_scores=scores_of(model),
    )
    assert len(ranked.drop_layers) == 1
    wanted = {i: highest(s, 24) for i, s in scores_of(model).items() if i in ranked.keep_layers}
    assert kept(ranked) == wanted


def test_kept_neurons_make_up_for_lost_ones() -> None:
    model = tiny_model("llama")
    scores, ids = scores_of(model), batches()[0]
    asked: dict[str, Any] = {
        "pruning_percentage": 50,
        "neuron_scores": scores,
        "show_progress": False,
    }
    sliced = prune_model(copy.deepcopy(model), **asked)
    fitted = prune_model(copy.deepcopy(model), **asked, dataloader=batches(), compensate=True)
    with torch.no_grad():
        errors = [float((m(ids).logits - model(ids).logits).norm()) for m in (sliced, fitted)]
    assert errors[1] < errors[0]
    up = [m.model.layers[2].mlp.up_proj.weight for m in (sliced, fitted)]
    assert torch.equal(*up)


@pytest.mark.parametrize("method", ["L2", None])
def test_widths_by_loss_keep_the_highest_scores(method: str | None) -> None:
    model = tiny_model("llama")
    scores = scores_of(model) if method is None else neuron_importance_scores(model, method)
    by = {"neuron_scores": scores} if method is None else {"neuron_selection_method": method}
    options: dict[str, Any] = {"dataloader": batches(), "compensate": True} | by
    before = copy.deepcopy(model)
    prune_model(
        model, pruning_percentage=50, layer_widths="by_loss", show_progress=False, **options
    )
    for old, new in zip(before.model.layers, model.model.layers, strict=True):
        keep = highest(scores[old.self_attn.layer_idx], new.mlp.up_proj.out_features)
        assert torch.equal(old.mlp.up_proj.weight[list(keep[0])], new.mlp.up_proj.weight)


@pytest.mark.parametrize("options", [{}, {"compensate": True}], ids=["cut", "compensate"])
@pytest.mark.parametrize("name", ["llama", "phi3", "mixtral"])
def test_disk_equals_memory(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model")
    options = {
        "pruning_percentage": 40,
        "neuron_scores": scores_of(model),
        **({**options, "dataloader": batches()} if options else {}),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Too few", PruningWarning)  # of an expert's tokens
        result = prune_checkpoint(tmp_path / "model", tmp_path / "disk", **options)
        prune_model(model, **options, show_progress=False)
    found = load_model(tmp_path / "disk").state_dict()
    assert result.streamed
    assert result.plan.request["neuron_selection_method"] == "custom"
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    card = (tmp_path / "disk" / "README.md").read_text()
    assert f"chosen by scores of the caller's ({result.plan.request['scores_digest']})" in card


def test_a_saved_plan_of_such_scores_is_carried_out_on_disk(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.save_pretrained(tmp_path / "model")
    plan = plan_pruning(model, pruning_percentage=40, neuron_scores=scores_of(model))
    plan.save(tmp_path / "plan.json")
    result = prune_checkpoint(tmp_path / "model", tmp_path / "out", plan=tmp_path / "plan.json")
    assert result.plan == PruningPlan.load(tmp_path / "plan.json")
    assert kept(result.plan) == kept(plan)
    with pytest.raises(ArgumentError, match=r"^neuron_scores does not go with a plan"):
        prune_checkpoint(
            *(tmp_path / "model", tmp_path / "other"), plan=plan, neuron_scores=scores_of(model)
        )


def test_layers_that_share_an_mlp_need_the_same_scores(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    model.model.layers[2].mlp = model.model.layers[1].mlp
    scores = scores_of(model)
    with refused(model, "Layers 1 and 2 share", ArgumentError):
        plan_pruning(model, pruning_percentage=40, neuron_scores=scores)
    same = scores | {2: scores[1]}
    plan = plan_pruning(model, pruning_percentage=40, neuron_scores=same)
    assert kept(plan)[2] == kept(plan)[1] == highest(scores[1], 24)


GOOD = torch.arange(40.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"neuron_scores": {}}, "neuron_scores is empty. Give a dict"),
        ({"neuron_scores": [GOOD] * 4}, "neuron_scores is a list. Give a dict"),
        ({"neuron_scores": GOOD}, "neuron_scores is a Tensor"),
        ({"neuron_scores": {0: GOOD, 2: GOOD}}, r"lacks layers \[1, 3\].*layer_indices"),
        ({4: GOOD}, "layer 4, but the model has layers 0 to 3"),
        ({-1: GOOD}, "key -1, which is no index"),
        ({0.5: GOOD}, r"key 0\.5"),
        ({"1": GOOD}, "key '1'"),
        ({1: GOOD[:39]}, r"neuron_scores\[1\] has shape \(39,\), but .* \(40,\)"),
        ({1: GOOD[None]}, r"shape \(1, 40\)"),
        ({1: GOOD / 0}, r"neuron_scores\[1\] holds NaN or Inf"),
        ({1: GOOD * float("inf")}, "NaN or Inf"),
        ({1: GOOD + 1j}, "complex64; scores are real"),
        ({1: GOOD > 3}, "bool; scores are real"),
        ({1: ["a"] * 40}, "cannot be read as numbers"),
        ({1: None}, r"neuron_scores\[1\]"),
        ({1: [[1, 2], [3]]}, "cannot be read as numbers"),
        ({"neuron_selection_method": "VOW"}, "'VOW' are mutually exclusive"),
        ({"pruning_type": "ATTENTION"}, "do not go with pruning_type='ATTENTION'"),
        ({"pruning_type": "DEPTH", "pruning_percentage": 25}, "pruning_type='DEPTH'"),
        ({"dataloader": [GOOD]}, "dataloader does not go with neuron_scores.*compensate=True"),
        ({"compensate": True}, "compensate=True needs calibration data"),
        ({"layer_widths": "by_loss"}, "layer_widths='by_loss'"),
        ({"sequential": True}, "sequential=True needs calibration data"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(
    options: dict[Any, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    scores = dict.fromkeys(range(4), GOOD)
    if not all(isinstance(key, str) and len(key) > 1 for key in options):
        options = {"neuron_scores": scores | options}
    asked = {"pruning_percentage": 40, "neuron_scores": scores, "show_progress": False} | options
    with refused(model, match, ArgumentError):
        prune_model(model, **asked)


def test_a_layer_of_several_mlps_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("qwen2_moe")
    view = describe(model)
    layer = next(each.index for each in view.layers if len(each.mlps) > 1)
    with refused(model, rf"Layer {layer} has 2 MLPs \(experts, shared_expert\)"):
        plan_pruning(model, pruning_percentage=40, neuron_scores={layer: GOOD})
    with refused(model, f"Layer {layer} has 2 MLPs"):
        neuron_importance_scores(model)
    dense = next(each.index for each in view.layers if len(each.mlps) == 1)
    plan = plan_pruning(
        model, pruning_percentage=40, layer_indices=[dense], neuron_scores={dense: GOOD}
    )
    assert kept(plan) == {dense: highest(GOOD, 24)}
    with refused(model, f"Layer {layer} has 2 MLPs"):
        plan_pruning(model, pruning_percentage=40, neuron_scores={dense: GOOD})


def test_nan_in_what_is_cut_is_refused(refused: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data[3, 2] = float("nan")
    scores = scores_of(model)
    with refused(model, "layer 1, mlp.down_proj.weight holds NaN", UnsupportedModelError):
        plan_pruning(model, pruning_percentage=40, neuron_scores=scores)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.down_proj\.weight holds"):
        prune_checkpoint(tmp_path / "model", tmp_path / "out", neuron_scores=scores)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", [*STATIC, "MAW with data"])
def test_importance_scores_prune_as_their_method_does(name: str, method: str) -> None:
    model = tiny_model(name)
    method, _, data = method.partition(" ")
    with_data = {"dataloader": batches()} if data else {}
    scores = neuron_importance_scores(model, method, **with_data, seed=3)
    assert all(each.dtype == torch.float32 for each in scores.values())
    by_method = plan_pruning(model, "MLP_GLU", method, 40, **with_data, seed=3)
    by_scores = plan_pruning(model, pruning_percentage=40, neuron_scores=scores)
    assert kept(by_scores) == kept(by_method)


@pytest.mark.parametrize("method", [n for n in CRITERIA if CRITERIA[n].needs_data])
def test_methods_that_decide_while_they_prune_give_no_scores(method: str) -> None:
    with pytest.raises(ArgumentError, match=f"'{method}' has no scores beforehand.*'MAW'"):
        neuron_importance_scores(tiny_model("llama"), method, batches())
