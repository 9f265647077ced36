"""Fixtures that all tests share."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from support.interrupts import in_foreground
from support.nursery import Nursery, opened
from support.oracles import model_state

ROOT = Path(__file__).parents[1]

hypothesis.settings.register_profile("fast", max_examples=60, deadline=None, database=None)
hypothesis.settings.load_profile("fast")
torch.set_num_threads(1)  # toy models: threads only wait for each other


@pytest.fixture
def token_ids() -> Tensor:
    """Two rows of twelve bytes, the same in every test."""
    return torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def logits_of(token_ids: Tensor) -> Callable[[nn.Module], Tensor]:
    """The logits of a model for `token_ids`."""

    def run(model: nn.Module) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(token_ids).logits
        return logits

    return run


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder beside the checkout with the specification and the evaluation data."""
    folder = Path(os.environ.get("OPTIPFAIR_DATA", ROOT.parent / "shared" / "data")).parent
    if not folder.is_dir():
        pytest.skip(f"no shared folder at {folder}: set OPTIPFAIR_DATA to its data folder")
    return folder


@pytest.fixture
def reloaded(tmp_path: Path) -> Callable[[Any], Any]:
    """Save a model and load it with plain transformers; every tensor must find its place."""
    from transformers import AutoModelForCausalLM

    def load(model: Any) -> Any:
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        return loaded.eval()

    return load


@pytest.fixture
def unchanged() -> Callable[[Any], AbstractContextManager[None]]:
    """`with unchanged(model):` the block leaves the model and the random states as they were."""

    @contextmanager
    def check(model: Any) -> Iterator[None]:
        before, random_before = model_state(model), _random_state()
        yield
        assert model_state(model) == before
        assert _random_state() == random_before, "the global random state has moved"

    return check


@pytest.fixture
def refused(
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> Callable[..., AbstractContextManager[None]]:
    """`with refused(model, match):` a ValueError of ours, and the model stays as it was."""
    from optipfair import OptiPFairError

    @contextmanager
    def check(model: Any, match: str, kind: type[Exception] = ValueError) -> Iterator[None]:
        with unchanged(model), pytest.raises(kind, match=match) as caught:
            yield
        assert isinstance(caught.value, OptiPFairError)
        assert isinstance(caught.value, ValueError)

    return check


def _random_state() -> tuple[int, ...]:
    import numpy as np

    states = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state())
    return tuple(hash(repr(state)) for state in states)


@pytest.fixture
def foreground() -> Iterator[None]:
    """SIGINT interrupts this process and its children, however the tests were begun."""
    with in_foreground():
        yield


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Runs a job in a child process, and stops it by a signal."""
    with opened() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy Llama with a tokenizer and a licence, in a folder that no test changes."""
    from optipfair.testing import byte_tokenizer, tiny_model

    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "LICENSE").write_text("Do what you like.\n")
    return folder


@pytest.fixture
def llama_copy(llama_folder: Path, tmp_path: Path) -> Path:
    """The toy Llama's folder, to be damaged."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.fixture
def untouched() -> Callable[[Path], AbstractContextManager[None]]:
    """`with untouched(folder):` the block leaves everything below the folder as it was."""

    def snapshot(folder: Path) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))
        }

    @contextmanager
    def check(folder: Path) -> Iterator[None]:
        before = snapshot(folder)
        yield
        after = snapshot(folder)
        assert sorted(after) == sorted(before)
        assert after == before

    return check
