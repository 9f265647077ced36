"""Statistics of what flows through the MLPs on calibration data. It never changes the model.

Only real tokens count, sums are kept in float64, and neither batch size, batch order nor padding
side changes the result. Several processes (`distributed`) sum up what each of them saw.

Axes: `B` batch, `S` sequence, `T` real tokens, `I` neurons, `E` experts, `H` hidden.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from ...hooks import evaluating, recording
from ...progress import track

_CHUNK_TOKENS = 64
_ANYTHING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Update = Callable[[tuple[Any, ...], Any], None]


class SquareSums:
    """Running sums of squares of one MLP's neuron outputs, (I,) or (E, I), float64."""

    def __init__(self, mlp: MLPView) -> None:
        check_experts(mlp)
        self.mlp, self.module = mlp, down_module(mlp)
        device = mlp.tensors[mlp.spec.down].device
        self.total = torch.zeros(mlp.experts or 1, mlp.width, dtype=torch.float64, device=device)

    def update(self, args: tuple[Any, ...], mask: Tensor) -> None:
        """Add what entered the module. `mask` (B, S) says which tokens are real."""
        for expert, _, values in entering(self.mlp, args, token_mask(args[0], mask)):
            # In chunks that stay in the cache; a norm along the tokens takes six times as long
            # on CPU.
            sums = torch.zeros_like(self.total[expert])
            chunks: tuple[Tensor, ...] = torch.split(values, _CHUNK_TOKENS)
            for chunk in chunks:
                sums += chunk.float().square().sum(dim=0)
            self.total[expert] += sums

    def norms(self) -> Tensor:
        """The L2 norms over the tokens of all processes, (I,) or (E, I), float64."""
        sums = self.total.clone()  # this process's own goes on
        sum_(sums)
        if not bool(torch.isfinite(sums).all()):
            name, layer = self.mlp.spec.name, self.mlp.layer
            raise not_finite_on_data(f"activations of {name} in layer {layer}")
        return sums.sqrt() if self.mlp.spec.experts else sums[0].sqrt()


def down_module(mlp: MLPView) -> nn.Module:
    """The module whose forward is watched: the down projection, or the experts."""
    return mlp.owner.get_submodule(mlp.spec.down.module)


def check_experts(mlp: MLPView) -> None:
    """Experts that transformers' common interface runs can be watched, others not."""
    experts = down_module(mlp)
    if mlp.spec.experts and not hasattr(experts, "_apply_gate"):
        raise UnsupportedModelError(
            f"The experts of layer {mlp.layer} ({type(experts).__name__}) do not show their "
            "activations, so they have no data-driven scores. Leave the dataloader out."
        )


def entering(
    mlp: MLPView, args: tuple[Any, ...], wanted: Tensor
) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
    """What enters a down projection: expert (0 without any), places (T,), inputs there (T, I).

    Of the tokens only those that are `wanted`, (B*S,). To experts, the args of their module are the
    hidden states, and the experts that each token is routed to.
    """
    tokens = args[0].flatten(0, -2)  # (B*S, I), or (B*S, H) for experts
    wanted = wanted.to(tokens.device)
    if not mlp.spec.experts:
        every = bool(wanted.all())  # then nothing need be copied
        places = slice(None) if every else wanted.nonzero()[:, 0]
        yield 0, places, tokens[places]
        return
    chosen, experts = args[1].flatten(0, -2), mlp.experts or 0  # (B*S, top_k)
    for expert in torch.unique(chosen[wanted]).tolist():
        if expert < experts:  # some routers number an empty expert
            places = (wanted & (chosen == expert).any(dim=-1)).nonzero()[:, 0]
            yield expert, places, _expert_inputs(mlp, tokens[places], expert)


def _expert_inputs(mlp: MLPView, tokens: Tensor, expert: int) -> Tensor:
    """What enters an expert's down projection: (T, H) → (T, I)."""
    out = tokens
    for slot, tensor in mlp.tensors.items():
        if slot.role in ("gate+up", "up"):
            rows = tensor[expert] if slot.axis == 1 else tensor[expert].t()
            out = nn.functional.linear(tokens, rows)
    for slot, tensor in mlp.tensors.items():
        if slot.role == "bias":
            out = out + tensor[expert]
    module: Any = down_module(mlp)
    activated: Tensor = module._apply_gate(out) if mlp.spec.gated else module.act_fn(out)
    return activated


def neuron_input_norms(
    view: ModelView, batches: Iterable[object], show_progress: bool = False
) -> dict[tuple[int, str], Tensor]:
    """L2 norm, over all real calibration tokens, of each neuron's input to its down projection.

    Those of (layer, MLP name) are (I,), or (E, I) for experts, float64. The model runs in eval
    mode, without its head, and is left as it was.
    """
    sums = [SquareSums(mlp) for mlp in view.mlps]
    run_batches(view, batches, [(each.module, each.update) for each in sums], show_progress)
    return {(each.mlp.layer, each.mlp.spec.name): each.norms() for each in sums}


def not_finite_on_data(what: str) -> DataError:
    """That some values of a run are no numbers, and what to do about it."""
    return DataError(
        f"The {what} are NaN or Inf on the calibration data. Try a wider dtype (bfloat16 or "
        "float32)."
    )


@contextmanager
def updating(updates: Iterable[tuple[nn.Module, Update]], current: list[Any]) -> Iterator[None]:
    """While batches run inside the block, call each module's update with what enters it and with
    `current[0]`, which says what the batch that runs is.
    """

    def callback(update: Update) -> Callable[[tuple[object, ...]], None]:
        return lambda args: update(args, current[0])

    with recording((module, True, callback(update)) for module, update in updates):
        yield


def run_batches(
    view: ModelView,
    batches: Iterable[object],
    updates: Sequence[tuple[nn.Module, Update]],
    show_progress: bool,
) -> int:
    """Run the model without its head over all batches and call each module's update, with what
    enters it and which tokens of the batch are real, (B, S). Give how many were, in all processes.
    """
    tokens, real = 0, list[Tensor]()
    given = list(read_batches(batches))  # processes may wait for each other here
    with together(), evaluating(view.model), updating(updates, real):
        check_sequences(view.model, given)
        for batch in track(given, "calibrating", show_progress, unit="batch"):
            real[:] = [batch.attention_mask]
            forward(view, batch)
            tokens += batch.tokens
    tokens = int(total(tokens)[0])
    if tokens == 0:
        raise no_batch()
    return tokens


def forward(view: ModelView, batch: Batch, model: Any = None) -> Any:
    """The model without a cache; without its head where `model` does not say otherwise."""
    base: Any = view.model.base_model if model is None else model
    accepted = inspect.signature(base.forward).parameters
    hands_on = all(
        each.kind in _ANYTHING for each in accepted.values()
    )  # as wrappers of decoders do
    extra = {"use_cache": False} if "use_cache" in accepted or hands_on else {}
    if "output_router_logits" in accepted:  # what a config may ask for, for a loss of training
        extra["output_router_logits"] = False
    embeddings: Any = view.model.get_input_embeddings()
    return base(**model_inputs(batch, embeddings.weight.device), **extra)


def no_batch() -> DataError:
    return DataError("The dataloader gave no batch. Give at least one batch of real tokens.")


def _distinct_axes(batch: Batch) -> Batch:
    """Pad a square batch by one more token, so that batch and sequence can be told apart."""
    size, length = batch.input_ids.shape
    if size != length or not batch.padded:
        return batch
    ids, mask = (nn.functional.pad(x, (0, 1)) for x in (batch.input_ids, batch.attention_mask))
    return Batch(ids, mask)


def token_mask(values: Tensor, mask: Tensor) -> Tensor:
    """The mask (B, S) in the order of a module's input (B, S, ...), (S, B, ...) or (B*S, ...)."""
    tokens = values.shape[:-1]
    if tokens.numel() != mask.numel():
        raise UnsupportedModelError(
            f"The model's MLPs see {tokens.numel()} tokens where the batch has {mask.numel()}, so "
            "they have no data-driven scores. Leave the dataloader out."
        )
    time_first = tuple(tokens) == (mask.shape[1], mask.shape[0]) != tuple(mask.shape)
    return (mask.t() if time_first else mask).flatten()


def real_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """The real tokens in float32: (B, S, ...) → (T, ...)."""
    return values.flatten(0, -2)[token_mask(values, mask).to(values.device)].float()


def read_batches(batches: Iterable[object]) -> Iterator[Batch]:
    """Read a loader's items one by one, each with batch and sequence of different length.

    Their sequences are numbered as they come, unless they are numbered already.
    """
    if isinstance(batches, dict | str | bytes) or not isinstance(batches, Iterable):
        raise DataError(
            f"dataloader is a {type(batches).__name__}. Give a DataLoader or another iterable of "
            "batches, for example [tokenizer(texts, return_tensors='pt', padding=True)]."
        )
    number = 0
    for item in batches:
        batch = item if isinstance(item, Batch) else _distinct_axes(read_batch(item))
        if batch.first is None:
            batch = replace(batch, first=number)
            number += len(batch.input_ids)
        yield batch


def own_batches(batches: Iterable[object]) -> list[Batch]:
    """Read all batches and keep those that this process works on, numbered as in all the data.

    Of the batches that every process reads, each takes every n-th. What accelerate or a
    `DistributedSampler` has shared out stays as it is.
    """
    with together(), torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
        read = list(read_batches(batches))
    if not is_shared_out(batches):
        if len(set(gathered(_digest(read)))) > 1:
            raise DataError(
                "The processes read different batches. Give all of them the same, without "
                "shuffling or with one seed, or a DataLoader that accelerator.prepare has shared "
                "out."
            )
        return share(read)
    firsts = first_rows(gathered([len(batch.input_ids) for batch in read]))[rank()]
    return [replace(batch, first=first) for batch, first in zip(read, firsts, strict=True)]


def first_rows(rows: list[list[int]]) -> list[list[int]]:
    """Where each process's batches begin, of which there are `rows` rows, dealt out in turns."""
    firsts: list[list[int]] = [[] for _ in rows]
    number = 0
    for turn in zip_longest(*rows):
        for process, count in enumerate(turn):
            if count is not None:
                firsts[process].append(number)
                number += count
    return firsts


def _digest(batches: list[Batch]) -> str:
    hashed = hashlib.sha256()
    for batch in batches:
        for tensor in (batch.input_ids, batch.attention_mask):
            hashed.update(f"{tuple(tensor.shape)}".encode())
            hashed.update(tensor.to("cpu", torch.int64).numpy().tobytes())
    return hashed.hexdigest()
