"""A pruning of a checkpoint as a value: how to work, what is decided, written and checked.

Rows of the scored tensors are read from the files, and with calibration data one decoder layer at a
time. The whole model is loaded only for what neither can decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..arch.heterogeneous import overrides
from ..arch.view import describe
from ..batches import Batch
from ..checkpoint.pruned import (
    NewCheckpoint,
    check_weights,
    prepare,
    stored_sizes,
    verify_checkpoint,
    write_checkpoint,
)
from ..checkpoint.stored_decision import decide_stored
from ..checkpoint.stored_layers import NeedsModelError, StoredLayers
from ..checkpoint.stored_model import StoredModel
from ..devices import check_device
from ..distributed import is_first, world_size
from ..errors import UnsupportedModelError
from ..loading.models import load_config, load_model
from ..loading.sources import find_source
from ..memory import free_bytes
from ..noted import warn
from ..progress import duration
from ..pruning.block_planning import check_blocks
from ..pruning.calibration.calibration_texts import CalibrationText, Drawn
from ..pruning.calibration.holding import Holding
from ..pruning.calibration.stream import NotByLayersError
from ..pruning.calibration.text_cost import Cost, cost_of, final_states
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.surgery import apply_plan
from ..pruning.decision import decide
from ..pruning.planning import check_units_left
from ..pruning.request.pruning_request import PruningRequest
from ..pruning.statistics import get_pruning_statistics, summarize
from .data import Data, Say
from .estimate import estimated
from .outcome import check_generates, reloaded_difference, stored_cost

_LEAST_TOKENS = 8192  # of calibration text, however long they take
_LATE = 1.1  # times the budget: so much later is said


@dataclass(frozen=True)
class Options:
    """How to work, whatever is pruned."""

    device: str = "cpu"
    dtype: str = "auto"
    trust_remote_code: bool = False
    show_progress: bool = False
    max_shard_bytes: int = 5 * 10**9
    check_weights: bool = False
    evaluate: bool = True
    holding: Holding = field(default_factory=Holding)
    seconds: float | None = None  # that a calibration may take, None for any


@dataclass(frozen=True)
class Run:
    """A pruning of a checkpoint that is decided and proved."""

    stored: StoredModel
    plan: PruningPlan  # what goes, with the tensors that take the place of cut ones
    new: NewCheckpoint
    options: Options
    model: Any  # the checkpoint's model, where it was loaded to decide
    held_back: Sequence[Batch]  # calibration text to measure the cost on
    unpruned: Sequence[Tensor]  # what enters the head of that model for this text, before it is cut
    text: CalibrationText | None = None  # what it was drawn from
    repeated: float = 0.0  # the share of this text that the text for calibration holds too

    @classmethod
    def proved(
        cls,
        stored: StoredModel,
        plan: PruningPlan,
        options: Options,
        model: Any,
        data: Data,
        drawn: Drawn | None,
    ) -> Run:
        """Prove what was decided; everything that can be refused is refused here."""
        held_back = drawn.held_back if drawn and options.evaluate and is_first() else []
        new = prepare(stored, plan, options.dtype, options.max_shard_bytes)
        unpruned = [] if model is None else final_states(model, held_back)
        repeated = drawn.repeated if drawn else 0.0
        return cls(stored, plan, new, options, model, held_back, unpruned, data.text, repeated)

    @property
    def layers_differ(self) -> bool:
        """Whether the layers of the result differ, in width or in what they have."""
        return bool(overrides(self.new.twin.config.get_text_config()))

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Those of `get_pruning_statistics`, with bytes on disk."""
        checkpoint = self.stored.checkpoint
        nbytes = sum(tensor.nbytes for tensor in self.new.tensors)
        before = replace(summarize(self.stored.view.model), bytes=checkpoint.nbytes)
        after = replace(summarize(self.new.twin), bytes=nbytes)
        return get_pruning_statistics(before, after) | {
            "original_expansion_rate": before.expansion_rate,
            "original_file_bytes": checkpoint.file_bytes,
            "pruned_file_bytes": self.new.nbytes,
        }

    @cached_property
    def pruned_model(self) -> Any:
        """The checkpoint's model, cut in memory as its files are."""
        model = self.model
        if model is None:
            model = load_model(
                self.stored.checkpoint.folder,
                device=self.options.device,
                dtype=self.options.dtype,
                trust_remote_code=self.options.trust_remote_code,
            )
        return apply_plan(model, self.plan)

    def write(self, target: Path) -> None:
        """Write the model and what belongs to it into an existing folder."""
        write_checkpoint(self.stored, self.new, target, show_progress=self.options.show_progress)

    def verify(self, target: Path, mode: str) -> float | None:
        """Check that folder: headers and samples of what was cut, or `full`y by loading it too.

        Returns the largest difference of logits to a live cut; None where no model was loaded.
        """
        if mode == "none":
            return None
        verify_checkpoint(self.stored, self.plan, self.new, target)
        if mode == "fast" and self.model is None:
            return None
        code = self.options.trust_remote_code
        difference = reloaded_difference(self.pruned_model, target, trust_remote_code=code)
        if mode == "full":
            source = self.stored.checkpoint.folder
            check_generates(target, source, self.options.device, code)
        return difference

    def cost(self, target: Path) -> Cost | None:
        """What the folder's model lost on held-back text; None where there is none."""
        found = self._cost(target) if self.held_back else None
        return found and replace(found, repeated=self.repeated)

    def _cost(self, target: Path) -> Cost | None:
        if self.model is not None:
            after = final_states(self.pruned_model, self.held_back)
            return cost_of(self.pruned_model, self.held_back, self.unpruned, after)
        config = load_config(find_source(target), trust_remote_code=self.options.trust_remote_code)
        device = check_device(self.options.device)
        pair = (self.stored, StoredModel(target, config))
        old, new = (StoredLayers(each, device, self.options.dtype) for each in pair)
        return stored_cost(old, new, self.held_back)


def decide_run(
    stored: StoredModel, todo: PruningRequest | PruningPlan, options: Options, data: Data, say: Say
) -> Run:
    """Decide what happens to a checkpoint, and prove it; `say` is told why the model is loaded.

    Calibration text is read before that, since loading takes longer.
    """
    show = options.show_progress
    with data.reading():
        stored.seen_by(todo.units)
        depth = todo.depth if isinstance(todo, PruningRequest) else None
        if depth is not None and not depth.open:
            depth.number(len(stored.view.layers))  # refused before text is read
        if isinstance(todo, PruningRequest) and todo.unit and todo.width and not todo.budget:
            check_units_left(stored.view, todo, todo.width)
        if isinstance(todo, PruningRequest) and todo.blocks is not None:
            check_blocks(stored.view, todo.blocks)
        code = options.trust_remote_code
        data = data.settled(stored, options.device)
        drawn = data.drawn(stored, partial(_loaded, stored, options), say, trust_remote_code=code)
        if options.check_weights:
            check_weights(stored, show)
    model = None
    if isinstance(todo, PruningPlan):
        plan = todo
    else:
        if drawn is not None:
            data, drawn = _paced(stored, todo, options, data, drawn, say)
        batches = data.batches if drawn is None else drawn.batches
        plan, model = _decide(stored, todo, options, data, batches, say)
    plan = data.recorded(plan, drawn)
    with data.reading():
        run = Run.proved(stored, plan, options, model, data, drawn)
        if isinstance(todo, PruningPlan) and not options.check_weights:
            check_weights(stored, show, plan)
    return run


def _paced(
    stored: StoredModel,
    request: PruningRequest,
    options: Options,
    data: Data,
    drawn: Drawn,
    say: Say,
) -> tuple[Data, Drawn]:
    """Say how long it will take; take fewer sequences where that is longer than was allowed."""
    found = None
    if world_size() == 1:
        device = check_device(options.device)
        found = estimated(stored, request, drawn.batches, device, options.dtype)
    if found is None or data.text is None:
        return data, drawn
    if options.seconds is not None:
        least = -(-_LEAST_TOKENS // found.tokens)
        shorter = found.within(options.seconds, least)
        if shorter.seconds > _LATE * options.seconds:
            warn(
                f"Even {shorter.sequences * shorter.tokens:,} tokens of calibration text will take "
                f"about {duration(shorter.seconds)}. Without text (--calibration none) it is a "
                "matter of copying, and the result is worse; a GPU (--device cuda) is faster; "
                "--time-budget MINUTES says how long it may take."
            )
        if shorter.sequences < found.sequences:
            size = data.text.batch_size
            kept = max(shorter.sequences // size, 1)
            found = replace(shorter, sequences=kept * size)
            drawn = replace(drawn, batches=drawn.batches[:kept])
            data = replace(data, text=replace(data.text, samples=found.sequences))
    if say is not None:
        say(found.in_words())
    return data, drawn


def _decide(
    stored: StoredModel,
    request: PruningRequest,
    options: Options,
    data: Data,
    batches: Any,
    say: Say,
) -> tuple[PruningPlan, Any]:
    """Decide from the files, or say why not and load the model: then it is returned too."""
    try:
        plan = decide_stored(
            stored,
            request,
            options.dtype,
            options.max_shard_bytes,
            dataloader=batches,
            device=check_device(options.device),
            holding=options.holding,
            show_progress=options.show_progress,
        )
    except NeedsModelError as exc:
        reason = str(exc)
    except NotByLayersError:
        if request.by_layers:
            raise
        reason = "its layers cannot be run one at a time"
    else:
        return plan, None
    _check_fits(stored, options, reason)
    if say is not None:
        say(f"The model is loaded into memory: {reason}.")
    with data.reading():
        model = _loaded(stored, options)
    plan, _ = decide(
        describe(model),
        request,
        batches,
        holding=options.holding,
        show_progress=options.show_progress,
        stored_bytes=stored_sizes(stored, options.dtype, options.max_shard_bytes).bytes,
    )
    return plan, model


def _check_fits(stored: StoredModel, options: Options, reason: str) -> None:
    """Refuse to load a model that takes more memory than is free."""
    free = free_bytes(check_device(options.device))
    takes = stored_sizes(stored, options.dtype, options.max_shard_bytes).bytes
    if free is not None and takes > free:
        raise UnsupportedModelError(
            f"The model takes {takes / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free, and "
            f"it would have to be loaded whole, since {reason}. Choose layers by "
            "'block_influence' and neurons by a uniform width, which look at one layer at a time."
        )


def _loaded(stored: StoredModel, options: Options) -> Any:
    return load_model(
        stored.checkpoint.folder,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        show_progress=options.show_progress and is_first(),
    )
