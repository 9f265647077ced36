"""Calibration as a stream of layers: hidden states flow through one decoder layer at a time.

A layer is visited once. Its inputs are the outputs of the layers before it, pruned or not; it
works on a copy, and the live model is left as it was.

Axes: `B` batch, `S` sequence, `H` hidden.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...arch.limits import check_sequences
from ...arch.view import LayerView, ModelView
from ...batches import Batch, model_inputs
from ...distributed import together, total
from ...errors import OptiPFairError, UnsupportedModelError
from ...hooks import evaluating
from .activations import no_batch, read_batches
from .holding import HiddenStates, Holding

_TOLERANCE = 1e-3


class NotByLayersError(UnsupportedModelError):
    """The layers cannot be run one at a time; the model as a whole may run all the same."""


@dataclass(frozen=True)
class LayerSource:
    """Where layers that can be run come from.

    Attributes:
        copied: gives a layer to run and to change, in eval mode, which nobody else holds.
        resident: whether the model's own layers can be run; else each comes from `copied` when it
            is needed and goes after it has run.
    """

    copied: Callable[[LayerView], nn.Module]
    resident: bool

    def lent(self, layer: LayerView) -> nn.Module:
        """A layer to run, not to change."""
        return layer.module if self.resident else self.copied(layer)

    @contextmanager
    def present(self, view: ModelView) -> Iterator[None]:
        """Inside the block the model's own forward can run."""

        def forward(layer: LayerView, *args: Any, **kwargs: Any) -> Any:
            return self.copied(layer)(*args, **kwargs)

        away = [] if self.resident else list(view.layers)
        forwards = [partial(forward, each) for each in away]
        with _replaced_forwards([each.module for each in away], forwards):
            yield


@dataclass
class Batches:
    """What flows: for each batch its hidden states, its mask, and the arguments of each layer.

    Attributes:
        masks: which tokens are real, (B, S).
        firsts: the number of each batch's first row in all the data.
        hidden: the current input of the next layer, (B, S, H).
        arguments: for each batch and layer the positional and keyword arguments after the hidden
            states. What layers share is the same object.
        forms: for each layer, how it wraps its hidden states.
    """

    masks: list[Tensor] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    hidden: HiddenStates = field(default_factory=HiddenStates)
    arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = field(default_factory=list)
    forms: list[Callable[[Tensor], Any]] = field(default_factory=list)


def copied_layer(layer: nn.Module) -> nn.Module:
    """A copy of a layer in eval mode, whose parameters need no gradients."""
    copied = copy.deepcopy(layer).eval()
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


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
    the same.

    Args:
        view: the model; what is outside its layers holds weights.
        batches: calibration data; read once.
        source: where layers come from, by default from the model itself.
        holding: where the hidden states are held.

    Raises:
        DataError: no batch in any process, or one of an unknown kind.
        NotByLayersError: the layers cannot be run one at a time.
    """
    given = list(read_batches(batches))  # processes may wait for each other here
    found = Batches()
    with together(), evaluating(view.model):
        check_sequences(view.model, given)
        found.forms = _checked_forms(view, source)
        for batch in given:
            calls = _record(view, batch, found.forms)
            hidden = calls[0][0]
            if not found.masks:
                tokens = sum(each.input_ids.numel() for each in given)
                nbytes = tokens * hidden.shape[-1] * hidden.element_size()
                found.hidden = (holding or Holding()).hidden(nbytes, hidden.device)
            found.masks.append(batch.attention_mask)
            found.firsts.append(batch.first or 0)
            found.hidden.append(hidden)
            found.arguments.append([(args, kwargs) for _, args, kwargs in calls])
    if total(len(found.hidden))[0] == 0:
        raise no_batch()
    return found


def run_layer(layer: nn.Module, hidden: Tensor, arguments: tuple[Any, Any]) -> Tensor:
    """Run one layer on hidden states (B, S, H) and return its hidden states."""
    args, kwargs = arguments
    device = next((p.device for p in layer.parameters()), hidden.device)
    output = layer(hidden.to(device), *_moved(args, device), **_moved(kwargs, device))
    found: Tensor = output[0] if isinstance(output, tuple | list) else output
    return found


def logits_after(
    view: ModelView, batch: Batch, hidden: Tensor, forms: Sequence[Callable[[Tensor], Any]]
) -> Tensor:
    """The logits (B, S, V) of a model whose last layer gives these hidden states.

    The model's own forward runs with layers that give them, so that its last norm, its head, and
    what scales or caps its logits are its own.

    Raises:
        UnsupportedModelError: the model gives no logits.
    """

    def stub(form: Callable[[Tensor], Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: form(hidden)

    with _replaced_forwards([layer.module for layer in view.layers], [stub(f) for f in forms]):
        output = _forward(view, batch, view.model)
    logits: Tensor | None = getattr(output, "logits", None)
    if logits is None or logits.shape[:-1] != batch.input_ids.shape:
        raise UnsupportedModelError(
            f"{type(view.model).__name__} gives no logits for each token, so it has no perplexity. "
            "Load it as a causal language model, or choose layers by 'block_influence'."
        )
    return logits


def _checked_forms(view: ModelView, source: LayerSource) -> list[Callable[[Tensor], Any]]:
    """For each layer, how it wraps its hidden states; layers run one by one must give what the
    model gives, on a few tokens.
    """
    ids = torch.arange(6).view(1, 6) % int(view.text_config.vocab_size)
    batch = Batch(ids, torch.ones_like(ids).bool())
    outputs: list[Any] = [None] * len(view.layers)
    given: list[dict[str, Any]] = []

    def note(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        given.append(kwargs)

    def keep(index: int) -> Callable[..., None]:
        return lambda _module, _args, output: outputs.__setitem__(index, output)

    with ExitStack() as stack:
        for layer in view.layers:
            stack.callback(layer.module.register_forward_hook(keep(layer.index)).remove)
            handle = layer.module.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(source.present(view))
        _forward(view, batch)
    forms = [_form(output) for output in outputs]
    last = outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]
    _check_flow(view, batch, forms, last, given, source)
    return forms


def _form(output: Any) -> Callable[[Tensor], Any]:
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        rest = tuple(None for _ in output[1:])
        return lambda hidden: (hidden, *rest)
    if isinstance(output, Tensor):
        return lambda hidden: hidden
    raise NotByLayersError(
        f"A layer of this model gives a {type(output).__name__}, so its layers cannot be run one "
        "at a time. Use a static importance criterion."
    )


def _record(
    view: ModelView, batch: Batch, forms: Sequence[Callable[[Tensor], Any]]
) -> list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]:
    """The calls of all layers for one batch: (hidden states, other arguments, keywords)."""
    from transformers import Cache

    calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def stub(form: Callable[[Tensor], Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            # A cache would grow with each run of the layer; some models make one unasked.
            given: dict[str, Any] = {
                key: None if isinstance(value, Cache) else value for key, value in kwargs.items()
            }
            hidden = args[0] if args else given.pop("hidden_states")
            calls.append((hidden, args[1:], given))
            return form(hidden)

        return forward

    with _replaced_forwards([layer.module for layer in view.layers], [stub(f) for f in forms]):
        _forward(view, batch)
    if len(calls) != len(view.layers):
        raise NotByLayersError(
            f"The model runs {len(calls)} layers where it has {len(view.layers)}, so they cannot "
            "be run one at a time. Use a static importance criterion."
        )
    return calls


@contextmanager
def _replaced_forwards(
    modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]
) -> Iterator[None]:
    before = [vars(module).get("forward") for module in modules]
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, old in zip(modules, before, strict=True):
            if old is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = old


def _forward(view: ModelView, batch: Batch, model: Any = None) -> Any:
    """The model without a cache; without its head where `model` does not say otherwise."""
    base: Any = view.model.base_model if model is None else model
    accepted = inspect.signature(base.forward).parameters
    extra = {"use_cache": False} if "use_cache" in accepted else {}
    embeddings: Any = view.model.get_input_embeddings()
    return base(**model_inputs(batch, embeddings.weight.device), **extra)


def _check_flow(
    view: ModelView,
    batch: Batch,
    forms: Sequence[Callable[[Tensor], Any]],
    expected: Tensor,
    given: Sequence[dict[str, Any]],
    source: LayerSource,
) -> None:
    """Layers run one by one must give what the model gave."""
    try:
        calls = _record(view, batch, forms)
        if any(_lacks(kwargs, call[2]) for kwargs, call in zip(given, calls, strict=False)):
            raise _not_alone(view)
        hidden = calls[0][0]
        for layer, (_, args, kwargs) in zip(view.layers, calls, strict=True):
            hidden = run_layer(source.lent(layer), hidden, (args, kwargs))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as exc:
        raise exc if isinstance(exc, OptiPFairError) else _not_alone(view) from exc
    difference = hidden.to(expected.device).float() - expected.float()
    if float(difference.abs().max()) > _TOLERANCE * float(expected.float().abs().max()):
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


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors inside tuples, lists and dicts on another device; the rest as it is."""
    return mapped(value, lambda tensor: tensor.to(device))


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
