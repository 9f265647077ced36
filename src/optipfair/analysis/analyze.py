"""`analyze_model`: what a model is made of and what pruning would save. No weight is read.

A folder of a family in the table is known from its config and headers alone. Any other model is
built on `meta` and described, which needs torch and transformers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.structure import read_structure
from ..sources import Source, find_source
from .findings import Findings
from .savings import Saving, refusals_by_size, savings


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
    found = _from_headers(source, trust_remote_code)
    if found is None:
        from .built import findings_of_twin

        found = findings_of_twin(source, trust_remote_code)
    sizes = found.sizes
    return Analysis(
        source=source.given,
        model_type=sizes.model_type,
        architecture=sizes.architecture,
        listed=sizes.listed,
        layers=len(sizes.layers),
        hidden_size=sizes.hidden_size,
        attention_heads=sizes.attention_heads,
        key_value_heads=sizes.key_value_heads,
        head_dim=sizes.head_dim,
        vocabulary=sizes.vocabulary,
        context=sizes.context,
        widths=_widths(found),
        experts=next((mlp.experts for mlp in sizes.mlps if mlp.experts), None),
        expansion_rate=sizes.mlps[0].expansion_rate if sizes.mlps else None,
        parameters=sizes.parameters,
        bytes=found.bytes,
        dtypes=found.dtypes,
        parts=sizes.parts,
        refusals=found.refusals,
        savings=savings(sizes, found.refusals, found.bytes),
    )


def _from_headers(source: Source, trust_remote_code: bool) -> Findings | None:
    """What config and headers prove by themselves; None where the model has to be built."""
    if source.kind != "folder":
        return None
    known = read_structure(Path(source.location), trust_remote_code=trust_remote_code)
    if known is None:
        return None
    sizes, checkpoint = known
    return Findings(sizes, refusals_by_size(sizes), checkpoint.nbytes, checkpoint.dtypes)


def _widths(found: Findings) -> dict[str, list[int]]:
    widths: dict[str, list[int]] = {}
    for mlp in found.sizes.mlps:
        widths.setdefault(mlp.spec.name, []).append(mlp.width)
    return widths
