"""`export_model`: a model's folder in the form that an engine loads, proved there if asked."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoint.side_files import side_files
from ..errors import ArgumentError, UnknownNameError, UnsupportedModelError
from ..files.output_folder import check_output, new_folder
from ..files.safetensors_writer import lay_out, write_shards
from ..loading.models import load_config
from ..loading.rope_fields import in_both_spellings
from ..loading.sources import find_source
from ..loading.tokenizers import load_tokenizer
from ..option_fields import checked_keywords, taking
from ..pipeline.converted import as_folder
from ..pipeline.other_values import card_of
from ..pipeline.run import Options
from ..progress import meter
from ..registry import unknown_name
from ..visible import visible
from .decilm import as_json, decilm_config, decilm_tensors, why_not_decilm, write_code
from .engine_check import EngineCheck, checked_in_engine, find_python
from .export_options import ExportOptions
from .gguf_file import FILE_TYPES, write_gguf
from .gguf_model import why_not_gguf
from .gguf_tokenizer import GgufTokenizer, read_tokenizer
from .remote_code import (
    remote_config,
    remote_tensors,
    why_not_remote_code,
    write_modelling_file,
)
from .source import Source
from .targets import ENGINES, Engine
from .tensors import STORED, Made, as_output

GGUF_FILE = "model.gguf"
_SHARD_BYTES = 5 * 10**9
_QUANTIZE = "llama-quantize"  # a program of llama.cpp


@dataclass(frozen=True)
class ExportResult:
    """What `export_model` did.

    Attributes:
        output_path: the folder it wrote.
        engine: for which it was written.
        form: `as it is` (the source's own), `decilm`, `gguf` or `remote code`.
        bytes: of the weights' files.
        check: what the engine computed beside PyTorch; None where it was not asked.
    """

    output_path: Path
    engine: str
    form: str
    bytes: int
    check: EngineCheck | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "output_path": str(self.output_path)}


@taking(ExportOptions)
def export_model(
    model_path: str | Path,
    output_path: str | Path,
    *,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> ExportResult:
    """Write a model in the form that an engine loads.

    A model whose layers are alike is written as it is, for llama.cpp as a `.gguf` file. One whose
    layers differ becomes a DeciLM for vLLM and MLX, a `deci` file for llama.cpp, and for
    transformers a folder with a modelling file of its own (`docs/export.md`). The model is not
    loaded: one tensor at a time is read and written.

    Args:
        model_path: a folder, a `.gguf` file, a hub id, or `demo` for the embedded model.
        output_path: the folder to write; it appears only when complete, and with `verify_engine`
            only when the engine agrees. A `.gguf` file is `model.gguf` in it.
        options: all that is asked for as one value; keywords given beside it replace its fields.
        overwrite: whether to replace a model that is in `output_path`.
        trust_remote_code: whether code from the model's folder may run.
        say: is told what is being done.
        (the options)

    Raises:
        UnsupportedModelError: (a ValueError) the engine cannot express the model; which layer, and
            why.
        VerificationError: the engine computes something else than PyTorch; nothing was written.
    """
    asked = replace(options or ExportOptions(), **checked_keywords(export_model, more))
    engine = ENGINES[asked.to]
    _check_dtype(engine, asked.dtype)
    python = find_python(engine, asked.engine_python) if asked.verify_engine else None
    found, output = find_source(model_path), Path(output_path)
    if output.suffix == ".gguf":
        raise ArgumentError(
            f"The output {output} is the name of a file. Give that of a folder, in which it will "
            f"be {GGUF_FILE}."
        )
    check_output(output, found.path, overwrite)
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    with as_folder(found, Options(**code)) as folder:
        source = Source(Path(folder.location), load_config(folder, **code))
        form, write = _form(engine, source, asked)
        with new_folder(output) as target:
            write(target)
            _write_card(source, engine, output, target)
            source.stored.checkpoint.check_unchanged()
            check = None
            if python is not None:
                if say is not None:
                    say(f"Running {engine.name}.")
                weights = target / GGUF_FILE if engine.form == "gguf" else target
                check = checked_in_engine(engine, python, weights, source.folder, asked.dtype)
            size = sum(
                each.stat().st_size
                for pattern in ("*.safetensors", "*.gguf")
                for each in target.glob(pattern)
            )
    return ExportResult(output, engine.name, form, size, check)


def _check_dtype(engine: Engine, dtype: str) -> None:
    plain = ["auto", *STORED]
    if engine.form != "gguf" and dtype not in plain:
        raise UnknownNameError(unknown_name("dtype", dtype, plain))
    if engine.form == "gguf" and dtype not in ("auto", *FILE_TYPES) and not _quantizer():
        raise ArgumentError(
            f"dtype={dtype!r} is none of {', '.join(('auto', *FILE_TYPES))}. For other types of "
            f"llama.cpp its program {_QUANTIZE} must be installed, and it is not on the PATH."
        )


def _quantizer() -> str | None:
    return shutil.which(_QUANTIZE)


def _form(
    engine: Engine, source: Source, asked: ExportOptions
) -> tuple[str, Callable[[Path], None]]:
    """In which form a model is written, and what writes it into a folder; or the refusal."""
    dtype, show = asked.dtype, asked.show_progress
    if engine.form == "gguf":
        _refuse(engine, source, why_not_gguf(source))
        tokenizer = _tokenizer(source)
        return "gguf", lambda folder: _write_gguf(source, tokenizer, folder, dtype, show)
    if source.uniform:
        fields = in_both_spellings(source.fields)
        every = (Made(name, info.shape, info) for name, info in source.stored.tensors.items())
        return "as it is", lambda folder: _write_folder(source, folder, fields, every, dtype, show)
    if engine.form == "decilm":
        _refuse(engine, source, why_not_decilm(source))

        def write(folder: Path) -> None:
            _write_folder(
                source, folder, decilm_config(source), decilm_tensors(source), dtype, show
            )
            write_code(folder)

        return "decilm", write
    _refuse(engine, source, why_not_remote_code(source))

    def write_with_code(folder: Path) -> None:
        _write_folder(source, folder, remote_config(source), remote_tensors(source), dtype, show)
        write_modelling_file(source, folder)

    return "remote code", write_with_code


def _refuse(engine: Engine, source: Source, reason: str) -> None:
    if reason:
        raise UnsupportedModelError(
            f"{engine.name} cannot take {source.folder.name}: {reason}. Nothing was written."
        )


def _tokenizer(source: Source) -> GgufTokenizer:
    load = partial(load_tokenizer, find_source(source.folder))
    return read_tokenizer(source.folder, load, int(source.shared("vocab_size")))


def _write_folder(
    source: Source,
    folder: Path,
    fields: Mapping[str, Any],
    tensors: Iterable[Made],
    dtype: str,
    show_progress: bool,
) -> None:
    """A folder of safetensors with its config, and what else belongs to the model."""
    outputs = [as_output(each, dtype) for each in tensors]
    shards = lay_out(outputs, _SHARD_BYTES)
    with meter(sum(each.nbytes for each in outputs), "writing", show_progress) as report:
        write_shards(folder, shards, report)
    if dtype != "auto":
        older = {"torch_dtype"}  # how transformers 4 calls it; where both are, they must not differ
        fields = {**{n: each for n, each in fields.items() if n not in older}, "dtype": dtype}
    (folder / "config.json").write_text(as_json(dict(fields)), encoding="utf-8")
    weights = {info.file.name for info in source.stored.tensors.values()}
    side_files(source.folder, weights).copy_to(folder)


def _write_gguf(
    source: Source, tokenizer: GgufTokenizer, folder: Path, dtype: str, show_progress: bool
) -> None:
    if dtype == "auto":
        stored = {info.dtype for info in source.tensors.values()}
        dtype = next((name for name, own in STORED.items() if stored == {own}), "float32")
    if dtype in FILE_TYPES:
        write_gguf(source, tokenizer, folder / GGUF_FILE, dtype, show_progress=show_progress)
        return
    program, whole = _quantizer(), folder / "whole.gguf"
    assert program is not None  # `_check_dtype` has seen to it
    write_gguf(source, tokenizer, whole, "float16", show_progress=show_progress)
    done = subprocess.run(
        [program, str(whole), str(folder / GGUF_FILE), dtype.upper()],
        capture_output=True,
        text=True,
        check=False,
    )
    whole.unlink()
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ArgumentError(f"{_QUANTIZE} did not make {dtype!r}: {visible(' '.join(last))}")


_RUN = {
    "vllm": "vllm serve {name} --trust-remote-code",
    "mlx": "mlx_lm.generate --model {name} --prompt 'The capital of France is'",
    "llama.cpp": f"llama-cli -m {{name}}/{GGUF_FILE} -p 'The capital of France is'",
    "transformers": "AutoModelForCausalLM.from_pretrained('{name}', trust_remote_code=True)",
}


def _write_card(source: Source, engine: Engine, output: Path, folder: Path) -> None:
    card = card_of(source.folder, output).split("\n## Exported", maxsplit=1)[0].rstrip()
    run = _RUN[engine.name].format(name=output.name)
    text = f"{card}\n\n## Exported\n\nWritten for {engine.name}:\n\n```\n{run}\n```\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
