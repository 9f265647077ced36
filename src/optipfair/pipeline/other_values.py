"""A model's folder with other values in some of its tensors; all else is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..checkpoint.pruned import NewCheckpoint, prepare, verify_checkpoint, write_checkpoint
from ..checkpoint.rewrite import StoredValues
from ..checkpoint.stored_model import StoredModel
from ..files.output_folder import new_folder
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.plan_files import PLAN_FILE
from ..pruning.options.recipe import RECIPE_FILE

_SHARD_BYTES = 5 * 10**9


def write_with_values(
    stored: StoredModel,
    values: Mapping[str, Tensor] | None,
    output: Path,
    files: Mapping[str, str],
    *,
    show_progress: bool = False,
) -> None:
    """Write the folder of a model again, verified; it appears only when it is complete.

    Args:
        values: the tensors that change, by their names in memory; None where none does. They are
            written in the dtypes that they have in the source.
        files: name → text of what stands beside them, its card among them.
    """
    source = stored.checkpoint.folder
    layers = len(stored.view.layers)
    everything = PruningPlan(stored.view.spec.model_type, layers, tuple(range(layers)))
    with new_folder(output) as folder:
        new = _new(stored, everything, values)
        write_checkpoint(stored, new, folder, show_progress=show_progress)
        for name in (PLAN_FILE, RECIPE_FILE):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        verify_checkpoint(stored, everything, new, folder)
        stored.checkpoint.check_unchanged()


def card_of(source: Path, output: Path) -> str:
    """The card of a model's folder, or the beginning of one."""
    card = source / "README.md"
    return card.read_text(encoding="utf-8") if card.is_file() else f"# {output.name}\n"


def _new(
    stored: StoredModel, plan: PruningPlan, values: Mapping[str, Tensor] | None
) -> NewCheckpoint:
    if values is None:
        return prepare(stored, plan, "auto", _SHARD_BYTES)
    return prepare(stored, plan, "auto", _SHARD_BYTES, StoredValues.of_model(stored, values))
