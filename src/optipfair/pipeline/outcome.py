"""A written model, loaded again and compared; and what the pruning cost on held-back text.

The head and what follows it do not change when a model is pruned, so what enters them before is
kept (B, S, H), not the logits (B, S, V).

Axes: `B` batch, `S` sequence, `H` hidden, `V` vocabulary, `T` predicted tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..arch.limits import check_sequences
from ..batches import Batch, model_inputs
from ..checkpoint.stored_layers import StoredLayers
from ..errors import VerificationError
from ..hooks import evaluating, running_instead
from ..loading.models import load_model
from ..loading.quiet import quiet_transformers
from ..pruning.calibration.fast_products import fast_products

LOGITS_TOLERANCE = 1e-5


def reloaded_difference(
    model: Any, folder: str | Path, *, trust_remote_code: bool = False
) -> float:
    """Largest difference of logits between a model and its saved form, on random tokens."""
    reloaded: Any = load_model(
        folder, device=str(model.device), trust_remote_code=trust_remote_code
    )
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (2, 16), generator=generator).to(model.device)
    with evaluating(model), evaluating(reloaded):
        expected = model(input_ids=ids).logits.float()
        answered = reloaded(input_ids=ids).logits.float()
    difference = float((expected - answered).abs().nan_to_num(nan=0.0).max())
    limit = LOGITS_TOLERANCE * max(1.0, float(expected.abs().nan_to_num().max()))
    if difference > limit or bool((expected.isnan() != answered.isnan()).any()):
        raise VerificationError(
            f"The saved model does not answer like the one in memory: logits differ by "
            f"{difference:.3g} (allowed {limit:.1g}). Nothing was written. Please report this "
            "with the model's name."
        )
    return difference


def check_generates(folder: Path, source: Path, device: str, trust_remote_code: bool) -> None:
    """Load a written model and let it generate, unless its source does not generate either."""
    try:
        _generate(folder, device, trust_remote_code)
    except VerificationError:
        try:
            _generate(source, device, trust_remote_code)
        except VerificationError:
            return
        raise


def _generate(folder: Path, device: str, trust_remote_code: bool) -> None:
    model: Any = load_model(folder, device=device, trust_remote_code=trust_remote_code)
    ids = torch.tensor([[0, 1, 2]], device=model.device)
    # Not the model's own settings: they may ask for samples, beams, or an end after one token.
    settings: Any = GenerationConfig
    model.generation_config = settings(max_new_tokens=4, min_new_tokens=4, do_sample=False)
    failed = "The written model loads but does not generate; nothing was kept"
    try:
        with evaluating(model), quiet_transformers():
            tokens = model.generate(ids, attention_mask=torch.ones_like(ids))
    except MemoryError:
        raise
    except Exception as exc:  # of any model's code; no list of what it raises is ever complete
        reason = " ".join(str(exc).split())[:200]
        raise VerificationError(f"{failed} ({type(exc).__name__}: {reason}).") from exc
    if tokens.shape[-1] != 7:
        raise VerificationError(f"{failed}.")


LARGE = 1.5  # perplexity after over before, from which on a user is warned


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


def stored_cost(
    before: StoredLayers, after: StoredLayers, held_back: Sequence[Batch]
) -> Cost | None:
    """What a checkpoint lost against another, each read one layer at a time."""
    states = []
    for layers in (before, after):
        with fast_products(layers.view), layers.source.present(layers.view):
            states.append(final_states(layers.view.model, held_back))
    before.read_head()
    return cost_of(before.view.model, held_back, *states)


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
