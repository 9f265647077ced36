"""`neutralise`: take contrasts out of a model, at the least cost to ordinary text.

check → prompts → changes → how strong they judge best on words that they do not know → kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arch.limits import positions
from ..arch.view import MLPView, ModelView, describe
from ..batches import Batch
from ..bias.contrasts.contrast import Contrast
from ..bias.contrasts.contrast_files import find_contrasts
from ..bias.contrasts.contrast_prompts import Prompt, deviations, interaction, prompts_of
from ..bias.contrasts.tracing import behaviours
from ..checking import check_count, check_seed
from ..errors import ArgumentError, DataError, UnsupportedModelError
from ..option_fields import checked_keywords, taking
from ..pruning.calibration.activations import read_batches
from ..pruning.calibration.calibration_texts import CalibrationText
from ..pruning.calibration.text_cost import Cost, cost_of, final_states
from .neutralisation import ChangedLayer, ContrastChange, Neutralisation, Tried
from .neutralise_options import NeutraliseOptions
from .weight_changes import Changes, find_changes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
_LAYERS = 6  # that change, unless told otherwise
_STEP = 2 / 15  # of the layers, from one of them to the next
_HELD_BACK = 5  # one batch in so many judges, where batches are given


@taking(NeutraliseOptions)
def neutralise(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contrasts: str | Contrast | Sequence[str | Contrast] = "gender-occupation",
    calibration: str | Iterable[Any] = "builtin",
    **more: Any,
) -> Neutralisation:
    """Change a model in place so that words of two kinds are followed alike.

    For each prompt of a contrast (a template filled with a word) the behaviour is how much likelier
    the first continuations are than the second, in nats. Wanted is that all words of a template
    have the same. Of all changes of some down projections that give this to first order, the one is
    made that changes their outputs least on ordinary text (`least_change`). A third of the words
    and of the templates is held back: the change is made as many times, up to three, as brings
    these nearest together within `max_divergence`. Words that it was not made by need more of it.

    Args:
        model: a causal language model in float32 or bfloat16; its weights change.
        tokenizer: of the model.
        contrasts: names, `.json` files or `Contrast` values.
        calibration: ordinary text, as the option says, or batches `{"input_ids": (B, S), ...}`.
        (the options)

    Returns:
        The contrasts before and after, with what ordinary text lost, beside a change of the same
        size in random directions.

    Raises:
        ArgumentError, UnknownNameError, DataError, UnsupportedModelError: refused before anything
            changed. After any error the model is as it was.

    Example:
        >>> from optipfair import Contrast
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> words = (("nurse", "maid", "dancer"), ("pilot", "miner", "boxer"))
        >>> contrast = Contrast("mine", ("The {word} said",), words, ((" she",), (" he",)))
        >>> options = {"calibration_samples": 2, "max_divergence": 1.0}
        >>> found = neutralise(tiny_model("llama"), byte_tokenizer(), contrast, **options)
        >>> found.contrasts[0].spread_after <= found.contrasts[0].spread_before
        True
    """
    started = time.perf_counter()
    asked = NeutraliseOptions(**checked_keywords(neutralise, more))
    if isinstance(calibration, str):
        asked = replace(asked, calibration=calibration)
    chosen = find_contrasts(contrasts)
    check_request(asked)
    view = describe(model)
    projections = _projections(view, asked.layers)
    text = _text(asked, calibration, model, tokenizer)
    run = _Run(view, _sides(chosen, model, tokenizer), text, asked)
    return run.carried_out(projections, started)


def check_request(asked: NeutraliseOptions) -> None:
    """Check what can be checked without a model."""
    find_contrasts(asked.contrast)
    check_seed(asked.seed)
    check_count("calibration_samples", asked.calibration_samples, 1)
    if asked.strength is not None and not 0 < asked.strength <= STRENGTHS[-1]:
        raise ArgumentError(
            f"strength={asked.strength} is outside (0, {STRENGTHS[-1]:g}]. Give how many times the "
            "change is to be made, 1 for once, or leave it out, and what judges best is taken."
        )
    if not asked.max_divergence > 0:
        raise ArgumentError(
            f"max_divergence={asked.max_divergence} is not above 0. Give nats a token, for example "
            "0.01."
        )


@dataclass(frozen=True)
class _Sides:
    """One contrast as prompts: those to change by, and those to judge by."""

    name: str
    own: list[Prompt]
    held_back: list[Prompt]


@dataclass(frozen=True)
class _Text:
    """Ordinary text: to measure moments on, and to judge by."""

    batches: list[Batch]
    held_back: list[Batch]


@dataclass(frozen=True)
class _Judged:
    """A state of the model: each contrast's own and held-back behaviours, and its text."""

    own: list[Tensor]
    held_back: list[Tensor]
    cost: Cost


@dataclass(frozen=True)
class _Run:
    """What a run works with, and its steps."""

    view: ModelView
    sides: Sequence[_Sides]
    text: _Text
    asked: NeutraliseOptions

    def carried_out(self, projections: Sequence[MLPView], started: float) -> Neutralisation:
        model, asked = self.view.model, self.asked
        states = final_states(model, self.text.held_back)
        before = self._judged(states)
        prompts = _in_own_groups([side.own for side in self.sides])
        changes = find_changes(
            self.view, projections, prompts, self.text.batches, show_progress=asked.show_progress
        )
        with changes.or_as_before():
            judged = {
                strength: self._at(changes, strength, states) for strength in self._strengths()
            }
            last = self._just_allowed(judged)
            judged |= {} if last is None else {last: self._at(changes, last, states)}
            best = self._best(before, judged)
            random = self._at(changes.in_random_directions(asked.seed), best or 1.0, states)
        changes.make(best)
        after = judged.get(best, before)
        return Neutralisation(
            strength=best,
            contrasts=[
                self._of_contrast(place, before, after, random) for place in range(len(self.sides))
            ],
            layers=[ChangedLayer(*each.key, best * changes.size(each.key)) for each in projections],
            perplexity_before=after.cost.perplexity_before,
            perplexity_after=after.cost.perplexity_after,
            divergence=max(after.cost.kl_divergence, 0.0),
            random_divergence=max(random.cost.kl_divergence, 0.0),
            tokens=after.cost.tokens,
            tried=[self._tried(strength, judged[strength]) for strength in sorted(judged)],
            seconds=time.perf_counter() - started,
        )

    def _strengths(self) -> tuple[float, ...]:
        return STRENGTHS if self.asked.strength is None else (self.asked.strength,)

    def _just_allowed(self, judged: dict[float, _Judged]) -> float | None:
        """A strength between the last allowed one and the first that costs too much, of as much
        divergence as may be: it grows with the square of the strength.
        """
        limit, costs = self.asked.max_divergence, {s: j.cost for s, j in judged.items()}
        over = [s for s in costs if costs[s].kl_divergence > limit]
        if not over or self.asked.strength is not None or limit <= 0:
            return None
        first = min(over)
        found = round(0.98 * first * math.sqrt(limit / costs[first].kl_divergence), 2)
        below = max((strength for strength in costs if strength < first), default=0.0)
        return found if below < found < first else None

    def _judged(self, states: Sequence[Tensor]) -> _Judged:
        """The model as it is, against the states that entered its head before."""
        model = self.view.model
        cost = cost_of(model, self.text.held_back, states, final_states(model, self.text.held_back))
        if cost is None:
            raise DataError(
                "The text to judge by has no sequence of two tokens. Give longer sequences."
            )
        own, held_back = (
            [behaviours(self.view, getattr(side, part)) for side in self.sides]
            for part in ("own", "held_back")
        )
        return _Judged(own, held_back, cost)

    def _at(self, changes: Changes, strength: float, states: Sequence[Tensor]) -> _Judged:
        changes.make(strength)
        return self._judged(states)

    def _best(self, before: _Judged, judged: dict[float, _Judged]) -> float:
        """The strength of least spread, 0 where none is below that of the model as it came."""
        allowed = {
            strength: self._spread(found)
            for strength, found in judged.items()
            if found.cost.kl_divergence <= self.asked.max_divergence
        }
        best = min(allowed, key=lambda strength: allowed[strength], default=0.0)
        return best if best and allowed[best] < self._spread(before) else 0.0

    def _spread(self, found: _Judged) -> float:
        """Root mean square of the deviations of held-back words, over all contrasts."""
        pairs = zip(self.sides, found.held_back, strict=True)
        squares = torch.cat([deviations(v, side.held_back).square() for side, v in pairs])
        return math.sqrt(float(squares.mean()))

    def _tried(self, strength: float, found: _Judged) -> Tried:
        cost = found.cost
        divergence = max(cost.kl_divergence, 0.0)
        return Tried(strength, self._spread(found), divergence, cost.perplexity_after)

    def _of_contrast(
        self, place: int, before: _Judged, after: _Judged, random: _Judged
    ) -> ContrastChange:
        side = self.sides[place]
        own = [interaction(found.own[place], side.own) for found in (before, after)]
        held = [interaction(f.held_back[place], side.held_back) for f in (before, after, random)]
        spreads = [
            float(deviations(found.held_back[place], side.held_back).square().mean().sqrt())
            for found in (before, after)
        ]
        return ContrastChange(
            name=side.name,
            before=own[0],
            after=own[1],
            held_back_before=held[0],
            held_back_after=held[1],
            spread_before=spreads[0],
            spread_after=spreads[1],
            random_after=held[2],
        )


def _sides(contrasts: Sequence[Contrast], model: Any, tokenizer: Any) -> list[_Sides]:
    sides = []
    for contrast in contrasts:
        own, held_back = contrast.halves()
        sides.append(
            _Sides(
                contrast.name,
                prompts_of([own], model, tokenizer, kept=True),
                prompts_of([held_back], model, tokenizer),
            )
        )
    return sides


def _in_own_groups(parts: Sequence[Sequence[Prompt]]) -> list[Prompt]:
    """The prompts of all contrasts; those of different contrasts are in different groups."""
    found: list[Prompt] = []
    for part in parts:
        first = max((prompt.group for prompt in found), default=-1) + 1
        found += [replace(prompt, group=first + prompt.group) for prompt in part]
    return found


def _projections(view: ModelView, layers: Sequence[int] | None) -> list[MLPView]:
    """The dense MLPs of these layers, of six of them unasked."""
    dense = {layer.index: [m for m in layer.mlps if not m.spec.experts] for layer in view.layers}
    count = len(view.layers)
    possible = [index for index, mlps in dense.items() if mlps]
    if not possible:
        raise UnsupportedModelError(
            f"No layer of this {view.spec.model_type!r} has a dense MLP, whose down projection "
            "could be changed."
        )
    if layers is None:
        layers = sorted({possible[int(len(possible) * (k + 1) * _STEP)] for k in range(_LAYERS)})
    wrong = [each for each in layers if each not in possible]
    if wrong or not layers:
        raise ArgumentError(
            f"layers={list(layers)} names {'no layer' if not layers else wrong[0]}. The model has "
            f"{count} layers; those with a dense MLP: {possible[0]} to {possible[-1]}."
        )
    return [mlp for index in sorted(set(layers)) for mlp in dense[index]]


def _text(
    asked: NeutraliseOptions, given: str | Iterable[Any], model: Any, tokenizer: Any
) -> _Text:
    """The calibration text, and what of it judges."""
    if isinstance(given, str):
        text = CalibrationText(asked.calibration, asked.calibration_samples, seed=asked.seed)
        text.check()
        drawn = text.settled(positions(model)).draw(tokenizer, lambda: model)
        return _Text(drawn.batches, drawn.held_back)
    batches = list(read_batches(given))
    if len(batches) < 2:
        raise DataError(
            f"calibration has {len(batches)} batches, and one of them is held back to judge by. "
            "Give two or more."
        )
    held = batches[:: max(min(_HELD_BACK, len(batches)), 2)]
    kept = [batch for batch in batches if not any(batch is each for each in held)]
    return _Text(kept, held)
