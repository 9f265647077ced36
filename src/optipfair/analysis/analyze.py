"""`analyze_model`: what a model is made of and what pruning would save. No weight is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..arch import heterogeneous
from ..sources import find_source
from .contents import parameters_by_part, read_contents
from .savings import KINDS, Saving, ask


@dataclass(frozen=True)
class Analysis:
    """What a model is made of.

    `refusals` holds, for `MLP_GLU` and `DEPTH`, why it is not possible; empty where it is.
    """

    source: str
    model_type: str
    architecture: str
    listed: bool
    layers: int
    hidden_size: int | None
    attention_heads: int | None
    key_value_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    context: int | None
    widths: dict[str, list[int]]
    experts: int | None
    expansion_rate: float | None
    parameters: int
    bytes: int
    dtypes: list[str]
    parts: dict[str, int]
    refusals: dict[str, str]
    savings: list[Saving] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def analyze_model(model_path: str | Path, *, trust_remote_code: bool = False) -> Analysis:
    """Say what a model is made of, without loading its weights.

    Args:
        model_path: a folder, a `.gguf` file, `demo`, or a hub id.
        trust_remote_code: whether code from the model's repository may run.

    Returns:
        Sizes, parts, which prunings are possible, and the exact savings of 10 to 50 %.

    Raises:
        CheckpointError: the model cannot be read.
        UnsupportedModelError: its decoder layers are not found.
    """
    source = find_source(model_path)
    contents = read_contents(source, trust_remote_code=trust_remote_code)
    answers = {kind: ask(contents, kind) for kind in KINDS}
    view = contents.view
    stated = _whole_numbers(view.text_config)
    heads, hidden = stated("num_attention_heads"), stated("hidden_size")
    widths: dict[str, list[int]] = {}
    for mlp in view.mlps:
        widths.setdefault(mlp.spec.name, []).append(mlp.width)
    return Analysis(
        source=source.given,
        model_type=view.model.config.model_type,
        architecture=type(view.model).__name__,
        listed=view.listed,
        layers=len(view.layers),
        hidden_size=hidden,
        attention_heads=heads,
        key_value_heads=stated("num_key_value_heads"),
        head_dim=stated("head_dim") or (hidden // heads if hidden and heads else None),
        vocabulary=stated("vocab_size"),
        context=stated("max_position_embeddings"),
        widths=widths,
        experts=next((mlp.experts for mlp in view.mlps if mlp.experts), None),
        expansion_rate=view.mlps[0].expansion_rate if view.mlps else None,
        parameters=sum(portion.size for portion in contents.parameters),
        bytes=contents.bytes,
        dtypes=contents.dtypes,
        parts=parameters_by_part(view),
        refusals={kind: refusal for kind, (_, refusal) in answers.items()},
        savings=[row for rows, _ in answers.values() for row in rows],
    )


def _whole_numbers(config: Any) -> Callable[[str], int | None]:
    """What reads a field of the decoder's config; None where it is no one whole number."""
    shared = heterogeneous.with_overrides(config, {}, {})  # where layers differ, reading raises

    def read(name: str) -> int | None:
        value = getattr(shared, name, None)
        return value if type(value) is int else None

    return read
