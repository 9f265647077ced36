"""What taking contrasts out of a model did, as a value."""

from __future__ import annotations

from ..results import Result


class ContrastChange(Result):
    """One contrast before and after.

    Attributes:
        name: of the contrast.
        before: the interaction with the words and templates that the change was made by, in nats.
        after: the same afterwards.
        held_back_before: the interaction with held-back words in held-back templates.
        held_back_after: the same afterwards.
        spread_before: root mean square of the deviations of held-back words from the mean of their
            template, in nats.
        spread_after: the same afterwards.
        random_after: the same after a change of equal size in random directions.
    """

    name: str
    before: float
    after: float
    held_back_before: float
    held_back_after: float
    spread_before: float
    spread_after: float
    random_after: float


class Tried(Result):
    """One strength of the change.

    Attributes:
        strength: how many times the change was made.
        spread: root mean square of the deviations of held-back words, over all contrasts.
        divergence: KL divergence from the model as it came on held-back text, in nats a token.
        perplexity: of that text.
    """

    strength: float
    spread: float
    divergence: float
    perplexity: float


class ChangedLayer(Result):
    """One projection that was changed.

    Attributes:
        layer: its number.
        mlp: name of its MLP.
        size: the norm of the change over that of the weight.
    """

    layer: int
    mlp: str
    size: float


class Neutralisation(Result):
    """What was done. Perplexity and divergence are of held-back ordinary text.

    Attributes:
        strength: how many times the change was made; 0 where none was better.
        contrasts: what became of each.
        layers: the projections that were changed.
        perplexity_before: as the model came.
        perplexity_after: afterwards.
        divergence: mean KL(before || after), in nats a token.
        random_divergence: the same of a change of equal size in random directions.
        tokens: of ordinary text that were judged.
        tried: each strength that was judged.
        seconds: the time that it took.
    """

    strength: float
    contrasts: list[ContrastChange]
    layers: list[ChangedLayer]
    perplexity_before: float
    perplexity_after: float
    divergence: float
    random_divergence: float
    tokens: int
    tried: list[Tried]
    seconds: float

    def in_words(self) -> str:
        """One sentence."""
        if not self.strength:
            return "the change helped held-back words at no strength, so the model is as it came"
        said = ", ".join(
            f"{each.name} {each.spread_before:.2f} → {each.spread_after:.2f}"
            for each in self.contrasts
        )
        return (
            f"spread of held-back words in nats: {said}; perplexity "
            f"{self.perplexity_before:.4g} → {self.perplexity_after:.4g}"
        )
