"""What a change of a model costs on text that nothing was fitted on.

The head and what follows it do not change when a model is pruned or its projections are edited, so
what enters them before is kept (B, S, H), not the logits (B, S, V).

Axes: `B` batch, `S` sequence, `H` hidden, `V` vocabulary, `T` predicted tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ...arch.limits import check_sequences
from ...batches import Batch, model_inputs
from ...hooks import evaluating, running_instead


@dataclass(frozen=True)
class Cost:
    """Figures on tokens that nothing was fitted on.

    Attributes:
        perplexity_before, perplexity_after: per token.
        kl_divergence: mean over tokens of KL(before || after), in nats.
        tokens: number of predicted tokens.
        repeated: the share of the text that stands in the calibration text too.
    """

    perplexity_before: float
    perplexity_after: float
    kl_divergence: float
    tokens: int
    repeated: float = 0.0

    @property
    def ratio(self) -> float:
        return self.perplexity_after / self.perplexity_before

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON; None for what is not finite."""
        values = asdict(self) | {"perplexity_ratio": self.ratio}
        return {name: v if math.isfinite(v) else None for name, v in values.items()}

    def in_words(self) -> str:
        return (
            f"perplexity {self.perplexity_before:.4g} -> {self.perplexity_after:.4g} "
            f"({self.ratio:.3g} times), KL divergence {max(self.kl_divergence, 0.0):.3f} nats, on "
            f"{self.tokens:,} held-back tokens of the calibration text; other text may lose more"
        )


def final_states(model: Any, batches: Sequence[Batch]) -> list[Tensor]:
    """What enters the head, (B, S, H) for each batch, on the CPU."""
    check_sequences(model, batches)
    found: list[Tensor] = []
    device = model.get_input_embeddings().weight.device
    with evaluating(model):
        for batch in batches:
            output = model.base_model(**model_inputs(batch, device), use_cache=False)
            found.append(output[0].cpu())
    return found


def cost_of(
    model: Any, batches: Sequence[Batch], before: Sequence[Tensor], after: Sequence[Tensor]
) -> Cost | None:
    """Compare what a head makes of the states (of `final_states`) that enter it before and after.

    Of the model, pruned or not, only the head runs. None where no sequence has two tokens.
    """
    losses, divergence, tokens = [0.0, 0.0], 0.0, 0
    with evaluating(model):
        for batch, *states in zip(batches, before, after, strict=True):
            for row, mask in enumerate(batch.attention_mask):
                ids = batch.input_ids[row : row + 1][:, mask]
                if ids.shape[1] < 2:
                    continue
                old, new = (
                    _log_probabilities(model, ids, state[row : row + 1][:, mask])
                    for state in states
                )
                wanted = ids[0, 1:, None].to(old.device)
                for place, answer in enumerate((old, new)):
                    losses[place] -= float(answer.gather(1, wanted).double().sum())
                divergence += float((old.exp() * (old - new)).sum(dim=1).double().sum())
                tokens += len(wanted)
    if not tokens:
        return None
    means = [math.exp(loss / tokens) if loss / tokens < 700 else math.inf for loss in losses]
    return Cost(means[0], means[1], divergence / tokens, tokens)


def _log_probabilities(model: Any, ids: Tensor, state: Tensor) -> Tensor:
    """What the model predicts for all tokens but the first, (T, V) float32."""
    answer = _Answer([state.to(model.device)])
    with running_instead({model.base_model: lambda *_args, **_keywords: answer}):
        logits: Tensor = model(input_ids=ids.to(model.device)).logits[0, :-1]
    return logits.float().log_softmax(dim=-1)


class _Answer(tuple):  # type: ignore[type-arg]
    """A model's output that holds nothing but its hidden states."""

    @property
    def last_hidden_state(self) -> Any:
        return self[0]

    def __getattr__(self, name: str) -> None:  # a cache, attentions, router logits: none
        if name.startswith("__"):
            raise AttributeError(name)
