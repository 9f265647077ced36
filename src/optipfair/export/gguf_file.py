"""A `.gguf` file, written one tensor at a time with the package `gguf`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..progress import track
from .gguf_model import block_of, form_of, metadata, rope_factors, rows
from .gguf_tokenizer import GgufTokenizer
from .source import Source
from .tensors import Made, in_dtype

FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7, "bfloat16": 32}  # llama.cpp's numbers


def write_gguf(
    source: Source, tokenizer: GgufTokenizer, path: Path, dtype: str, *, show_progress: bool = False
) -> None:
    """Write a model and its tokenizer to a file; matrices in `dtype`, the rest in float32.

    Widths are padded with neurons that give nothing where `dtype` takes whole blocks of 32.
    """
    import gguf

    form = form_of(source)
    with closing(gguf.GGUFWriter(path, form.architecture)) as writer:
        _write(writer, source, tokenizer, dtype, show_progress)


def _write(
    writer: Any, source: Source, tokenizer: GgufTokenizer, dtype: str, show_progress: bool
) -> None:
    import gguf

    form = form_of(source)
    writer.add_name(source.folder.name)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    pad = block_of(dtype)
    for name, value in metadata(source, padded_to=pad).items():
        _add(writer, f"{form.architecture}.{name}", value)
    _add_tokenizer(writer, tokenizer)
    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == form.architecture)
    names = gguf.get_tensor_name_map(kind, len(source.layers))
    todo = list(rows(source, names, padded_to=pad))
    factors = rope_factors(source)
    for row in todo:
        shape, own = row.made.shape, _dtype_of(row.made, dtype)
        size = _nbytes(shape, own)
        writer.add_tensor_info(row.name, _stored_shape(shape, own), _numpy(own), size, _ggml(own))
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for row in track(todo, "writing", show_progress, unit="tensor"):
        writer.write_tensor_data(_values(row.made, _dtype_of(row.made, dtype)))
    if factors is not None:
        writer.write_tensor_data(factors)


def _dtype_of(made: Made, dtype: str) -> str:
    """Matrices have the dtype that was asked for; norms and biases are in float32, and so are
    matrices whose rows hold no whole blocks.
    """
    if len(made.shape) < 2:
        return "float32"
    return "float16" if dtype == "q8_0" and made.shape[-1] % block_of(dtype) else dtype


def _ggml(dtype: str) -> Any:
    import gguf

    kinds = gguf.GGMLQuantizationType
    return {
        "float32": kinds.F32,
        "float16": kinds.F16,
        "bfloat16": kinds.BF16,
        "q8_0": kinds.Q8_0,
    }[dtype]


def _numpy(dtype: str) -> np.dtype[Any]:
    plain = {"float32": np.float32, "float16": np.float16}
    return np.dtype(plain.get(dtype, np.uint8))


def _stored_shape(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """That of the bytes, where the numbers are no plain ones."""
    if dtype in ("float32", "float16"):
        return shape
    return (*shape[:-1], _nbytes(shape[-1:], dtype))


def _nbytes(shape: tuple[int, ...], dtype: str) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[_ggml(dtype)]
    return int(np.prod(shape, dtype=np.int64)) // block * size


def _values(made: Made, dtype: str) -> NDArray[Any]:
    """The values of a tensor as they are stored."""
    import gguf

    value = made.value().float().contiguous()
    if dtype in ("float32", "float16"):
        return in_dtype(value, getattr(torch, dtype), made.name).numpy()
    plain: NDArray[Any] = value.numpy()
    found: NDArray[Any] = gguf.quants.quantize(plain, _ggml(dtype))
    return found.view(np.uint8)


def _add(writer: Any, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_uint32(name, value)


def _add_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(list(tokenizer.tokens))
    writer.add_token_types(list(tokenizer.kinds))
    writer.add_token_merges(list(tokenizer.merges))
    for name, number in tokenizer.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer.add_bos)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
