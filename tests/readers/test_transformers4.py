"""What is written is read by transformers 4.57 as it is here.

Its Python is in `OPTIPFAIR_READERS`/transformers4; `make test-readers` builds it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optipfair import load_model, prune_checkpoint

from .transformers4 import TOYS

ENVIRONMENTS = os.environ.get("OPTIPFAIR_READERS", "")
pytestmark = [
    pytest.mark.skipif(not ENVIRONMENTS, reason="OPTIPFAIR_READERS is not set: make test-readers"),
    pytest.mark.filterwarnings("ignore::optipfair.PruningWarning"),
]
WIDTH: dict[str, Any] = {"pruning_percentage": 25}
DEPTH: dict[str, Any] = {"pruning_type": "DEPTH", "layer_indices": [1]}
HEADS: dict[str, Any] = {"pruning_type": "ATTENTION", "pruning_percentage": 50}
WITHOUT_MLP = ("mamba-2",)
WITHOUT_HEADS = ("mamba-2", "falcon-h1", "pythia", "phi-3-longrope", "deepseek-v3")
WITH_EXPERTS = ("qwen3-moe", "mixtral", "gpt-oss", "deepseek-v3")
EXPERTS: dict[str, Any] = {
    "pruning_type": "EXPERTS",
    "pruning_percentage": 50,
    "expert_selection_method": "NORM",
}
CUTS = {
    **{f"{toy}-width": (toy, WIDTH) for toy in TOYS if toy not in WITHOUT_MLP},
    **{f"{toy}-heads": (toy, HEADS) for toy in TOYS if toy not in WITHOUT_HEADS},
    **{f"{toy}-depth": (toy, DEPTH) for toy in TOYS},
    **{f"{toy}-experts": (toy, EXPERTS) for toy in WITH_EXPERTS},
}
IDS = torch.randint(0, 250, (2, 40), generator=torch.Generator().manual_seed(0))


def run(*arguments: object) -> None:
    python = Path(ENVIRONMENTS, "transformers4/bin/python")
    script = Path(__file__).with_name("transformers4.py")
    subprocess.run([python, script, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toys as the reader makes them, pruned here, and the reader's logits of all."""
    folder = tmp_path_factory.mktemp("readers")
    np.save(folder / "ids.npy", IDS.numpy())
    run("make", folder)
    for name, (toy, options) in CUTS.items():
        prune_checkpoint(folder / toy, folder / name, **options)
    run("read", *(folder / name for name in (*TOYS, *CUTS)))
    return folder


@pytest.mark.parametrize("name", [*TOYS, *CUTS])
def test_both_releases_compute_the_same_from_a_folder(folders: Path, name: str) -> None:
    model: Any = load_model(folders / name)
    with torch.no_grad():
        ours = model(input_ids=IDS).logits
    theirs = torch.from_numpy(np.load(folders / f"{name}.npy"))
    assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max().clamp(min=1)
