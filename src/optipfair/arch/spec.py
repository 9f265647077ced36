"""The words in which a model family is described. Frozen data, no torch.

    ArchSpec     where the decoder layers are, and the MLPs a layer may have
    MLPSpec      the tensors of one MLP and the config field that holds its width
    TensorSlot   one tensor, and along which axis its neurons lie

Axes: `H` hidden, `I` intermediate (neurons), `E` experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

Role = Literal[
    "gate", "up", "gate+up", "down", "bias", "query", "key", "value", "query+key+value", "other"
]

ATTENTION_UNITS = {"group": "kv_groups", "head": "query_heads"}  # what a unit is → its spec's name


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One tensor of an MLP.

    Attributes:
        name: path of the tensor below the decoder layer, `mlp.gate_proj.weight`.
        role: what it is; a `bias` is cut but never scored, and may be absent; what is `other` is
            never scored.
        axis: the axis of the stored tensor along which the neurons lie.
        blocks: how often the `I` neurons repeat along `axis` (2 where gate and up are fused,
            gate first).
        interleaved: whether the blocks alternate neuron by neuron instead of following each other.
        parts: where a unit is more than one row (the heads of attention), how many it takes in each
            block.
    """

    name: str
    role: Role
    axis: int
    blocks: int = 1
    interleaved: bool = False
    parts: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """Positions along `axis` that one neuron, or one unit, takes."""
        return sum(self.parts) if self.parts else self.blocks

    @property
    def optional(self) -> bool:
        return self.role == "bias"

    @property
    def module(self) -> str:
        """Path of the module that owns the tensor."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class MLPSpec:
    """One MLP of a decoder layer.

    Attributes:
        name: what the plan and the reports call it: `mlp`, `experts`, `shared_expert`.
        slots: its tensors.
        width_key: config field with the number of neurons; None where the code fixes it.
        why_not: why its width cannot be pruned, for the user; empty where it can.
        experts: whether its tensors carry a leading expert axis `E`.
        width_multiple: kept widths are rounded down to a multiple of this.
        width_factor: how often the value of `width_key` goes into the width.
        groups: its neurons are chosen in so many groups, of each the same number.
        more_keys: other config fields that follow the width, each with its factor.
        explicit: config fields to write out, with their values.
    """

    name: str
    slots: tuple[TensorSlot, ...]
    width_key: str | None
    why_not: str = ""
    experts: bool = False
    width_multiple: int = 1
    width_factor: Fraction = Fraction(1)
    groups: int = 1
    more_keys: tuple[tuple[str, Fraction], ...] = ()
    explicit: tuple[tuple[str, int], ...] = ()

    @property
    def keys(self) -> dict[str, Fraction]:
        """The config fields that follow the width, with their factors."""
        own = {} if self.width_key is None else {self.width_key: self.width_factor}
        return {**own, **dict(self.more_keys)}

    @property
    def gated(self) -> bool:
        return any(slot.role in ("gate", "gate+up") for slot in self.slots)

    @property
    def down(self) -> TensorSlot:
        return next(slot for slot in self.slots if slot.role == "down")

    @property
    def down_bias(self) -> str:
        """Path of the bias behind the down projection, which not every MLP has; it is never cut."""
        weight = self.down.name
        return f"{self.down.module}.bias" if weight.endswith(".weight") else f"{weight}_bias"


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """One model family.

    Attributes:
        model_type: the `model_type` of its config.
        layers: path of the decoder layers below the base model (`model.base_model`); from the
            model's root for a family that is not in the table.
        mlps: the MLPs a layer may have; a layer has those whose tensors it holds.
        tiny: keyword arguments of a toy config, used by `optipfair.testing` and the parity tests.
        examples: well-known models of the family, for the docs.
        layers_key: config field with the number of decoder layers.
    """

    model_type: str
    layers: str
    mlps: tuple[MLPSpec, ...]
    tiny: Mapping[str, Any] = field(default_factory=dict)
    examples: str = ""
    layers_key: str = "num_hidden_layers"
