"""The arguments of `prune_checkpoint`, read and checked before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..distributed import is_first, own_device
from ..errors import ArgumentError, OutputError
from ..files.output_folder import check_output
from ..loading import check_device, check_dtype
from ..pruning.calibration.calibration_texts import CalibrationText
from ..pruning.calibration.holding import Holding
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.plan_files import check_complete
from ..pruning.request.budget import read_size
from ..pruning.request.pruning_request import PruningRequest, check_request
from ..pruning.request.targets import DEFAULT_PERCENTAGE
from ..registry import unknown_name
from ..sources import Source
from .run import Data, Options

VERIFY = ("fast", "full", "none")
_TARGETS = ("pruning_percentage", "expansion_rate", "target_params", "target_size")
_DEFAULTS = {  # of what has another than None
    "pruning_type": "MLP_GLU",
    "neuron_selection_method": "MAW",
    "layer_selection_method": "last",
    "attention_unit": "group",
    "layer_widths": "uniform",
}


def read_todo(
    plan: PruningPlan | str | Path | None, asked: Mapping[str, Any], seed: int
) -> PruningRequest | PruningPlan:
    """What to remove: a plan, or else what was asked for, width and attention 10 % if unsaid."""
    if plan is not None:
        return _given_plan(plan, asked)
    usual = {}
    if asked["pruning_type"] in ("MLP_GLU", "ATTENTION") and all(
        asked[t] is None for t in _TARGETS
    ):
        usual["pruning_percentage"] = DEFAULT_PERCENTAGE
    return check_request(**{**asked, **usual}, seed=seed)


def read_data(
    dataloader: Iterable[Any] | None,
    calibration: str | Path | None,
    samples: int,
    length: int,
    seed: int,
) -> Data:
    """What to calibrate on, as far as it can be checked before it is read."""
    if calibration is None:
        _refuse_sizes_without_text(samples, length)
        return Data(dataloader)
    if dataloader is not None:
        raise ArgumentError("calibration and dataloader exclude each other. Give one of them.")
    text = CalibrationText(str(calibration), samples, length, seed)
    text.check()
    return Data(text=text)


def _refuse_sizes_without_text(samples: object, length: object) -> None:
    usual = CalibrationText("")
    sizes = {
        "calibration_samples": (samples, usual.samples),
        "calibration_length": (length, usual.length),
    }
    given = [f"{name}={value!r}" for name, (value, default) in sizes.items() if value != default]
    if given:
        raise ArgumentError(
            f"{', '.join(given)} says how calibration text is drawn, but there is none. Give "
            "calibration (--calibration on the command line), or leave it out."
        )


def _given_plan(plan: PruningPlan | str | Path, asked: Mapping[str, Any]) -> PruningPlan:
    """Read a plan with the tensors that belong to it; nothing else may be asked for."""
    given = [
        name if name in ("dataloader", "neuron_scores") else f"{name}={value!r}"
        for name, value in asked.items()
        if value != _DEFAULTS.get(name)
    ]
    if given:
        raise ArgumentError(
            f"{', '.join(given)} does not go with a plan, which says already what stays. Leave one "
            "of them out."
        )
    if isinstance(plan, PruningPlan):
        check_complete(plan)
        return plan
    if not isinstance(plan, str | Path):
        raise ArgumentError(
            f"plan={plan!r} is no PruningPlan and no name of a file that holds one."
        )
    try:
        found = PruningPlan.load(plan)
    except (OSError, UnicodeDecodeError) as exc:
        raise ArgumentError(f"The plan {plan} cannot be read: {exc}.") from exc
    check_complete(found, plan)
    return found


def read_output(output_path: str | Path | None, source: Source, overwrite: bool) -> Path:
    """The folder to write, which can be written."""
    if output_path is None:
        raise ArgumentError("output_path is missing. Give the folder to write.")
    output = Path(output_path)
    if is_first():  # it makes a folder on trial
        check_output(output, source.path, overwrite)
    return output


def check_plan_file(path: Path) -> None:
    """Refuse a file that cannot be written, before the work."""
    try:
        if path.is_dir() or not path.parent.is_dir():
            folder = path.is_dir()
            what = "is a folder" if folder else f"cannot be written: there is no {path.parent}"
            raise OutputError(f"The plan file {path} {what}. Give the name of a file.")
        if is_first():
            trial = path.with_name(f".{path.name}.partial")
            trial.touch()
            trial.unlink()
    except OSError as exc:
        raise OutputError(
            f"The plan file {path} cannot be written: {exc.strerror}. Give another name."
        ) from exc


def read_verification(verify: bool | str) -> str:
    mode = {True: "fast", False: "none"}.get(verify, verify) if isinstance(verify, bool) else verify
    if mode not in VERIFY:
        raise ArgumentError(unknown_name("verify", str(mode), list(VERIFY)))
    return mode


def read_holding(output: str | Path | None) -> Holding:
    """Where to hold what calibration needs meanwhile: on disk, it lies beside the output."""
    if output is None:
        return Holding()
    return Holding(folder=next(e for e in Path(output).absolute().parents if e.is_dir()))


def read_options(device: str, dtype: str, max_shard_size: int | str, **others: Any) -> Options:
    """How to work; `others` are fields of `Options` that need no reading."""
    device = own_device(device)
    check_device(device)
    check_dtype(dtype)
    shard = read_size("max_shard_size", max_shard_size)
    return Options(device, dtype, max_shard_bytes=shard, **others)
