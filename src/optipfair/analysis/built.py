"""What a model is made of, read off its twin on `meta`.

A pruning counts as possible when the guard proves that its result would load again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..arch.sizes import PARTS, MLPSizes, ModelSizes, part_of
from ..arch.twin import build_on_meta, tensor_shapes
from ..arch.view import MLPView, ModelView, describe
from ..errors import CheckpointError
from ..files.safetensors_reader import Checkpoint, open_checkpoint
from ..loading import load_config
from ..pruning.cut.guard import prove
from ..pruning.cut.plan import PruningPlan, WidthCut
from ..sources import Source
from .findings import Findings
from .savings import REFUSALS, SAVINGS_PERCENTAGES, kept_layers, kept_widths, refusals_by_size


def findings_of_twin(source: Source, trust_remote_code: bool) -> Findings:
    """Build a model without its weights and say what it is made of.

    Raises:
        CheckpointError: the model cannot be read, or its weights do not fit its config.
        UnsupportedModelError: its decoder layers are not found.
    """
    config = load_config(source, trust_remote_code=trust_remote_code)
    checkpoint = open_checkpoint(Path(source.location)) if source.kind == "folder" else None
    model = build_on_meta(config)
    if checkpoint is not None:
        _check_shapes(model, checkpoint)
    view = describe(model)
    sizes = _sizes(view)
    size, dtypes = _size(checkpoint, config, sizes.parameters)
    return Findings(sizes, _refusals(view, sizes), size, dtypes)


def _check_shapes(model: Any, checkpoint: Checkpoint) -> None:
    """Weights of other shapes than the config states would make every figure wrong."""
    for name, shape in tensor_shapes(model).items():
        stored = checkpoint.tensors.get(name)
        if stored is not None and stored.shape != shape:
            raise CheckpointError(
                f"{checkpoint.folder}: {name} has shape {stored.shape}, its config.json says "
                f"{shape}. Restore the config or download the model again."
            )


def _size(checkpoint: Checkpoint | None, config: Any, parameters: int) -> tuple[int, list[str]]:
    """Bytes and dtypes as stored, or as they are once loaded (a GGUF file is quantized)."""
    if checkpoint is not None:
        return checkpoint.nbytes, checkpoint.dtypes
    import torch

    dtype = getattr(config, "dtype", None) or torch.float32
    return parameters * dtype.itemsize, [str(dtype).removeprefix("torch.")]


def _sizes(view: ModelView) -> ModelSizes:
    text: Any = view.text_config
    heads = getattr(text, "num_attention_heads", None)
    hidden = getattr(text, "hidden_size", None)
    return ModelSizes(
        spec=view.spec,
        model_type=view.model.config.model_type,
        architecture=type(view.model).__name__,
        listed=view.listed,
        layers=tuple(
            sum(parameter.numel() for parameter in layer.module.parameters())
            for layer in view.layers
        ),
        mlps=tuple(map(_mlp_sizes, view.mlps)),
        parts=_parts(view),
        hidden_size=hidden,
        attention_heads=heads,
        key_value_heads=getattr(text, "num_key_value_heads", None),
        head_dim=getattr(text, "head_dim", None) or (hidden // heads if hidden and heads else None),
        vocabulary=getattr(text, "vocab_size", None),
        context=getattr(text, "max_position_embeddings", None),
    )


def _mlp_sizes(mlp: MLPView) -> MLPSizes:
    numbers = tuple(tensor.numel() for tensor in mlp.tensors.values())
    return MLPSizes(mlp.layer, mlp.spec, mlp.width, mlp.hidden_size, mlp.experts, numbers)


def _parts(view: ModelView) -> dict[str, int]:
    model: Any = view.model
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    specs = {mlp.spec for mlp in view.mlps}
    totals = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if module is embeddings:
                part = "embeddings"
            elif module is output:
                part = "head"
            elif "norm" in type(module).__name__.lower():
                part = "norms"
            else:
                part = part_of(path, view.layers_path, specs)
            totals[part] += parameter.numel()
    return {part: total for part, total in totals.items() if total}


def _refusals(view: ModelView, sizes: ModelSizes) -> dict[str, str]:
    """What the sizes refuse, and what the guard does."""
    found = refusals_by_size(sizes)
    plans = {"MLP_GLU": _width_plan, "DEPTH": _depth_plan}
    for pruning_type in (kind for kind, reason in found.items() if not reason):
        try:
            prove(view, plans[pruning_type](sizes))
        except REFUSALS as exc:
            found[pruning_type] = str(exc)
    return found


def _width_plan(sizes: ModelSizes) -> PruningPlan:
    """A plan that says how many neurons stay, not which."""
    cuts = tuple(
        WidthCut(mlp.layer, mlp.spec.name, mlp.width, count=kept)
        for mlp, kept in kept_widths(sizes, SAVINGS_PERCENTAGES[-1])
    )
    layers = len(sizes.layers)
    return PruningPlan(sizes.spec.model_type, layers, tuple(range(layers)), cuts)


def _depth_plan(sizes: ModelSizes) -> PruningPlan:
    return PruningPlan(sizes.spec.model_type, len(sizes.layers), tuple(kept_layers(sizes)))
