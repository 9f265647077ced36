"""The files beside a model's config and weights: which come along, and which stay behind, by name.

Only what a model is published with comes along, and only regular files of the folder itself: a link
out of it could carry a private file into a folder that is made to be uploaded.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..errors import UnsupportedModelError
from ..files.written_files import FILES

_CARRIED = (
    *("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.spm", "*.py"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
_FOLDERS = (
    "additional_chat_templates",
    "LICENSES",
    "LICENCES",
)  # and those that modules.json names
_REWRITTEN = (
    *("config.json", "*.index.json", "README.md", "pruning_plan.json"),
    *("recipe.yaml", FILES),
)
_OF_OTHERS = (  # of training, and of other forms of the weights
    *("trainer_state.json", "training_args*", "*_results.json", "quant*config.json"),
    "quantize*.json",
)
_REFUSED = {
    "adapter_config.json": "holds an adapter (adapter_config.json), which pruning would lose. "
    "Merge it first, with merge_and_unload() of peft, and save the result",
    "hf_quant_config.json": "says in a file of its own that its weights are quantized. Prune the "
    "model before it was",
}
_SCALES = ("*_scale", "*_scale_inv", "*.scales", "*.qzeros", "*_zero_point")


@dataclass(frozen=True)
class SideFiles:
    """Files of a folder, by their paths in it."""

    folder: Path
    carried: tuple[str, ...]
    left: tuple[str, ...]

    def copy_to(self, target: Path) -> None:
        for name in self.carried:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, target / name)


def side_files(folder: Path, weights: Iterable[str]) -> SideFiles:
    """Say which files beside the weights of a model come along and which stay behind."""
    carried: list[str] = []
    left: list[str] = []
    modules, known = {*_FOLDERS, *_module_folders(folder)}, {*weights}
    for path in sorted(folder.iterdir()):
        rewritten = any(fnmatch(path.name, each) for each in _REWRITTEN)
        if (rewritten or path.name in known) and not path.is_dir():
            continue
        if path.is_dir() and path.name in modules and not path.is_symlink():
            inside = [each for each in sorted(path.rglob("*")) if not each.is_dir()]
        else:
            inside = [path]
        for file in inside:
            wanted = path.name in modules or _comes_along(path.name)
            name = file.relative_to(folder).as_posix()
            (carried if wanted and _is_own(file, folder) else left).append(name)
    return SideFiles(folder, tuple(carried), tuple(left))


def check_plain(folder: Path, unexpected: Iterable[str]) -> None:
    """Refuse a folder whose weights are not all of the model, or stand for other numbers.

    `unexpected` are its tensors that the model itself does not have.
    """
    for name, what in _REFUSED.items():
        if (folder / name).exists():
            raise UnsupportedModelError(f"{folder} {what}.")
    scales = [name for name in sorted(unexpected) if any(fnmatch(name, each) for each in _SCALES)]
    if scales:
        raise UnsupportedModelError(
            f"{folder} holds scales of quantized weights ({scales[0]}), so its weights are no "
            "plain numbers. Prune the model before it was quantized."
        )


def _comes_along(name: str) -> bool:
    if any(fnmatch(name, each) for each in _OF_OTHERS):
        return False
    return any(fnmatch(name, each) for each in _CARRIED)


def _is_own(path: Path, folder: Path) -> bool:
    """Whether a path is a regular file of the folder, or of the cache that it is a view of."""
    try:
        real = path.resolve(strict=True)
        regular = stat.S_ISREG(real.stat().st_mode)
    except (OSError, RuntimeError):  # it leads nowhere, or in a circle
        return False
    root = folder.resolve()
    cache = root.parent.parent / "blobs"
    places = {root, cache} if root.parent.name == "snapshots" else {root}
    return regular and bool(places & set(real.parents))


def _module_folders(folder: Path) -> Iterator[str]:
    """The folders of further modules that sentence-transformers names."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [module["path"] for module in modules]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    for path in paths:
        if isinstance(path, str) and path and Path(path).name == path:
            yield path
