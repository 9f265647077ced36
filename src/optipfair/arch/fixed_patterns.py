"""Families whose pattern of layers other readers have in their code, whatever the config says.

In llama.cpp every n-th layer of these attends to all tokens, or has no rotary positions, or the
other way round; a GGUF file says nothing of it, or not in every version (`set_swa_pattern` and
`n_no_rope_layer_step` of its sources). A model whose layers have moved is another model there.
"""

from __future__ import annotations

from collections.abc import Sequence

_EVERY = {
    2: ("gemma2", "gpt_oss"),
    4: (
        *("afmoe", "cohere2", "exaone4", "exaone_moe", "llama4", "llama4_text"),
        *("olmo3", "qwen3_next", "smollm3"),
    ),
    5: ("gemma3n", "gemma3n_text"),
    6: ("gemma3", "gemma3_text"),
}
PERIODS = {family: period for period, families in _EVERY.items() for family in families}


def broken_pattern(model_type: str, keep: Sequence[int]) -> int | None:
    """The period of a family whose kept layers no longer stand where it wants them; else None."""
    period = PERIODS.get(model_type)
    if period is None:
        return None
    moved = any(
        (old % period == period - 1) != (new % period == period - 1) for new, old in enumerate(keep)
    )
    return period if moved else None
