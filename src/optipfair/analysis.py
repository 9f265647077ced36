"""`analyze`: what a model is made of and what pruning would save, from config and headers alone.

The model is built on `meta` and described; a pruning counts as allowed when the guard proves
that its result would load again. No weight is read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .arch.twin import build_on_meta, tensor_shapes
from .arch.view import ModelView, describe
from .checkpoint.reader import Checkpoint, open_checkpoint
from .errors import ArgumentError, CheckpointError, UnsupportedModelError
from .loading import find_source, load_config
from .pruning.guard import prove
from .pruning.plan import PruningPlan, WidthCut
from .pruning.planning import check_width_is_prunable
from .pruning.selection import check_layer_count
from .pruning.solving import kept_width
from .pruning.targets import WidthTarget, removed_count

SAVINGS_PERCENTAGES = (10, 20, 30, 40, 50)
PARTS = ("embeddings", "attention", "mlp", "norms", "head", "other")


@dataclass(frozen=True)
class Saving:
    """What is left after removing a share of neurons or layers."""

    pruning_type: str
    percentage: float
    kept: str
    parameters: int
    bytes: int
    percentage_reduction: float


@dataclass(frozen=True)
class Analysis:
    """What a model is made of.

    `refusals` holds, for `MLP_GLU` and `DEPTH`, why it is not possible; empty where it is.
    """

    source: str
    model_type: str
    architecture: str
    listed: bool
    layers: int
    hidden_size: int | None
    attention_heads: int | None
    key_value_heads: int | None
    head_dim: int | None
    vocabulary: int | None
    context: int | None
    widths: dict[str, list[int]]
    experts: int | None
    expansion_rate: float | None
    parameters: int
    bytes: int
    dtypes: list[str]
    parts: dict[str, int]
    refusals: dict[str, str]
    savings: list[Saving] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def analyze_model(model_path: str | Path, *, trust_remote_code: bool = False) -> Analysis:
    """Say what a model is made of, without loading its weights.

    Args:
        model_path: a folder, a `.gguf` file, `demo`, or a hub id.
        trust_remote_code: whether code from the model's repository may run.

    Returns:
        Sizes, parts, which prunings are possible, and the exact savings of 10 to 50 %.

    Raises:
        CheckpointError: the model cannot be read.
        UnsupportedModelError: its decoder layers are not found.
    """
    source = find_source(model_path)
    config = load_config(source, trust_remote_code=trust_remote_code)
    checkpoint = open_checkpoint(Path(source.location)) if source.kind == "folder" else None
    model = build_on_meta(config)
    if checkpoint is not None:
        _check_shapes(model, checkpoint)
    view = describe(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size, dtypes = _size(checkpoint, config, parameters)
    refusals = {"MLP_GLU": _width_refusal(view), "DEPTH": _depth_refusal(view)}
    text = view.text_config
    heads = getattr(text, "num_attention_heads", None)
    hidden = getattr(text, "hidden_size", None)
    return Analysis(
        source=source.given,
        model_type=config.model_type,
        architecture=type(model).__name__,
        listed=view.listed,
        layers=len(view.layers),
        hidden_size=hidden,
        attention_heads=heads,
        key_value_heads=getattr(text, "num_key_value_heads", None),
        head_dim=getattr(text, "head_dim", None) or (hidden // heads if hidden and heads else None),
        vocabulary=getattr(text, "vocab_size", None),
        context=getattr(text, "max_position_embeddings", None),
        widths=_widths(view),
        experts=next((mlp.experts for mlp in view.mlps if mlp.experts), None),
        expansion_rate=view.mlps[0].expansion_rate if view.mlps else None,
        parameters=parameters,
        bytes=size,
        dtypes=dtypes,
        parts=_parts(view),
        refusals=refusals,
        savings=_savings(view, refusals, parameters, size),
    )


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
        return checkpoint.nbytes, sorted({each.dtype for each in checkpoint.tensors.values()})
    import torch

    dtype = getattr(config, "dtype", None) or torch.float32
    return parameters * dtype.itemsize, [str(dtype).removeprefix("torch.")]


def _widths(view: ModelView) -> dict[str, list[int]]:
    widths: dict[str, list[int]] = {}
    for mlp in view.mlps:
        widths.setdefault(mlp.spec.name, []).append(mlp.width)
    return widths


def _parts(view: ModelView) -> dict[str, int]:
    """Parameters by part; an output head tied to the embeddings counts there."""
    model: Any = view.model
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
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
            else:
                part = _part_in_layer(view, path, type(module).__name__)
            totals[part] += parameter.numel()
    return {part: total for part, total in totals.items() if total}


def _part_in_layer(view: ModelView, path: str, kind: str) -> str:
    if "norm" in kind.lower():
        return "norms"
    prefix = f"{view.layers_path}."
    if not path.startswith(prefix):
        return "other"
    head = path[len(prefix) :].split(".")[1]
    mlp = {slot.module.split(".")[0] for m in view.mlps for slot in m.tensors}
    if head in mlp:
        return "mlp"
    return "attention" if "attn" in head or "attention" in head else "other"


def _width_refusal(view: ModelView) -> str:
    try:
        check_width_is_prunable(view)
        prove(view, _width_plan(view, WidthTarget(SAVINGS_PERCENTAGES[-1], None)))
    except (UnsupportedModelError, ArgumentError) as exc:
        return str(exc)
    return ""


def _depth_refusal(view: ModelView) -> str:
    try:
        total = len(view.layers)
        keep = tuple(range(check_layer_count("layers to keep", total - 1, total)))
        prove(view, PruningPlan(view.spec.model_type, total, keep))
    except (UnsupportedModelError, ArgumentError) as exc:
        return str(exc)
    return ""


def _width_plan(view: ModelView, target: WidthTarget) -> PruningPlan:
    """A plan with the right counts; which neurons stay does not matter here."""
    cuts = []
    for mlp in view.mlps:
        kept = kept_width(view, mlp, target)
        if kept < mlp.width:
            keep = (tuple(range(kept)),) * (mlp.experts or 1)
            cuts.append(WidthCut(mlp.layer, mlp.spec.name, mlp.width, keep))
    layers = len(view.layers)
    return PruningPlan(view.spec.model_type, layers, tuple(range(layers)), tuple(cuts))


def _savings(view: ModelView, refusals: dict[str, str], parameters: int, size: int) -> list[Saving]:
    rows = []
    if not refusals["MLP_GLU"]:
        for percentage in SAVINGS_PERCENTAGES:
            plan = _width_plan(view, WidthTarget(percentage, None))
            kept = sorted({f"{cut.mlp} {cut.kept}" for cut in plan.width_cuts})
            gone = _removed(view, plan)
            rows.append(_saving("MLP_GLU", percentage, kept, gone, parameters, size))
    if not refusals["DEPTH"]:
        for percentage in SAVINGS_PERCENTAGES:
            total = len(view.layers)
            count = removed_count(total, percentage)
            if count:
                gone = sum(_layer_size(view, total - 1 - i) for i in range(count))
                left = [f"{total - count} layers"]
                rows.append(_saving("DEPTH", percentage, left, gone, parameters, size))
    return rows


def _saving(
    kind: str, percentage: float, kept: list[str], gone: int, parameters: int, size: int
) -> Saving:
    left = parameters - gone
    share = 100 * gone / parameters
    return Saving(kind, percentage, ", ".join(kept), left, round(size * left / parameters), share)


def _removed(view: ModelView, plan: PruningPlan) -> int:
    """How many parameters a width plan removes."""
    mlps = {(mlp.layer, mlp.spec.name): mlp for mlp in view.mlps}
    return sum(
        tensor.numel() // cut.width * (cut.width - cut.kept)
        for cut in plan.width_cuts
        for tensor in mlps[cut.layer, cut.mlp].tensors.values()
    )


def _layer_size(view: ModelView, index: int) -> int:
    return sum(parameter.numel() for parameter in view.layers[index].module.parameters())
