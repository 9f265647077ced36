"""Of every family: each tensor and file of the source is written, cut, gone by the plan, or named.

Counted here by names and bytes, not by what the result says of itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optipfair import prune_checkpoint
from optipfair.checkpoint.stored_model import StoredModel
from optipfair.errors import UnsupportedModelError
from optipfair.files.safetensors_reader import SINGLE_FILE
from optipfair.loading.models import load_config
from optipfair.loading.quiet import quiet_transformers
from optipfair.loading.sources import find_source
from optipfair.testing import TINY_FAMILIES, tiny_model
from optipfair.testing.toys import UNBUILDABLE
from support.walk import MODEL_TYPES, ONLY_BY_THEIR_CLASS, skip_without_toy

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about its own toy models

FAST = {*TINY_FAMILIES, "bert", "deepseek_v3", "gemma4_text", "glm4_moe", "jamba", "mamba", "mpt"}
FAMILIES = [
    pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
    for name in MODEL_TYPES
    if name not in UNBUILDABLE and name not in ONLY_BY_THEIR_CLASS
]
WAYS: dict[str, dict[str, Any]] = {
    "width": {"pruning_percentage": 40},
    "depth": {"pruning_type": "DEPTH", "layer_indices": [1]},
}
NOT_LOADED = {  # what published files hold beside a language model
    "score.weight": (1, 8),
    "vision_tower.blocks.0.mlp.weight": (4, 8),
    "mtp.layers.0.mlp.up_proj.weight": (4, 8),
}
PREDICTS = "mtp.layers.0.mlp.up_proj.weight"  # goes beside narrower layers
BESIDE = {
    **dict.fromkeys(("preprocessor_config.json", "special_tokens_map.json"), "{}"),
    **dict.fromkeys(("tokenizer.model", "chat_template.jinja", "modeling_mine.py"), "of mine"),
    "1_Pooling/config.json": "{}",
    "modules.json": '[{"path": "1_Pooling"}]',
    **dict.fromkeys(("optimizer.pt", "2_Else/notes.txt"), "left behind"),
}
LEFT = {"optimizer.pt", "2_Else"}
REWRITTEN = {"config.json", SINGLE_FILE}


def published(family: str, folder: Path) -> Path:
    with quiet_transformers():
        tiny_model(family).save_pretrained(folder)
    more = {name: torch.rand(shape) for name, shape in NOT_LOADED.items()}
    save_file(load_file(folder / SINGLE_FILE) | more, folder / SINGLE_FILE, {"format": "pt"})
    for name, text in BESIDE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def is_cut(old: torch.Tensor, new: torch.Tensor) -> bool:
    """Narrower along one axis, of the same dtype."""
    narrower = [a > b for a, b in zip(old.shape, new.shape, strict=True) if a != b]
    return old.dtype == new.dtype and narrower == [True]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_source_is_lost(tmp_path: Path, family: str, way: str) -> None:
    skip_without_toy(family)
    source = published(family, tmp_path / "model")
    kept = files_of(source)
    try:
        result = prune_checkpoint(source, tmp_path / "out", **WAYS[way])
    except UnsupportedModelError:
        assert files_of(source) == kept and not (tmp_path / "out").exists()
        return

    before, after = load_file(source / SINGLE_FILE), load_file(tmp_path / "out" / SINGLE_FILE)
    stored = StoredModel(source, load_config(find_source(source)))
    gone = {name for name in before if stored.layer_of(name) in result.plan.drop_layers}
    further = {PREDICTS} if way == "width" else set()
    new = StoredModel(tmp_path / "out", load_config(find_source(tmp_path / "out")))
    renamed = stored.renamed(result.plan.keep_layers, new.view.model)
    copied, cut = set(), set()
    for name, tensor in before.items():
        if name in gone | further:
            continue
        layer = stored.layer_of(name)
        written = after.pop(name if layer is None else renamed(name, layer))
        (copied if torch.equal(written, tensor) else cut).add(name)
        assert name in copied or is_cut(tensor, written), name
    assert not after, "tensors that nobody knows"
    assert not cut if way == "depth" else not cut & NOT_LOADED.keys()
    assert result.account == {
        "source": len(before),
        "copied": len(copied),
        "cut": len(cut),
        "removed_with_layers": len(gone),
        "removed_with_experts": 0,
        "removed_predicting_further": len(further),
        "removed_past_the_last_layer": 0,
    }

    found = files_of(tmp_path / "out")
    assert set(result.left_behind) == LEFT
    for name, data in kept.items():
        if name.split("/")[0] not in LEFT | REWRITTEN:
            assert found[name] == data, name
    assert (
        json.loads(found["config.json"])["architectures"]
        == (json.loads(kept["config.json"])["architectures"])
    )
