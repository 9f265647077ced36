"""What a `.gguf` file computes in llama.cpp it computes here too.

Its Python is in `OPTIPFAIR_READERS`/llama_cpp; `make test-readers` builds it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optipfair import load_model
from support.gguf_files import GGUF_TOYS, gguf_toy

ENVIRONMENTS = os.environ.get("OPTIPFAIR_READERS", "")
pytestmark = pytest.mark.skipif(
    not ENVIRONMENTS, reason="OPTIPFAIR_READERS is not set: make test-readers"
)


@pytest.fixture(scope="module", params=[64, 320])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toys with llama.cpp's logits on a short text, and on one longer than they were trained on."""
    folder = tmp_path_factory.mktemp("gguf")
    generator = torch.Generator().manual_seed(0)
    np.save(
        folder / "ids.npy", torch.randint(0, 250, (request.param,), generator=generator).numpy()
    )
    files = [folder / f"{name}.gguf" for name in GGUF_TOYS]
    for file in files:
        gguf_toy(file, file.stem)
    python = Path(ENVIRONMENTS, "llama_cpp/bin/python")
    script = Path(__file__).with_name("llama_cpp_logits.py")
    subprocess.run([python, script, *files], check=True)
    return folder


@pytest.mark.parametrize("name", GGUF_TOYS)
def test_llama_cpp_computes_the_same_from_a_file(folder: Path, name: str) -> None:
    model: Any = load_model(folder / f"{name}.gguf")
    ids = torch.from_numpy(np.load(folder / "ids.npy"))[None]
    with torch.no_grad():
        ours = model(ids).logits[0]
    theirs = torch.from_numpy(np.load(folder / f"{name}.npy"))
    assert (ours - theirs).abs().max() < 5e-3 * ours.abs().max()  # misread: above 5e-2
