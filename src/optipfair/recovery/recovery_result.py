"""What a recovery did, as a value."""

from __future__ import annotations

from ..results import Result


class Judged(Result):
    """How far a model was from the original at one time of its training.

    Attributes:
        tokens: how many it had been trained on.
        loss: mean KL divergence from the original, in nats a token.
        perplexity: of the text; None where it was not measured.
    """

    tokens: int
    loss: float
    perplexity: float | None = None


class Recovery(Result):
    """What a recovery did. Divergences are KL(original || model), means in nats a token.

    Attributes:
        before: divergence on held-back text before the training.
        after: the same afterwards; never more than before.
        perplexity_before: perplexity of held-back text before the training.
        perplexity_after: the same afterwards.
        helped: whether training made it less; if not, the model is as it came.
        way: the share of the way from the weights that came to the trained ones that is kept.
        tokens: how many were trained on.
        tokens_asked: how many should have been, had it not ended early.
        repeats: how often the text was read.
        held_back_tokens: how many tokens it was judged on.
        parameters_trained: how many numbers were trained.
        learning_rate: the highest.
        judged: both on held-back text, from before the training to its end.
        training: the divergence on the text that was trained on, each a mean over some steps.
        seconds: the time that it took.
        text_sha256: of the text, or of the token ids where these were given.
    """

    before: float
    after: float
    perplexity_before: float
    perplexity_after: float
    helped: bool
    tokens: int
    tokens_asked: int
    repeats: float
    held_back_tokens: int
    parameters_trained: int
    learning_rate: float
    judged: list[Judged]
    training: list[Judged]
    seconds: float
    text_sha256: str
    way: float = 1.0

    def in_words(self) -> str:
        """One sentence."""
        if not self.helped:
            return (
                f"training did not help: the divergence from the original was {self.before:.4f} "
                "nats a token on held-back text and never less, so the model is as it came"
            )
        back = 100 * (1 - self.after / self.before)
        return (
            f"divergence from the original on held-back text {self.before:.4f} → "
            f"{self.after:.4f} nats a token ({back:.0f} % less), perplexity "
            f"{self.perplexity_before:.4g} → {self.perplexity_after:.4g}, by {self.tokens:,} tokens"
        )
