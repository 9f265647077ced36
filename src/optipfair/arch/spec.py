"""The words in which a model family is described. Frozen data, no torch.

    ArchSpec     where the decoder layers are, and the MLPs a layer may have
    MLPSpec      the tensors of one MLP and the config field that holds its width
    TensorSlot   one tensor, and along which axis its neurons lie
    LAYOUTS      the forms an MLP takes, which serve families that are not in the table

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

Block = tuple[int, str]  # the `attention` or the `mlp` of a layer: the layer, and which

# What is cut, and in the place of neurons what its spec is called.
NEURON = "neuron"
ATTENTION_UNITS = {"group": "kv_groups", "head": "query_heads"}
UNITS = {**ATTENTION_UNITS, "expert": "routed_experts", "attention": "attention"}


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One tensor of an MLP."""

    name: str  # path of the tensor below the decoder layer, `mlp.gate_proj.weight`
    role: Role  # a `bias` is cut but never scored, and may be absent; `other` is never scored
    axis: int  # the axis of the stored tensor along which the neurons lie
    # how often the `I` neurons repeat along `axis` (2 where gate and up are fused, gate first)
    blocks: int = 1
    # whether the blocks alternate neuron by neuron instead of following each other
    interleaved: bool = False
    # where a unit is more than one row (the heads of attention), how many it takes in each block
    parts: tuple[int, ...] = ()
    # positions along `axis` behind all neurons or units, which stay whatever goes
    tail: int = 0

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
    """One MLP of a decoder layer."""

    name: str  # what the plan and the reports call it: `mlp`, `experts`, `shared_expert`
    slots: tuple[TensorSlot, ...]
    width_key: str | None  # config field with the number of neurons; None where the code fixes it
    why_not: str = ""  # why its width cannot be pruned, for the user; empty where it can
    experts: bool = False  # whether its tensors carry a leading expert axis `E`
    width_multiple: int = 1  # kept widths are rounded down to a multiple of this
    width_factor: Fraction = Fraction(1)  # how often the value of `width_key` goes into the width
    groups: int = 1  # its neurons are chosen in so many groups, of each the same number
    # other config fields that follow the width, each with its factor
    more_keys: tuple[tuple[str, Fraction], ...] = ()
    explicit: tuple[tuple[str, int], ...] = ()  # config fields to write out, with their values
    routed: bool = False  # whether a unit of it is a whole expert with its row of the router

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
    """One model family."""

    model_type: str
    # path of the decoder layers below the base model (`model.base_model`); from the model's root
    # for a family that is not in the table
    layers: str
    mlps: tuple[MLPSpec, ...]  # the MLPs a layer may have; a layer has those whose tensors it holds
    # keyword arguments of a toy config, used by `optipfair.testing` and the parity tests
    tiny: Mapping[str, Any] = field(default_factory=dict)
    examples: str = ""  # well-known models of the family, for the docs
    layers_key: str = "num_hidden_layers"  # config field with the number of decoder layers


def into(path: str, role: Role, *, axis: int = 0, blocks: int = 1) -> tuple[TensorSlot, ...]:
    """Weight and optional bias of a projection into the neurons."""
    return (
        TensorSlot(f"{path}.weight", role, axis, blocks),
        TensorSlot(f"{path}.bias", "bias", 0, blocks),
    )


def out_of(path: str, *, axis: int = 1) -> tuple[TensorSlot, ...]:
    """Weight of the projection out of the neurons; its bias belongs to the hidden axis."""
    return (TensorSlot(f"{path}.weight", "down", axis),)


def gated(gate: str, up: str, down: str) -> tuple[TensorSlot, ...]:
    return (*into(gate, "gate"), *into(up, "up"), *out_of(down))


def fused(gate_up: str, down: str) -> tuple[TensorSlot, ...]:
    return (*into(gate_up, "gate+up", blocks=2), *out_of(down))


def plain(up: str, down: str) -> tuple[TensorSlot, ...]:
    return (*into(up, "up"), *out_of(down))


def conv1d(up: str, down: str) -> tuple[TensorSlot, ...]:
    """Conv1D keeps its weight as (in, out): the neurons of the first projection are columns."""
    return (*into(up, "up", axis=1), *out_of(down, axis=0))


def experts_layout(*, gate: bool, transposed: bool, interleaved: bool) -> tuple[TensorSlot, ...]:
    """Fused experts, (E, ..., ...) tensors on one module, as transformers 5 keeps them.

    `transposed` ones are stored as (in, out); of `interleaved` ones gate and up alternate by row.
    """
    into_axis, out_axis = (2, 1) if transposed else (1, 2)
    name, blocks = ("gate_up_proj", 2) if gate else ("up_proj", 1)
    role: Role = "gate+up" if gate else "up"
    return (
        TensorSlot(name, role, into_axis, blocks, interleaved),
        TensorSlot(f"{name}_bias", "bias", 1, blocks, interleaved),
        TensorSlot("down_proj", "down", out_axis),
    )


def experts_modules(gate_up: str, down: str) -> tuple[TensorSlot, ...]:
    """Experts kept as two modules with a weight of (E, 2I, H) and (E, H, I)."""
    return (
        TensorSlot(f"{gate_up}.weight", "gate+up", 1, 2),
        TensorSlot(f"{down}.weight", "down", 2),
    )


def below(prefix: str, slots: tuple[TensorSlot, ...]) -> tuple[TensorSlot, ...]:
    """The slots of an MLP whose module is at `prefix` of the layer ("" for the layer itself)."""
    head = f"{prefix}." if prefix else ""
    return tuple(
        TensorSlot(f"{head}{slot.name}", slot.role, slot.axis, slot.blocks, slot.interleaved)
        for slot in slots
    )


# The first that fits wins: what is more specific comes first.
LAYOUTS: tuple[tuple[TensorSlot, ...], ...] = (
    gated("gate_proj", "up_proj", "down_proj"),
    gated("w1", "w3", "w2"),
    gated("gate_linear", "up_linear", "down_linear"),
    gated("linear", "linear_v", "linear_1"),
    gated("c_fc_0", "c_fc_1", "c_proj"),
    gated("wi_0", "wi_1", "wo"),
    gated("w_in.w_0", "w_in.w_1", "w_out"),
    fused("gate_up_proj", "down_proj"),
    fused("input_linear", "output_linear"),
    fused("Wi", "Wo"),
    experts_modules("input_linear", "output_linear"),
    plain("up_proj", "down_proj"),
    plain("fc1", "fc2"),
    fused("fc1", "fc2"),
    plain("dense.dense", "output.dense"),
    plain("c_fc", "c_proj"),
    conv1d("c_fc", "c_proj"),
    plain("fc_in", "fc_out"),
    plain("dense_h_to_4h", "dense_4h_to_h"),
    plain("intermediate.dense", "output.dense"),
    plain("lin1", "lin2"),
    plain("w1", "w2"),
    plain("w_in", "w_out"),
    plain("wi", "wo"),
    plain("layer_1", "layer_2"),
    plain("layer1", "layer2"),
    plain("0", "2"),
    plain("dense_in", "dense_out"),
    plain("intermediate", "output"),
)
