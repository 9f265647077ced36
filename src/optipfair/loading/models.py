"""Loading a model or its config from wherever it is."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arch.gguf_config import check_all_taken, gguf_config
from ..arch.gguf_names import names_once
from ..arch.heterogeneous import allow_reading, class_for, overrides
from ..arch.twin import build_on_meta, building
from ..devices import check_device, check_dtype
from ..errors import CheckpointError, UnsupportedModelError
from ..files.gguf_header import read_gguf_header
from ..files.safetensors_reader import incomplete, open_checkpoint, read_config
from .quiet import reading
from .sources import Source, find_source, hub_is_reachable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weights in other formats, which are large and not read.
_OTHER_FORMATS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx*", "*.h5", "*.msgpack", "*.ot"),
    *("original/*", "onnx/*", "coreml/*", "openvino*"),
)
_PICKLED = "pytorch_model*.bin"
_MANY = 4096  # layers or experts: more than any model has, and built in seconds
_SMALL = 2**22  # weights that may be missing where files are small; reading says which
_WEIGHTS = {".safetensors", ".bin", ".gguf"}
_COUNTED = (  # fields of configs and of .gguf files
    "layers?$|^depth$|blocks?$|block_count$|expert_count$|^num.*(experts|layers)|^n_(layers?|routed|shared)"
)


def load_model(
    source: str | Path | Source,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    show_progress: bool = False,
) -> PreTrainedModel:
    """Load a causal language model with its weights, in eval mode.

    Args:
        source: a folder, a `.gguf` file, `demo`, or a hub id.
        device: `auto` (an accelerator if there is one), `cpu`, `cuda`, `cuda:1`, `mps`, ...
        dtype: `auto` keeps the checkpoint's, else `float32`, `float16` or `bfloat16`.
        trust_remote_code: whether code from the model's repository may run.
        show_progress: whether to show transformers' bars.

    Raises:
        CheckpointError: the model cannot be read, or tensors are missing.
        ArgumentError: an unknown device or dtype.
    """
    place = check_device(device)
    kind = check_dtype(dtype)
    found = source if isinstance(source, Source) else find_source(source)
    check_readable(found)
    load = _loader(found, trust_remote_code)
    tables = names_once() if found.kind == "gguf" else nullcontext()
    with building(), tables, reading(found, show_progress):
        model, info = load(
            found.location,
            dtype=kind,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **({} if found.file else {"use_safetensors": True}),
            **found.arguments,
        )
    _refuse_incomplete(found, info)
    if found.kind == "gguf":
        _forget_quantization(model)
    model = model.to(place)
    loaded: PreTrainedModel = model.eval()
    return loaded


def _loader(source: Source, trust_remote_code: bool) -> Any:
    """What loads a model: transformers' own way, or ours where its layers differ in width."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    config = load_config(source, trust_remote_code=trust_remote_code)
    uniform = not overrides(config.get_text_config())
    if source.path is None and uniform:
        return auto.from_pretrained
    try:
        twin: Any = build_on_meta(config)
    except UnsupportedModelError as exc:
        raise CheckpointError(f"Cannot read the model {source.given!r}: {exc}") from exc
    if source.path is not None:
        _check_sizes(source.path, twin)
        if source.kind == "gguf":
            check_all_taken(read_gguf_header(source.path), twin)
            return partial(auto.from_pretrained, config=config)
    if uniform:
        return auto.from_pretrained
    model_class: Any = type(twin)

    def load(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        kwargs.pop("trust_remote_code")
        model, info = class_for(model_class, config).from_pretrained(*args, config=config, **kwargs)
        model.__class__ = model_class
        allow_reading(model.config.get_text_config())
        return model, info

    return load


def snapshot(source: Source) -> Path:
    """The folder with a model's files; those of a hub id are fetched, or found in the cache."""
    if source.kind != "hub":
        return Path(source.location)
    from huggingface_hub import snapshot_download

    with reading(source):
        fetch = partial(snapshot_download, source.location, local_files_only=not hub_is_reachable())
        folder = Path(fetch(ignore_patterns=list(_OTHER_FORMATS)))
        if not any(folder.glob("model*.safetensors")):
            fetch(allow_patterns=[_PICKLED])
        return folder


def load_config(source: Source, *, trust_remote_code: bool = False) -> Any:
    """Load only the config."""
    check_readable(source, weights=False)
    from transformers import AutoConfig

    with reading(source):
        config = AutoConfig.from_pretrained(
            source.location, trust_remote_code=trust_remote_code, **source.arguments
        )
    if source.path is not None and source.kind == "gguf":
        config = gguf_config(config, read_gguf_header(source.path))
    if getattr(config.get_text_config(), "hidden_size", None) == 0:
        raise CheckpointError(
            f"Cannot read the model {source.given!r}. Its config says hidden_size=0, which must be "
            "1 or more. Restore the config or download the model again."
        )
    return config


def _check_counts(where: Path, config: Mapping[str, Any], most: int) -> None:
    """Refuse counts of layers and experts that files cannot hold, before they are built."""
    parts = [config]
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, Mapping)]
        for name, value in part.items():
            if isinstance(value, int | float) and value > most and re.search(_COUNTED, name):
                raise CheckpointError(
                    f"Cannot read the model {where}. Its config says {name}={value:.20g}, of which "
                    "its files hold fewer. Restore the config or download the model again."
                )


def _tensors_of(folder: Path) -> int:
    """How many tensors a folder's files hold; 0 where they are other weights, or none."""
    try:
        return len(open_checkpoint(folder).tensors)
    except CheckpointError:
        return 0


def _check_sizes(path: Path, twin: Any) -> None:
    """Refuse a config of more weights than its files have bits, before memory is asked for.

    Loading fills what files lack with random numbers.
    """
    files = [path] if path.is_file() else [*path.glob("*")]
    weights = [each.stat().st_size for each in files if each.suffix in _WEIGHTS]
    count = sum(parameter.numel() for parameter in twin.parameters())
    if weights and count > 8 * sum(weights) + _SMALL:
        raise CheckpointError(
            f"Cannot read the model {path}. Its config is of {count:,} weights, which "
            f"its files, of {sum(weights):,} bytes, cannot hold. Restore the config or download "
            "the model again."
        )


def check_readable(source: Source, *, weights: bool = True) -> None:
    """Check what can be checked without loading: config, weight files, the needed packages."""
    if source.kind == "folder":
        folder = Path(source.location)
        _check_counts(folder, read_config(folder), max(_tensors_of(folder), _MANY))
        if weights:
            open_checkpoint(folder)
    if source.path is not None and source.kind == "gguf":
        header = read_gguf_header(source.path)  # more strictly than transformers reads it later
        _check_counts(source.path, header.fields(), len(header.tensors))
        missing = [name for name in ("gguf", "accelerate") if not importlib.util.find_spec(name)]
        if missing:
            raise CheckpointError(
                f"Reading a .gguf file needs {' and '.join(missing)}. Install them with: "
                "pip install 'optipfair[demo]'"
            )


def _refuse_incomplete(source: Source, info: dict[str, Any]) -> None:
    """A tensor that is missing would be filled with random numbers: refuse it."""
    mismatched = [name for name, *_ in info.get("mismatched_keys", ())]
    wrong = sorted([*map(str, info.get("missing_keys", ())), *mismatched])
    if wrong:
        what = " or has them in another shape" if mismatched else ""
        raise incomplete(repr(source.given), wrong, what)


def _forget_quantization(model: Any) -> None:
    """A GGUF model arrives with plain weights, but marked as quantized; then saving fails."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
