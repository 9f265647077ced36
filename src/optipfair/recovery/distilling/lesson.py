"""What a student is taught by one batch: the four terms of a distillation, each a sum over tokens.

Only real tokens count: those that predict a real token for the logits and the task, all of them for
the hidden states. The teacher runs in eval mode without gradients.

Axes: `B` batch, `S` sequence, `T` tokens that count, `V` vocabulary, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...batches import Batch, model_inputs
from ...errors import ArgumentError
from ...hooks import evaluating, recording
from ...pruning.calibration.activations import real_tokens
from ..objectives import cross_entropy, skewed_kl
from .distillation_request import TERMS, DistillationRequest
from .hidden_terms import derivative_distance, trajectory_distance


@dataclass(frozen=True)
class MappedLayers:
    """The decoder layers that are compared: each of the student's with one of the teacher's."""

    student: Sequence[nn.Module] = ()
    teacher: Sequence[nn.Module] = ()


@dataclass(frozen=True)
class Lesson:
    """Two models, and how far the one is from the other on a batch."""

    student: Any
    teacher: Any
    request: DistillationRequest
    layers: MappedLayers

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        """Each term summed over the tokens that count, with a gradient where its weight is above 0.

        Raises:
            ArgumentError: a term has no gradient, so it would teach nothing.
        """
        logits, states = _run(self.student, self.layers.student, batch)
        with evaluating(self.teacher):
            wanted, wanted_states = _run(self.teacher, self.layers.teacher, batch)
        labels = batch.input_ids[:, 1:][_predicted(batch)].to(logits.device)  # (T,)
        wanted = wanted.to(logits.device)
        states, wanted_states = (
            [each.to(logits.device) for each in both] for both in (states, wanted_states)
        )
        skew, temperature = self.request.skew_alpha, self.request.temperature
        terms = {
            "task": lambda: cross_entropy(logits, labels),
            "logits": lambda: skewed_kl(logits, wanted, skew, temperature),
            "trajectory": lambda: trajectory_distance(states, wanted_states),
            "derivative": lambda: derivative_distance(states, wanted_states),
        }
        return {
            name: _summed(name, terms[name], learned=weight > 0)
            for name, weight in self.request.by_term.items()
            if name in ("task", "logits") or weight > 0
        }


def _summed(name: str, term: Callable[[], Tensor], learned: bool) -> Tensor:
    """A term (T,) summed; without its graph where nothing is learned by it."""
    learned = learned and torch.is_grad_enabled()
    with torch.set_grad_enabled(learned):
        total = term().sum()
    if total.requires_grad or not learned:
        return total
    (weight,) = (each for each, own in TERMS.items() if own == name)
    raise ArgumentError(
        f"The {name} term gives what is trained no gradient: no trained parameter comes before it, "
        f"or checkpointing hides it. Give {weight}=0, or train more parameters; with gradient "
        'checkpointing give gradient_checkpointing_kwargs={"use_reentrant": False}.'
    )


def counts(batches: Iterable[Batch]) -> dict[str, int]:
    """How many tokens count for each term in all these batches."""
    batches = list(batches)
    predicted = sum(int(_predicted(batch).sum()) for batch in batches)
    real = sum(batch.tokens for batch in batches)
    return {"task": predicted, "logits": predicted, "trajectory": real, "derivative": real}


def _predicted(batch: Batch) -> Tensor:
    """Which tokens but the first of a row are real, (B, S - 1); rows are padded to the right."""
    return batch.attention_mask[:, 1:]


def _run(model: Any, layers: Sequence[nn.Module], batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The logits (T, V) that predict real tokens, and the hidden states (T, H) of the layers."""
    inputs = model_inputs(batch, model.get_input_embeddings().weight.device)
    with _outputs(layers) as outputs:
        logits: Tensor = model(**inputs, use_cache=False).logits
    states = [real_tokens(each, batch.attention_mask) for each in outputs]
    return logits[:, :-1][_predicted(batch).to(logits.device)], states


@contextmanager
def _outputs(layers: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """Hold what the layers give, (B, S, H) each, when the model has run inside the block."""
    held: list[Any] = [None] * len(layers)

    def hold(place: int, output: Any) -> None:
        held[place] = output[0] if isinstance(output, tuple | list) else output

    with recording((layer, False, partial(hold, place)) for place, layer in enumerate(layers)):
        yield held
