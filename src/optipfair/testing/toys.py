"""Toy models and a toy tokenizer for tests: offline, seeded, of every family of transformers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.resources import files
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import yaml

from ..arch.families import FAMILIES, TINY_TOKENS
from ..errors import UnknownNameError, UnsupportedModelError
from ..registry import unknown_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TINY_FAMILIES = tuple(FAMILIES)
_TOWER_PREFIXES = ("vision", "audio", "vq", "text_encoder", "depth_decoder")  # of their fields


def _each(table: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each of the names that a key holds; what one name has in several is merged."""
    values: dict[str, Any] = {}
    for names, value in table.items():
        for name in names.split():
            known = values.get(name)
            values[name] = {**known, **value} if isinstance(known, dict) else value
    return values


_TABLES = yaml.safe_load(files(__package__).joinpath("toy_configs.yaml").read_text("utf-8"))
_FIELDS = _each(_TABLES["fields"])
_TOWER = {**_FIELDS, **_each(_TABLES["tower"])}
_EXCEPTIONS = _each(_TABLES["groups"])
_EXCEPTIONS |= {k: {**_EXCEPTIONS.get(k, {}), **own} for k, own in _TABLES["own"].items()}
UNBUILDABLE: Mapping[str, str] = _each(_TABLES["unbuildable"])


def tiny_config(name: str, **overrides: Any) -> Any:
    """The config of the toy model of a family; `overrides` replace its fields."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if name in FAMILIES:
        return AutoConfig.for_model(name, **{**FAMILIES[name].tiny, **TINY_TOKENS, **overrides})
    if name in UNBUILDABLE:
        raise UnsupportedModelError(f"There is no toy model of {name!r}: {UNBUILDABLE[name]}.")
    if name not in KNOWN:
        raise UnknownNameError(unknown_name("model family", name, sorted(KNOWN)))
    return _built(name, overrides)


def _built(model_type: str, overrides: Mapping[str, Any]) -> Any:
    """A config of 4 layers and hidden size 32; overrides of a part are a dict of its fields."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class: Any = CONFIG_MAPPING[model_type]
    return config_class(**_changed(_values(config_class, _FIELDS), overrides))


def _values(config_class: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config class that the tables know, its parts as dicts."""
    known = signature(config_class).parameters
    values = {name: table[name] for name in known if name in table}
    for name, part in _parts(config_class).items():
        values[name] = _values(part, _TOWER if name.startswith(_TOWER_PREFIXES) else table)
    return _changed(values, _EXCEPTIONS.get(config_class.model_type, {}))


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `values` with `changes`; where both hold a dict, the dicts are merged."""
    merged = copy.deepcopy({**values, **changes})
    for name, change in changes.items():
        if isinstance(change, Mapping) and isinstance(values.get(name), Mapping):
            merged[name] = _changed(values[name], change)
    return merged


def _parts(config_class: Any) -> dict[str, Any]:
    from transformers import AutoConfig

    parts = dict(config_class.sub_configs)
    for name in [name for name, part in parts.items() if part is AutoConfig]:
        # Any model type may stand there; the default config says which one does.
        parts[name] = type(getattr(config_class(), name))
    return parts


def tiny_model(name: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Build the toy model of a family, with seeded random weights, in eval mode.

    Args:
        name: any `model_type` of `AutoModelForCausalLM`.
        seed: of the weights; the global random state is left as it was.
        **overrides: config fields to change.

    Returns:
        A causal language model with a few layers of width 16 to 40, float32, on CPU.

    Raises:
        UnknownNameError: no such family.
        UnsupportedModelError: a family that transformers cannot build by itself.

    Example:
        >>> tiny_model("qwen3").config.num_hidden_layers
        4
    """
    from transformers import AutoModelForCausalLM

    config = tiny_config(name, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        model: Any = auto.from_config(config)
        # Zero biases and unit norms would hide mistakes that move them.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval()
    built: PreTrainedModel = model
    return built


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte and three special ones (259 ids), made in memory.

    Example:
        >>> byte_tokenizer()("hi")["input_ids"]
        [71, 72]
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<bos>", "<eos>", "<pad>"]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *special])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    return tokenizer
