"""What `attribute_bias` returns."""

from __future__ import annotations

from dataclasses import field

from ..results import Result


class Interval(Result):
    """A figure in nats with its 95 % interval over words; ends are None with fewer than three words
    of a kind.
    """

    value: float
    low: float | None
    high: float | None


class Effect(Result):
    """How much of a contrast one part of a layer makes.

    Attributes:
        layer: its number.
        component: `mlp` or `attention`.
        effect: above 0 it makes the stereotype, below 0 it works against it.
    """

    layer: int
    component: str
    effect: Interval


class UnitEffect(Result):
    """How much of a contrast one neuron or head makes, in nats.

    Attributes:
        layer: its layer.
        unit: its number there.
        effect: signed, as of a layer.
    """

    layer: int
    unit: int
    effect: float


class Patched(Result):
    """A part whose difference between the words was really taken away.

    Attributes:
        layer: its number.
        component: `mlp` or `attention`.
        predicted: how much of the contrast should go, to first order, in nats.
        patched: how much went.
    """

    layer: int
    component: str
    predicted: float
    patched: float


class Attribution(Result):
    """Where in a model a contrast arises.

    Attributes:
        contrast: its name.
        behaviour: the contrast itself: how much likelier the first continuations are than the
            second after words of the first kind, less the same after words of the second.
        total: what all parts that were looked at make of it, to first order.
        layers: the parts of each layer, in order.
        neurons: the largest.
        heads: the largest.
        tokens: the effect at the word, at the last token, and at those between.
        checks: the largest parts, predicted and patched.
        prompts: how many ran.
        words: how many words each kind has.
        left_out: components that were not looked at, with the reason.
    """

    contrast: str
    behaviour: Interval
    total: Interval
    layers: list[Effect]
    neurons: list[UnitEffect]
    heads: list[UnitEffect]
    tokens: dict[str, float]
    checks: list[Patched]
    prompts: int
    words: list[int]
    left_out: dict[str, str] = field(default_factory=dict)


class ModelAttribution(Result):
    """What was found in one model.

    Attributes:
        model: its name.
        contrasts: one result each.
    """

    model: str
    contrasts: list[Attribution]
