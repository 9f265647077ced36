"""`prune_checkpoint`: from a model's name to a folder that holds the pruned model, verified."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint.stored_model import StoredModel
from ..distributed import in_first, is_first, together
from ..errors import PruningWarning
from ..files.output_folder import new_folder
from ..loading import has_tokenizer, load_config
from ..option_fields import checked_keywords, taking
from ..pruning.cut.plan import PruningPlan
from ..pruning.options.prune_options import PruneOptions
from ..pruning.options.recipe import RECIPE_FILE, recipe_text
from ..pruning.request.pruning_request import PruningRequest
from ..sources import DEMO, DEMO_BASE, DEMO_LICENSE, DEMO_NAME, Source, find_source
from .arguments import (
    check_plan_file,
    read_data,
    read_output,
    read_todo,
    read_verification,
    read_work,
)
from .converted import as_folder
from .cost import LARGE, Cost
from .decide import Say, decide_run
from .model_card import Base, base_of_folder, model_card
from .reloading import reloaded_difference
from .run import Data, Options, Run

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


@taking(PruneOptions)
def prune_checkpoint(
    model_path: str | Path,
    output_path: str | Path | None = None,
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = None,
    *,
    options: PruneOptions | None = None,
    dataloader: Iterable[Any] | None = None,
    neuron_scores: Mapping[int, Any] | None = None,
    plan: PruningPlan | str | Path | None = None,
    save_plan: str | Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    show_progress: bool = False,
    command: str | None = None,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> PruneResult:
    """Prune a model and write it with tokenizer, plan, recipe and card to a new folder.

    The result is the source folder, rewritten tensor by tensor, so a checkpoint may be larger than
    memory; with calibration data, one decoder layer at a time is loaded. The whole model is loaded
    only to read a `.gguf` file, and to decide where layers cannot be run one at a time.

    Args:
        model_path: a folder, a `.gguf` file, a hub id, or `demo` for the embedded model.
        output_path: the folder to write; it appears only when complete. Not needed with
            `dry_run` or `save_plan`.
        options: all that is asked for as one value (see `optipfair.presets`); keywords given
            beside it replace its fields.
        dataloader: calibration batches, as in `prune_model`, in the place of `calibration`.
        neuron_scores: as in `prune_model`.
        plan: a plan, or the file of one, to carry out instead of deciding anew.
        save_plan: file to write the plan to, and where kept neurons make up for lost ones, beside
            it the tensors that do so; nothing else is written then.
        dry_run: whether to stop before writing; where the model was not loaded, the statistics hold
            the exact size of the files (`pruned_file_bytes`).
        overwrite: whether to replace a model that is in `output_path`.
        show_progress: whether to show bars.
        command: the command to name in the model card.
        say: is told in a sentence that the model must be loaded, before it is.
        (the options)

    Raises:
        ValueError: (one of this library's) refused before anything was written.
        VerificationError: the result is not as planned; nothing was written.
    """
    started = time.perf_counter()
    options = _options(options, pruning_type, neuron_selection_method, pruning_percentage, more)
    if plan is None:
        options = options.with_usual_target()
    with together():
        data = read_data(options, dataloader)
        todo = read_todo(plan, options, dataloader, neuron_scores)
        mode = read_verification(options.verify)
        work = read_work(options, save_plan or output_path, show_progress=show_progress)
        source = find_source(model_path)
        writes = not dry_run and save_plan is None
        output = read_output(output_path, source, overwrite) if writes else None
        if save_plan is not None:
            check_plan_file(Path(save_plan))
    held = isinstance(plan, PruningPlan)
    in_python = {
        "dataloader": dataloader is not None,
        "neuron_scores": neuron_scores is not None,
        "plan": held,
    }
    recipe = recipe_text(
        str(model_path),
        options,
        plan=None if plan is None or held else str(plan),
        given_in_python=[name for name, given in in_python.items() if given],
    )

    def carry_out(run: Run) -> PruneResult:
        plan, statistics = run.plan, _statistics(run, source)
        _warn_about_widths(plan)
        if save_plan is not None:
            plan.save(save_plan)
        difference, cost = None, None
        if output is not None:
            named = command or _as_call(model_path, output, plan)
            difference, cost = _write(run, source, output, named, recipe, mode, statistics)
        if cost is not None:
            _warn_about_cost(cost)
        return PruneResult(
            output_path=output,
            plan=plan,
            statistics=statistics,
            streamed=run.model is None and source.kind != "gguf",
            logits_difference=difference,
            verified=mode if output is not None else "none",
            has_tokenizer=has_tokenizer(run.stored.checkpoint.folder),
            seconds=time.perf_counter() - started,
            cost=cost,
        )

    with ExitStack() as stack:
        tell = say if is_first() else None
        decide = partial(_decide, stack, source, todo, work, data.kept(), tell)
        if not data:  # nothing to share
            return in_first(lambda: carry_out(decide()))
        run = decide()
        return in_first(lambda: carry_out(run))


def _options(
    options: PruneOptions | None,
    pruning_type: str,
    method: str,
    percentage: float | None,
    more: Mapping[str, Any],
) -> PruneOptions:
    """One value of a value and the keywords beside it."""
    checked_keywords(prune_checkpoint, more)
    named = PruneOptions(pruning_type, percentage, neuron_selection_method=method)
    return replace(options or PruneOptions(), **named.not_default(), **more)


def _decide(
    stack: ExitStack,
    source: Source,
    todo: PruningRequest | PruningPlan,
    options: Options,
    data: Data,
    say: Say,
) -> Run:
    """Open the source as a folder, which is there as long as the stack is, and decide."""
    with data.reading():
        if source.kind == "gguf" and say is not None:
            say("The model is loaded into memory: a .gguf file is quantized.")
        folder = stack.enter_context(as_folder(source, options))
        config = load_config(folder, trust_remote_code=options.trust_remote_code)
        stored = StoredModel(Path(folder.location), config)
    return decide_run(stored, todo, options, data, say)


def _statistics(run: Run, source: Source) -> dict[str, Any]:
    """Those of a run, with the size of the file that the user named."""
    if source.kind != "gguf" or source.path is None:
        return run.statistics
    return run.statistics | {"original_file_bytes": source.path.stat().st_size}


def _write(
    run: Run,
    source: Source,
    output: Path,
    command: str,
    recipe: str,
    mode: str,
    statistics: dict[str, Any],
) -> tuple[float | None, Cost | None]:
    """Write model, plan, recipe and card, and verify them.

    Returns:
        The largest difference of logits and what was lost, each if known.
    """
    plan = run.plan
    with new_folder(output) as folder:
        run.write(folder)
        cost = run.cost(folder)
        replace(plan, replacements=None).save(folder / PLAN_FILE)  # they are in the weights
        (folder / RECIPE_FILE).write_text(recipe, encoding="utf-8")
        card = model_card(
            _base(source),
            plan,
            statistics,
            output.name,
            command,
            layers_differ=run.layers_differ,
            cost=cost,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        difference = run.verify(folder, mode)
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
