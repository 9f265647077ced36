"""A written model, loaded again and compared; and what it lost against the one it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from ..batches import Batch
from ..checkpoint.stored_layers import StoredLayers
from ..errors import VerificationError
from ..hooks import evaluating
from ..loading.models import load_model
from ..loading.quiet import quiet_transformers
from ..pruning.calibration.fast_products import fast_products
from ..pruning.calibration.text_cost import Cost, cost_of, final_states

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
