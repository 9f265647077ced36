"""A checkpoint to export, as far as headers and config say it: each layer's shape, and its tensors.

Nothing is loaded. A part that is gone has a size of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from ..arch import heterogeneous
from ..arch.attention_form import attentions_in, projections
from ..checkpoint.stored_model import StoredModel
from ..errors import UnsupportedModelError
from ..files.safetensors_reader import TensorInfo, read_config


@dataclass(frozen=True)
class LayerShape:
    """How wide the parts of a layer are.

    Attributes:
        width: neurons of its MLP, 0 where it has none.
        heads: query heads, 0 where it has no attention.
        groups: key/value heads.
    """

    width: int
    heads: int
    groups: int


class Source:
    """A folder of safetensors in transformers format, and what its model looks like."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.stored = StoredModel(folder, config)
        self.config: Any = config.get_text_config()
        self.composed = self.config is not config  # whether its language model is a part of it
        self.fields = read_config(folder)

    @property
    def family(self) -> str:
        """Its `model_type`."""
        return str(self.stored.view.spec.model_type)

    @cached_property
    def tensors(self) -> dict[str, TensorInfo]:
        """The tensors of the model, by the names that transformers gives them when it saves."""
        return self.stored.by_saved_name

    @cached_property
    def tied(self) -> bool:
        """Whether the head is the table of embeddings."""
        model: Any = self.stored.view.model
        head = model.get_output_embeddings()
        return head is not None and head.weight is model.get_input_embeddings().weight

    @property
    def uniform(self) -> bool:
        """Whether all layers are alike, as far as the config says."""
        return not heterogeneous.overrides(self.config)

    def shared(self, name: str, default: Any = None) -> Any:
        """A field of the config, for the layers that do not override it."""
        found = heterogeneous.shared_value(self.config, name)
        return default if found is None else found

    @property
    def hidden(self) -> int:
        return int(self.shared("hidden_size"))

    @property
    def head_dim(self) -> int:
        stated = self.shared("head_dim")
        return int(stated or self.hidden // self.shared("num_attention_heads"))

    @cached_property
    def layers(self) -> tuple[LayerShape, ...]:
        """The shape of each layer, of a model that keeps a dense MLP and one attention in each."""
        return tuple(self._shape(index) for index in range(len(self.stored.view.layers)))

    def _shape(self, index: int) -> LayerShape:
        layer = self.stored.view.layers[index]
        found = attentions_in(layer.module)
        if len(found) != 1 or len(layer.mlps) > 1 or any(m.spec.experts for m in layer.mlps):
            raise UnsupportedModelError(
                f"Layer {index} of {self.family!r} is no attention with one dense MLP behind it."
            )
        rows = {
            role: len(layer.module.get_parameter(f"{found[0]}.{name}.weight"))
            for name, role in projections(_module(layer.module, found[0])).items()
        }
        heads = rows.get("query", 0) // self.head_dim
        width = layer.mlps[0].width if layer.mlps else 0
        return LayerShape(width, heads, rows.get("key", 0) // self.head_dim)


def _module(layer: nn.Module, path: str) -> nn.Module:
    return layer.get_submodule(path)
