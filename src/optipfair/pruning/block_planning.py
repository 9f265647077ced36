"""From a request and a model to the blocks that go: attentions and MLPs of single layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..arch.spec import Block
from ..arch.view import MLPView, ModelView
from ..errors import ArgumentError, UnsupportedModelError
from .cut.plan import PruningPlan, WidthCut
from .layers.block_loss import blocks_of
from .request.block_targets import BlockRequest
from .request.pruning_request import PruningRequest
from .request.solving import Sizes


def plan_blocks(view: ModelView, request: PruningRequest, sizes: Sizes) -> PruningPlan:
    """Decide which blocks go; those that data choose were put in order before."""
    asked = request.blocks
    assert asked is not None
    blocks = blocks_of(view)
    gone = _gone(blocks, asked, request, sizes)
    cuts = [_without(mlp) for block in sorted(gone) for mlp in blocks[block]]
    record: dict[str, Any] = {
        "pruning_type": request.kind,
        "blocks": [f"{kind}.{layer}" for layer, kind in gone],
        "data_driven": asked.named is None,
    }
    if request.budget is not None:
        record["budget"] = str(request.budget)
    layers = len(view.layers)
    return PruningPlan(view.spec.model_type, layers, tuple(range(layers)), tuple(cuts), record)


def check_blocks(view: ModelView, asked: BlockRequest) -> None:
    """Refuse what a model cannot lose, before text is read."""
    blocks = blocks_of(view)
    if asked.named is not None:
        for block in asked.named:
            if block not in blocks:
                raise ArgumentError(_not_there(view, block))
        return
    there = [block for block in blocks if block[1] in asked.kinds]
    if not there:
        raise UnsupportedModelError(
            f"{view.spec.model_type!r} has no {' or '.join(asked.kinds)} of a known form that a "
            "layer could be without."
        )
    count = asked.number(len(there))
    if count is not None and count >= len(there):
        raise ArgumentError(
            f"num_blocks_to_remove={count} leaves nothing: the model has {len(there)} blocks "
            f"({' and '.join(asked.kinds)}). Give a smaller number."
        )


def _not_there(view: ModelView, block: Block) -> str:
    layer, kind = block
    name = f"{kind}.{layer}"
    if layer >= len(view.layers):
        return f"blocks names {name}; the model's layers are 0 to {len(view.layers) - 1}."
    return (
        f"blocks names {name}, but layer {layer} has no {kind} of a form that can go (experts, and "
        "what is gone already, cannot). Leave it out."
    )


def _without(mlp: MLPView) -> WidthCut:
    return WidthCut(mlp.layer, mlp.spec.name, mlp.width, ((),))


def _gone(
    blocks: dict[Block, list[MLPView]],
    asked: BlockRequest,
    request: PruningRequest,
    sizes: Sizes,
) -> Sequence[Block]:
    """The blocks that go, in the order in which they do."""
    if asked.named is not None:
        return asked.named
    assert asked.chosen is not None  # `check_request` has seen to data
    there = sum(block[1] in asked.kinds for block in blocks)
    number = asked.number(there)
    if number is not None:
        return asked.chosen(number)
    budget = request.budget
    assert budget is not None
    by_count = budget.parameters is not None
    left = sizes.parameters if by_count else sizes.bytes
    for count in range(there):
        gone = asked.chosen(count)
        saved = sum(_weight(blocks[block], by_count=by_count, sizes=sizes) for block in gone)
        if left - saved <= budget.limit:
            return gone
    raise ArgumentError(
        f"A budget of {budget} cannot be reached by removing blocks. Give a larger budget, or "
        "another pruning_type."
    )


def _weight(mlps: Iterable[MLPView], *, by_count: bool, sizes: Sizes) -> int:
    """What blocks weigh, in parameters or in bytes; a tensor that several share once."""
    tensors = {id(each): each for mlp in mlps for each in mlp.tensors.values()}
    return sum(
        each.numel() * (1 if by_count else sizes.item_bytes(each)) for each in tensors.values()
    )
