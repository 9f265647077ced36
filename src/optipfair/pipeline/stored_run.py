"""Prune the files of a checkpoint, one tensor or one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..arch.heterogeneous import overrides
from ..batches import Batch
from ..checkpoint.stored_decision import decide_stored
from ..checkpoint.stored_layers import StoredLayers
from ..checkpoint.stored_model import StoredModel
from ..checkpoint.stored_surgery import (
    check_all_weights,
    check_cut_weights,
    prepare,
    summarize_stored,
    verify_checkpoint,
    write_checkpoint,
)
from ..loading import check_device, has_tokenizer, load_config, load_tokenizer
from ..pruning.cut.plan import PruningPlan
from ..pruning.request.pruning_request import PruningRequest
from ..pruning.statistics import get_pruning_statistics
from ..sources import Source, find_source
from .cost import Cost, cost_of, final_states
from .run import Data, Options, Run


def stored_run(
    source: Source,
    folder: Path,
    todo: PruningRequest | PruningPlan,
    options: Options,
    data: Data,
) -> Run:
    """Decide what happens to the files of a checkpoint.

    Args:
        source: what the user named.
        folder: its files.
        todo: what to remove, or what was decided before.
        options: how to work.
        data: what to calibrate on.

    Raises:
        NamesUnknownError: its tensors are named in a way that only loading understands.
        NotByLayersError: its layers cannot be run one at a time.
        Other errors of this library: refused, nothing was written.
    """
    code, show = options.trust_remote_code, options.show_progress
    with data.reading():
        stored = StoredModel(folder, load_config(source, trust_remote_code=code))
        stored.seen_by(todo.attention_unit)
        tokenizer = load_tokenizer(source, trust_remote_code=code) if data.text else None
        drawn = data.drawn(tokenizer)
        if options.check_weights:
            check_all_weights(stored, show)
    if isinstance(todo, PruningPlan):
        plan = todo
    else:
        plan = decide_stored(
            stored,
            todo,
            options.dtype,
            options.max_shard_bytes,
            dataloader=data.batches if drawn is None else drawn.batches,
            device=check_device(options.device),
            holding=options.holding,
            show_progress=show,
        )
    plan = data.recorded(plan, drawn)
    with data.reading():
        run = _StoredRun(stored, plan, options, drawn.held_back if drawn else [])
        if isinstance(todo, PruningPlan) and not options.check_weights:
            check_cut_weights(stored, plan, show)
    return run


class _StoredRun:
    streamed = True

    def __init__(
        self, stored: StoredModel, plan: PruningPlan, options: Options, held_back: Sequence[Batch]
    ) -> None:
        self.plan = plan
        self._stored, self._options = stored, options
        self._held_back = held_back if options.evaluate else []
        self._new = prepare(stored, self.plan, options.dtype, options.max_shard_bytes)
        self.layers_differ = bool(overrides(self._new.twin.config.get_text_config()))
        self.has_tokenizer = has_tokenizer(stored.checkpoint.folder)
        nbytes = sum(tensor.nbytes for tensor in self._new.tensors)
        before = summarize_stored(stored, stored.view.model, stored.checkpoint.nbytes)
        after = summarize_stored(stored, self._new.twin, nbytes)
        self.statistics = get_pruning_statistics(before, after) | {
            "original_expansion_rate": before.expansion_rate,
            "original_file_bytes": stored.checkpoint.file_bytes,
            "pruned_file_bytes": self._new.nbytes,
        }

    def write(self, target: Path) -> None:
        write_checkpoint(self._stored, self._new, target, show_progress=self._options.show_progress)

    def verify(self, target: Path) -> None:
        verify_checkpoint(self._stored, self.plan, self._new, target)

    def cost(self, target: Path) -> Cost | None:
        if not self._held_back:
            return None
        config = load_config(find_source(target), trust_remote_code=self._options.trust_remote_code)
        device = check_device(self._options.device)
        both = (self._stored, StoredModel(target, config))
        before, after = (StoredLayers(each, device, self._options.dtype) for each in both)
        return stored_cost(before, after, self._held_back)


def stored_cost(
    before: StoredLayers, after: StoredLayers, held_back: Sequence[Batch]
) -> Cost | None:
    """What a checkpoint lost against another, each read one layer at a time."""
    states = []
    for layers in (before, after):
        with layers.running() as model:
            states.append(final_states(model, held_back))
    before.read_head()
    return cost_of(before.view.model, held_back, *states)
