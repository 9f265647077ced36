"""Statistics of what flows through the MLPs on calibration data. It never changes the model.

Only real tokens count, sums are kept in float64, and neither batch size, batch order nor padding
side changes the result. Several processes (`distributed`) sum up what each of them saw.

Axes: `B` batch, `S` sequence, `T` real tokens, `I` neurons, `E` experts, `H` hidden.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.limits import check_sequences
from ...arch.view import MLPView, ModelView
from ...batches import Batch, model_inputs, read_batch
from ...distributed import gathered, is_shared_out, rank, share, sum_, together, total
from ...errors import DataError, UnsupportedModelError
from ...hooks import evaluating, recording_inputs
from ...progress import track

_CHUNK_TOKENS = 64

Update = Callable[[tuple[Any, ...], Tensor], None]


class SquareSums:
    """Running sums of squares of one MLP's neuron outputs, (I,) or (E, I), float64."""

    def __init__(self, mlp: MLPView) -> None:
        self.mlp = mlp
        shape = (mlp.width,) if mlp.experts is None else (mlp.experts, mlp.width)
        device = mlp.tensors[mlp.spec.down].device
        self.total = torch.zeros(shape, dtype=torch.float64, device=device)

    @property
    def module(self) -> nn.Module:
        """The module whose forward is watched: the down projection, or the experts."""
        return self.mlp.owner.get_submodule(self.mlp.spec.down.module)

    def update(self, args: tuple[Any, ...], mask: Tensor) -> None:
        """Add what entered the module. `mask` (B, S) says which tokens are real."""
        real = token_mask(args[0], mask)
        if self.mlp.spec.experts:
            self._update_experts(args[0], args[1], real)
        else:
            self.total += _square_sum(args[0].flatten(0, -2), real)  # (B*S, I)

    def _update_experts(self, hidden: Tensor, chosen: Tensor, real: Tensor) -> None:
        for expert, routed in routed_tokens(chosen, real, self.total.shape[0]):
            tokens = hidden.flatten(0, -2)[routed]
            inputs = expert_inputs(self.mlp, self.module, tokens, expert)
            self.total[expert] += _square_sum(inputs, None)


def routed_tokens(chosen: Tensor, real: Tensor, experts: int) -> Iterator[tuple[int, Tensor]]:
    """Each expert that is chosen with the places of its real tokens, (T,).

    Args:
        chosen: the experts of each token, (B*S, top_k).
        real: which tokens are real, (B*S,).
        experts: how many there are.
    """
    chosen = chosen.flatten(0, -2)
    real = real.to(chosen.device)
    for expert in torch.unique(chosen[real]).tolist():
        if expert < experts:  # some routers number an empty expert
            yield expert, (real & (chosen == expert).any(dim=-1)).nonzero()[:, 0]


def expert_inputs(mlp: MLPView, module: Any, tokens: Tensor, expert: int) -> Tensor:
    """What enters an expert's down projection: (T, H) → (T, I)."""
    out = tokens
    for slot, tensor in mlp.tensors.items():
        if slot.role in ("gate+up", "up"):
            rows = tensor[expert] if slot.axis == 1 else tensor[expert].t()
            out = nn.functional.linear(tokens, rows)
    for slot, tensor in mlp.tensors.items():
        if slot.role == "bias":
            out = out + tensor[expert]
    activated: Tensor = module._apply_gate(out) if mlp.spec.gated else module.act_fn(out)
    return activated


def check_experts(mlp: MLPView) -> None:
    """Experts that transformers' common interface runs can be watched, others not."""
    experts: Any = mlp.owner.get_submodule(mlp.spec.down.module)
    if mlp.spec.experts and not hasattr(experts, "_apply_gate"):
        raise UnsupportedModelError(
            f"The experts of layer {mlp.layer} ({type(experts).__name__}) do not show their "
            "activations, so they have no data-driven scores. Leave the dataloader out."
        )


def neuron_input_norms(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> dict[tuple[int, str], Tensor]:
    """L2 norm, over all real calibration tokens, of each neuron's input to its down projection.

    Args:
        view: the model; it runs in eval mode, without its head, and is left as it was.
        batches: a DataLoader or any iterable of what `read_batch` understands.
        show_progress: whether to show a bar.

    Returns:
        (layer, MLP name) → (I,), or (E, I) for experts, float64.

    Raises:
        DataError: no batch, a batch of an unknown kind, or activations that are NaN or Inf.
    """
    for mlp in view.mlps:
        check_experts(mlp)
    sums = [SquareSums(mlp) for mlp in view.mlps]
    run_batches(view, batches, [(each.module, each.update) for each in sums], show_progress)
    return {(each.mlp.layer, each.mlp.spec.name): input_norms(each) for each in sums}


def input_norms(sums: SquareSums) -> Tensor:
    """The L2 norms of an MLP's neurons over all processes, (I,) or (E, I), float64.

    Raises:
        DataError: activations that are NaN or Inf.
    """
    sum_(sums.total)
    if not bool(torch.isfinite(sums.total).all()):
        raise not_finite_on_data(f"activations of {sums.mlp.spec.name} in layer {sums.mlp.layer}")
    return sums.total.sqrt()


def not_finite_on_data(what: str) -> DataError:
    """That some values of a run are no numbers, and what to do about it."""
    return DataError(
        f"The {what} are NaN or Inf on the calibration data. Try a wider dtype (bfloat16 or "
        "float32)."
    )


def run_batches(
    view: ModelView,
    batches: Iterable[object],
    updates: Sequence[tuple[nn.Module, Update]],
    show_progress: bool,
) -> int:
    """Run the model without its head over all batches and call each module's update.

    Returns:
        The number of real tokens, in all processes.
    """
    base: Any = view.model.base_model
    parameters = inspect.signature(base.forward).parameters
    extra = {"use_cache": False} if "use_cache" in parameters else {}
    embeddings: Any = view.model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    real: Tensor = torch.empty(0, dtype=torch.bool)

    def callback(update: Update) -> Callable[[nn.Module, tuple[object, ...]], None]:
        return lambda _module, args: update(args, real)

    tokens = 0
    found = list(read_batches(batches))  # processes may wait for each other here
    with (
        together(),
        evaluating(view.model),
        recording_inputs([(module, callback(update)) for module, update in updates]),
    ):
        check_sequences(view.model, found)
        for batch in track(found, "calibrating", show_progress, unit="batch"):
            real = batch.attention_mask
            base(**model_inputs(batch, device), **extra)
            tokens += batch.tokens
    tokens = int(total(tokens)[0])
    if tokens == 0:
        raise no_batch()
    return tokens


def no_batch() -> DataError:
    return DataError("The dataloader gave no batch. Give at least one batch of real tokens.")


def _distinct_axes(batch: Batch) -> Batch:
    """Pad a square batch by one more token, so that batch and sequence can be told apart."""
    size, length = batch.input_ids.shape
    if size != length or not batch.padded:
        return batch
    return Batch(
        nn.functional.pad(batch.input_ids, (0, 1)), nn.functional.pad(batch.attention_mask, (0, 1))
    )


def token_mask(values: Tensor, mask: Tensor) -> Tensor:
    """The mask (B, S) in the order of a module's input (B, S, ...), (S, B, ...) or (B*S, ...).

    Raises:
        UnsupportedModelError: the module sees other tokens than those of the batch.
    """
    tokens = values.shape[:-1]
    if tokens.numel() != mask.numel():
        raise UnsupportedModelError(
            f"The model's MLPs see {tokens.numel()} tokens where the batch has {mask.numel()}, so "
            "they have no data-driven scores. Leave the dataloader out."
        )
    time_first = tuple(tokens) == (mask.shape[1], mask.shape[0]) != tuple(mask.shape)
    return (mask.t() if time_first else mask).flatten()


def read_batches(batches: Iterable[object]) -> Iterator[Batch]:
    """Read a loader's items one by one, each with batch and sequence of different length.

    Their sequences are numbered as they come, unless they are numbered already.

    Raises:
        DataError: this is no iterable of batches, or an item is none.
    """
    number = 0
    for item in _iterate(batches):
        batch = item if isinstance(item, Batch) else _distinct_axes(read_batch(item))
        if batch.first is None:
            batch = replace(batch, first=number)
            number += len(batch.input_ids)
        yield batch


def own_batches(batches: Iterable[object]) -> list[Batch]:
    """Read all batches and keep those that this process works on, numbered as in all the data.

    Of the batches that every process reads, each takes every n-th. What accelerate or a
    `DistributedSampler` has shared out stays as it is.

    Raises:
        DataError: a batch is of an unknown kind, or the processes read different ones.
    """
    with together(), torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
        found = list(read_batches(batches))
    if not is_shared_out(batches):
        if len(set(gathered(_digest(found)))) > 1:
            raise DataError(
                "The processes read different batches. Give all of them the same, without "
                "shuffling or with one seed, or a DataLoader that accelerator.prepare has shared "
                "out."
            )
        return share(found)
    rows = gathered([len(batch.input_ids) for batch in found])
    return [
        replace(batch, first=first)
        for batch, first in zip(found, first_rows(rows)[rank()], strict=True)
    ]


def first_rows(rows: list[list[int]]) -> list[list[int]]:
    """Where each process's batches begin, of which there are `rows` rows, dealt out in turns."""
    found: list[list[int]] = [[] for _ in rows]
    number = 0
    for turn in zip_longest(*rows):
        for process, count in enumerate(turn):
            if count is not None:
                found[process].append(number)
                number += count
    return found


def _digest(batches: list[Batch]) -> str:
    found = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.input_ids, batch.attention_mask):
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(tensor.to("cpu", torch.int64).numpy().tobytes())
    return found.hexdigest()


def _iterate(batches: Iterable[object]) -> Iterable[object]:
    if isinstance(batches, dict | str | bytes) or not isinstance(batches, Iterable):
        raise DataError(
            f"dataloader is a {type(batches).__name__}. Give a DataLoader or another iterable of "
            "batches, for example [tokenizer(texts, return_tensors='pt', padding=True)]."
        )
    return batches


def _square_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    """Sum of squares over the tokens: (T, I) → (I,), float64. `mask` (T,) picks the real ones."""
    if mask is not None and not bool(mask.all()):
        values = values[mask.to(values.device)]
    # In chunks that stay in the cache; a norm along the tokens takes six times as long on CPU.
    total = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
    chunks: tuple[Tensor, ...] = torch.split(values, _CHUNK_TOKENS)
    for chunk in chunks:
        total += chunk.float().square().sum(dim=0)
    return total
