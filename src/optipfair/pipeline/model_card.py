"""The model card of a pruned model: Hub metadata, what was done, the figures, how to load it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..pruning.cut.plan import PruningPlan
from ..report.formats import change, size
from ..visible import visible

if TYPE_CHECKING:  # it needs torch, which takes seconds to import
    from ..pruning.calibration.text_cost import Cost

_CUT = {  # what was cut → its tag, and what it is called
    "neuron": ("width-pruning", "Neurons"),
    "group": ("attention-pruning", "Heads"),
    "head": ("attention-pruning", "Heads"),
    "expert": ("expert-pruning", "Experts"),
    "block": ("block-pruning", "Blocks"),
}
_UNITS = {
    "routed_experts": "experts in each layer that has some",
    "kv_groups": "key/value groups, with their query heads, in each layer's attention",
    "query_heads": "query heads in each layer's attention",
}


@dataclass(frozen=True)
class Base:
    """The model that was pruned, as far as it is known."""

    name: str
    hub_id: str | None = None
    license: str | None = None


def base_of_folder(folder: Path) -> Base:
    """Read the licence of a model from its card, if it has one."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    card = folder / "README.md"
    try:
        metadata = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):  # a broken card says nothing
        metadata = None
    found = (metadata or {}).get("license")
    return Base(visible(folder.resolve().name), license=found if isinstance(found, str) else None)


def model_card(
    base: Base,
    plan: PruningPlan,
    statistics: Mapping[str, Any],
    name: str,
    command: str,
    *,
    layers_differ: bool = False,
    cost: Cost | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Write the card of the model `name` as Markdown with YAML front matter.

    `statistics` are those of `get_pruning_statistics`, with `original_file_bytes` and
    `pruned_file_bytes` where known. Few transformers classes load a model whose `layers_differ`.
    """
    from huggingface_hub import ModelCardData

    kinds = [_cut(plan)[0]] if plan.width_cuts else []
    kinds += ["depth-pruning"] if plan.drop_layers else []
    data = ModelCardData(
        base_model=base.hub_id,
        license=base.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["optipfair", "pruned", *kinds],
    )
    return "\n".join(
        [
            "---",
            data.to_yaml(),
            "---",
            "",
            f"# {name}",
            "",
            f"{base.name}, pruned with OptiPFair {__version__}.",
            "",
            what_was_done(plan),
            "",
            *_table(statistics),
            "",
            *([] if cost is None else [f"Measured: {cost.in_words()}.", ""]),
            *_warned(warnings),
            "Pruning costs quality. Unless figures for quality and bias stand here, none were "
            "measured: evaluate the model on your own task before you use it.",
            "",
            *_how_to_load(name, layers_differ),
            "",
            f"Made with `{command}`. The plan is in `pruning_plan.json` ({plan.digest}).",
            f"Versions: {versions()}.",
            "",
        ]
    )


def _warned(warnings: Sequence[str]) -> list[str]:
    if not warnings:
        return []
    return ["It was warned of:", "", *(f"- {visible(each)}" for each in warnings), ""]


def _how_to_load(name: str, layers_differ: bool) -> list[str]:
    if not layers_differ:
        lines = [
            "from transformers import AutoModelForCausalLM",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        ]
        return ["```python", *lines, "```"]
    return [
        "Its layers differ (`per_layer_config`), which plain transformers refuses to load for most",
        "model classes:",
        "",
        "```python",
        "from optipfair import load_model",
        "",
        f'model = load_model("{name}")',
        "```",
    ]


def versions() -> str:
    """The versions that a result depends on, in one line."""
    import torch
    import transformers

    return (
        f"optipfair {__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def what_was_done(plan: PruningPlan) -> str:
    """Layers and neurons that went, in a sentence or two."""
    lines = []
    if plan.drop_layers:
        listed = ", ".join(map(str, plan.drop_layers))
        lines.append(
            f"Removed {len(plan.drop_layers)} of {plan.num_layers} decoder layers ({listed})."
        )
    made_up_for = bool(plan.request.get("compensate"))
    if made_up_for and plan.drop_layers and plan.request.get("replaced_blocks"):
        lines.append("The layer before each removed block makes up for it, by least squares.")
    gone = [cut for cut in plan.width_cuts if not cut.kept]
    for name, what in (("attention", "attention"), ("", "MLP")):
        layers = sorted({c.layer for c in gone if (c.mlp == "attention") == bool(name)})
        if layers:
            listed = ", ".join(map(str, layers))
            of = f"{len(layers)} layers ({listed})" if len(layers) > 1 else f"layer {listed}"
            lines.append(f"Removed the {what} of {of}.")
    if made_up_for and gone:
        lines.append("The block before each removed one makes up for it, by least squares.")
    kept: dict[tuple[str, int], set[int]] = {}
    for cut in (each for each in plan.width_cuts if each.kept):
        kept.setdefault((cut.mlp, cut.width), set()).add(cut.kept)
    by_width = plan.request.get("pruning_type") == "MLP_GLU"
    chosen = plan.request.get("layer_indices") if by_width else None
    where = f" of layers {', '.join(map(str, chosen))}" if chosen else ""
    lines += [
        f"Kept {_counts(counts)} of {width} {_UNITS.get(mlp) or _neurons(mlp)}{where}."
        for (mlp, width), counts in sorted(kept.items())
    ]
    if gone and plan.request.get("data_driven"):
        lines.append("They are those without which calibration text stays likeliest.")
    if kept:
        experts = "expert" in plan.units
        by = "expert_selection_method" if experts else "neuron_selection_method"
        method = plan.request.get(by, "?")
        data = "calibration data" if experts else "weights and calibration data"
        data = data if plan.request.get("data_driven") else "weights only"
        what = _cut(plan)[1]
        scores = plan.request.get("scores_digest")
        source = f"scores of the caller's ({scores})" if scores else f"{method}, from {data}"
        lines.append(f"{what} were chosen by {source}.")
        if made_up_for:
            errors = plan.request.get("reconstruction_errors") or ()
            trained = any("fitted_error" in each for each in errors)
            then = ", and were then trained" if trained else ""
            lines.append(f"Kept {what.lower()} make up for lost ones, by least squares{then}.")
    return " ".join(lines) or "Nothing was removed."


def _cut(plan: PruningPlan) -> tuple[str, str]:
    """The tag of what was cut, and what it is called."""
    if any(not cut.kept for cut in plan.width_cuts):
        return _CUT["block"]
    return next(named for unit, named in _CUT.items() if unit in plan.units)


def _neurons(mlp: str) -> str:
    return f"neurons in each {mlp.removesuffix('s')}"  # experts are several


def _counts(counts: set[int]) -> str:
    listed = sorted(counts)
    return f"{listed[0]} to {listed[-1]}" if len(listed) > 1 else str(listed[0])


def _table(statistics: Mapping[str, Any]) -> list[str]:
    rows = ["| | before | after |", "|---|---|---|"]
    for label, before, after in figures(statistics):
        rows.append(f"| {label} | {before} | {after} |")
    return rows


def figures(statistics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the table before/after, for the card and the terminal."""
    rows = [
        (
            "parameters",
            f"{statistics['original_parameters']:,}",
            f"{statistics['pruned_parameters']:,} "
            f"({change(statistics['percentage_reduction'], 2)})",
        ),
        ("weights in memory", size(statistics["original_bytes"]), size(statistics["pruned_bytes"])),
    ]
    if "original_layer_count" in statistics:
        before, after = statistics["original_layer_count"], statistics["final_layer_count"]
        rows.append(("decoder layers", str(before), str(after)))
    if "original_experts" in statistics:
        before, after = statistics["original_experts"], statistics["pruned_experts"]
        rows.append(("experts in a layer", str(before), str(after)))
    if statistics.get("original_expansion_rate") is not None:
        before, after = statistics["original_expansion_rate"], statistics["expansion_rate"]
        rows.append(("MLP width, % of hidden size", f"{before:.1f}", f"{after:.1f}"))
    if "pruned_file_bytes" in statistics:
        stored = statistics.get("original_file_bytes")
        after = size(statistics["pruned_file_bytes"])
        rows.append(("weights on disk", size(stored) if stored else "-", after))
    return rows
