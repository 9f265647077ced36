"""Loading a model, its config and its tokenizer from wherever it is."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arch.gguf_config import check_all_taken, gguf_config
from .arch.gguf_names import names_once
from .arch.heterogeneous import allow_reading, class_for, overrides
from .arch.twin import build_on_meta, building
from .checking import DTYPES, is_file
from .errors import (
    ArgumentError,
    CheckpointError,
    OptiPFairError,
    UnknownNameError,
    UnsupportedModelError,
)
from .files.foreign import read_json
from .files.gguf_header import read_gguf_header
from .files.safetensors_reader import incomplete, open_checkpoint, read_config
from .registry import unknown_name
from .sources import Source, find_source, hub_is_reachable
from .visible import visible

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
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
    with building(), tables, _reading(found, show_progress):
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

    with _reading(source):
        fetch = partial(snapshot_download, source.location, local_files_only=not hub_is_reachable())
        folder = Path(fetch(ignore_patterns=list(_OTHER_FORMATS)))
        if not any(folder.glob("model*.safetensors")):
            fetch(allow_patterns=[_PICKLED])
        return folder


def load_config(source: Source, *, trust_remote_code: bool = False) -> Any:
    """Load only the config."""
    check_readable(source, weights=False)
    from transformers import AutoConfig

    with _reading(source):
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


def load_tokenizer(
    source: str | Path | Source, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer, or return None where a folder has none."""
    found = source if isinstance(source, Source) else find_source(source)
    if found.kind == "folder" and not has_tokenizer(Path(found.location)):
        return None
    if found.kind == "hub" and not _hub_has_tokenizer(found):
        return None
    from transformers import AutoTokenizer

    auto: Any = AutoTokenizer
    with _reading(found):
        if found.kind == "folder":
            _check_tokens(Path(found.location))
        tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(
            found.location, trust_remote_code=trust_remote_code, **found.arguments
        )
    return tokenizer


def _check_tokens(folder: Path) -> None:
    """Refuse options of special tokens that a terminal acts on: tokenizers prints unknown ones."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if is_file(folder / name):
            waiting = [read_json(folder / name, constants=True)]
            while waiting:
                value = waiting.pop()
                if isinstance(value, dict) and any(visible(key) != key for key in value):
                    raise ValueError(f"{name} has a field with characters that a terminal acts on")
                inside = value.values() if isinstance(value, dict) else value
                waiting += inside if isinstance(value, dict | list) else ()


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _hub_has_tokenizer(source: Source) -> bool:
    from transformers.utils.hub import cached_file

    with _reading(source):
        return any(
            cached_file(
                source.location,
                name,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **source.arguments,
            )
            for name in _TOKENIZER_FILES
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


def check_device(device: str) -> torch.device:
    """Return the device; `auto` takes an accelerator if there is one."""
    import torch

    available = available_devices()
    if device == "auto":
        return torch.device(available[-1] if len(available) == 1 else available[1])
    named = str(device) if isinstance(device, str | torch.device) else None
    if named not in {*available, *(name.split(":")[0] for name in available)}:
        raise ArgumentError(
            f"The device {device!r} is not available. This machine has: {', '.join(available)} "
            "(or auto)."
        )
    return torch.device(named)


def available_devices() -> list[str]:
    """`cpu` and every accelerator that torch sees."""
    import torch

    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append("mps")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        devices += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    return devices


@contextmanager
def quiet_transformers(show_progress: bool = False) -> Iterator[None]:
    """Silence transformers' messages inside the block, and its bars unless they are wanted."""
    with no_messages(show_progress):
        if show_progress:
            yield
        else:  # the bar of the GGUF reader heeds no setting
            with contextlib.redirect_stderr(io.StringIO()):
                yield


@contextmanager
def no_messages(show_progress: bool = False) -> Iterator[None]:
    """Silence transformers' messages and bars inside the block; what else is said is shown."""
    from transformers.utils import logging as transformers_logging

    control: Any = transformers_logging
    verbosity, bars = control.get_verbosity(), control.is_progress_bar_enabled()
    control.set_verbosity_error()
    try:
        if not show_progress:
            control.disable_progress_bar()
        yield
    finally:
        control.set_verbosity(verbosity)
        if bars:
            control.enable_progress_bar()


def check_dtype(dtype: str) -> Any:
    """Return the torch dtype, or `auto` as it is."""
    import torch

    if dtype not in DTYPES:
        raise UnknownNameError(unknown_name("dtype", dtype, list(DTYPES)))
    return dtype if dtype == "auto" else getattr(torch, dtype)


@contextmanager
def _reading(source: Source, show_progress: bool = False) -> Iterator[None]:
    """Turn what transformers raises about a model that cannot be read into our error."""
    try:
        with quiet_transformers(show_progress):
            yield
    except (OptiPFairError, MemoryError):
        raise
    except Exception as exc:  # of many libraries; no list of what they raise is ever complete
        reason = " ".join(str(exc).split())[:300]
        hint = (
            " It is no local path; as a hub id it must exist and the hub must be reachable."
            if source.kind == "hub"
            else ""
        )
        if "trust_remote_code" in str(exc):
            hint += " Its code runs only with --trust-remote-code (trust_remote_code=True)."
        raise CheckpointError(f"Cannot read the model {source.given!r}.{hint} {reason}") from exc


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
