"""What will be removed from a checkpoint: a plan's word, or decided from rows, layers or the model.

Rows of the scored tensors are read from the files, and with calibration data one decoder layer at a
time. The whole model is loaded only for what neither can decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arch.view import describe
from ..checkpoint.pruned import check_weights
from ..checkpoint.stored_decision import decide_stored
from ..checkpoint.stored_layers import NeedsModelError
from ..checkpoint.stored_model import StoredModel
from ..distributed import is_first
from ..loading import check_device, load_model, load_tokenizer
from ..pruning.calibration.stream import NotByLayersError
from ..pruning.cut.plan import PruningPlan
from ..pruning.decision import decide
from ..pruning.request.pruning_request import PruningRequest
from .run import Data, Options, Run

Say = Callable[[str], None] | None


def decide_run(
    stored: StoredModel, todo: PruningRequest | PruningPlan, options: Options, data: Data, say: Say
) -> Run:
    """Decide what happens to a checkpoint, and prove it; `say` is told why the model is loaded.

    Calibration text is read before that, since loading takes longer.
    """
    show, folder = options.show_progress, stored.checkpoint.folder
    with data.reading():
        stored.seen_by(todo.attention_unit)
        code = options.trust_remote_code
        drawn = data.drawn(load_tokenizer(folder, trust_remote_code=code) if data.text else None)
        if options.check_weights:
            check_weights(stored, show)
    model = None
    if isinstance(todo, PruningPlan):
        plan = todo
    else:
        batches = data.batches if drawn is None else drawn.batches
        plan, model = _decide(stored, todo, options, data, batches, say)
    plan = data.recorded(plan, drawn)
    with data.reading():
        run = Run.proved(stored, plan, options, model, drawn)
        if isinstance(todo, PruningPlan) and not options.check_weights:
            check_weights(stored, show, plan)
    return run


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
    if say is not None:
        say(f"The model is loaded into memory: {reason}.")
    with data.reading():
        model = load_model(
            stored.checkpoint.folder,
            device=options.device,
            dtype=options.dtype,
            trust_remote_code=options.trust_remote_code,
            show_progress=options.show_progress and is_first(),
        )
    holding, show = options.holding, options.show_progress
    view = describe(model)
    return decide(view, request, batches, holding=holding, show_progress=show)[0], model
