"""What a model card says of a recovery: what was trained, on what, and how the divergence fell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...checking import is_file
from ...pruning.calibration.text_sources import sources_of
from ...recovery.objectives import label_share
from ...recovery.recover_options import RecoverOptions
from ...recovery.recovery_result import Judged, Recovery
from ...report.comparison import Training
from ...report.loss_curve import of_training
from ...visible import visible
from ..model_card import versions

_HEADING = "## Recovered"
_ROWS = 12  # of the table, at most
CURVE = "recovery.svg"


def recovered_card(
    card: str, found: Recovery, asked: RecoverOptions, teacher: str, command: str
) -> str:
    """The card of the pruned model, with what was given back at its end."""
    before = card.split(f"\n{_HEADING}", maxsplit=1)[0].rstrip()
    how = "Low-rank adapters were trained, and merged" if asked.lora else "It was trained"
    return "\n".join(
        [
            before,
            "",
            _HEADING,
            "",
            f"{how} to say what {visible(teacher)} says: {found.in_words()}.",
            "",
            "| | before | after |",
            "|---|---|---|",
            f"| KL divergence from the original, nats a token | {found.before:.4f} | "
            f"{found.after:.4f} |",
            f"| perplexity | {found.perplexity_before:.4g} | {found.perplexity_after:.4g} |",
            "",
            f"The text was {visible(_named(asked.data))}, read {found.repeats:.2g} times; one "
            f"document in twenty was held back, {found.held_back_tokens:,} tokens of which were "
            f"judged. {found.parameters_trained:,} numbers were trained, at a learning rate of "
            f"{found.learning_rate:g}; the cross-entropy with the text counted by "
            f"{label_share(asked.label_weight, found.before):.2g} "
            f"(label_weight={asked.label_weight:g})."
            f"{_way(found)}",
            "",
            f"![Divergence from the original by tokens trained on]({CURVE})",
            "",
            "On held-back text, before a part of the way was chosen:",
            "",
            *_table(found.judged),
            "",
            f"Made with `{command}`. Versions: {versions()}.",
            "",
        ]
    )


def _way(found: Recovery) -> str:
    """What was kept of a way that was not kept whole."""
    if found.way in (0.0, 1.0):
        return ""
    return (
        f" Of the way from the weights before the training to those after it {found.way:.0%} is "
        "kept, which judged best of the points that were tried."
    )


def recovered_curve(found: Recovery) -> str:
    """The picture that the card shows."""
    return of_training(Training.from_dict(found.to_dict()))


def _named(data: str) -> str:
    """Sources without the folders in which files lie, which are the writer's own."""
    return ",".join(Path(each).name if is_file(each) else each for each in sources_of(data))


def _table(judged: Sequence[Judged]) -> list[str]:
    step = -(-len(judged) // _ROWS)
    chosen = [*judged[::step]]
    if judged and chosen[-1] is not judged[-1]:
        chosen.append(judged[-1])
    rows = [f"| {each.tokens:,} | {each.loss:.4f} | {each.perplexity:.4g} |" for each in chosen]
    return ["| tokens trained on | divergence | perplexity |", "|---|---|---|", *rows]
