"""`attribute_bias`: in which parts of a model a difference in its answers arises.

Activation differences say how differently two words are represented. This says what of it reaches
the answer: each part's inputs, less their mean over the words of a template, times the gradient of
the answer (attribution patching: Nanda 2023; Syed et al. 2023, arXiv 2310.10348), in one backward
pass a prompt. The largest parts are then checked by really taking their difference away.

Axes: `n` prompts of a template, `c` compared tokens, `N` prompts, `I` inputs of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arch.units.attention import by_attention
from ..arch.view import MLPView, ModelView, describe
from ..checking import check_count
from ..errors import UnsupportedModelError
from .attribution_result import Attribution, Effect, Patched, UnitEffect
from .contrasts.aligned import Aligned, aligned, removal, without
from .contrasts.contrast import Contrast
from .contrasts.contrast_files import find_contrasts
from .contrasts.contrast_prompts import Prompt, interaction, prompts_of
from .contrasts.tracing import Key, projection
from .contrasts.word_means import difference_of_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MLP, ATTENTION = "mlp", "attention"


def attribute_bias(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contrasts: str | Contrast | Sequence[str | Contrast] = "gender-occupation",
    *,
    top: int = 10,
    checked: int = 6,
) -> list[Attribution]:
    """Say how much each layer's MLP and attention, each neuron and head, makes of a contrast.

    The contrast is B: how much likelier the first continuations are than the second after words of
    the first kind, less the same after words of the second, in nats. A part's effect is how much of
    B would go, to first order, if what enters it were the same for all words of a template. It is
    signed: parts above 0 make the stereotype, parts below 0 work against it.

    Args:
        model: a causal language model; it is not changed.
        tokenizer: of the model.
        contrasts: names, `.json` files or `Contrast` values.
        top: how many neurons and heads are listed.
        checked: of how many layers' parts, the largest, the difference is really taken away.

    Returns:
        One result for each contrast.

    Raises:
        ArgumentError, UnknownNameError, DataError: a contrast that cannot be read or told apart.
        UnsupportedModelError: no layer has a dense MLP or an attention of a known form.

    Example:
        >>> from optipfair import Contrast
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> words = (("nurse", "maid", "dancer"), ("pilot", "miner", "boxer"))
        >>> contrast = Contrast("mine", ("The {word} said",), words, ((" she",), (" he",)))
        >>> (found,) = attribute_bias(tiny_model("llama"), byte_tokenizer(), contrast)
        >>> {each.component for each in found.layers} == {"mlp", "attention"}
        True
    """
    check_count("top", top, 0)
    check_count("checked", checked, 0)
    chosen = find_contrasts(contrasts)
    view = describe(model)
    parts = parts_of(view)
    sides = [(each.name, prompts_of([each], model, tokenizer)) for each in chosen]
    return [_Attributing(view, parts, name, prompts).done(top, checked) for name, prompts in sides]


@dataclass(frozen=True)
class Parts:
    """The projections that are looked at."""

    mlps: tuple[MLPView, ...]
    attentions: tuple[MLPView, ...]
    left_out: Mapping[str, str]  # component → why it is not looked at

    @property
    def all(self) -> list[tuple[str, MLPView]]:
        """Component and projection, in the order of the layers, attention first."""
        found = [(MLP, each) for each in self.mlps] + [
            (ATTENTION, each) for each in self.attentions
        ]
        return sorted(found, key=lambda each: (each[1].layer, each[0]))


def parts_of(view: ModelView) -> Parts:
    """The projections out of a model's dense MLPs and attentions."""
    mlps = tuple(mlp for mlp in view.mlps if not mlp.spec.experts)
    left_out = {} if len(mlps) == len(view.mlps) else {MLP: "experts are not looked into"}
    attentions: tuple[MLPView, ...] = ()
    refused: UnsupportedModelError | None = None
    for unit in ("head", "group"):
        try:
            attentions = tuple(by_attention(view, unit).mlps)
            break
        except UnsupportedModelError as exc:
            refused = refused or exc
    if not attentions:
        left_out[ATTENTION] = str(refused)
    if not mlps and not attentions:
        raise UnsupportedModelError(
            f"No part of this {view.spec.model_type!r} can be looked into: {refused}"
        )
    return Parts(mlps, attentions, left_out)


def effects_of_units(seen: Aligned, key: Key, rows: int = 1) -> Tensor:
    """How much of the contrast each unit of a projection makes, (U,), in nats.

    A unit is `rows` neighbouring inputs: 1 for neurons, the size of a head for heads.
    """
    total = None
    for group in seen.groups[key]:
        weights = torch.tensor([seen.prompts[place].weight for place in group.places])
        own = torch.einsum("n,nci->i", weights.to(group.effects), group.effects)
        total = own if total is None else total + own
    assert total is not None
    return total.view(-1, rows).sum(dim=1)


def effects_of_prompts(seen: Aligned, key: Key) -> Tensor:
    """How much of each prompt's behaviour a projection makes, (N,), in nats."""
    found = torch.zeros(len(seen.prompts))
    for group in seen.groups[key]:
        found[list(group.places)] = group.effects.sum(dim=(1, 2)).cpu()
    return found


@dataclass(frozen=True)
class _Attributing:
    """One contrast in one model."""

    view: ModelView
    parts: Parts
    name: str
    prompts: Sequence[Prompt]

    def done(self, top: int, checked: int) -> Attribution:
        seen = aligned(self.view, [each for _, each in self.parts.all], self.prompts)
        layers = [self._of_layer(seen, *each) for each in self.parts.all]
        behaviour = difference_of_kinds(seen.values.cpu(), self.prompts)
        return Attribution(
            contrast=self.name,
            behaviour=behaviour,
            total=difference_of_kinds(self._summed(seen), self.prompts),
            layers=layers,
            neurons=self._largest(seen, self.parts.mlps, top),
            heads=self._largest(seen, self.parts.attentions, top),
            tokens=self._by_token(seen),
            checks=self._checked(seen, layers, checked),
            prompts=len(self.prompts),
            words=[len({p.word for p in self.prompts if p.kind == kind}) for kind in (0, 1)],
            left_out=dict(self.parts.left_out),
        )

    def _summed(self, seen: Aligned) -> Tensor:
        """What all parts make of each prompt's behaviour, (N,)."""
        found = [effects_of_prompts(seen, each.key) for _, each in self.parts.all]
        return torch.stack(found).sum(dim=0)

    def _of_layer(self, seen: Aligned, component: str, part: MLPView) -> Effect:
        found = difference_of_kinds(effects_of_prompts(seen, part.key), self.prompts)
        return Effect(part.layer, component, found)

    def _largest(self, seen: Aligned, parts: Sequence[MLPView], top: int) -> list[UnitEffect]:
        rows = []
        for part in parts:
            effects = effects_of_units(seen, part.key, part.spec.down.rows)
            places = effects.abs().topk(min(top, len(effects))).indices
            rows += [UnitEffect(part.layer, int(i), float(effects[i])) for i in places]
        return sorted(rows, key=lambda each: -abs(each.effect))[:top]

    def _by_token(self, seen: Aligned) -> dict[str, float]:
        """Effects of all parts at the word, at the last token, and between them."""
        sums = {"word": 0.0, "between": 0.0, "last": 0.0}
        for _, part in self.parts.all:
            for group in seen.groups[part.key]:
                weights = [seen.prompts[place].weight for place in group.places]
                row = torch.einsum(
                    "n,nci->c", torch.tensor(weights).to(group.effects), group.effects
                )
                sums["word"] += float(row[0])
                sums["between"] += float(row[1:-1].sum())
                sums["last"] += float(row[-1]) if len(row) > 1 else 0.0
        return sums

    def _checked(self, seen: Aligned, layers: Sequence[Effect], count: int) -> list[Patched]:
        """The largest parts, predicted and really taken away."""
        whole = interaction(seen.values, self.prompts)
        largest = sorted(range(len(layers)), key=lambda k: -abs(layers[k].effect.value))[:count]
        found = []
        for place in largest:
            each, (_, part) = layers[place], self.parts.all[place]
            taken: Any = {projection(part): removal(part, seen.groups[part.key])}
            left = interaction(without(self.view, self.prompts, taken), self.prompts)
            found.append(Patched(each.layer, each.component, each.effect.value, whole - left))
        return found
