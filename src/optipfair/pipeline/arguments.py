"""The arguments of `prune_checkpoint`, read and checked before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..checking import check_flag
from ..devices import check_device, check_dtype
from ..distributed import is_first, own_device
from ..errors import ArgumentError, OutputError
from ..files.output_folder import check_output
from ..files.working_folder import working_folder
from ..loading.sources import Source, find_source
from ..pruning.calibration.calibration_texts import CalibrationText
from ..pruning.calibration.holding import Holding
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.plan_files import check_complete, check_plan_file, side_file
from ..pruning.options.prune_options import (
    CHOICE,
    TARGET,
    TEXT,
    USUAL_MINUTES,
    VERIFY,
    PruneOptions,
)
from ..pruning.options.recipe import recipe_text
from ..pruning.request.budget import read_size
from ..pruning.request.pruning_request import PruningRequest, check_request
from ..registry import unknown_name
from .data import Data
from .run import Options

_WITH_A_PLAN = ("seed", "evaluate")  # they say nothing of what goes


@dataclass(frozen=True)
class Job:
    """What `prune_checkpoint` was asked for, checked as far as it can be before the work."""

    source: Source
    todo: PruningRequest | PruningPlan  # what to remove, or what was decided before
    data: Data  # what to calibrate on
    options: Options
    output: Path | None  # the folder to write, None where only a plan is wanted
    save_plan: Path | None  # the file of that plan, if it is kept
    verification: str  # `fast`, `full` or `none`
    recipe: Callable[[CalibrationText | None], str]  # the text of `recipe.yaml`, for what was drawn


def read_job(
    model_path: str | Path,
    output_path: str | Path | None,
    options: PruneOptions,
    *,
    plan: PruningPlan | str | Path | None,
    dataloader: Iterable[Any] | None,
    neuron_scores: Mapping[int, Any] | None,
    save_plan: str | Path | None,
    dry_run: bool,
    overwrite: bool,
    show_progress: bool,
) -> Job:
    """Read and check all arguments of `prune_checkpoint`; nothing is loaded or written."""
    if plan is None:
        options = options.with_usual_target()
    data = _read_data(options, dataloader).kept()
    todo = _read_todo(plan, options, dataloader, neuron_scores)
    verification = _read_verification(options.verify)
    work = _read_work(options, save_plan or output_path, show_progress=show_progress)
    source, output = find_source(model_path), None
    if save_plan is not None:
        _check_plan_file(Path(save_plan))
    elif not dry_run:
        output = _read_output(output_path, source, overwrite)
    recipe = partial(_recipe, model_path, options, plan, dataloader, neuron_scores)
    kept_plan = None if save_plan is None else Path(save_plan)
    return Job(source, todo, data, work, output, kept_plan, verification, recipe)


def _recipe(
    model_path: str | Path,
    options: PruneOptions,
    plan: PruningPlan | str | Path | None,
    dataloader: Iterable[Any] | None,
    neuron_scores: Mapping[int, Any] | None,
    text: CalibrationText | None,
) -> str:
    """Say all that was asked, and how much text was drawn where nothing said it."""
    if text is not None:
        options = replace(
            options,
            calibration_samples=text.samples,
            calibration_length=text.length,
            time_budget=None,  # another machine takes as many
        )
    in_python = {
        "dataloader": dataloader is not None,
        "neuron_scores": neuron_scores is not None,
        "plan": isinstance(plan, PruningPlan),
    }
    return recipe_text(
        str(model_path),
        options,
        plan=None if plan is None or in_python["plan"] else str(plan),
        given_in_python=[name for name, given in in_python.items() if given],
    )


def _read_todo(
    plan: PruningPlan | str | Path | None,
    options: PruneOptions,
    dataloader: Iterable[Any] | None,
    neuron_scores: Mapping[int, Any] | None,
) -> PruningRequest | PruningPlan:
    """What to remove: a plan, or else what was asked for."""
    if plan is None:
        return check_request(options, dataloader, neuron_scores)
    asked = options.not_default(TARGET, CHOICE) | options.not_default(TEXT)
    others = {"dataloader": dataloader, "neuron_scores": neuron_scores}
    named = [f"{n}={value!r}" for n, value in asked.items() if n not in _WITH_A_PLAN]
    named += [name for name, value in others.items() if value is not None]
    if named:
        raise ArgumentError(
            f"{', '.join(named)} does not go with a plan, which says already what stays. Leave one "
            "of them out."
        )
    return _given_plan(plan)


def _read_data(options: PruneOptions, dataloader: Iterable[Any] | None) -> Data:
    """What to calibrate on, as far as it can be checked before it is read."""
    if options.calibration is None:
        _refuse_sizes_without_text(options)
        return Data(dataloader)
    if dataloader is not None:
        raise ArgumentError("calibration and dataloader are mutually exclusive. Give one of them.")
    text = CalibrationText(
        str(options.calibration),
        options.calibration_samples,
        options.calibration_length,
        options.seed,
        options.calibration_batch_size,
        options.calibration_field,
    )
    text.check()
    return Data(text=text)


def _refuse_sizes_without_text(options: PruneOptions) -> None:
    given = [f"{n}={v!r}" for n, v in options.not_default(TEXT).items() if n != "evaluate"]
    if given:
        raise ArgumentError(
            f"{', '.join(given)} says how calibration text is drawn, but there is none. Give "
            "calibration (--calibration on the command line), or leave it out."
        )


def _given_plan(plan: PruningPlan | str | Path) -> PruningPlan:
    """Read a plan with the tensors that belong to it."""
    if isinstance(plan, PruningPlan):
        check_complete(plan)
        return plan
    if not isinstance(plan, str | Path):
        raise ArgumentError(
            f"plan={plan!r} is no PruningPlan and no name of a file that holds one."
        )
    found = PruningPlan.load(plan)
    check_complete(found, plan)
    return found


def _read_output(output_path: str | Path | None, source: Source, overwrite: bool) -> Path:
    """The folder to write, which can be written."""
    if output_path is None:
        raise ArgumentError("output_path is missing. Give the folder to write.")
    output = Path(output_path)
    if is_first():  # it makes a folder on trial
        check_output(output, source.path, overwrite)
    return output


def _check_plan_file(path: Path) -> None:
    """Refuse a file that cannot or must not be written, before the work."""
    try:
        if path.is_dir() or not path.parent.is_dir():
            folder = path.is_dir()
            what = "is a folder" if folder else f"cannot be written: there is no {path.parent}"
            raise OutputError(f"The plan file {path} {what}. Give the name of a file.")
        check_plan_file(path, PruningPlan.from_json)
        if is_first():
            with working_folder(path.parent, {"trial": path.name}, busy=None) as work:
                for each in (path, side_file(path, "0" * 16)):
                    (work / each.name).touch()
    except OSError as exc:
        raise OutputError(
            f"The plan file {path} cannot be written: {exc.strerror}. Give another name."
        ) from exc


def _read_verification(verify: bool | str) -> str:
    mode = {True: "fast", False: "none"}.get(verify, verify) if isinstance(verify, bool) else verify
    if mode not in VERIFY:
        raise ArgumentError(unknown_name("verify", str(mode), list(VERIFY)))
    return mode


def _read_work(options: PruneOptions, output: str | Path | None, *, show_progress: bool) -> Options:
    """How to work, with temporary files beside the output."""
    device = own_device(options.device)
    check_device(device)
    check_dtype(options.dtype)
    return Options(
        device=device,
        dtype=options.dtype,
        trust_remote_code=check_flag("trust_remote_code", options.trust_remote_code, default=False),
        show_progress=show_progress,
        max_shard_bytes=read_size("max_shard_size", options.max_shard_size),
        check_weights=check_flag("check_weights", options.check_weights, default=False),
        evaluate=check_flag("evaluate", options.evaluate, default=True),
        holding=Holding(folder=_folder_beside(output)),
        seconds=_read_budget(options),
    )


def _read_budget(options: PruneOptions) -> float | None:
    """Seconds that calibration may take: half an hour where nothing says how much text it takes."""
    minutes = options.time_budget
    if minutes is None:
        return None if options.calibration_samples is not None else 60 * USUAL_MINUTES
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0:
        raise ArgumentError(
            f"time_budget={minutes!r} is no number of minutes above 0. Give one, for example 30."
        )
    return 60.0 * minutes


def _folder_beside(output: str | Path | None) -> Path | None:
    """The folder for temporary files: where the output will be, as far as that is there."""
    if output is None:
        return None
    return next((each for each in Path(output).absolute().parents if each.is_dir()), None)
