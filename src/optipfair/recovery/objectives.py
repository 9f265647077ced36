"""What a student should come near to: losses of its logits, one number for each token.

Pure functions. Logits may be of any float dtype; all sums are in float32.

Axes: `T` tokens, `V` vocabulary, `K` tokens of the vocabulary that are kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_LEAST = torch.finfo(torch.float32).tiny
_CACHED = 2**19  # numbers that stay in a processor's cache


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of each token in nats, (T,), for logits (T, V).

    At a temperature both sets of logits are divided by it; the result is not multiplied by its
    square (Hinton et al. 2015, arXiv 1503.02531, do that to keep gradients of one size).
    """
    losses: Tensor = _ForwardKL.apply(student, teacher, temperature)  # type: ignore[no-untyped-call]
    return losses


class _ForwardKL(torch.autograd.Function):
    """Its gradient by the logits is simply the difference of the two distributions.

    Autograd would keep several tensors of the size of the logits, and pass over each of them. On a
    CPU some rows at a time stay in its cache, which is three times as fast. Only functions that
    autocast leaves in float32 are used.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        count, vocabulary = student.shape
        at_once = max(_CACHED // vocabulary, 1) if student.device.type == "cpu" else max(count, 1)
        losses = torch.empty(count, device=student.device)
        differences = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        for start in range(0, count, at_once):
            rows = slice(start, start + at_once)
            wanted = _log_probabilities(teacher[rows], temperature)
            found = _log_probabilities(student[rows], temperature)
            probabilities = wanted.exp()
            losses[rows] = wanted.sub_(found).mul_(probabilities).sum(dim=-1)
            if differences is not None:
                differences[rows] = found.exp_().sub_(probabilities)
        if differences is not None:
            ctx.save_for_backward(differences)
            ctx.temperature = temperature
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        (differences,) = ctx.saved_tensors
        scale = (outer[0] / ctx.temperature).to(differences.dtype)
        return differences * scale[:, None], None, None


def bucketed_kl(student: Tensor, tokens: Tensor, log_probabilities: Tensor) -> Tensor:
    """KL(teacher || student) of each token in nats, (T,), where K tokens and the rest are known.

    The distribution is over K + 1 outcomes: the tokens (T, K) with the teacher's natural logarithms
    of their probabilities (T, K), and one of the others. For logits (T, V). It is never more than
    the KL over all tokens (data processing inequality).
    """
    everything = student.float().log_softmax(dim=-1)
    found = everything.gather(-1, tokens)  # (T, K)
    wanted = log_probabilities.float()
    kept = (wanted.exp() * (wanted - found)).sum(dim=-1)
    others = everything.scatter(-1, tokens, -math.inf)
    own_rest = others.logsumexp(dim=-1).clamp_min(math.log(_LEAST))
    rest = (1 - wanted.exp().sum(dim=-1)).clamp_min(_LEAST)
    return kept + rest * (rest.log() - own_rest)


def skewed_kl(student: Tensor, teacher: Tensor, skew: float, temperature: float = 1.0) -> Tensor:
    """KL(student || (1 - skew) · teacher + skew · student) in nats, (T,), for logits (T, V).

    Source: the skew reverse KL of DistiLLM (Ko et al. 2024, arXiv 2402.03898, section 3.1). The
    student's share keeps it finite and its gradients small where the teacher says almost never.
    Gradients flow through the student in both places.
    """
    wanted = _log_probabilities(teacher, temperature)
    found = _log_probabilities(student, temperature)
    mixed = wanted.exp() * (1 - skew) + found.exp() * skew
    return (found.exp() * (found - mixed.clamp_min(_LEAST).log())).sum(dim=-1)


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Negative logarithm of each label's probability in nats, (T,), for logits (T, V)."""
    return nn.functional.cross_entropy(student.float(), labels, reduction="none")


def label_share(weight: float, divergence: float) -> float:
    """What cross-entropy with the text counts beside the divergence: more as that was more before.

    A lightly pruned model has little divergence to lose. Labels never count more than the
    teacher's answers.
    """
    return min(weight * max(divergence, 0.0), 1.0)


def pulled(losses: Tensor, others: Tensor, weight: float) -> Tensor:
    """Losses with the gradient of loss + weight · other, of each token, (T,).

    Values are those of the losses alone, so that what is shown and compared is one quantity.
    """
    return losses + weight * (others - others.detach())


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    wide = logits.float()
    return (wide if temperature == 1 else wide / temperature).log_softmax(dim=-1)
