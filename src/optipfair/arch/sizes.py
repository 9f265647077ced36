"""A model as numbers: what `analyze` needs to know of it, however that was found. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .spec import ArchSpec, MLPSpec

PARTS = ("embeddings", "attention", "mlp", "norms", "head", "other")


@dataclass(frozen=True)
class MLPSizes:
    """One MLP of one layer: its width, and how many numbers each of its tensors holds."""

    layer: int
    spec: MLPSpec
    width: int
    hidden_size: int
    experts: int | None
    tensors: tuple[int, ...]

    @property
    def expansion_rate(self) -> float:
        """Width in percent of the hidden size."""
        return 100 * self.width / self.hidden_size


@dataclass(frozen=True)
class ModelSizes:
    """What a model is made of.

    Attributes:
        spec: of its family.
        listed: whether the family has an entry of its own.
        layers: parameters of each decoder layer.
        parts: parameters by part; a head that is tied to the embeddings counts there.
        context: the longest sequence, in tokens.
    """

    spec: ArchSpec
    model_type: str
    architecture: str
    listed: bool
    layers: tuple[int, ...]
    mlps: tuple[MLPSizes, ...]
    parts: dict[str, int]
    hidden_size: int | None
    attention_heads: int | None
    key_value_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    context: int | None

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())


def part_of(path: str, layers_path: str, specs: Iterable[MLPSpec]) -> str:
    """The part to which the module at `path` belongs that is neither norm nor embeddings nor head.

    Args:
        path: of the module, from the model's root.
        layers_path: of the list of decoder layers.
        specs: of the MLPs that the model has.
    """
    prefix = f"{layers_path}."
    if not path.startswith(prefix):
        return "other"
    head = path[len(prefix) :].split(".")[1]
    if head in {slot.module.split(".")[0] for spec in specs for slot in spec.slots}:
        return "mlp"
    return "attention" if "attn" in head or "attention" in head else "other"
