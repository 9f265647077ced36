"""A folder for transformers with a small modelling file of its own, which `trust_remote_code` runs.

transformers builds all layers alike; the file gives each layer that differs its own form.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..arch import heterogeneous
from ..arch.attention_form import ATTENTION, SKIP
from ..loading.rope_fields import in_both_spellings
from .source import Source
from .tensors import Made

_CODE, _CLASS = "modeling_layers_differ", "LayersDifferForCausalLM"
_NAMES = {"q_proj", "k_proj", "v_proj", "o_proj"}


def why_not_remote_code(source: Source) -> str:
    """Why a model whose layers differ cannot be written so; empty where it can."""
    model = source.stored.view.model
    if source.composed:
        return "its language model is a part of another model"
    if not type(model).__module__.startswith("transformers.models."):
        return f"{type(model).__name__} is code of the model's own"
    for index, fields in heterogeneous.overrides(source.config).items():
        layer = source.stored.view.layers[index].module
        if ATTENTION in (fields.get(SKIP) or ()):
            attention: Any = getattr(layer, "self_attn", None)
            if attention is None or not {name for name, _ in attention.named_children()} >= _NAMES:
                return f"the attention of layer {index} is of a form that its file does not know"
    return ""


def remote_config(source: Source) -> dict[str, Any]:
    """The fields of its config.json: the source's, and in what its layers differ."""
    own = {name: value for name, value in source.fields.items() if name != heterogeneous.FIELD}
    differ = heterogeneous.overrides(source.config)
    return {
        **in_both_spellings(own),
        "architectures": [_CLASS],
        "auto_map": {"AutoModelForCausalLM": f"{_CODE}.{_CLASS}"},
        "layers_differ": {str(layer): dict(each) for layer, each in sorted(differ.items())},
    }


def remote_tensors(source: Source) -> Iterator[Made]:
    """The tensors as they are."""
    for name, info in source.tensors.items():
        if name != "lm_head.weight" or not source.tied:
            yield Made(name, info.shape, info)


def write_modelling_file(source: Source, folder: Path) -> None:
    """The file beside the config, for the family's own class."""
    code = files("optipfair.export").joinpath("code", f"{_CODE}.py.txt").read_text(encoding="utf-8")
    base = type(source.stored.view.model).__name__
    text = code.replace("import BASE as Base", f"import {base} as Base")
    (folder / f"{_CODE}.py").write_text(text, encoding="utf-8")
