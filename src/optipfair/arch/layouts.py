"""The forms an MLP takes: tensor names below its module, with the axis of the neurons in each.

A family that is not in the table is served if its layers hold one of these. Data, no torch.
"""

from __future__ import annotations

from .spec import Role, TensorSlot


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

    Args:
        gate: whether there is a gate, fused with up in `gate_up_proj`.
        transposed: whether each expert's matrix is stored as (in, out).
        interleaved: whether gate and up alternate row by row.
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
