"""What both ways of pruning a checkpoint share: how to work, on which data, and what they give."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ..distributed import together
from ..errors import DataError
from ..pruning.calibration.calibration_texts import CalibrationText, Drawn, digest
from ..pruning.calibration.holding import Holding
from ..pruning.cut.plan import PruningPlan
from ..pruning.decision import Reread
from .cost import Cost


@dataclass(frozen=True)
class Options:
    """How to work, whatever is pruned."""

    device: str = "cpu"
    dtype: str = "auto"
    trust_remote_code: bool = False
    show_progress: bool = False
    max_shard_bytes: int = 5 * 10**9
    check_weights: bool = False
    evaluate: bool = True
    holding: Holding = field(default_factory=Holding)


@dataclass(frozen=True)
class Data:
    """What to calibrate on: batches, or text to draw them from; without either there is none."""

    batches: Iterable[Any] | None = None
    text: CalibrationText | None = None

    def __bool__(self) -> bool:
        return self.batches is not None or self.text is not None

    def kept(self) -> Data:
        """The same, which can be read again."""
        return self if self.batches is None else replace(self, batches=Reread(self.batches))

    def reading(self) -> AbstractContextManager[None]:
        """What all processes do together; without data the first one is alone."""
        return together() if self else nullcontext()

    def drawn(self, tokenizer: Any) -> Drawn | None:
        """Sequences drawn from the text, if there is text."""
        if self.text is None:
            return None
        if tokenizer is None:
            raise DataError("The model has no tokenizer, so calibration text cannot be read.")
        return self.text.draw(tokenizer)

    def recorded(self, plan: PruningPlan, drawn: Drawn | None) -> PruningPlan:
        """Let the plan say which text it was calibrated on."""
        if self.text is None or drawn is None:
            return plan
        record = asdict(self.text) | {
            "source": Path(self.text.source).name,
            "sha256": digest(drawn.batches),
        }
        return replace(plan, request={**plan.request, "calibration": record})


class Run(Protocol):
    """A pruning that is decided and proved.

    Attributes:
        plan: what stays.
        statistics: of `get_pruning_statistics`, with bytes on disk.
        streamed: whether it works on the files, without the model in memory.
        layers_differ: whether the layers of the result differ in width.
        has_tokenizer: whether there is a tokenizer to carry over.
    """

    plan: PruningPlan
    statistics: dict[str, Any]
    streamed: bool
    layers_differ: bool
    has_tokenizer: bool

    def write(self, target: Path) -> None:
        """Write model and tokenizer into an existing folder."""

    def verify(self, target: Path) -> float | None:
        """Check that folder.

        Returns:
            The largest difference of logits; None where the model was not loaded.
        """

    def cost(self, target: Path) -> Cost | None:
        """What the folder's model lost on held-back text; None where there is none."""
