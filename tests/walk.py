"""What pruning does to one model type: served, or refused with a reason. The walk over all of them
is a test (`tests/parity/test_every_family.py`) and a table (`benchmarks/families.py`)."""

from __future__ import annotations

import copy
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from optipfair import apply_plan, plan_pruning
from optipfair.errors import UnsupportedModelError
from optipfair.loading import quiet_transformers
from optipfair.testing import tiny_model
from oracles import with_zeroed_neurons

MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WIDTH: dict[str, Any] = {"pruning_percentage": 25}
DEPTHS: tuple[dict[str, Any], ...] = (
    {"pruning_type": "DEPTH", "num_layers_to_remove": 1},
    {"pruning_type": "DEPTH", "num_layers_to_remove": 2},
    {"pruning_type": "DEPTH", "layer_indices": [1]},
)
IDS = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(0))
OK = "ok"


@dataclass(frozen=True)
class Outcome:
    """What happened to one model type: "ok" or the reason of the refusal."""

    width: str
    depths: tuple[str, ...]

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
        return Outcome(width, tuple(attempt(model, depth, generates) for depth in DEPTHS))


def attempt(model: Any, pruning: dict[str, Any], generates: list[int] | None) -> str:
    """Prune a copy, save, reload, compare logits and generation; with the neurons zeroed too."""
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
    if plan.width_cuts:
        zeroed = logits(with_zeroed_neurons(model, plan))
        assert torch.allclose(pruned, zeroed, atol=1e-4), "removed neurons are not zeroed ones"
    return OK


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
