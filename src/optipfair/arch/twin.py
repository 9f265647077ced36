"""Twins: what transformers would build from a config, without weights, and how two differ.

Before anything is cut, the rewritten config is used to build a twin on the `meta` device. What
differs from the model must be explained by the cut; anything else would make the saved model
reload as another one. This module knows nothing of plans.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.initialization import no_init_weights

from ..errors import UnsupportedModelError
from . import heterogeneous
from .buffers import changed_buffers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ALONE = threading.RLock()

ShapeChange = tuple[tuple[int, ...], tuple[int, ...]]  # (old, new)

# What configs and constructors raise about values they do not accept.
_BUILD_ERRORS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ImportError),
    *(ArithmeticError, AssertionError, StrictDataclassError),
)

# Marks of how a module came to be, not of what it computes.
_LOADING_MARKS = {
    "_is_hf_initialized",
    "_use_kernels",
    "_weight_conversions",
    "is_quantized",
    "name_or_path",
    "quantization_method",
}
_NOT_COMPARED = frozenset(vars(nn.Module())) | _LOADING_MARKS


@dataclass(frozen=True)
class AttributeChange:
    """An attribute of a module that differs between two twins."""

    module: str  # path in the new twin
    name: str
    old: object
    new: object


@dataclass(frozen=True)
class PresenceChange:
    """A module or tensor that only one of two twins has, or that is of another class."""

    path: str
    what: str  # "appears", "disappears", "becomes a ..."

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True)
class TwinDifference:
    """All that differs between the modules two twins share, and those only one has."""

    attributes: tuple[AttributeChange, ...]
    shapes: Mapping[str, ShapeChange]  # by the tensor's name in the new twin
    presence: tuple[PresenceChange, ...]
    values: tuple[str, ...]  # computed buffers that would hold other values


def changed_config(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of `config` with the decoder's fields changed, as it would be read back."""
    changed = copy.deepcopy(config)
    apply_config(changed.get_text_config(), changes)
    return type(config).from_dict(changed.to_dict())


def apply_config(text_config: Any, changes: Mapping[str, Any]) -> None:
    """Set the fields, in place; `part.field` is a field of a config within it."""
    for name, value in changes.items():
        if name == heterogeneous.FIELD:
            heterogeneous.set_overrides(text_config, value)
        else:
            path, _, own = name.rpartition(".")
            setattr(getattr(text_config, path) if path else text_config, own, value)


def config_refusal(config: Any, changes: Mapping[str, Any]) -> str:
    """Why a config does not take changes of the decoder's fields; empty where it does."""
    try:
        changed_config(config, changes)
    except _BUILD_ERRORS as exc:
        return " ".join(str(exc).split())
    return ""


def build_twin(model: PreTrainedModel, changes: Mapping[str, Any]) -> PreTrainedModel:
    """Build the model's class from its changed config, on `meta`."""
    try:
        config = changed_config(model.config, changes)
        with _without_weights():
            twin: Any = heterogeneous.build(type(model), config)
            twin.tie_weights()  # part of the initialization that is left out
            return twin  # type: ignore[no-any-return]
    except _BUILD_ERRORS as exc:
        what = f"with {dict(changes)}" if changes else "as it is"
        raise UnsupportedModelError(
            f"The config of {type(model).__name__} cannot be built {what}, so the result would "
            f"not load again: {exc}"
        ) from exc


def build_uniform(model: PreTrainedModel) -> PreTrainedModel:
    """A model's twin whose layers are alike in all that its class does not read by layer."""
    with _without_weights():
        config = heterogeneous.base_config(type(model), model.config)
        return type(model)(config)


def is_trusted(config: Any) -> bool:
    """Whether a config's class is code of the model's own, which runs only where it was allowed."""
    return type(config).__module__.split(".")[0] == "transformers_modules"


def build_on_meta(config: Any) -> PreTrainedModel:
    """Build the causal language model of a config, without weights."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    try:
        with _without_weights():
            model: PreTrainedModel = auto.from_config(
                heterogeneous.with_overrides(config, {}, {}), trust_remote_code=is_trusted(config)
            )
            if heterogeneous.overrides(config.get_text_config()):
                model = heterogeneous.build(type(model), config)  # type: ignore[assignment]
            model.tie_weights()  # part of the initialization that is left out
    except _BUILD_ERRORS as exc:
        raise UnsupportedModelError(_why_not(config, exc)) from exc
    return model


def _why_not(config: Any, exc: Exception) -> str:
    """Why no model came of a config; transformers lists the names of all classes that it has."""
    reason = " ".join(str(exc).split())
    if "for this kind of AutoModel" in reason:
        if getattr(config, "is_encoder_decoder", False):
            return why_not_on_disk(config)
        return (
            f"{config.model_type!r} is no causal language model (a decoder that writes text), so "
            "it cannot be pruned here. `optipfair families` lists what can."
        )
    return f"transformers cannot build a causal language model from this config: {reason[:300]}"


def why_not_on_disk(config: Any) -> str:
    """Of an encoder-decoder whose decoder cannot be loaded by itself."""
    return (
        f"{config.model_type!r} is an encoder-decoder, whose files cannot be read as a language "
        "model. Load it with its own class, and prune_model prunes its decoder in memory."
    )


@contextmanager
def building() -> Iterator[None]:
    """Build or load models alone.

    Meanwhile transformers takes torch's initializers away from the whole process: of two threads
    each would put back what the other had left. Where Ctrl-C comes before it has noted them all,
    putting them back fails with another error.
    """
    try:
        with _ALONE:
            yield
    except UnboundLocalError as exc:
        if isinstance(exc.__context__, KeyboardInterrupt):
            raise exc.__context__ from None
        raise


@contextmanager
def _without_weights() -> Iterator[None]:
    """Build modules on `meta`; some constructors draw random numbers, which must not show."""
    with building(), torch.random.fork_rng(devices=[]), torch.device("meta"), no_init_weights():
        yield


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter and buffer by name, shared ones under each of their names."""
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tuple(tensor.shape) for name, tensor in named}


def compare_twins(old: nn.Module, new: nn.Module, renamed: Mapping[str, str]) -> TwinDifference:
    """Compare the twin of a config as it was with that of the changed one, module by module.

    `renamed` says for a layer's path in `new` that in `old`; layers that it does not name may go.
    """
    old_modules = dict(old.named_modules(remove_duplicate=False))
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {}
    presence: list[PresenceChange] = []
    for name, module in new.named_modules(remove_duplicate=False):
        source = _renamed(name, renamed)
        if source not in old_modules:
            presence.append(PresenceChange(name, "appears"))
        elif type(module) is not type(old_modules[source]):
            was = type(old_modules[source]).__name__
            what = f"becomes a {type(module).__name__} (was {was})"
            presence.append(PresenceChange(name, what))
        else:
            pairs[name] = (old_modules[source], module)
    reached = {_renamed(name, renamed) for name in pairs}
    gone = set(old_modules) - reached - set(_dropped(old_modules, renamed))
    presence += [PresenceChange(name, "disappears") for name in sorted(gone)]
    attributes = [change for name, pair in pairs.items() for change in _attributes(name, *pair)]
    shapes, extra = _shapes(pairs)
    try:
        values = tuple(changed_buffers(old, new, pairs))
    except _BUILD_ERRORS as exc:
        raise UnsupportedModelError(
            f"{type(new).__name__} cannot be initialized from the changed config, so the result "
            f"would not load again: {exc}"
        ) from exc
    return TwinDifference(tuple(attributes), shapes, (*presence, *extra), values)


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    for new, old in _layer_of(name, renamed):
        return old + name[len(new) :]
    return name


def _layer_of(name: str, renamed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        head = ".".join(parts[:end])
        if head in renamed:
            yield head, renamed[head]


def _dropped(old_modules: Mapping[str, nn.Module], renamed: Mapping[str, str]) -> Iterator[str]:
    """Names in layers of the old twin that no layer of the new one stands for."""
    if not renamed:
        return
    container = next(iter(renamed)).rpartition(".")[0]
    kept = set(renamed.values())
    for name in old_modules:
        head = ".".join(name.split(".")[: container.count(".") + 2])
        if name.startswith(f"{container}.") and head not in kept:
            yield name


def _attributes(name: str, old: nn.Module, new: nn.Module) -> Iterator[AttributeChange]:
    before, after = _plain(old), _plain(new)
    for key in sorted(before.keys() | after.keys()):
        if not _same(before.get(key), after.get(key)):
            yield AttributeChange(name, key, before.get(key), after.get(key))


def _same(old: object, new: object) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-12)
    return old == new


def _plain(module: nn.Module) -> dict[str, object]:
    """The numbers, strings and sequences of them among a module's own attributes."""
    own = ((k, v) for k, v in vars(module).items() if k not in _NOT_COMPARED)
    return {key: value for key, value in own if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)


def _shapes(
    pairs: Mapping[str, tuple[nn.Module, nn.Module]],
) -> tuple[dict[str, ShapeChange], list[PresenceChange]]:
    changed: dict[str, ShapeChange] = {}
    extra: list[PresenceChange] = []
    for name, (old, new) in pairs.items():
        before, after = _own_shapes(old), _own_shapes(new)
        for key in sorted(before.keys() | after.keys()):
            path = f"{name}.{key}".lstrip(".")
            if key not in before or key not in after:
                what = "appears" if key in after else "disappears"
                extra.append(PresenceChange(path, what))
            elif before[key] != after[key]:
                changed[path] = (before[key], after[key])
    return changed, extra


def _own_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    own = [
        *module.named_parameters(recurse=False, remove_duplicate=False),
        *module.named_buffers(recurse=False, remove_duplicate=False),
    ]
    return {name: tuple(tensor.shape) for name, tensor in own}
