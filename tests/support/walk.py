"""What pruning does to one model type: served, or refused with a reason. The walk over all of them
is a test (`tests/parity/test_every_family.py`) and a table (`benchmarks/families.py`)."""

from __future__ import annotations

import copy
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from optipfair import PruningPlan, apply_plan, plan_pruning
from optipfair.errors import UnsupportedModelError
from optipfair.loading.models import load_model
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model
from support.oracles import with_skipped_layers, with_zeroed_neurons

MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WIDTH: dict[str, Any] = {"pruning_percentage": 25}
DEPTHS: tuple[dict[str, Any], ...] = (
    {"pruning_type": "DEPTH", "num_layers_to_remove": 1},
    {"pruning_type": "DEPTH", "num_layers_to_remove": 2},
    {"pruning_type": "DEPTH", "layer_indices": [1]},
)
IDS = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(0))
OK = "ok"
THIS_RELEASE = Version(transformers.__version__)
# Older releases have other names for kinds of layers, or cannot build a text model from such a
# composite config.
TOY_SINCE = {
    **dict.fromkeys(("granitemoehybrid", "nemotron_h"), Version("5.13")),
    **dict.fromkeys(("emu3", "llama4", "qwen3_5", "qwen3_5_moe"), Version("5.8")),
}
# The auto class cannot load these, pruned or not.
ONLY_BY_THEIR_CLASS = {"emu3": "Emu3ForCausalLM", "mllama": "MllamaForCausalLM"}


def skip_without_toy(model_type: str) -> None:
    if (since := TOY_SINCE.get(model_type, THIS_RELEASE)) > THIS_RELEASE:
        pytest.skip(f"transformers builds its toy model since {since}")


@dataclass(frozen=True)
class Outcome:
    """What happened to one model type: "ok" or the reason of the refusal."""

    width: str
    depths: tuple[str, ...]
    data: str  # the width once more, scored with data
    layers: str  # the width of one layer

    @property
    def depth(self) -> str:
        return OK if OK in self.depths else self.depths[0]


def walk(model_type: str) -> Outcome:
    """Prune the toy model of a type in every way; raise AssertionError where one goes wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns about its own toy models
        model = tiny_model(model_type)
        generates = generated(model)
        width = attempt(model, WIDTH, generates)
        depths = tuple(attempt(model, depth, generates) for depth in DEPTHS)
        data = attempt_with_data(model) if width == OK else width
        return Outcome(width, depths, data, attempt_one_layer(model))


def attempt(model: Any, pruning: dict[str, Any], generates: list[int] | None) -> str:
    """Prune a copy, save, reload, compare logits and generation, and compare with the oracle."""
    victim = copy.deepcopy(model)
    try:
        plan = plan_pruning(victim, **pruning)
        apply_plan(victim, plan)
    except UnsupportedModelError as exc:
        assert same_tensors(victim, model), "a refused call changed the model"
        return str(exc)
    assert sum(p.numel() for p in victim.parameters()) < sum(p.numel() for p in model.parameters())
    pruned = logits(victim)
    reloaded = save_and_reload(victim)
    assert torch.allclose(logits(reloaded), pruned, atol=1e-5), "reloaded as another model"
    if generates is not None:
        found = generated(victim)
        assert found is not None and found == generated(reloaded), "generates something else"
    agrees_with_oracle(model, plan, pruned)
    return OK


def agrees_with_oracle(model: Any, plan: PruningPlan, pruned: torch.Tensor) -> None:
    """Removed neurons are zeroed ones, removed layers are skipped ones."""
    if plan.width_cuts:
        zeroed = logits(with_zeroed_neurons(model, plan))
        assert torch.allclose(pruned, zeroed, atol=1e-4), "removed neurons are not zeroed ones"
        return
    skipped = logits(with_skipped_layers(model, plan.drop_layers))
    torch.testing.assert_close(
        pruned, skipped, atol=1e-5, rtol=0, msg="removed layers are not skipped ones"
    )
    assert (pruned - logits(model)).abs().max() > 1e-4, "the oracle must see the cut"


def attempt_with_data(model: Any) -> str:
    """Plan with data: as many neurons of each MLP as without, and the model is left alone."""
    before = copy.deepcopy(model)
    outcome = OK
    try:
        plan = plan_pruning(model, **WIDTH, dataloader=[{"input_ids": IDS}])
        assert sizes(plan) == sizes(plan_pruning(model, **WIDTH)), "data changed how many stay"
    except UnsupportedModelError as exc:
        outcome = str(exc)
    assert same_tensors(model, before), "planning with data changed the model"
    return outcome


def attempt_one_layer(model: Any) -> str:
    """Prune one layer: our loader loads it as it was, transformers' loads it so or fails."""
    victim = copy.deepcopy(model)
    try:
        apply_plan(victim, plan_pruning(victim, **WIDTH, layer_indices=[1]))
    except ValueError as exc:
        assert same_tensors(victim, model), "a refused call changed the model"
        return str(exc)
    expected = logits(victim)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        victim.save_pretrained(folder)
        if type(model).__name__ not in ONLY_BY_THEIR_CLASS.values():
            assert torch.allclose(logits(load_model(folder)), expected, atol=1e-5)
        try:
            plain = type(model).from_pretrained(folder).eval()
        except (RuntimeError, ValueError, AttributeError):
            return OK
        assert torch.allclose(logits(plain), expected, atol=1e-5), "silently another model"
    return OK


def sizes(plan: PruningPlan) -> list[tuple[int, str, int, list[int]]]:
    """Which MLPs are cut, and how many neurons stay in each (in each expert)."""
    return [(cut.layer, cut.mlp, cut.width, list(map(len, cut.keep))) for cut in plan.width_cuts]


def logits(model: Any) -> torch.Tensor:
    torch.manual_seed(0)  # a few families sample in their forward (reformer's hashes)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def generated(model: Any) -> list[int] | None:
    """Greedy tokens with the cache, or None where the family itself cannot."""
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            output = model.generate(IDS[:1], max_new_tokens=3, min_new_tokens=3, do_sample=False)
    except (ValueError, TypeError, AttributeError, RuntimeError, IndexError, KeyError):
        return None
    tokens: list[int] = output[0].tolist()
    return tokens


def save_and_reload(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        model.save_pretrained(folder)
        try:
            auto: Any = AutoModelForCausalLM
            return auto.from_pretrained(folder).eval()
        except ValueError:  # decoders of composites, which only their own class loads
            return type(model).from_pretrained(folder).eval()


def same_tensors(model: Any, other: Any) -> bool:
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    return all(
        a == b and x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num())
        for (a, x), (b, y) in pairs
    )
