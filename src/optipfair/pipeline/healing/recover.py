"""`recover_checkpoint`: from a pruned model's folder to one that holds it trained again.

The result is the pruned folder with other values in its tensors; all else is as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoint.stored_model import StoredModel
from ...distributed import in_first, is_first, own_device, together
from ...errors import ArgumentError
from ...files.output_folder import check_output
from ...loading.models import load_config, load_model, snapshot
from ...loading.sources import DEMO, DEMO_NAME, Source, find_source
from ...loading.tokenizers import load_tokenizer
from ...noted import keeping_warnings
from ...option_fields import checked_keywords, taking
from ...recovery.asking import check_pair, check_recovery, with_length
from ...recovery.recover_options import RecoverOptions
from ...recovery.recovering import read_text
from ...recovery.recovery_result import Recovery
from ...recovery.shards import whole_values
from ...recovery.training_run import train
from ..other_values import card_of, write_with_values
from .originals import Original, named_original
from .recovery_card import CURVE, recovered_card, recovered_curve
from .unfinished import check_unfinished, unfinished

RECORD = "recovery.json"


@dataclass(frozen=True)
class RecoverResult:
    """What `recover_checkpoint` did.

    Attributes:
        output_path: the folder it wrote.
        original: the model that it learned from.
        recovery: how far it was from the original before and after.
        warnings: what was warned of.
    """

    output_path: Path
    original: str
    recovery: Recovery
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "output_path": str(self.output_path),
            "original": self.original,
            "recovery": self.recovery.to_dict(),
            "warnings": list(self.warnings),
        }


@taking(RecoverOptions)
def recover_checkpoint(
    model_path: str | Path,
    output_path: str | Path,
    original: str | Path | None = None,
    *,
    options: RecoverOptions | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    command: str | None = None,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> RecoverResult:
    """Train a pruned model to say what its original says, and write it to a new folder.

    The output is the pruned folder with other values in its tensors, in the dtype that they had;
    its card says what was given back. If training did not help, it holds the model as it came. An
    interrupted run leaves its checkpoints beside the output, and `resume` goes on from there.

    Args:
        model_path: the folder of the pruned model.
        output_path: the folder to write; it appears only when complete.
        original: the model that it was pruned from: a folder, a hub id, a `.gguf` file, or `demo`.
            [what the pruned folder's recipe or card names]
        options: all that is asked for as one value; keywords given beside it replace its fields.
        overwrite: whether to replace a model in `output_path`, and an unfinished run beside it.
        trust_remote_code: whether code from the models' folders may run.
        command: the command to name in the model card.
        say: is told in a sentence how long the run will take, before it begins.
        (the options)

    Raises:
        ValueError: (one of this library's) refused before anything was written.
        ModelOutputError: the loss is not finite; nothing was written.
    """
    asked = replace(options or RecoverOptions(), **checked_keywords(recover_checkpoint, more))
    check_recovery(asked)
    source = find_source(model_path)
    if source.kind == "gguf":
        raise ArgumentError(
            f"{source.given} is a quantized file, whose weights cannot be trained. Give the folder "
            "of a pruned model."
        )
    folder = snapshot(source)
    named = str(original) if original is not None else named_original(folder)
    device = own_device(asked.device)
    teacher = Original(find_source(named), device, trust_remote_code=trust_remote_code)
    output = Path(output_path)
    request = _request(asked, str(source.given), named)
    with together():
        if is_first():
            check_output(output, folder, overwrite)
            if asked.work_dir is None:
                check_unfinished(output, request, resume=asked.resume, overwrite=overwrite)
    loading: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with keeping_warnings() as warned:
        stored = StoredModel(
            folder, load_config(Source(source.given, "folder", str(folder)), **loading)
        )
        tokenizer = load_tokenizer(folder, **loading)
        model = load_model(folder, dtype="float32", **loading)
        check_pair(model, teacher.config)
        asked = with_length(asked, model)
        rows = read_text(asked, tokenizer, teacher.model)
        with _work_dir(asked, output, request) as work:
            told = say if is_first() else None
            wanted = replace(asked, work_dir=work, device=device)
            found = train(wanted, model, teacher.teacher(asked, rows), rows, told)
            values = whole_values(model) if found.helped else None
            in_first(partial(_write, stored, values, found, asked, named, output, command))
    return RecoverResult(output, named, found, tuple(warned))


def _work_dir(
    asked: RecoverOptions, output: Path, request: Mapping[str, Any]
) -> AbstractContextManager[Path]:
    """The folder for checkpoints: the one that is given, or one beside the output."""
    if asked.work_dir is not None:
        return nullcontext(Path(asked.work_dir))
    return unfinished(output, request, resume=asked.resume)


def _request(asked: RecoverOptions, model_path: str, original: str) -> dict[str, Any]:
    """What must be the same in a run that goes on."""
    values = asdict(asked)
    for name in ("resume", "show_progress", "work_dir"):
        del values[name]
    if asked.cache_teacher is not None:
        values["cache_teacher"] = str(asked.cache_teacher)
    return {"model_path": model_path, "original": original, **values}


def _write(
    stored: StoredModel,
    values: Mapping[str, Tensor] | None,
    found: Recovery,
    asked: RecoverOptions,
    original: str,
    output: Path,
    command: str | None,
) -> None:
    """Write the folder: the pruned one with other values if any, its card, and what was done."""
    source = stored.checkpoint.folder
    teacher = DEMO_NAME if original == DEMO else Path(original).name
    made = command or f"optipfair.recover_checkpoint: {source.name}"
    record = {"asked": _request(asked, source.name, original), "found": found.to_dict()}
    files = {
        "README.md": recovered_card(card_of(source, output), found, asked, teacher, made),
        CURVE: recovered_curve(found),
        RECORD: json.dumps(record, indent=1) + "\n",
    }
    write_with_values(stored, values, output, files, show_progress=asked.show_progress)
