"""A `config.json` as far as it speaks for itself, without the config class of transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..arch.config_rules import is_dense
from ..arch.spec import ArchSpec, StoredSpec
from .config_kinds import is_accepted, is_count

_OVERRIDES = "per_layer_config"
_WORD = re.compile(r"[a-z_]\w*")
_ALWAYS = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "vocab_size"),
    *("max_position_embeddings", "tie_word_embeddings"),
)


class UnclearError(Exception):
    """Config and headers alone do not say what the model is; building it will."""


@dataclass(frozen=True)
class StoredConfig:
    """The fields of a `config.json`, with what its family's entry says of those left out."""

    fields: Mapping[str, Any]
    spec: ArchSpec
    stored: StoredSpec

    def number(self, expression: str, layer: int | None = None) -> int:
        """The value of a sum of products (or quotients) of fields and numbers."""
        return sum(self._product(term, layer) for term in expression.split("+"))

    def _product(self, term: str, layer: int | None) -> int:
        return math.prod(self._quotient(factor, layer) for factor in term.split("*"))

    def _quotient(self, factor: str, layer: int | None) -> int:
        first, *rest = (self._count(name, layer) for name in factor.split("/"))
        for divisor in rest:
            first //= max(divisor, 1)
        return first

    def _count(self, name: str, layer: int | None) -> int:
        if name.isdecimal():
            return int(name)
        value = self.value(name, layer)
        if not (is_count(value) or type(value) is bool):
            raise UnclearError(f"{name} is {value!r}")
        return int(value)

    def value(self, name: str, layer: int | None = None) -> Any:
        """A field's value, for one layer where layers differ; a default that is text is evaluated.

        Raises:
            UnclearError: only the config class knows it.
        """
        if layer is not None and name in self.overrides.get(layer, {}):
            return self.overrides[layer][name]
        given = [self.fields[key] for key in self.names(name) if key in self.fields]
        if given and given[0] is not None:
            if any(value != given[0] for value in given):
                raise UnclearError(f"{name} is given twice")
            return given[0]
        if name not in self.stored.defaults or (given and name not in self.stored.nullable):
            raise UnclearError(f"{name} is not given")
        default = self.stored.defaults[name]
        return self.number(default) if isinstance(default, str) else default

    def names(self, name: str) -> tuple[str, ...]:
        """What a field of the shapes may be called in the config."""
        return self.stored.names.get(name, (name,))

    def has(self, conditions: Mapping[str, object], layer: int | None = None) -> bool:
        """Whether all these fields have their value, or one of a tuple of them."""
        for name, wanted in conditions.items():
            allowed = wanted if isinstance(wanted, tuple) else (wanted,)
            known = [self.number(each) if isinstance(each, str) else each for each in allowed]
            value = self._is_sparse(layer) if name == "sparse" else self.value(name, layer)
            if type(value) is not type(known[0]):
                raise UnclearError(f"{name} is {value!r}")
            if value not in known:
                return False
        return True

    def _is_sparse(self, layer: int | None) -> bool:
        dense, step = self.value("mlp_only_layers"), self.number("decoder_sparse_step")
        are_numbers = isinstance(dense, list) and all(type(each) is int for each in dense)
        if layer is None or not step or not are_numbers:
            raise UnclearError("which layers have experts is not said")
        return not is_dense(layer, dense, step)

    @cached_property
    def overrides(self) -> dict[int, dict[str, int]]:
        """Widths of layers that differ from the others."""
        given = self.fields.get(_OVERRIDES) or {}
        try:
            found = {int(layer): dict(fields) for layer, fields in given.items()}
        except (AttributeError, TypeError, ValueError) as exc:
            raise UnclearError("its layers differ in an unknown way") from exc
        names = {mlp.width_key for mlp in self.spec.mlps}
        for fields in found.values():
            if not fields.keys() <= names or not all(is_count(each) for each in fields.values()):
                raise UnclearError("its layers differ in more than widths")
        return found

    def check(self) -> None:
        """Check that transformers would surely take this config.

        Raises:
            UnclearError: it might not.
        """
        known = self.fields_of_shapes | {_OVERRIDES}
        for field, value in self.fields.items():
            foreign = field in self.stored.names or not is_accepted(field, value, self.stored.kinds)
            if field not in known and foreign:
                raise UnclearError(f"{field} is {value!r}")
        if not self.has(self.stored.required):
            raise UnclearError("a form of the family that is not described")
        self._check_counts()

    def _check_counts(self) -> None:
        """What constructors demand of numbers."""
        layers, heads = self.number("num_hidden_layers"), self.number("num_attention_heads")
        context = self.value("max_position_embeddings")
        types = self.fields.get("layer_types")
        pad = self.fields.get("pad_token_id", self.stored.defaults.get("pad_token_id"))
        fits = (
            layers > 0
            and heads > 0
            and self.number("hidden_size") > 0
            and self.number("hidden_size") % heads == 0
            and self.number("head_dim") % 2 == 0  # rotary embeddings
            and (pad is None or (type(pad) is int and abs(pad) < self.number("vocab_size")))
            and (types is None or len(types) == layers)
            and (context is None or is_count(context))
            and all(layer < layers for layer in self.overrides)
        )
        if not fits:
            raise UnclearError("its numbers do not go together")

    @cached_property
    def fields_of_shapes(self) -> set[str]:
        """Names in the config of all fields that the family's shapes depend on."""
        stored = self.stored
        groups = (*stored.outside, *stored.layer)
        texts = [axes for group in groups for axes in group.shapes.values()]
        texts += [value for value in stored.defaults.values() if isinstance(value, str)]
        words = {word for text in texts for word in _WORD.findall(text)}
        words |= {name for group in groups for name in group.when}
        words |= {*_ALWAYS, *stored.defaults, *stored.required}
        return {key for word in words for key in self.names(word)}
