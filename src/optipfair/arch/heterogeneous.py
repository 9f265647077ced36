"""Models whose layers differ: built from the config field that transformers has for them.

`per_layer_config` maps a layer's number to the fields in which it differs. In transformers 5.23
few model classes read it; the others refuse to be built from such a config. Here they are built
all the same: once for each distinct set of overrides, and each layer is taken from the model that
was built for it. Its entry `skip` names the parts that a layer is without; no class reads it, and
attention is taken out here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from torch import nn

from .attention_form import ATTENTION, SKIP, attentions_in, without_heads

FIELD = "per_layer_config"
Overrides = Mapping[int, Mapping[str, Any]]


def overrides(text_config: Any) -> dict[int, dict[str, Any]]:
    """The fields in which each layer differs from the rest of its config; empty if none does."""
    found = text_config.to_dict().get(FIELD) or {}
    return {int(layer): dict(fields) for layer, fields in found.items()}


def lacks_parts(text_config: Any) -> bool:
    """Whether some layers are without attention, or with an MLP of no neurons."""
    fields = overrides(text_config).values()
    return any(each.get(SKIP) or 0 in each.values() for each in fields)


def with_overrides(config: Any, by_layer: Overrides, fields: Mapping[str, Any]) -> Any:
    """A copy of a config with these overrides instead of its own, and some fields set."""
    changed = copy.deepcopy(config)
    text_config = changed.get_text_config()
    set_overrides(text_config, None)
    for name, value in fields.items():
        setattr(text_config, name, value)
    set_overrides(text_config, by_layer)
    return changed


def set_overrides(text_config: Any, by_layer: Overrides | None) -> None:
    """Set the overrides of a config; without any the field goes."""
    if by_layer:
        setattr(text_config, FIELD, {layer: dict(own) for layer, own in by_layer.items()})
    elif hasattr(text_config, "is_heterogeneous"):
        setattr(text_config, FIELD, None)
    else:  # a release that does not know the field keeps it as any other
        vars(text_config).pop(FIELD, None)


def allow_reading(text_config: Any) -> None:
    """Let a live config's fields be read although layers differ in them.

    transformers refuses it, since there is no one value; code that knows models of one width reads
    the value of most layers then. What is saved and loaded is as strict as before.
    """
    differing = getattr(text_config, "per_layer_attributes", None)  # its own set
    if differing:
        differing.clear()


def shared_value(text_config: Any, name: str) -> Any:
    """A field's value for the layers that do not override it, None where it is missing.

    A field of a part of the config has the part's name and a dot before its own. On a config whose
    layers differ, reading the attribute itself raises.
    """
    found: Any = with_overrides(text_config, {}, {})
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def base_config(model_class: type[nn.Module], config: Any) -> Any:
    """The config without the overrides that the class itself does not follow."""
    by_layer = _without_skip(overrides(config.get_text_config()))
    return with_overrides(config, _followed(model_class, config, by_layer), {})


def build(model_class: type[nn.Module], config: Any) -> nn.Module:
    """Build a model from a config whose layers may differ; errors are those of its class."""
    model: nn.Module = class_for(model_class, config)(config)
    model.__class__ = model_class
    return model


def class_for(model_class: type[nn.Module], config: Any) -> Any:
    """The class to build or load a model of `config` with: its own, or one that follows the
    overrides in its stead. Afterwards `model.__class__` can be set to the model's own class.
    """
    every = overrides(config.get_text_config())
    by_layer = _without_skip(every)
    followed = _followed(model_class, config, by_layer)
    if followed == every:
        return model_class
    _check_skipped(model_class, every)

    def initialize(self: nn.Module, config: Any, *args: Any, **kwargs: Any) -> None:
        with _empty_tensors_are_meant():
            model_class.__init__(self, with_overrides(config, followed, {}), *args, **kwargs)
            _graft(self, model_class, with_overrides(config, by_layer, {}), followed)
        _take_out_attention(self, every)
        set_overrides(_text_config(self), every)

    own = {"__init__": initialize, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), own)


@contextmanager
def _empty_tensors_are_meant() -> Iterator[None]:
    """torch warns where a projection is made without outputs, as those of an MLP that is gone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        yield


def _without_skip(by_layer: Overrides) -> dict[int, dict[str, Any]]:
    return _only(by_layer, {name for fields in by_layer.values() for name in fields} - {SKIP})


def _check_skipped(model_class: type[nn.Module], by_layer: Overrides) -> None:
    known = {(ATTENTION,), ()}
    for layer, fields in by_layer.items():
        if tuple(fields.get(SKIP) or ()) not in known:
            raise ValueError(
                f"layer {layer} of this {model_class.__name__} is without {fields[SKIP]}; only "
                f"{[ATTENTION]} can be left out (an MLP by intermediate_size 0)"
            )


def _take_out_attention(model: nn.Module, by_layer: Overrides) -> None:
    """Take the heads out of the layers that are said to be without attention."""
    gone = [layer for layer, fields in by_layer.items() if ATTENTION in (fields.get(SKIP) or ())]
    for _, layers in _layer_lists(model) if gone else ():
        for index in gone:
            for path in attentions_in(layers[index]):
                without_heads(layers[index].get_submodule(path))


def _graft(
    model: nn.Module, model_class: type[nn.Module], config: Any, followed: Overrides
) -> None:
    """Give each layer that `config` overrides in fields beyond `followed` its own form.

    The model keeps the config object that its constructor completed, and all layers refer to it.
    """
    by_layer = overrides(config.get_text_config())
    variants: dict[str, nn.Module] = {}
    for index, fields in by_layer.items():
        strange = {k: v for k, v in fields.items() if k not in followed.get(index, {})}
        if not strange:
            continue
        key = repr(sorted(strange.items()))
        if key not in variants:
            variants[key] = model_class(with_overrides(config, followed, strange))
            _share_config(variants[key], model)
        other = dict(_layer_lists(variants[key]))
        for path, layers in _layer_lists(model):
            layers[index] = other[path][index]


def _followed(
    model_class: type[nn.Module], config: Any, by_layer: Overrides
) -> dict[int, dict[str, Any]]:
    """The overrides in fields that the class itself reads by layer.

    Releases of transformers without `per_layer_config` read none of them by layer.
    """
    if not hasattr(config, "is_heterogeneous"):
        return {}
    names = {name for fields in by_layer.values() for name in fields}
    alone = {name: _only(by_layer, {name}) for name in names}
    builds = {n for n in names if _builds(model_class, with_overrides(config, alone[n], {}))}
    return _only(by_layer, builds)


def _builds(model_class: type[nn.Module], config: Any) -> bool:
    try:
        model_class(config)
    except RuntimeError:  # transformers' error for a field that differs between layers
        return False
    return True


def _only(by_layer: Overrides, names: Set[str]) -> dict[int, dict[str, Any]]:
    """The overrides of these fields."""
    chosen = {
        layer: {name: value for name, value in fields.items() if name in names}
        for layer, fields in by_layer.items()
    }
    return {layer: fields for layer, fields in chosen.items() if fields}


def _layer_lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The module lists with an entry for each layer, outermost only."""
    total = _text_config(model).num_hidden_layers
    inside: list[str] = []
    for path, module in model.named_modules():
        is_list = isinstance(module, nn.ModuleList) and len(module) == total
        if is_list and not path.startswith(tuple(inside)):
            inside.append(f"{path}.")
            yield path, module


def _share_config(variant: Any, model: Any) -> None:
    """Let a variant's modules refer to the model's config, so that changes of it reach them."""
    own = {id(variant.config): model.config, id(_text_config(variant)): _text_config(model)}
    for module in variant.modules():
        mine = vars(module).get("config")
        if id(mine) in own:
            module.config = own[id(mine)]


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()
