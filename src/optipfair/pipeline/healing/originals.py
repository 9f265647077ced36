"""The original that a pruned model learns from: found, loaded, or known by what it answered."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ...arch.fast_dtype import has_units
from ...checkpoint.stored_layers import StoredLayers
from ...checkpoint.stored_model import StoredModel
from ...devices import check_device
from ...distributed import in_first
from ...errors import ArgumentError, OptiPFairError
from ...files.safetensors_reader import pickled_files
from ...loading.models import load_config, load_model, snapshot
from ...loading.sources import Source, find_source
from ...memory import free_bytes
from ...noted import warn
from ...pruning.options.recipe import RECIPE_FILE, read_recipe
from ...recovery.recover_options import RecoverOptions
from ...recovery.teacher_cache import CachedTeacher, TeacherCache, fill
from ...recovery.teachers import LiveTeacher, Teacher
from ...recovery.training_rows import TrainingRows

_AT_ONCE = 8192  # tokens that an original in memory answers at once
_STATES = 64  # bytes for each number of a hidden state while layers come from disk


def named_original(folder: Path) -> str:
    """The model that a folder was pruned from, as its recipe or its card names it."""
    with suppress(OptiPFairError):
        named = read_recipe(folder / RECIPE_FILE).get("model_path")
        if named is not None:
            find_source(str(named))
            return str(named)
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    with suppress(ValueError, OSError, YAMLError):
        base = (metadata_load(folder / "README.md") or {}).get("base_model")
        base = base[0] if isinstance(base, list) and base else base
        if isinstance(base, str):
            return base
    raise ArgumentError(
        f"{folder} does not say which model it was pruned from, or that is no longer where it was. "
        "Give it: --original MODEL (original)."
    )


class Original:
    """A model by name, which is loaded when it is first needed."""

    def __init__(self, source: Source, device: str, *, trust_remote_code: bool) -> None:
        self.source = source
        self._device, self._code = check_device(device), trust_remote_code
        self._model: Any = None

    @property
    def config(self) -> Any:
        return load_config(self.source, trust_remote_code=self._code)

    def model(self) -> Any:
        """The model in memory, in bfloat16 where that is fast: it needs no gradients."""
        if self._model is None:
            self._model = load_model(
                self.source,
                device=str(self._device),
                dtype=self._dtype(),
                trust_remote_code=self._code,
            )
        return self._model

    def teacher(self, asked: RecoverOptions, rows: TrainingRows) -> Teacher:
        """The model itself, or what it answers; then it is in memory no longer."""
        if asked.cache_teacher is None:
            return LiveTeacher(self.model())
        digest = in_first(partial(self._answered, asked, rows))
        self._model = None
        return CachedTeacher(self._cache(asked, rows, digest))

    def _answered(self, asked: RecoverOptions, rows: TrainingRows) -> str:
        """Answer what is not answered yet, and give the hash of who answered."""
        digest = self._digest()
        cache = self._cache(asked, rows, digest)
        if not cache.complete:
            self._answer(cache, asked, rows)
        return digest

    def _cache(self, asked: RecoverOptions, rows: TrainingRows, digest: str) -> TeacherCache:
        assert asked.cache_teacher is not None
        vocabulary = int(self.config.get_text_config().vocab_size)
        return TeacherCache.of(asked.cache_teacher, digest, rows.everything, vocabulary)

    def _answer(self, cache: TeacherCache, asked: RecoverOptions, rows: TrainingRows) -> None:
        stored = self._stored()
        free = free_bytes(self._device)
        nbytes = 0 if stored is None else stored.checkpoint.nbytes
        at_once = _AT_ONCE
        with ExitStack() as stack:
            if stored is None or free is None or nbytes < free or self._model is not None:
                model = self.model()
            else:
                layers = StoredLayers(stored, self._device, self._dtype())
                stack.enter_context(layers.source.present(layers.view))
                layers.read_head()
                model = layers.view.model
                hidden = int(layers.view.text_config.hidden_size)
                at_once = max(free // (2 * _STATES * hidden), at_once)
                warn(
                    f"The original takes {nbytes / 1e9:.3g} GB and {free / 1e9:.3g} GB are free, "
                    "so its layers come from disk one at a time while it answers."
                )
            everything = rows.everything
            fill(cache, model, everything, at_once=at_once, show_progress=asked.show_progress)

    def _stored(self) -> StoredModel | None:
        """Its files, where one layer at a time can be read from them."""
        if self.source.kind == "gguf":
            return None
        folder = snapshot(self.source)
        if pickled_files(folder):
            return None
        with suppress(OptiPFairError):
            return StoredModel(folder, self.config)
        return None

    def _dtype(self) -> str:
        on_cpu = self._device.type == "cpu"
        return "float32" if on_cpu and not has_units() else "bfloat16"

    def _digest(self) -> str:
        """SHA-256 of its files: config and weights."""
        if self.source.kind == "gguf":
            assert self.source.path is not None
            files = [self.source.path]
        else:
            folder = snapshot(self.source)
            names = ("*.safetensors", "*.bin", "config.json")
            files = sorted(file for name in names for file in folder.glob(name))
        hashed = hashlib.sha256(self._dtype().encode())
        for file in files:
            with file.open("rb") as opened:
                hashed.update(hashlib.file_digest(opened, "sha256").digest())
        return hashed.hexdigest()
