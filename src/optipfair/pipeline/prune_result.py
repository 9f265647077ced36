"""What a pruning of a checkpoint did, as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..neutralising.neutralisation import Neutralisation
from ..pruning.calibration.text_cost import Cost
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.plan_files import PLAN_FILE
from ..recovery.recovery_result import Recovery


@dataclass(frozen=True)
class PruneResult:
    """What `prune_checkpoint` did.

    Attributes:
        output_path: the folder it wrote, None where it only planned.
        plan: what was decided.
        statistics: of `get_pruning_statistics`, with bytes on disk, headers included.
        streamed: whether it worked on the files, without the model in memory.
        logits_difference: largest difference between the model in memory and reloaded; None
            where they were not compared.
        verified: `fast`, `full` or `none`.
        cost: perplexity and KL divergence before and after, on held-back calibration text; None
            where there is none.
        has_tokenizer: whether there was a tokenizer to carry over.
        account: how many tensors of the source were copied, cut, and removed with their layers;
            together they are all of them.
        left_behind: files of the source that the result does not hold.
        seconds: wall time.
        recovery: what training gave back afterwards, where it was asked for.
        neutralisation: what taking contrasts out did then, where it was asked for.
        warnings: what was warned of; the card has them too.
        notes: what else is worth to know.
    """

    output_path: Path | None
    plan: PruningPlan
    statistics: dict[str, Any]
    streamed: bool
    logits_difference: float | None
    verified: str
    has_tokenizer: bool
    seconds: float
    account: Mapping[str, int]
    left_behind: Sequence[str]
    cost: Cost | None = None
    recovery: Recovery | None = None
    neutralisation: Neutralisation | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; the plan itself lies in the output folder."""
        written = self.output_path
        return {
            "output_path": None if written is None else str(written),
            "plan": {
                "file": None if written is None else str(written / PLAN_FILE),
                "digest": self.plan.digest,
                "request": dict(self.plan.request),
                "layers_removed": list(self.plan.drop_layers),
                "widths": _widths(self.plan),
            },
            "statistics": self.statistics,
            "streamed": self.streamed,
            "logits_difference": self.logits_difference,
            "verified": self.verified,
            "has_tokenizer": self.has_tokenizer,
            "account": dict(self.account),
            "left_behind": list(self.left_behind),
            "seconds": round(self.seconds, 3),
            "cost": None if self.cost is None else self.cost.to_dict(),
            "recovery": None if self.recovery is None else self.recovery.to_dict(),
            "neutralisation": (
                None if self.neutralisation is None else self.neutralisation.to_dict()
            ),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def _widths(plan: PruningPlan) -> dict[str, list[int]]:
    """MLP name → the widths that are kept in it."""
    names = sorted({cut.mlp for cut in plan.width_cuts})
    return {n: sorted({cut.kept for cut in plan.width_cuts if cut.mlp == n}) for n in names}
