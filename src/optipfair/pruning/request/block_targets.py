"""Which blocks go, or how many: a layer's attention is a block, and its MLP another."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...arch.spec import Block
from ...checking import check_layer_count
from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name
from ..options.prune_options import BLOCK_KINDS
from .budget import Budget
from .shares import check_percentage, of_a_hundred, removed_count

_NAMED = re.compile(r"(attention|mlp)\.(\d+)")


@dataclass(frozen=True)
class BlockRequest:
    """Which blocks go, how many, or as many as a budget takes."""

    count: int | None = None
    percentage: float | None = None  # of the blocks of these kinds
    named: tuple[Block, ...] | None = None
    kinds: tuple[str, ...] = ("attention", "mlp")
    chosen: Callable[[int], Sequence[Block]] | None = None  # by data: count → the blocks that go

    def number(self, there: int) -> int | None:
        """How many of the blocks of these kinds go; None where a budget says so."""
        if self.percentage is None:
            return self.count
        count = removed_count(there, self.percentage)
        if count == 0:
            raise ArgumentError(
                f"pruning_percentage={self.percentage:g} of {there} blocks is no whole block. Give "
                f"{100 / there:.3g} or more.{of_a_hundred(self.percentage)}"
            )
        return count


def block_request(
    num_blocks_to_remove: object,
    percentage: object,
    blocks: object,
    block_kind: object,
    budget: Budget | None,
) -> BlockRequest:
    """Check a target of blocks as far as that goes without a model. Exactly one is given."""
    if block_kind not in BLOCK_KINDS:
        raise UnknownNameError(unknown_name("block_kind", str(block_kind), list(BLOCK_KINDS)))
    kinds = ("attention", "mlp") if block_kind == "any" else (str(block_kind),)
    targets = {
        "num_blocks_to_remove": num_blocks_to_remove,
        "pruning_percentage": percentage,
        "blocks": blocks,
        "target_params or target_size": budget,
    }
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        wrong = f"{' and '.join(given)} exclude each other" if given else "No target is given"
        raise ArgumentError(f"{wrong}. With BLOCKS give exactly one of {', '.join(targets)}.")
    if blocks is not None:
        if block_kind != "any":
            raise ArgumentError(
                f"blocks name what goes, so block_kind={block_kind!r} says nothing. Leave it out."
            )
        return BlockRequest(named=_read(blocks))
    if percentage is not None:
        share = check_percentage("pruning_percentage", percentage)
        return BlockRequest(percentage=share, kinds=kinds)
    if num_blocks_to_remove is None:
        return BlockRequest(kinds=kinds)
    return BlockRequest(
        check_layer_count("num_blocks_to_remove", num_blocks_to_remove), kinds=kinds
    )


def _read(blocks: object) -> tuple[Block, ...]:
    """Blocks by name, sorted: `attention.3` is the attention of layer 3."""
    if isinstance(blocks, str) or not isinstance(blocks, Sequence) or not blocks:
        raise ArgumentError(f"blocks={blocks!r} is no list of blocks. {_EXAMPLE}")
    found: list[Block] = []
    for name in blocks:
        match = _NAMED.fullmatch(name.strip()) if isinstance(name, str) else None
        if match is None:
            raise ArgumentError(f"{name!r} in blocks is no block. {_EXAMPLE}")
        found.append((int(match[2]), match[1]))
    twice = next((block for block in found if found.count(block) > 1), None)
    if twice is not None:
        raise ArgumentError(f"blocks names {twice[1]}.{twice[0]} twice. Leave one out.")
    return tuple(sorted(found))


_EXAMPLE = "Give for example ['attention.3', 'mlp.20'] (--blocks attention.3,mlp.20)."
