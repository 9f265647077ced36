"""Load a model and prune it in memory: where its files alone do not do."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..arch.finite import is_finite, not_finite
from ..arch.heterogeneous import overrides
from ..arch.view import describe
from ..batches import Batch
from ..distributed import is_first
from ..errors import UnsupportedModelError
from ..files.safetensors_reader import open_checkpoint
from ..loading import check_readable, load_model, load_tokenizer, quiet_transformers
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.surgery import apply_plan
from ..pruning.decision import decide
from ..pruning.request.pruning_request import PruningRequest
from ..pruning.statistics import get_pruning_statistics, summarize
from ..sources import Source
from .cost import Cost, cost_of, final_states
from .reloading import reloaded_difference
from .run import Data, Options, Run

_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def loaded_run(
    source: Source,
    todo: PruningRequest | PruningPlan,
    options: Options,
    data: Data,
) -> Run:
    """Load the model, decide, and cut it in memory.

    Calibration text is read before the model is loaded, which takes longer.

    Args:
        source: what the user named.
        todo: what to remove, or what was decided before.
        options: how to work.
        data: what to calibrate on.
    """
    code, show = options.trust_remote_code, options.show_progress
    with data.reading():
        check_readable(source)
        tokenizer = load_tokenizer(source, trust_remote_code=code)
        drawn = data.drawn(tokenizer)
        model = load_model(
            source,
            device=options.device,
            dtype=options.dtype,
            trust_remote_code=code,
            show_progress=show and is_first(),
        )
        if options.check_weights:
            _check_live_weights(model)
    if isinstance(todo, PruningPlan):
        plan = todo
    else:
        batches = data.batches if drawn is None else drawn.batches
        plan = decide(describe(model), todo, batches, holding=options.holding, show_progress=show)
    plan = data.recorded(plan, drawn)
    held_back = drawn.held_back if drawn else []
    with data.reading():
        return _LoadedRun(source, model, tokenizer, plan, options, held_back)


class _LoadedRun:
    streamed = False

    def __init__(
        self,
        source: Source,
        model: Any,
        tokenizer: Any,
        plan: PruningPlan,
        options: Options,
        held_back: Sequence[Batch],
    ) -> None:
        self.plan = plan
        self._source, self._model, self._tokenizer = source, model, tokenizer
        self._options = options
        self._held_back = held_back if options.evaluate and is_first() else []
        self._unpruned = final_states(model, self._held_back)
        before = summarize(model)
        apply_plan(model, self.plan, show_progress=options.show_progress)
        self.layers_differ = bool(overrides(model.config.get_text_config()))
        self.has_tokenizer = tokenizer is not None
        self.statistics = get_pruning_statistics(before, model) | {
            "original_expansion_rate": before.expansion_rate,
            "original_file_bytes": _file_bytes(source),
        }

    def write(self, target: Path) -> None:
        _save(self._model, self._tokenizer, target, self._options.max_shard_bytes)
        self.statistics["pruned_file_bytes"] = open_checkpoint(target).file_bytes
        _copy_licence(self._source, target)

    def verify(self, target: Path) -> float:
        code = self._options.trust_remote_code
        return reloaded_difference(self._model, target, trust_remote_code=code)

    def cost(self, target: Path) -> Cost | None:
        if not self._held_back:
            return None
        pruned = final_states(self._model, self._held_back)
        return cost_of(self._model, self._held_back, self._unpruned, pruned)


def _check_live_weights(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not is_finite(parameter.detach()):
            raise UnsupportedModelError(not_finite(name))


def _save(model: Any, tokenizer: Any, folder: Path, max_shard_bytes: int) -> None:
    from safetensors import SafetensorError

    with quiet_transformers():
        try:
            _save_model(model, folder, max_shard_bytes)
        except SafetensorError as exc:  # its name for a full disk
            raise OSError(str(exc)) from exc
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))


def _save_model(model: Any, folder: Path, max_shard_bytes: int) -> None:
    """Save the model, with its generation settings as they were read.

    Before 5.23, transformers refuses to write settings that contradict each other, which many
    published models have, so they are written here.
    """
    settings: Any = getattr(model, "generation_config", None)
    model.generation_config = type(settings)()
    try:
        model.save_pretrained(folder, max_shard_size=max_shard_bytes)
    finally:
        model.generation_config = settings
    file = folder / "generation_config.json"
    if settings is not None and file.is_file():  # not every model generates
        settings.to_json_file(file, keys_to_pop=["compile_config"])


def _copy_licence(source: Source, folder: Path) -> None:
    if source.kind == "folder":
        for pattern in _LICENCES:
            for file in Path(source.location).glob(pattern):
                copy = shutil.copytree if file.is_dir() else shutil.copy
                copy(file, folder / file.name)


def _file_bytes(source: Source) -> int | None:
    if source.kind == "folder":
        return open_checkpoint(Path(source.location)).file_bytes
    return source.path.stat().st_size if source.path else None
