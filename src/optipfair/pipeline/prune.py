"""`prune_checkpoint`: from a model's name to a folder that holds the pruned model, verified."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..arch.fixed_patterns import broken_pattern
from ..distributed import in_first, is_first, together
from ..files.output_folder import new_folder
from ..loading.sources import DEMO, DEMO_BASE, DEMO_LICENSE, DEMO_NAME, Source
from ..loading.tokenizers import has_tokenizer
from ..noted import keeping_warnings, warn
from ..option_fields import checked_keywords, taking
from ..pruning.calibration.text_cost import Cost
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.plan_files import PLAN_FILE
from ..pruning.options.prune_options import PruneOptions
from ..pruning.options.recipe import RECIPE_FILE
from .afterwards import afterwards
from .arguments import Job, read_job
from .first_possible import first_possible
from .model_card import Base, base_of_folder, model_card
from .outcome import LARGE, reloaded_difference
from .prune_result import PruneResult
from .run import Run

__all__ = ["PLAN_FILE", "PruneResult", "prune_checkpoint", "reloaded_difference"]

_MOSTLY = 0.5
_ORDINALS = {2: "second", 4: "fourth", 5: "fifth", 6: "sixth"}
_REAL_WIDTH = 256  # narrower MLPs are toys, which nobody quantizes


@taking(PruneOptions)
def prune_checkpoint(
    model_path: str | Path,
    output_path: str | Path | None = None,
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = None,
    *,
    options: PruneOptions | None = None,
    instead: Sequence[PruneOptions] = (),
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
        instead: what is done where the model or its tokenizer does not allow that, one after the
            other until one is possible; a warning names why.
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
    with together():
        read = partial(
            read_job,
            model_path,
            output_path,
            plan=plan,
            dataloader=dataloader,
            neuron_scores=neuron_scores,
            save_plan=save_plan,
            dry_run=dry_run,
            overwrite=overwrite,
            show_progress=show_progress,
        )
        jobs = [read(each) for each in (options, *instead)]
    told = say if is_first() else None
    with ExitStack() as stack:
        warned = stack.enter_context(keeping_warnings())
        later = stack.enter_context(
            afterwards(jobs[0], options, command, told, overwrite=overwrite)
        )
        decided = first_possible(stack, [later.before(job) for job in jobs], told)
        result = in_first(lambda: _carry_out(*decided, command, warned))
        found = later.done()
    return replace(
        result,
        output_path=jobs[0].output,
        warnings=tuple(warned),
        seconds=time.perf_counter() - started,
        **found,
    )


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


def _carry_out(job: Job, run: Run | None, command: str | None, warned: list[str]) -> PruneResult:
    """Write what is wanted of a run, and say what was done; `warned` grows meanwhile."""
    assert run is not None  # of the first process
    run.stored.checkpoint.check_unchanged()
    _warn_about_pattern(run.plan)
    if job.save_plan is not None:
        run.plan.save(job.save_plan)
    result = PruneResult(
        output_path=job.output,
        plan=run.plan,
        statistics=_statistics(run, job.source),
        streamed=run.model is None and job.source.kind != "gguf",
        logits_difference=None,
        verified="none" if job.output is None else job.verification,
        has_tokenizer=has_tokenizer(run.stored.checkpoint.folder),
        seconds=0.0,
        account=run.new.account,
        left_behind=run.new.side_files.left,
        notes=_notes(run.plan),
    )
    if job.output is not None:
        result = _write(run, job, job.output, command, result, warned)
    return replace(result, warnings=tuple(warned))


def _statistics(run: Run, source: Source) -> dict[str, Any]:
    """Those of a run, with the size of the file that the user named."""
    if source.kind != "gguf" or source.path is None:
        return run.statistics
    return run.statistics | {"original_file_bytes": source.path.stat().st_size}


def _write(
    run: Run,
    job: Job,
    output: Path,
    command: str | None,
    result: PruneResult,
    warned: Sequence[str],
) -> PruneResult:
    """Write model, plan, recipe and card, verify them, and add what was found to the result."""
    with new_folder(output) as folder:
        run.write(folder)
        cost = run.cost(folder)
        of_cost = _warnings_of(cost)
        # The tensors that make up for others are in the weights.
        (folder / PLAN_FILE).write_text(f"{run.plan.to_json()}\n", encoding="utf-8")
        (folder / RECIPE_FILE).write_text(job.recipe(run.text), encoding="utf-8")
        card = model_card(
            _base(job.source),
            run.plan,
            result.statistics,
            output.name,
            command or _as_call(job.source.given, output, run.plan),
            layers_differ=run.layers_differ,
            cost=cost,
            warnings=[*warned, *of_cost],
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        difference = run.verify(folder, job.verification)
        run.stored.checkpoint.check_unchanged()
    for each in of_cost:
        warn(each)
    return replace(result, logits_difference=difference, cost=cost)


def _warnings_of(cost: Cost | None) -> list[str]:
    found = []
    if cost is not None and cost.ratio >= LARGE:
        found.append(
            f"Perplexity rose {cost.ratio:.3g} times on held-back text, from "
            f"{cost.perplexity_before:.4g} to {cost.perplexity_after:.4g}. Remove less, let "
            "calibration data choose and compensate (--preset quality, method 'AUTO'), or train "
            "the result afterwards."
        )
    if cost is not None and cost.repeated >= _MOSTLY:
        found.append(
            f"{100 * cost.repeated:.0f} % of the text that perplexity was measured on stands in "
            "the calibration text too, so the result looks better than it is. Measure it on other "
            "text: optipfair evaluate --text."
        )
    return found


def _warn_about_pattern(plan: PruningPlan) -> None:
    """What `docs/ship.md` says of readers that have a family's pattern in their code."""
    period = broken_pattern(plan.model_type, plan.keep_layers)
    if period is not None:
        warn(
            f"llama.cpp takes every {_ORDINALS[period]} layer of {plan.model_type!r} for one of "
            "another kind, wherever it stood before, so it reads the result as another model; "
            "transformers reads the config. For llama.cpp remove the last layers, or "
            f"{period} layers that follow each other, beginning at a multiple of {period} "
            "(layer_indices)."
        )


def _notes(plan: PruningPlan) -> tuple[str, ...]:
    """Quantized blocks are 32 wide in most formats (`docs/ship.md`)."""
    odd = sorted(
        {
            cut.kept
            for cut in plan.width_cuts
            if cut.kept % 32 and cut.width % 32 == 0 and cut.width >= _REAL_WIDTH
        }
    )
    if not odd:
        return ()
    listed = ", ".join(map(str, odd[:3]))
    return (
        f"The kept width is {listed}, as asked for. For llama.cpp, whose quantization takes "
        "multiples of 32, and for faster kernels, add expansion_divisor=32 (--expansion-divisor "
        "32).",
    )


def _base(source: Source) -> Base:
    if source.given == DEMO:
        return Base(DEMO_NAME, DEMO_BASE, DEMO_LICENSE)
    if source.kind == "folder":
        return base_of_folder(Path(source.location))
    if source.kind == "hub":
        return Base(source.location, source.location)
    return Base(str(source.file))


def _as_call(model_path: str, output_path: Path, plan: PruningPlan) -> str:
    request = plan.request.get("pruning_type", "")
    names = shlex.join([Path(model_path).name, output_path.name])
    return f"optipfair.prune_checkpoint ({request}): {names}"
