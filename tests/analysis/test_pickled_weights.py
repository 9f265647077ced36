"""Weights in `pytorch_model.bin`: analyzed as they are pruned, without reading their numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from optipfair import OptiPFairError, analyze_model, prune_checkpoint
from optipfair.files.safetensors_reader import SINGLE_FILE
from optipfair.loading.quiet import quiet_transformers
from optipfair.testing import tiny_model

Change = Callable[[dict[str, torch.Tensor]], Any]
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LEGACY = {"_use_new_zipfile_serialization": False}  # the form before zip files


def nothing(_: dict[str, torch.Tensor]) -> None:
    """As it is."""


MODELS: dict[str, tuple[str, Change]] = {
    "llama": ("llama", nothing),
    "tied": ("gemma2", lambda tensors: tensors.update({HEAD: tensors[TABLE]})),
    "a head of its own": ("gemma2", lambda tensors: tensors.update({HEAD: tensors[TABLE] + 1})),
    "experts": ("mixtral", nothing),
    "scales": ("llama", lambda t: t.update({"model.layers.0.mlp.up_proj.weight_scale": t[TABLE]})),
    "of 8 bits": ("llama", lambda t: t.update({HEAD: t[HEAD].to(torch.int8)})),
    "no head": ("llama", lambda tensors: tensors.pop(HEAD)),
}


def pickle_weights(folder: Path, change: Change, shards: int, **form: Any) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    (folder / SINGLE_FILE).unlink()
    names = [f"pytorch_model-{n + 1:05d}-of-{shards:05d}.bin" for n in range(shards)]
    parts = {name: dict(list(tensors.items())[n::shards]) for n, name in enumerate(names)}
    for name, own in parts.items():
        torch.save(own, folder / name, **form)
    weight_map = {tensor: name for name, own in parts.items() for tensor in own}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def outcome(folder: Path, kind: str, percentage: float) -> tuple[int, int] | str:
    try:
        more = {"expert_selection_method": "NORM"} if kind == "EXPERTS" else {}
        result = prune_checkpoint(
            folder, pruning_type=kind, pruning_percentage=percentage, dry_run=True, **more
        )
    except OptiPFairError as exc:
        return str(exc)
    return result.statistics["pruned_parameters"], result.statistics["pruned_bytes"]


@pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("form", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("member", MODELS)
def test_they_are_promised_what_pruning_does(
    tmp_path: Path, member: str, form: dict[str, Any], shards: int
) -> None:
    family, change = MODELS[member]
    folder = tmp_path / "model"
    with quiet_transformers():
        tiny_model(family).save_pretrained(folder)
    pickle_weights(folder, change, shards, **form)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    kinds = ("MLP_GLU", "DEPTH", *(["EXPERTS"] if member == "experts" else []))
    expected = {kind: outcome(folder, kind, 50) for kind in kinds}
    try:
        analysis = analyze_model(folder)
    except OptiPFairError as exc:
        found: dict[str, Any] = dict.fromkeys(expected, str(exc))
    else:
        rows = {row.pruning_type: row for row in analysis.savings if row.percentage == 50}
        found = {kind: (row.parameters, row.bytes) for kind, row in rows.items()}
        found |= {kind: refusal for kind, refusal in analysis.refusals.items() if refusal}

    def in_words(said: Any) -> Any:  # each has a working folder of its own
        return " ".join(w for w in said.split() if "/" not in w) if isinstance(said, str) else said

    assert {k: in_words(v) for k, v in found.items()} == {
        k: in_words(v) for k, v in expected.items()
    }
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


class Trap:
    """Something that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("trap"),)


def test_code_in_a_pickle_is_not_run_and_both_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model("llama").save_pretrained(tmp_path / "model")
    (tmp_path / "model" / SINGLE_FILE).unlink()
    torch.save({"trap": Trap()}, tmp_path / "model" / "pytorch_model.bin")
    said = set()
    for command in (analyze_model, prune_checkpoint):
        with pytest.raises(OptiPFairError, match="holds more than tensors") as caught:
            command(tmp_path / "model", **({} if command is analyze_model else {"dry_run": True}))
        said.add(str(caught.value))
    assert len(said) == 1 and not (tmp_path / "trap").exists()
