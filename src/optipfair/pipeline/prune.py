"""`prune_checkpoint`: from a model's name to a folder that holds the pruned model, verified."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint.stored_decision import NeedsModelError
from ..checkpoint.stored_model import NamesUnknownError
from ..distributed import in_first, is_first, together
from ..errors import PruningWarning
from ..files.output_folder import new_folder
from ..loading import snapshot
from ..pruning.calibration.stream import NotByLayersError
from ..pruning.cut.plan import PruningPlan
from ..pruning.request.pruning_request import PruningRequest
from ..sources import DEMO, DEMO_BASE, DEMO_LICENSE, DEMO_NAME, Source, find_source
from .arguments import (
    check_plan_file,
    read_data,
    read_holding,
    read_options,
    read_output,
    read_todo,
    read_verification,
)
from .cost import LARGE, Cost
from .loaded_run import loaded_run
from .model_card import Base, base_of_folder, model_card
from .reloading import reloaded_difference, verify_by_loading
from .run import Data, Options, Run
from .stored_run import stored_run

__all__ = ["PLAN_FILE", "PruneResult", "prune_checkpoint", "reloaded_difference"]

PLAN_FILE = "pruning_plan.json"
_REAL_WIDTH = 256  # narrower MLPs are toys, which nobody quantizes


@dataclass(frozen=True)
class PruneResult:
    """What `prune_checkpoint` did.

    Attributes:
        output_path: the folder it wrote, None where it only planned.
        plan: what was decided.
        statistics: of `get_pruning_statistics`, with bytes on disk, headers included.
        streamed: whether it worked on the files, without the model in memory.
        logits_difference: largest difference between the model in memory and reloaded; None
            where they were not compared.
        verified: `fast`, `full` or `none`.
        cost: perplexity and KL divergence before and after, on held-back calibration text; None
            where there is none.
        has_tokenizer: whether there was a tokenizer to carry over.
        seconds: wall time.
    """

    output_path: Path | None
    plan: PruningPlan
    statistics: dict[str, Any]
    streamed: bool
    logits_difference: float | None
    verified: str
    has_tokenizer: bool
    seconds: float
    cost: Cost | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; the plan itself lies in the output folder."""
        written = self.output_path
        return {
            "output_path": None if written is None else str(written),
            "plan": {
                "file": None if written is None else str(written / PLAN_FILE),
                "digest": self.plan.digest,
                "request": dict(self.plan.request),
                "layers_removed": list(self.plan.drop_layers),
                "widths": _widths(self.plan),
            },
            "statistics": self.statistics,
            "streamed": self.streamed,
            "logits_difference": self.logits_difference,
            "verified": self.verified,
            "has_tokenizer": self.has_tokenizer,
            "seconds": round(self.seconds, 3),
            "cost": None if self.cost is None else self.cost.to_dict(),
        }


def prune_checkpoint(
    model_path: str | Path,
    output_path: str | Path | None = None,
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = None,
    *,
    expansion_rate: float | None = None,
    expansion_divisor: int | None = None,
    dataloader: Iterable[Any] | None = None,
    num_layers_to_remove: int | None = None,
    layer_indices: Sequence[int] | None = None,
    depth_pruning_percentage: float | None = None,
    layer_selection_method: str = "last",
    target_params: int | str | None = None,
    target_size: int | str | None = None,
    compensate: bool | None = None,
    sequential: bool | None = None,
    calibration: str | Path | None = None,
    calibration_samples: int = 128,
    calibration_length: int = 512,
    seed: int = 0,
    attention_unit: str = "group",
    layer_widths: str = "uniform",
    neuron_scores: Mapping[int, Any] | None = None,
    plan: PruningPlan | str | Path | None = None,
    save_plan: str | Path | None = None,
    dry_run: bool = False,
    device: str = "cpu",
    dtype: str = "auto",
    max_shard_size: int | str = "5GB",
    check_weights: bool = False,
    overwrite: bool = False,
    verify: bool | str = "fast",
    evaluate: bool = True,
    trust_remote_code: bool = False,
    show_progress: bool = False,
    command: str | None = None,
    say: Callable[[str], None] | None = None,
) -> PruneResult:
    """Prune a model and write it with tokenizer, plan and card to a new folder.

    A safetensors checkpoint is pruned file to file, tensor by tensor, so it may be larger than
    memory; with calibration data, one decoder layer at a time is loaded. The whole model is loaded
    only where that is needed: for a `.gguf` file, where tensors are named in a way that only
    transformers understands, and for data-driven scores where layers cannot be run one at a time.

    Args:
        model_path: a folder, a `.gguf` file, a hub id, or `demo` for the embedded model.
        output_path: the folder to write; it appears only when complete. Not needed with
            `dry_run` or `save_plan`.
        pruning_type, neuron_selection_method, expansion_rate, expansion_divisor, dataloader,
            num_layers_to_remove, layer_indices, depth_pruning_percentage,
            layer_selection_method, target_params, target_size: as in `prune_model`.
        compensate, sequential, seed, attention_unit, layer_widths, neuron_scores: as in
            `prune_model`; the seed also draws the calibration text.
        pruning_percentage: share of neurons, or of layers with `"DEPTH"`. Width and attention
            pruning without any target remove 10 %.
        calibration: text to calibrate on instead of a dataloader: a `.txt` or `.jsonl` file, or the
            id of a dataset (with the package `datasets`).
        calibration_samples: how many sequences are drawn from it.
        calibration_length: of each, in tokens.
        plan: a plan, or the file of one, to carry out instead of deciding anew.
        save_plan: file to write the plan to, and where kept neurons make up for lost ones, beside
            it the tensors that do so; nothing else is written then.
        dry_run: whether to stop before writing; where the model was not loaded, the statistics hold
            the exact size of the files (`pruned_file_bytes`).
        device: where the layers or the model run, `auto` for an accelerator if there is one.
        dtype: `auto` keeps the checkpoint's dtype; else all floats are converted.
        max_shard_size: of one file, a number of bytes or text like `"5GB"`.
        check_weights: whether to look for NaN and Inf in all tensors; without it only those that
            are scored or cut are read.
        overwrite: whether to replace a model that is in `output_path`.
        verify: `"fast"` (or True) checks headers, copied bytes and samples of what was cut, and
            compares logits if the model was loaded; `"full"` loads the result and a live cut,
            compares their logits and generates; `"none"` (or False).
        evaluate: whether to measure perplexity and KL divergence before and after, on calibration
            text that is held back for it.
        trust_remote_code: whether code from the model's repository may run.
        show_progress: whether to show bars.
        command: the command to name in the model card.
        say: is told in a sentence that the model must be loaded, before it is.

    Raises:
        ValueError: (one of this library's) refused before anything was written.
        VerificationError: the result is not as planned; nothing was written.
    """
    started = time.perf_counter()
    asked: dict[str, Any] = {
        "pruning_type": pruning_type,
        "neuron_selection_method": neuron_selection_method,
        "pruning_percentage": pruning_percentage,
        "expansion_rate": expansion_rate,
        "expansion_divisor": expansion_divisor,
        "dataloader": dataloader,
        "calibration": None if calibration is None else str(calibration),
        "compensate": compensate,
        "sequential": sequential,
        "num_layers_to_remove": num_layers_to_remove,
        "layer_indices": layer_indices,
        "depth_pruning_percentage": depth_pruning_percentage,
        "layer_selection_method": layer_selection_method,
        "target_params": target_params,
        "target_size": target_size,
        "attention_unit": attention_unit,
        "layer_widths": layer_widths,
        "neuron_scores": neuron_scores,
    }
    with together():
        data = read_data(dataloader, calibration, calibration_samples, calibration_length, seed)
        todo = read_todo(plan, asked, seed)
        mode = read_verification(verify)
        options = read_options(
            *(device, dtype, max_shard_size),
            trust_remote_code=trust_remote_code,
            show_progress=show_progress,
            check_weights=check_weights,
            evaluate=evaluate,
            holding=read_holding(save_plan or output_path),
        )
        source = find_source(model_path)
        writes = not dry_run and save_plan is None
        output = read_output(output_path, source, overwrite) if writes else None
        if save_plan is not None:
            check_plan_file(Path(save_plan))
    decide = partial(_decide, source, todo, options, data.kept(), say if is_first() else None)

    def carry_out(run: Run) -> PruneResult:
        _warn_about_widths(run.plan)
        if save_plan is not None:
            run.plan.save(save_plan)
        difference, cost = None, None
        if output is not None:
            named = command or _as_call(model_path, output, run.plan)
            difference, cost = _write(run, source, output, named, mode, options)
        if cost is not None:
            _warn_about_cost(cost)
        return PruneResult(
            output_path=output,
            plan=run.plan,
            statistics=run.statistics,
            streamed=run.streamed,
            logits_difference=difference,
            verified=mode if output is not None else "none",
            has_tokenizer=run.has_tokenizer,
            seconds=time.perf_counter() - started,
            cost=cost,
        )

    if not data:  # nothing to share
        return in_first(lambda: carry_out(decide()))
    run = decide()
    return in_first(lambda: carry_out(run))


def _decide(
    source: Source,
    todo: PruningRequest | PruningPlan,
    options: Options,
    data: Data,
    say: Callable[[str], None] | None,
) -> Run:
    """Work on the files where that is possible, else say why not and load the model."""
    if source.kind == "gguf":
        reason = "a .gguf file is quantized"
    else:
        try:
            return stored_run(source, snapshot(source), todo, options, data)
        except NamesUnknownError as exc:
            reason = str(exc).rstrip(".")
        except NeedsModelError as exc:
            reason = str(exc)
        except NotByLayersError:
            if isinstance(todo, PruningRequest) and todo.by_layers:
                raise
            reason = "its layers cannot be run one at a time"
    if say is not None:
        say(f"The model is loaded into memory: {reason}.")
    return loaded_run(source, todo, options, data)


def _write(
    run: Run, source: Source, output: Path, command: str, mode: str, options: Options
) -> tuple[float | None, Cost | None]:
    """Write model, plan and card, and verify them.

    Returns:
        The largest difference of logits and what was lost, each if known.
    """
    with new_folder(output) as folder:
        run.write(folder)
        cost = run.cost(folder)
        replace(run.plan, replacements=None).save(folder / PLAN_FILE)  # they are in the weights
        card = model_card(
            _base(source),
            run.plan,
            run.statistics,
            output.name,
            command,
            layers_differ=run.layers_differ,
            cost=cost,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        difference = None if mode == "none" else run.verify(folder)
        if mode == "full":
            difference = verify_by_loading(source, run, folder, options)
    return difference, cost


def _warn_about_cost(cost: Cost) -> None:
    if cost.ratio >= LARGE:
        warnings.warn(
            f"Perplexity rose {cost.ratio:.3g} times on held-back text, from "
            f"{cost.perplexity_before:.4g} to {cost.perplexity_after:.4g}. Remove less, let "
            "calibration data choose and compensate (--preset quality, method 'AUTO'), or train "
            "the result afterwards.",
            PruningWarning,
            stacklevel=3,
        )


def _warn_about_widths(plan: PruningPlan) -> None:
    """Quantized blocks are 32 wide in most formats (`docs/ship.md`)."""
    odd = sorted(
        {
            cut.kept
            for cut in plan.width_cuts
            if cut.kept % 32 and cut.width % 32 == 0 and cut.width >= _REAL_WIDTH
        }
    )
    if odd:
        listed = ", ".join(map(str, odd[:3]))
        warnings.warn(
            f"The kept width {listed} is no multiple of 32, as the original was: llama.cpp cannot "
            "quantize such a model, and kernels are slower. expansion_divisor=32 rounds it down.",
            PruningWarning,
            stacklevel=3,
        )


def _widths(plan: PruningPlan) -> dict[str, list[int]]:
    """MLP name → the widths that are kept in it."""
    names = sorted({cut.mlp for cut in plan.width_cuts})
    return {n: sorted({cut.kept for cut in plan.width_cuts if cut.mlp == n}) for n in names}


def _base(source: Source) -> Base:
    if source.given == DEMO:
        return Base(DEMO_NAME, DEMO_BASE, DEMO_LICENSE)
    if source.kind == "folder":
        return base_of_folder(Path(source.location))
    if source.kind == "hub":
        return Base(source.location, source.location)
    return Base(str(source.file))


def _as_call(model_path: str | Path, output_path: str | Path, plan: PruningPlan) -> str:
    request = plan.request.get("pruning_type", "")
    names = shlex.join([Path(model_path).name, Path(output_path).name])
    return f"optipfair.prune_checkpoint ({request}): {names}"
