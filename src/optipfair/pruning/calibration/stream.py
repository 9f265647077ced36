"""Calibration as a stream of layers: hidden states flow through one decoder layer at a time.

A layer is visited once. Its inputs are the outputs of the layers before it, pruned or not; it
works on a copy, and the live model is left as it was.

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.limits import check_sequences
from ...arch.view import LayerView, ModelView
from ...batches import Batch
from ...distributed import gathered, together, total
from ...errors import OptiPFairError, UnsupportedModelError
from ...hooks import evaluating, running_instead
from .activations import forward, no_batch, read_batches
from .holding import HiddenStates, Holding
from .moments import FIT, token_roles

_TOLERANCE = 1e-3

Form = Callable[[Tensor], Any]  # hidden states → what a layer wraps them in
Call = tuple[Tensor, tuple[Any, ...], dict[str, Any]]  # hidden states, other arguments, keywords


class NotByLayersError(UnsupportedModelError):
    """The layers cannot be run one at a time; the model as a whole may run all the same."""


@dataclass(frozen=True)
class LayerSource:
    """Where layers that can be run come from.

    `copied` gives a layer to run and to change, in eval mode, which nobody else holds. Where the
    model's own layers are not `resident`, each comes from there when it is needed, and goes after.
    """

    copied: Callable[[LayerView], nn.Module]
    resident: bool

    def lent(self, layer: LayerView) -> nn.Module:
        """A layer to run, not to change."""
        return layer.module if self.resident else self.copied(layer)

    @contextmanager
    def present(self, view: ModelView) -> Iterator[None]:
        """Inside the block the model's own forward can run."""

        def run(layer: LayerView, *args: Any, **kwargs: Any) -> Any:
            return self.copied(layer)(*args, **kwargs)

        layers = () if self.resident else view.layers
        with running_instead({each.module: partial(run, each) for each in layers}):
            yield


@dataclass(frozen=True)
class Variety:
    """How many distinct sequences and tokens calibration data hold; those of all processes."""

    sequences: int
    tokens: int

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Variety:
        """Count as far as two of each."""
        rows: set[bytes] = set()
        tokens: set[int] = set()
        for batch in batches:
            for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
                real = ids[mask].cpu()
                if not len(real):
                    continue
                rows.add(real.to(torch.int64).numpy().tobytes())
                tokens |= {int(each) for each in real.unique()[:2]}
            if len(rows) > 1 and len(tokens) > 1:
                break
        found = gathered((list(rows)[:2], list(tokens)[:2]))
        return cls(
            *(len({each for part in parts for each in part}) for parts in zip(*found, strict=True))
        )


@dataclass
class Batches:
    """What flows through the layers of a model, which come from a source.

    Arguments are those after the hidden states, positional and keyword, by batch and layer.
    """

    view: ModelView
    source: LayerSource
    masks: list[Tensor] = field(default_factory=list)  # which tokens are real, (B, S)
    firsts: list[int] = field(default_factory=list)  # of each batch's first row in all the data
    hidden: HiddenStates = field(default_factory=HiddenStates)  # enters the next layer, (B, S, H)
    arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)  # how each layer wraps its hidden states
    variety: Variety = Variety(2, 2)

    @property
    def tokens(self) -> int:
        """How many tokens flow, padding included."""
        return sum(mask.numel() for mask in self.masks)

    def roles(self, number: int) -> Tensor:
        """What each token of a batch is for (`token_roles`), (B, S).

        Copies of one sequence hold back the same tokens, so that none is judged by that was fitted
        in another copy; of one token only there is nothing to judge by.
        """
        mask = self.masks[number]
        if self.variety.tokens < 2:
            return mask * FIT
        if self.variety.sequences < 2:
            return torch.cat([token_roles(row[None], 0) for row in mask])
        return token_roles(mask, self.firsts[number])


def copied_layer(layer: nn.Module) -> nn.Module:
    """A copy of a layer in eval mode, whose parameters need no gradients."""
    return copy.deepcopy(layer).eval().requires_grad_(False)


LIVE = LayerSource(lambda layer: copied_layer(layer.module), resident=True)


def capture(
    view: ModelView,
    batches: Iterable[object],
    source: LayerSource = LIVE,
    holding: Holding | None = None,
) -> Batches:
    """Record what enters the first layer, and with which arguments every layer is called.

    The model's own forward runs with layers that pass their input on, so this costs little. Before
    that a few tokens run through the model twice, as it is and one layer at a time, which must give
    the same, or it is a `NotByLayersError`.
    """
    given = list(read_batches(batches))  # processes may wait for each other here
    stream = Batches(view, source, variety=Variety.of(given))
    with together(), evaluating(view.model):
        check_sequences(view.model, given)
        stream.forms = _checked_forms(view, source)
        for batch in given:
            calls = _record(view, batch, stream.forms)
            hidden = calls[0][0]
            if not stream.masks:
                tokens = sum(each.input_ids.numel() for each in given)
                nbytes = tokens * hidden.shape[-1] * hidden.element_size()
                stream.hidden = (holding or Holding()).hidden(nbytes, hidden.device)
            stream.masks.append(batch.attention_mask)
            stream.firsts.append(batch.first or 0)
            stream.hidden.append(hidden)
            stream.arguments.append([(args, kwargs) for _, args, kwargs in calls])
    if total(len(stream.hidden))[0] == 0:
        raise no_batch()
    return stream


def run_layer(layer: nn.Module, hidden: Tensor, arguments: tuple[Any, Any]) -> Tensor:
    """Run one layer on hidden states (B, S, H) and return its hidden states."""
    device = next((p.device for p in layer.parameters()), hidden.device)
    args, kwargs = mapped(arguments, lambda tensor: tensor.to(device))
    output = layer(hidden.to(device), *args, **kwargs)
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


def logits_after(view: ModelView, batch: Batch, hidden: Tensor, forms: Sequence[Form]) -> Tensor:
    """The logits (B, S, V) of a model whose last layer gives these hidden states.

    The model's own forward runs with layers that give them, so that its last norm, its head, and
    what scales or caps its logits are its own.
    """

    def give(layer: LayerView, *_args: Any, **_kwargs: Any) -> Any:
        return forms[layer.index](hidden)

    with running_instead({each.module: partial(give, each) for each in view.layers}):
        output = forward(view, batch, view.model)
    logits: Tensor | None = getattr(output, "logits", None)
    if logits is None or logits.shape[:-1] != batch.input_ids.shape:
        raise UnsupportedModelError(
            f"{type(view.model).__name__} gives no logits for each token, so it has no perplexity. "
            "Load it as a causal language model, or choose layers by 'block_influence'."
        )
    return logits


def _checked_forms(view: ModelView, source: LayerSource) -> list[Form]:
    """For each layer, how it wraps its hidden states; layers run one by one must give what the
    model gives, on a few tokens.
    """
    ids = torch.arange(6).view(1, 6) % int(view.text_config.vocab_size)
    batch = Batch(ids, torch.ones_like(ids).bool())
    seen: list[tuple[dict[str, Any], Any]] = [({}, None)] * len(view.layers)  # keywords, output

    def keep(index: int) -> Callable[..., None]:
        return lambda _module, _args, kwargs, output: seen.__setitem__(index, (kwargs, output))

    with ExitStack() as stack:
        for layer in view.layers:
            hook = layer.module.register_forward_hook(keep(layer.index), with_kwargs=True)
            stack.callback(hook.remove)
        stack.enter_context(source.present(view))
        forward(view, batch)
    forms = [_form(output) for _, output in seen]
    _check_flow(view, batch, forms, seen, source)
    return forms


def _form(output: Any) -> Form:
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        rest = tuple(None for _ in output[1:])
        return lambda hidden: (hidden, *rest)
    if isinstance(output, Tensor):
        return lambda hidden: hidden
    raise NotByLayersError(
        f"A layer of this model gives a {type(output).__name__}, so its layers cannot be run one "
        "at a time. Use a static importance criterion."
    )


def _record(view: ModelView, batch: Batch, forms: Sequence[Form]) -> list[Call]:
    """The calls of all layers for one batch."""
    from transformers import Cache

    calls: list[Call] = []

    def pass_on(layer: LayerView, *args: Any, **kwargs: Any) -> Any:
        # A cache would grow with each run of the layer; some models make one unasked.
        given = {k: None if isinstance(value, Cache) else value for k, value in kwargs.items()}
        hidden: Any = args[0] if args else given.pop("hidden_states")
        calls.append((hidden, args[1:], given))
        return forms[layer.index](hidden)

    with running_instead({each.module: partial(pass_on, each) for each in view.layers}):
        forward(view, batch)
    if len(calls) != len(view.layers):
        raise NotByLayersError(
            f"The model runs {len(calls)} layers where it has {len(view.layers)}, so they cannot "
            "be run one at a time. Use a static importance criterion."
        )
    return calls


def _check_flow(
    view: ModelView,
    batch: Batch,
    forms: Sequence[Form],
    seen: Sequence[tuple[dict[str, Any], Any]],
    source: LayerSource,
) -> None:
    """Layers run one by one must give what the model gave."""
    try:
        calls = _record(view, batch, forms)
        if any(_lacks(kwargs, call[2]) for (kwargs, _), call in zip(seen, calls, strict=True)):
            raise _not_alone(view)
        hidden = calls[0][0]
        for layer, (_, args, kwargs) in zip(view.layers, calls, strict=True):
            hidden = run_layer(source.lent(layer), hidden, (args, kwargs))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise exc if isinstance(exc, OptiPFairError) else _not_alone(view) from exc
    output = seen[-1][1]
    expected = (output[0] if isinstance(output, tuple) else output).float()
    difference = hidden.to(expected.device).float() - expected
    if float(difference.abs().max()) > _TOLERANCE * float(expected.abs().max()):
        raise _not_alone(view)


def _lacks(kwargs: dict[str, Any], recorded: dict[str, Any]) -> bool:
    """Whether a layer was given a tensor that is missing where layers pass on hidden states only.

    It may make no difference on a few tokens, as the choice of the most relevant ones does not.
    """
    return any(
        isinstance(value, Tensor) and name != "hidden_states" and recorded.get(name) is None
        for name, value in kwargs.items()
    )


def _not_alone(view: ModelView) -> NotByLayersError:
    return NotByLayersError(
        f"The layers of {view.spec.model_type!r} pass on more than hidden states, so they "
        "cannot be run one at a time. Use a static importance criterion."
    )


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Tensors inside tuples, lists and dicts changed; the rest as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(mapped(entry, change) for entry in value)
    if isinstance(value, list):
        return [mapped(entry, change) for entry in value]
    if type(value) is dict:
        return {key: mapped(entry, change) for key, entry in value.items()}
    return value
