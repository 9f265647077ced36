"""A checkpoint pruned without its model: proved by its twin, written tensor by tensor.

The counterpart of `pruning/surgery.py`: the same plan, the same guard, no weights in memory.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import VerificationError
from ..files.safetensors_reader import Checkpoint, TensorInfo, open_checkpoint, read_into
from ..files.safetensors_writer import OutputTensor, Shard, lay_out, write_shards
from ..files.torch_dtypes import TORCH_DTYPES
from ..progress import meter, track
from ..pruning.cut.checks import check_plan_fits, check_sharing
from ..pruning.cut.guard import prove
from ..pruning.cut.plan import PruningPlan
from ..pruning.request.solving import Sizes
from .new_config import write_config
from .replaced import StoredReplacements
from .rewrite import PieceCut, cut_tensors, rewritten
from .stored_model import Piece, StoredModel, item_size
from .stored_rows import check_finite_tensor

# What belongs to a model beside its config and weights; what is not named here stays behind.
_CARRIED_OVER = (
    *("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.spm", "*.py"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "additional_chat_templates"),
)
_LEFT_BEHIND = (
    *("config.json", "*.index.json", "pruning_plan.json", "quant*config.json", "quantize*.json"),
    *("hf_quant_config.json", "adapter_config.json", "trainer_state.json", "training_args*"),
)
_VERIFIERS = 2
_VERIFY_BYTES = 2 * 2**20


@dataclass(frozen=True)
class NewCheckpoint:
    """What will be written: the twin of the pruned model and the files with their tensors.

    Attributes:
        twin: on `meta`.
        dtype: of all floats, `auto` where they keep theirs.
        shards: the files.
        replaced: the tensors among theirs that are not cut from the checkpoint's.
    """

    twin: Any
    dtype: str
    shards: list[Shard]
    replaced: StoredReplacements

    @property
    def tensors(self) -> list[OutputTensor]:
        return [tensor for shard in self.shards for tensor in shard.tensors]

    @property
    def nbytes(self) -> int:
        """Of all weight files, headers included; exact."""
        return sum(shard.nbytes for shard in self.shards)


def stored_sizes(stored: StoredModel, dtype: str, max_shard_bytes: int) -> Sizes:
    """What the weights take on disk, headers included, in the dtype that they will have."""
    outputs = rewritten(stored, _whole(stored), stored.view.model, dtype)
    total = sum(shard.nbytes for shard in lay_out(outputs, max_shard_bytes))
    parameters = sum(parameter.numel() for parameter in stored.view.model.parameters())
    items: dict[int, int] = {}

    def item_bytes(parameter: Tensor) -> int:
        if not items:  # only a budget of bytes asks
            items.update(_item_bytes(stored, outputs))
        return items[id(parameter)]

    return Sizes(parameters, total, item_bytes)


def _item_bytes(stored: StoredModel, outputs: Sequence[OutputTensor]) -> dict[int, int]:
    """The identity of each parameter of the twin → bytes of one element, as it will be stored."""
    dtypes = {output.name: output.dtype for output in outputs if output.dtype in TORCH_DTYPES}
    main = max(set(dtypes.values()), key=list(dtypes.values()).count, default="F32")
    items = {}
    for name, parameter in stored.view.model.named_parameters():
        saved = stored.saved({name: parameter.detach()})
        found = next((dtypes[each] for each in saved if each in dtypes), main)
        items[id(parameter)] = item_size(found)
    return items


def prepare(
    stored: StoredModel,
    plan: PruningPlan,
    dtype: str,
    max_shard_bytes: int,
) -> NewCheckpoint:
    """Prove a plan and say what it writes; everything that can be refused is refused here.

    Raises:
        ArgumentError: the plan or a replaced tensor is for another model.
        UnsupportedModelError: the result would not load as itself, or a tensor that is cut holds
            NaN or Inf.
    """
    check_plan_fits(stored.view, plan)
    check_sharing(stored.view)
    new = prove(stored.view, plan).twin
    if dtype != "auto":
        new.config.dtype = getattr(torch, dtype)
    replaced = StoredReplacements(stored, plan.replacements or {})
    outputs = rewritten(stored, plan, new, dtype, replaced)
    return NewCheckpoint(new, dtype, lay_out(outputs, max_shard_bytes), replaced)


def check_cut_weights(stored: StoredModel, plan: PruningPlan, show_progress: bool) -> None:
    """Refuse NaN and Inf in tensors that a plan cuts but nobody has scored here."""
    names = sorted(cut_tensors(stored, plan))
    for name in track(names, "checking", show_progress, unit="tensor"):
        check_finite_tensor(stored.tensors[name])


def check_all_weights(stored: StoredModel, show_progress: bool) -> None:
    """Refuse NaN and Inf in any tensor of the checkpoint."""
    for info in track(list(stored.tensors.values()), "checking", show_progress, unit="tensor"):
        check_finite_tensor(info)


def write_checkpoint(
    stored: StoredModel, new: NewCheckpoint, folder: Path, *, show_progress: bool
) -> None:
    """Write config, weights and what else belongs to the model into an existing folder.

    Raises:
        OSError: the disk is full or fails.
        VerificationError: a copied tensor does not hold its source's bytes.
    """
    with meter(new.nbytes, "writing", show_progress) as report:
        write_shards(folder, new.shards, report)
    source, old = stored.checkpoint.folder, stored.view.model.config
    write_config(source, old, new.twin.config, folder, new.dtype)
    carry_over(source, folder)


def carry_over(source: Path, folder: Path) -> None:
    """Copy tokenizer, generation config, templates, processors, licence and code; no weights."""
    left = {path for pattern in _LEFT_BEHIND for path in source.glob(pattern)}
    for path in sorted({path for pattern in _CARRIED_OVER for path in source.glob(pattern)} - left):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def verify_checkpoint(
    stored: StoredModel, plan: PruningPlan, new: NewCheckpoint, folder: Path
) -> None:
    """Read the result's headers, and recompute one cut tensor of each layer another way.

    That the shapes are those of the pruned model's twin was checked before writing, that copied
    bytes are their source's while writing.

    Raises:
        VerificationError: something is not as planned.
    """
    written = open_checkpoint(folder)
    planned = {tensor.name: (tensor.dtype, tensor.shape) for tensor in new.tensors}
    found = {name: (info.dtype, info.shape) for name, info in written.tensors.items()}
    if found != planned:
        names = [
            name for name in planned.keys() | found.keys() if planned.get(name) != found.get(name)
        ]
        raise VerificationError(_wrong(sorted(names)))
    cuts = cut_tensors(stored, plan)
    by_layer: dict[int | None, list[OutputTensor]] = {}
    for tensor in new.tensors:
        if tensor.source.name in cuts or tensor.source.name in new.replaced.keys:
            by_layer.setdefault(stored.layer_of(tensor.source.name), []).append(tensor)
    choice = random.Random(plan.digest)
    chosen = [choice.choice(tensors) for tensors in by_layer.values()]
    with ThreadPoolExecutor(_VERIFIERS) as pool:
        same = pool.map(
            lambda t: (
                _is_replaced(t, new.replaced, written)
                if t.source.name in new.replaced.keys
                else _is_cut_right(t, cuts[t.source.name], written)
            ),
            chosen,
        )
        wrong = [tensor.name for tensor, right in zip(chosen, same, strict=True) if not right]
    if wrong:
        raise VerificationError(_wrong(wrong))


def _is_replaced(tensor: OutputTensor, replaced: StoredReplacements, written: Checkpoint) -> bool:
    """Whether a tensor holds what took its place."""
    found = written.tensors[tensor.name]
    expected = replaced.elements(tensor.source.name, tensor.dtype)
    data = np.empty(found.nbytes, dtype=np.uint8)
    read_into(found.file, found.start, data.data)
    return np.array_equal(data, expected)


def _is_cut_right(tensor: OutputTensor, cuts: Sequence[PieceCut], written: Checkpoint) -> bool:
    """Whether a cut tensor holds what its source holds where a mask of kept neurons is true."""
    found = written.tensors[tensor.name]
    position = found.start
    for cut in cuts:
        stay = np.zeros(cut.piece.shape[cut.piece.axis], dtype=bool)
        stay[cut.keep] = True
        for chunk in _masked(tensor.source, cut.piece, stay):
            expected = _as_dtype(chunk, tensor.source.dtype, tensor.dtype)
            data = np.empty(expected.shape, dtype=expected.dtype)
            read_into(found.file, position, data.data.cast("B"))
            if not np.array_equal(data, expected):
                return False
            position += data.nbytes
    return position == found.end


def _masked(info: TensorInfo, piece: Piece, stay: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
    """The kept elements of a piece, some rows at a time, as plain integers, (n,)."""
    size = item_size(info.dtype)
    rows, width = piece.shape[0], math.prod(piece.shape[1:])
    step = max(_VERIFY_BYTES // max(width * size, 1), 1)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        data = np.empty((stop - start, width), dtype=f"u{size}")
        if data.size:
            read_into(info.file, piece.offset + start * width * size, data.data.cast("B"))
        mask = stay[start:stop] if piece.axis == 0 else stay
        yield np.compress(mask, data, axis=piece.axis).ravel()


def _as_dtype(values: NDArray[Any], old: str, new: str) -> NDArray[Any]:
    if old == new:
        return values
    cast = torch.from_numpy(values.view(np.uint8)).view(TORCH_DTYPES[old]).to(TORCH_DTYPES[new])
    found: NDArray[Any] = cast.view(torch.uint8).numpy()
    return found


def _wrong(names: Sequence[str]) -> str:
    return (
        f"The written checkpoint is not as planned: {', '.join(names[:3])}. Nothing was kept. "
        "Please report this with the model's name."
    )


def _whole(stored: StoredModel) -> PruningPlan:
    """The plan that keeps everything."""
    total = len(stored.view.layers)
    return PruningPlan(stored.view.spec.model_type, total, tuple(range(total)))
