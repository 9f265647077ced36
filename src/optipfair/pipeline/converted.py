"""Sources that are no folder of safetensors become one, in a working folder beside the output.

From there on they are a folder like any other, in the shape in which models are published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoint.pickled import unpickled
from ..checkpoint.side_files import side_files
from ..errors import CheckpointError
from ..files.disk_room import disk_errors
from ..files.safetensors_reader import INDEX_FILE, SINGLE_FILE, pickled_files
from ..files.working_folder import working_folder
from ..loading.models import load_model, snapshot
from ..loading.quiet import quiet_transformers
from ..loading.rope_fields import in_both_spellings
from ..loading.sources import Source
from ..loading.tokenizers import load_tokenizer
from ..noted import warn
from .run import Options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def as_folder(source: Source, options: Options) -> Iterator[Source]:
    """A source's files as a folder of safetensors: its own, or a temporary one made of them."""
    folder = None if source.kind == "gguf" else snapshot(source)
    pickled = [] if folder is None else pickled_files(folder)
    if folder is not None and not pickled:
        yield Source(source.given, "folder", str(folder))
        return
    where = options.holding.folder or Path(gettempdir())
    with disk_errors(), working_folder(where, {"converted": "model"}, busy=None) as work:
        made = work / "model"
        made.mkdir()
        if folder is None:
            _convert_gguf(source, made, options)
        else:
            _convert_pickled(folder, pickled, made)
        yield Source(source.given, "folder", str(made))


def _convert_gguf(source: Source, folder: Path, options: Options) -> None:
    """Write what transformers reads from a `.gguf` file, with its tokenizer."""
    code = options.trust_remote_code
    model = load_model(source, dtype=options.dtype, trust_remote_code=code)
    tokenizer = _tokenizer(source, code)
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size=options.max_shard_bytes)
        config = folder / "config.json"
        fields = in_both_spellings(json.loads(config.read_text(encoding="utf-8")))
        config.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))


def _tokenizer(source: Source, trust_remote_code: bool) -> PreTrainedTokenizerBase | None:
    """That of a `.gguf` file; the weights are of use without one that cannot be read."""
    try:
        return load_tokenizer(source, trust_remote_code=trust_remote_code)
    except CheckpointError as exc:
        warn(f"No tokenizer is written, since that of the file cannot be read: {exc}")
        return None


def _convert_pickled(folder: Path, files: list[Path], target: Path) -> None:
    """Write the tensors of `pytorch_model.bin` files, one file at a time, and what is beside them.

    Only tensors are unpickled; code that a pickle would run is refused.
    """
    weight_map: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        many = len(files) > 1
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors" if many else SINGLE_FILE
        tensors = {each: _own(tensor) for each, tensor in unpickled(file).items()}
        save_file(tensors, target / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    if len(files) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (target / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    side_files(folder, ()).copy_to(target)


def _own(tensor: Tensor) -> Tensor:
    """One with memory of its own, as files of safetensors hold it."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
