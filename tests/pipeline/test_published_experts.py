"""Mixtures of experts in the shape in which they are published: cut from disk, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from optipfair import prune_checkpoint
from optipfair.files.safetensors_reader import SINGLE_FILE
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:No calibration token was routed"),
    pytest.mark.filterwarnings("ignore:The layers that predict the tokens after"),
]
DATA = [torch.randint(0, 250, (32, 16), generator=torch.Generator().manual_seed(0))]
WAYS: dict[str, dict[str, Any]] = {
    "by weights": {"expert_selection_method": "NORM"},
    "by routing": {"dataloader": DATA},
}


def save(model: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder


def fused_beside_a_tower(folder: Path) -> Path:
    """As Qwen3.5-MoE: a vision tower, and all experts of a layer in one tensor on disk."""
    text = tiny_model("qwen3_5_moe_text", num_experts=8).config.to_dict()
    tower = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 32,
        "out_hidden_size": text["hidden_size"],
        "patch_size": 4,
        "num_position_embeddings": 16,
    }
    config = transformers.Qwen3_5MoeConfig(text_config=text, vision_config=tower)
    save(transformers.Qwen3_5MoeForConditionalGeneration(config), folder)
    return with_head_under(folder, "mtp.layers.0.", "model.language_model.layers.3.")


def apart_and_predicting(folder: Path) -> Path:
    """As DeepSeek-V3 and GLM-4.5: each expert apart, and a layer past the last."""
    fields = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1}
    save(tiny_model("deepseek_v3", **fields), folder)
    change_config(folder, num_nextn_predict_layers=1)
    return with_head_under(folder, "model.layers.4.", "model.layers.3.")


def spelled_as_mixtral(folder: Path) -> Path:
    """As Mixtral: `block_sparse_moe`, w1 to w3, and fields that transformers 5 has renamed."""
    save(tiny_model("mixtral", num_local_experts=8), folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_head_under(folder: Path, head: str, like: str) -> Path:
    """Add a layer that predicts further tokens, as another layer is, and what leads to it."""
    tensors = load_file(folder / SINGLE_FILE)
    own = {n.replace(like, head): t.clone() for n, t in tensors.items() if n.startswith(like)}
    assert own
    own[
        f"{head.split('layers', maxsplit=1)[0]}fc.weight"
        if "mtp" in head
        else f"{head}eh_proj.weight"
    ] = torch.ones(4, 8)
    save_file(tensors | own, folder / SINGLE_FILE, {"format": "pt"})
    return folder


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


PUBLISHED: dict[str, tuple[Callable[[Path], Path], str, tuple[str, ...]]] = {
    "fused, with a tower": (
        fused_beside_a_tower,
        "AutoModelForImageTextToText",
        ("text_config", "num_experts"),
    ),
    "apart, predicting further": (
        apart_and_predicting,
        "AutoModelForCausalLM",
        ("n_routed_experts",),
    ),
    "mixtral": (spelled_as_mixtral, "AutoModelForCausalLM", ("num_local_experts",)),
}


def fields_of(folder: Path) -> dict[tuple[str, ...], Any]:
    """Every field of a config, those of its parts too, by its path."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(fields: dict[str, Any], path: tuple[str, ...]) -> None:
        for name, value in fields.items():
            if isinstance(value, dict):
                walk(value, (*path, name))
            else:
                found[*path, name] = value

    walk(json.loads((folder / "config.json").read_text()), ())
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PUBLISHED)
def test_nothing_but_experts_is_gone(tmp_path: Path, kind: str, way: str) -> None:
    make, auto, field = PUBLISHED[kind]
    source, target = make(tmp_path / "model"), tmp_path / "out"
    (source / "preprocessor_config.json").write_text("{}")
    asked: dict[str, Any] = {"pruning_type": "EXPERTS", "experts_to_keep": 4}
    result = prune_checkpoint(source, target, **asked, **WAYS[way])

    assert result.streamed
    account = dict(result.account)
    assert account.pop("source") == sum(account.values())
    assert account["removed_predicting_further"] == 0
    before, after = fields_of(source), fields_of(target)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {field} and (before[field], after[field]) == (8, 4)
    assert (target / "preprocessor_config.json").exists()

    old, new = (load_file(folder / SINGLE_FILE) for folder in (source, target))
    assert len(new) == len(old) - account["removed_with_experts"]
    whole = {n for n in old if "expert" not in n and ".gate." not in n and "router" not in n}
    assert all(torch.equal(old[name], new[name]) for name in whole)

    with quiet_transformers():
        model, info = getattr(transformers, auto).from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    ids = DATA[0][:2]
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids).logits).all()
