"""What may happen to each part of a model: an MLP of a smaller width, or a block that is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..arch.spec import Block
from ..arch.view import MLPView, ModelView
from ..pruning.cut.plan import PruningPlan, WidthCut
from ..pruning.layers.block_loss import blocks_of

SHARES = (0.875, 0.75, 0.625, 0.5, 0.25)  # of an MLP's neurons that may stay, beside all and none
_STEP = 32  # what widths are multiples of, where the whole one is


@dataclass(frozen=True)
class Choice:
    """One thing that may happen to one part, and what it saves.

    Attributes:
        block: the part: its layer, and `attention` or `mlp`.
        kept: neurons that stay; of an attention 0.
        saved: parameters that go.
    """

    block: Block
    kept: int
    saved: int

    @property
    def name(self) -> str:
        """As scores are kept: `mlp.3:1152`, `attention.5:0`."""
        return f"{self.block[1]}.{self.block[0]}:{self.kept}"


def choices_of(view: ModelView) -> list[Choice]:
    """All of a model's choices; a part that is none of them stays whole.

    A layer with several MLPs is left as it is.
    """
    parts = {block: mlps for block, mlps in blocks_of(view).items() if len(mlps) == 1}
    return [choice for block, (mlp,) in parts.items() for choice in _of_part(block, mlp)]


def _of_part(block: Block, mlp: MLPView) -> Iterator[Choice]:
    each = sum(tensor.numel() for tensor in mlp.tensors.values()) // mlp.width
    step = _STEP if mlp.width % _STEP == 0 and mlp.width > _STEP * len(SHARES) else 1
    widths = [round(share * mlp.width / step) * step for share in SHARES]
    for kept in dict.fromkeys((*(widths if block[1] == "mlp" else ()), 0)):
        if kept < mlp.width:
            yield Choice(block, kept, each * (mlp.width - kept))


def counts_of(view: ModelView, chosen: Sequence[Choice]) -> PruningPlan:
    """The plan that says how much stays of each part; which neurons is decided later."""
    parts = {block: mlps[0] for block, mlps in blocks_of(view).items()}
    layers = len(view.layers)
    cuts = tuple(
        _cut(parts[choice.block], choice.kept) for choice in sorted(chosen, key=lambda c: c.block)
    )
    record = {"pruning_type": "MLP_GLU", "neuron_selection_method": "AUTO", "data_driven": True}
    return PruningPlan(view.spec.model_type, layers, tuple(range(layers)), cuts, record)


def _cut(mlp: MLPView, kept: int) -> WidthCut:
    if not kept:
        return WidthCut(mlp.layer, mlp.spec.name, mlp.width, ((),))
    return WidthCut(mlp.layer, mlp.spec.name, mlp.width, count=kept)


def uniform_choices(choices: Sequence[Choice], saving: int) -> list[Choice] | None:
    """The same width in every layer, the largest that saves so much; None where none does.

    Widths between those that are scored are taken too: a uniform shape needs no score.
    """
    mlps = [choice for choice in choices if choice.block[1] == "mlp" and choice.kept == 0]
    if not mlps or len({choice.saved for choice in mlps}) > 1:
        return None
    widths = {c.kept for c in choices if c.block[1] == "mlp" and c.kept}
    each = _each(choices)
    step = _STEP if all(width % _STEP == 0 for width in widths) else 1
    whole = mlps[0].saved // each
    kept = (whole - -(-saving // (each * len(mlps)))) // step * step
    if kept <= 0:
        return None
    return [Choice(choice.block, kept, each * (whole - kept)) for choice in mlps]


def _each(choices: Sequence[Choice]) -> int:
    """The parameters of one neuron."""
    block = next(choice.block for choice in choices if choice.block[1] == "mlp")
    some, none = (c for c in choices if c.block == block and c.kept in (0, _widest(choices, block)))
    more, less = (some, none) if some.kept < none.kept else (none, some)
    return (more.saved - less.saved) // (less.kept - more.kept)


def _widest(choices: Sequence[Choice], block: Block) -> int:
    return max(choice.kept for choice in choices if choice.block == block)
