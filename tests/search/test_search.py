"""The search: scores hold, the choice is exact, what it finds is a plan that prune carries out."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import PruningPlan, load_model, prune_checkpoint, search_model
from optipfair.arch.view import describe
from optipfair.batches import Batch
from optipfair.errors import ArgumentError, CheckpointError, OutputError
from optipfair.loading.quiet import quiet_transformers
from optipfair.pruning.cut.checks import seen_by
from optipfair.pruning.cut.surgery import apply_plan
from optipfair.pruning.decision import decide_counts
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.search.choices import Choice, choices_of, counts_of, uniform_choices
from optipfair.search.exact_choice import least_score
from optipfair.search.scoring import score_choices
from optipfair.testing import byte_tokenizer, tiny_model

SHORT: dict[str, Any] = {"calibration_samples": 16, "calibration_length": 32}


def batches(seed: int, count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, 250, (8, 32), generator=generator) for _ in range(count)]
    return [Batch(each, torch.ones_like(each).bool()) for each in ids]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    with quiet_transformers():
        stirred(tiny_model("llama")).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    return folder


def stirred(model: Any) -> Any:
    """A toy whose parts matter: as it is made, they hardly do."""
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "layers" in name and each.dim() == 2:
                each.mul_(6)
    return model


def test_the_choice_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    choices = [
        Choice((layer, kind), kept, saved)
        for layer in range(3)
        for kind, options in (("mlp", ((20, 7), (10, 13), (0, 29))), ("attention", ((0, 11),)))
        for kept, saved in options
    ]
    values = torch.rand(len(choices), generator=generator).tolist()
    scores = {choice.name: value for choice, value in zip(choices, values, strict=True)}
    parts = sorted({choice.block for choice in choices})
    every = [[None, *(c for c in choices if c.block == part)] for part in parts]
    for saving in (1, 17, 40, 77, 100):
        best = min(
            sum(scores[c.name] for c in some if c)
            for some in itertools.product(*every)
            if sum(c.saved for c in some if c) >= saving
        )
        found = least_score(choices, scores, saving)
        assert found is not None and sum(c.saved for c in found) >= saving
        assert len({c.block for c in found}) == len(found)
        assert sum(scores[c.name] for c in found) == pytest.approx(best)
    assert least_score(choices, scores, 121) is None


def test_a_score_is_what_the_change_alone_does() -> None:
    """Against the model itself, pruned by a plan with nothing but that change."""
    model = stirred(tiny_model("llama"))
    view = seen_by(describe(model), {"neuron", "attention"})
    request = check_request(
        PruneOptions(neuron_selection_method="AUTO", pruning_percentage=10), batches(0)
    )
    names = ("mlp.1:20", "mlp.2:0", "attention.3:0", "attention.0:0")
    choices = [choice for choice in choices_of(view) if choice.name in names]
    scores: dict[str, float] = {}
    score_choices(
        view, choices, request, batches(0), batches(1, 1), lambda c, s: scores.update({c.name: s})
    )
    assert scores.keys() == {*names}
    (judged,) = batches(1, 1)
    with torch.no_grad():
        whole = model(judged.input_ids).logits.log_softmax(dim=-1)
    for choice in choices:
        if choice.name == "attention.0:0":  # before which there is nothing
            continue
        pruned = copy.deepcopy(model)
        plan, _ = decide_counts(describe(model), counts_of(view, [choice]), request, batches(0))
        apply_plan(pruned, plan)
        with torch.no_grad():
            answers = pruned(judged.input_ids).logits.log_softmax(dim=-1)
        divergence = (whole.exp() * (whole - answers)).sum(dim=-1).mean()
        assert scores[choice.name] == pytest.approx(float(divergence), rel=2e-2)
        saved = sum(p.numel() for p in model.parameters()) - sum(
            p.numel() for p in pruned.parameters()
        )
        assert saved == choice.saved


def test_a_uniform_shape_is_the_widest_that_saves_enough() -> None:
    view = seen_by(describe(tiny_model("llama")), {"neuron", "attention"})
    choices = choices_of(view)
    for saving in (1, 1000, 3000):
        found = uniform_choices(choices, saving)
        assert found is not None and len({choice.kept for choice in found}) == 1
        assert sum(choice.saved for choice in found) >= saving
        fewer = sum(choice.saved for choice in found) * (39 - found[0].kept) // (40 - found[0].kept)
        assert fewer < saving
    assert uniform_choices(choices, 10**9) is None


def test_what_is_found_is_a_plan_that_prune_carries_out(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    result = search_model(
        folder, tmp_path / "shapes", target_params=["16000", "13k"], **SHORT, say=told.append
    )
    assert [found.budget for found in result.found] == ["16,000 parameters", "13,000 parameters"]
    assert any("scores are to be found" in each for each in told)
    for found, limit in zip(result.found, (16000, 13000), strict=True):
        shapes = [found.best, *found.others]
        assert {"uniform width"} < {shape.name for shape in shapes}
        assert all(shape.parameters <= limit for shape in shapes)
        assert found.best.divergence == min(shape.divergence for shape in shapes)
        assert found.plan.endswith(".json") and PruningPlan.load(found.plan).width_cuts
        output = tmp_path / f"pruned-{limit}"
        prune_checkpoint(folder, output, plan=found.plan)
        pruned: Any = load_model(output)
        assert sum(each.numel() for each in pruned.parameters()) == found.best.parameters
    assert result.to_dict()["found"][0]["best"]["name"] == result.found[0].best.name


def test_a_stopped_search_goes_on_and_a_new_budget_needs_no_scores(
    folder: Path, tmp_path: Path
) -> None:
    first = search_model(folder, tmp_path / "a", target_params=["15000"], **SHORT)
    lines = (tmp_path / "a" / "scores.jsonl").read_text().splitlines()
    (tmp_path / "b").mkdir()
    cut = "\n".join(lines[:9]) + "\n" + lines[9][:7]  # stopped in the middle of a line
    (tmp_path / "b" / "scores.jsonl").write_text(cut)
    again = search_model(folder, tmp_path / "b", target_params=["15000"], **SHORT)
    assert again.scores == pytest.approx(first.scores, rel=1e-3, abs=1e-9)
    kept = (tmp_path / "b" / "scores.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in kept[10:]]) == len(first.scores) - 8
    told: list[str] = []
    search_model(folder, tmp_path / "a", target_params=["14000"], **SHORT, say=told.append)
    assert not told


def test_uniform_shapes_alone_need_no_score(folder: Path, tmp_path: Path) -> None:
    result = search_model(folder, tmp_path / "out", target_params=["15000"], uniform=True, **SHORT)
    assert not result.scores
    (found,) = result.found
    assert {found.best.name, *(s.name for s in found.others)} == {"uniform width", "fewer layers"}


def test_what_is_wrong_is_said_before_the_work(folder: Path, tmp_path: Path) -> None:
    ask: dict[str, Any] = {**SHORT}
    with pytest.raises(ArgumentError, match="No budget"):
        search_model(folder, tmp_path / "out", **ask)
    with pytest.raises(ArgumentError, match="cannot be reached"):
        search_model(folder, tmp_path / "out", target_params=["10"], **ask)
    with pytest.raises(ArgumentError, match="as they are"):
        search_model(folder, tmp_path / "out", target_params=["1B"], **ask)
    with pytest.raises(ArgumentError):
        search_model(folder, tmp_path / "out", target_params=["many"], **ask)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="not empty"):
        search_model(folder, tmp_path / "mine", target_params=["15000"], **ask)
    search_model(folder, tmp_path / "used", target_params=["15000"], **ask)
    with pytest.raises(OutputError, match="another search"):
        search_model(folder, tmp_path / "used", target_params=["15000"], **ask, seed=7)
    with quiet_transformers():
        tiny_model("llama").save_pretrained(tmp_path / "bare")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        search_model(tmp_path / "bare", tmp_path / "out", target_params=["15000"], **ask)
