"""What a model card says of contrasts that were taken out."""

from __future__ import annotations

from ..neutralising.neutralisation import Neutralisation
from ..visible import visible
from .model_card import versions

_HEADING = "## Neutralised"
_MEANING = (
    "A contrast is how much likelier some continuations are than others after words of one kind, "
    "less the same after words of another (such as she rather than he after a nurse and after a "
    "soldier). The spread is the root mean square of how far held-back words are from the mean of "
    "their template. Words and templates of these rows were not used to find the change. Other "
    "groups, words and uses were not measured here: a smaller contrast does not make a model fair."
)


def neutralised_card(card: str, found: Neutralisation, command: str) -> str:
    """The card of the model, with what was taken out at its end."""
    rows = [
        f"| {visible(each.name)} | {each.held_back_before:.3f} | {each.held_back_after:.3f} | "
        f"{each.spread_before:.3f} | {each.spread_after:.3f} | {each.random_after:.3f} |"
        for each in found.contrasts
    ]
    layers = ", ".join(str(each.layer) for each in found.layers)
    return "\n".join(
        [
            card.split(f"\n{_HEADING}", maxsplit=1)[0].rstrip(),
            "",
            _HEADING,
            "",
            f"The down projections of layers {layers} were changed: {found.in_words()}.",
            "",
            "| contrast, held-back words, nats | before | after | spread before | spread after | "
            "contrast after a random change of this size |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"On {found.tokens:,} held-back tokens of ordinary text the KL divergence from the "
            f"model as it came is {found.divergence:.5f} nats a token "
            f"({found.random_divergence:.5f} after a random change of this size). The strength is "
            f"{found.strength:g}, where 1 takes the contrast away to first order.",
            "",
            _MEANING,
            "",
            f"Made with `{command}`. Versions: {versions()}.",
            "",
        ]
    )
