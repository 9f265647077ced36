"""One item of a DataLoader (dict, tuple, list or tensor) → `Batch(input_ids, attention_mask)`.

Axes: `B` batch, `S` sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DataError

_ALLOWED = (
    "Allowed: a dict with 'input_ids' (and 'attention_mask'), a tuple or list "
    "(input_ids, attention_mask), or an input_ids tensor, each of shape (batch, sequence)."
)


@dataclass(frozen=True)
class Batch:
    """Token ids (B, S) and which of them are real (B, S), real tokens first in each row."""

    input_ids: Tensor
    attention_mask: Tensor  # bool
    first: int | None = None  # the number of its first row in all the data, once that is known

    @property
    def padded(self) -> bool:
        return not bool(self.attention_mask.all())

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())


def read_batch(item: object) -> Batch:
    """Turn what a DataLoader yields into a `Batch`, padding moved to the right and trimmed.

    A causal model sees nothing of what stands to the right of a token, so right padding makes the
    result independent of padding side and batch size, for every kind of position encoding. Other
    keys of a mapping are ignored, and what follows ids and mask in a tuple or list.
    """
    ids, mask = _split(item)
    input_ids = _as_matrix(ids, "input_ids")
    attention_mask = torch.ones_like(input_ids) if mask is None else _as_matrix(mask, "mask")
    if attention_mask.shape != input_ids.shape:
        raise DataError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids "
            f"{tuple(input_ids.shape)}. Give one mask value for each token."
        )
    if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        raise DataError(
            "The second entry of the batch is no attention mask: it holds values other than 0 "
            "and 1. Give (input_ids, attention_mask), or a dict when there are labels."
        )
    return _right_padded(input_ids, attention_mask.bool())


def _split(item: object) -> tuple[object, object]:
    if isinstance(item, Mapping):
        if "input_ids" not in item:
            raise DataError(
                f"A batch has no 'input_ids', only {sorted(map(str, item))}. {_ALLOWED}"
            )
        return item["input_ids"], item.get("attention_mask")
    if isinstance(item, Tensor):
        return item, None
    if isinstance(item, Sequence) and item and isinstance(item[0], Tensor):
        return item[0], item[1] if len(item) > 1 else None
    raise DataError(f"A batch is a {type(item).__name__}, which is not understood. {_ALLOWED}")


def _as_matrix(values: object, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise DataError(f"{name} cannot be made into a tensor ({exc}). {_ALLOWED}") from exc
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if name == "mask":
        whole = whole or tensor.dtype == torch.bool
    if tensor.layout != torch.strided or tensor.is_meta:
        raise DataError(f"{name} is sparse or on 'meta'. Give a dense tensor with values.")
    if tensor.dim() != 2 or tensor.numel() == 0 or not whole:
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; "
            f"integers of shape (batch, sequence) are needed. {_ALLOWED}"
        )
    return tensor.long()  # small integers hold small ids, and no embedding takes them


def _right_padded(input_ids: Tensor, mask: Tensor) -> Batch:
    longest = int(mask.sum(dim=1).max())
    if longest == 0:
        raise DataError("A batch has no real token: its attention_mask is 0 everywhere.")
    order = torch.argsort(~mask, dim=1, stable=True)[:, :longest]  # (B, longest)
    real = mask.any(dim=1)  # rows that are padding only would make empty attention rows
    return Batch(input_ids.gather(1, order)[real], mask.gather(1, order)[real])


def model_inputs(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The keyword arguments of a forward; the mask only where something is padded."""
    inputs = {"input_ids": batch.input_ids.to(device)}
    if batch.padded:
        inputs["attention_mask"] = batch.attention_mask.to(device, torch.int64)
    return inputs
