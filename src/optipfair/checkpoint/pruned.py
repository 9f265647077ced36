"""A checkpoint pruned without its model: proved by its twin, written tensor by tensor.

The counterpart of `pruning/cut/surgery.py`: the same plan, the same guard, no weights in memory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnsupportedModelError, VerificationError
from ..files.safetensors_reader import TensorInfo, open_checkpoint, read_into
from ..files.safetensors_writer import OutputTensor, Shard, lay_out, write_shards
from ..files.torch_dtypes import TORCH_DTYPES
from ..noted import warn
from ..progress import meter, track
from ..pruning.cut.checks import check_plan_fits, check_sharing
from ..pruning.cut.guard import prove
from ..pruning.cut.plan import PruningPlan
from ..pruning.request.solving import Sizes
from .past_layers import fields_of_predictions
from .pieces import item_size
from .rewrite import (
    PieceCut,
    StoredValues,
    as_dtype,
    cuts_of,
    leaves_out_predictions,
    rewritten,
    rows_of_piece,
)
from .side_files import SideFiles, side_files
from .stored_model import StoredModel
from .stored_rows import check_finite_tensor
from .written_config import write_config

_VERIFIERS = 2
_VERIFY_BYTES = 2 * 2**20


@dataclass(frozen=True)
class NewCheckpoint:
    """What will be written: the twin of the pruned model and the files with their tensors."""

    twin: Any  # on `meta`
    dtype: str  # of all floats, `auto` where they keep theirs
    shards: list[Shard]
    replaced: StoredValues  # the tensors among theirs that are not cut from the checkpoint's
    side_files: SideFiles
    account: dict[str, int]  # what becomes of the checkpoint's tensors: how many

    @property
    def tensors(self) -> list[OutputTensor]:
        return [tensor for shard in self.shards for tensor in shard.tensors]

    @property
    def nbytes(self) -> int:
        """Of all weight files, headers included; exact."""
        return sum(shard.nbytes for shard in self.shards)


def stored_sizes(stored: StoredModel, dtype: str, max_shard_bytes: int) -> Sizes:
    """What the weights take on disk, headers included, in the dtype that they will have."""
    view = stored.view
    everything = PruningPlan(view.spec.model_type, len(view.layers), tuple(range(len(view.layers))))
    outputs = rewritten(
        stored, everything, view.model, dtype, StoredValues.of_replacements(stored, {})
    )
    total = sum(shard.nbytes for shard in lay_out(outputs, max_shard_bytes))
    parameters = sum(parameter.numel() for parameter in view.model.parameters())
    items = cache(partial(_item_bytes, stored, outputs))  # only a budget of bytes asks
    return Sizes(parameters, total, lambda parameter: items()[id(parameter)])


def _item_bytes(stored: StoredModel, outputs: Sequence[OutputTensor]) -> dict[int, int]:
    """The identity of each parameter of the twin → bytes of one element, as it will be stored."""
    dtypes = {output.name: output.dtype for output in outputs if output.dtype in TORCH_DTYPES}
    main = max(set(dtypes.values()), key=list(dtypes.values()).count, default="F32")
    items = {}
    for name, parameter in stored.view.model.named_parameters():
        saved = stored.saved({name: parameter.detach()})
        dtype = next((dtypes[each] for each in saved if each in dtypes), main)
        items[id(parameter)] = item_size(dtype)
    return items


def prepare(
    stored: StoredModel,
    plan: PruningPlan,
    dtype: str,
    max_shard_bytes: int,
    values: StoredValues | None = None,
) -> NewCheckpoint:
    """Prove a plan and say what it writes; everything that can be refused is refused here.

    `values` are written in the place of the checkpoint's and of the plan's own.
    """
    check_plan_fits(stored.view, plan)
    check_sharing(stored.view)
    new = prove(stored.view, plan).twin
    _leave_out_further_predictions(stored, plan, new.config.get_text_config())
    _warn_about_left_over(stored)
    if dtype != "auto":
        new.config.dtype = getattr(torch, dtype)
    replaced = values or StoredValues.of_replacements(stored, plan.replacements or {})
    outputs = rewritten(stored, plan, new, dtype, replaced)
    shards = lay_out(outputs, max_shard_bytes)
    weights = {info.file.name for info in stored.tensors.values()}
    beside = side_files(stored.checkpoint.folder, weights)
    return NewCheckpoint(new, dtype, shards, replaced, beside, _account(stored, plan, outputs))


def _leave_out_further_predictions(stored: StoredModel, plan: PruningPlan, config: Any) -> None:
    """Layers that predict further tokens are not cut, and would not fit beside narrower ones."""
    if not any(map(stored.predicts_further, stored.tensors)):
        return
    if not leaves_out_predictions(stored, plan):
        if "expert" in plan.units:
            warn(
                "The layers that predict the tokens after the next one keep as many experts, those "
                "of the largest weights, since no text can be run through them here."
            )
        return
    for field in fields_of_predictions(config):
        setattr(config, field, 0)
    warn(
        "The layers that predict the tokens after the next one are left out, since they would not "
        "fit the narrower ones. Engines generate without them, one token at a time."
    )


def _warn_about_left_over(stored: StoredModel) -> None:
    over = sorted(
        {stored.layer_of(each) or 0 for each in stored.tensors if stored.is_left_over(each)}
    )
    if over:
        warn(
            f"The config counts {len(stored.view.layers)} layers, the files hold more "
            f"({', '.join(map(str, over[:3]))}{', ...' if over[3:] else ''}). The model does not "
            "load them, so they are left out. If they belong to it, restore its config.json first."
        )


def _account(
    stored: StoredModel, plan: PruningPlan, outputs: Sequence[OutputTensor]
) -> dict[str, int]:
    """Count what becomes of each tensor of the checkpoint; one that would be lost is refused."""
    cuts = cuts_of(stored, plan)
    written = {output.source.name for output in outputs}
    experts = set(cuts.gone) - written
    gone = {name for name in stored.tensors if stored.layer_of(name) in plan.drop_layers}
    further = {name for name in stored.tensors if stored.predicts_further(name)}
    further = further - written - gone - experts
    over = {name for name in stored.tensors if stored.is_left_over(name)}
    lost = sorted(stored.tensors.keys() - written - gone - further - over - experts)
    if lost:
        raise UnsupportedModelError(
            f"{len(lost)} tensors of the checkpoint would be lost ({', '.join(lost[:3])}). Please "
            "report this with the model's name."
        )
    cut = written & cuts.pieces.keys()
    return {
        "source": len(stored.tensors),
        "copied": len(written - cut),
        "cut": len(cut),
        "removed_with_layers": len(gone - written),
        "removed_with_experts": len(experts - gone),
        "removed_predicting_further": len(further),
        "removed_past_the_last_layer": len(over),
    }


def check_weights(
    stored: StoredModel, show_progress: bool, plan: PruningPlan | None = None
) -> None:
    """Refuse NaN and Inf in tensors that a plan cuts, or in any of the checkpoint without one."""
    names = list(stored.tensors) if plan is None else sorted(_touched(stored, plan))
    for name in track(names, "checking", show_progress, unit="tensor"):
        check_finite_tensor(stored.tensors[name])


def _touched(stored: StoredModel, plan: PruningPlan) -> set[str]:
    cuts = cuts_of(stored, plan)
    return {*cuts.pieces, *cuts.renamed}


def write_checkpoint(
    stored: StoredModel, new: NewCheckpoint, folder: Path, *, show_progress: bool
) -> None:
    """Write config, weights and what else belongs to the model into an existing folder.

    A copied tensor that does not hold its source's bytes is a `VerificationError`.
    """
    with meter(new.nbytes, "writing", show_progress) as report:
        write_shards(folder, new.shards, report)
    source, old = stored.checkpoint.folder, stored.view.model.config
    write_config(source, old, new.twin.config, folder, new.dtype)
    new.side_files.copy_to(folder)


def verify_checkpoint(
    stored: StoredModel, plan: PruningPlan, new: NewCheckpoint, folder: Path
) -> None:
    """Read the result's headers, and recompute one cut tensor of each layer another way.

    Writing has checked all shapes against the pruned model's twin, and copied bytes.
    """
    written = open_checkpoint(folder).tensors
    planned = {tensor.name: (tensor.dtype, tensor.shape) for tensor in new.tensors}
    there = {name: (info.dtype, info.shape) for name, info in written.items()}
    names = planned.keys() | there.keys()
    wrong = sorted(name for name in names if planned.get(name) != there.get(name))
    if not wrong:
        wrong = _wrong_values(stored, plan, new, written)
    if wrong:
        raise VerificationError(
            f"The written checkpoint is not as planned: {', '.join(wrong[:3])}. Nothing was kept. "
            "Please report this with the model's name."
        )


def _wrong_values(
    stored: StoredModel, plan: PruningPlan, new: NewCheckpoint, written: Mapping[str, TensorInfo]
) -> list[str]:
    """Of one cut or replaced tensor of each layer, those that do not hold what they should."""
    cuts = cuts_of(stored, plan).pieces
    by_layer: dict[int | None, list[OutputTensor]] = {}
    for tensor in new.tensors:
        if tensor.source.name in cuts or tensor.source.name in new.replaced.names:
            by_layer.setdefault(stored.layer_of(tensor.source.name), []).append(tensor)
    choice = random.Random(plan.digest)
    chosen = [choice.choice(tensors) for tensors in by_layer.values()]

    def is_right(tensor: OutputTensor) -> bool:
        name = tensor.source.name
        if name in new.replaced.names:
            expected = iter([new.replaced.elements(name, tensor.dtype)])
        else:
            expected = _masked(tensor, cuts[name])
        return _holds(written[tensor.name], expected)

    with ThreadPoolExecutor(_VERIFIERS) as pool:
        right = pool.map(is_right, chosen)
        return [tensor.name for tensor, is_so in zip(chosen, right, strict=True) if not is_so]


def _masked(tensor: OutputTensor, cuts: Sequence[PieceCut]) -> Iterator[NDArray[Any]]:
    """What a cut tensor should hold, (n,) each: its source's elements where neurons are kept."""
    for cut in cuts:
        piece = cut.piece
        stay = np.zeros(piece.shape[piece.axis], dtype=bool)
        stay[cut.keep] = True
        chunks = rows_of_piece(tensor.source, piece.offset, piece.shape, _VERIFY_BYTES)
        for rows, data in chunks:
            mask = stay[rows] if piece.axis == 0 else stay
            kept = np.compress(mask, data, axis=piece.axis).ravel()
            yield as_dtype(kept, tensor.source.dtype, tensor.dtype)


def _holds(written: TensorInfo, expected: Iterator[NDArray[Any]]) -> bool:
    """Whether a stored tensor holds just these values, one after the other."""
    position = written.start
    for values in expected:
        data = np.empty_like(values)
        read_into(written.file, position, data.data.cast("B"))
        if not np.array_equal(data, values):
            return False
        position += data.nbytes
    return position == written.end
