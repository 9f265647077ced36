"""A checkpoint's model that runs without being loaded: its layers come from disk one at a time.

What stands around the decoder layers (embeddings, norms, rotary tables) is in memory. Where values
lie is asked as in `stored_model.py`: transformers converts a layer's tensors to what it would save,
and what it gives are views of them, which are filled from the files.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..arch.buffers import computed_buffers
from ..arch.twin import build_on_meta
from ..arch.view import LayerView, ModelView, describe
from ..errors import UnsupportedModelError
from ..files.safetensors_reader import TensorInfo, read_into
from ..files.torch_dtypes import TORCH_DTYPES
from ..pruning.calibration.stream import LayerSource
from ..pruning.cut.checks import seen_by
from .stored_model import StoredModel, kept_in_float32

_DTYPES = TORCH_DTYPES | {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip


class NeedsModelError(UnsupportedModelError):
    """What is to be decided needs the whole model in memory; says why."""


class StoredLayers:
    """The model of a checkpoint, with only what is outside its decoder layers in memory.

    The layers of its view are on `meta`, and so is what its base model does not hold.
    """

    def __init__(
        self,
        stored: StoredModel,
        device: torch.device,
        dtype: str = "auto",
        units: Collection[str] = (),
    ) -> None:
        """Read what stands around the layers, which will run on `device` in `dtype`: `auto` for
        that of the checkpoint, as loading chooses it.
        """
        self._stored, self._device = stored, device
        kind = _working_dtype(stored, dtype)
        self.view: ModelView = seen_by(describe(_built(stored, kind)), units)
        self._model: Any = self.view.model
        self._wide = kept_in_float32(self._model, str(kind).removeprefix("torch."))
        self._read_surroundings()
        model: nn.Module = self.view.model
        model.eval().requires_grad_(False)

    @property
    def source(self) -> LayerSource:
        """Where layers come from that can be run."""
        return LayerSource(self.copied, resident=False)

    def copied(self, layer: LayerView) -> nn.Module:
        """A decoder layer with its weights, in eval mode, which nobody else holds."""
        prefix = f"{self.view.layers_path}.{layer.index}."
        # Not of the view's own layer, which may carry hooks just now.
        own = copy.deepcopy(self._stored.view.layers[layer.index].module)
        state = layer.module.state_dict(keep_vars=True)
        tensors = self._filled({prefix + name: tensor for name, tensor in state.items()})
        for name, tensor in tensors.items():
            _assign(own, name[len(prefix) :], _like(state[name[len(prefix) :]], tensor))
        for name, value in self._computed(layer.module).items():
            _assign(own, name, value)
        return own.to(self._device).eval().requires_grad_(False)

    def _read_surroundings(self) -> None:
        """Give the base model's tensors outside the layers their values."""
        # First the buffers: what computes them fills the weights beside them too, on `meta`.
        for name, value in self._computed(self._model, self.view.container).items():
            _assign(self._model, name, value.to(self._device))
        base = {id(each) for each in self._model.base_model.state_dict(keep_vars=True).values()}
        self._read(lambda tensor: id(tensor) in base)

    def read_head(self) -> None:
        """Give what stands outside the base model its values, so that there are logits."""
        self._read(lambda tensor: tensor.is_meta)

    def _read(self, wanted: Callable[[Tensor], bool]) -> None:
        """Fill the tensors outside the layers that are wanted; tied ones once."""
        filled: dict[int, Tensor] = {}
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            if name.startswith(f"{self.view.layers_path}.") or not wanted(tensor):
                continue
            if id(tensor) not in filled:
                value = self._filled({name: tensor})[name].to(self._device)
                filled[id(tensor)] = _like(tensor, value)
            _assign(self._model, name, filled[id(tensor)])

    def _computed(self, part: nn.Module, without: nn.Module | None = None) -> dict[str, Tensor]:
        computed: dict[str, Tensor] = {}
        for name, value in dict(computed_buffers(self._model, part, without)).items():
            if value is None:
                raise NeedsModelError(f"{name} is computed when the whole model is loaded")
            computed[name] = value
        return computed

    def _filled(self, twins: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors with their values, for tensors of the twin by their names in memory."""
        tensors = {
            name: torch.empty(tensor.shape, dtype=self._dtype_of(name, tensor))
            for name, tensor in twins.items()
        }
        owners = {_storage(tensor): name for name, tensor in tensors.items() if tensor.numel()}
        places = {name: tensor.as_subclass(_Place) for name, tensor in tensors.items()}
        saved = self._stored.saved(places)
        done: Counter[str] = Counter()
        for name, place in saved.items():
            owner = owners.get(_storage(place))
            if place.numel() and owner is None:
                raise NeedsModelError(f"{name} is stored in a form that only loading undoes")
            if owner is not None:
                _read(self._find(name, tuple(place.shape)), place.as_subclass(Tensor))
                done[owner] += place.numel()
        partly = [name for name, tensor in tensors.items() if done[name] != tensor.numel()]
        if partly:
            raise NeedsModelError(f"{partly[0]} is stored in a form that only loading undoes")
        return tensors

    def _dtype_of(self, name: str, twin: Tensor) -> torch.dtype:
        kept = any(re.search(each.replace("*", ".*"), name) for each in self._wide)
        return torch.float32 if kept else twin.dtype

    def _find(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        info = self._stored.tensors.get(name)
        if info is None or info.shape != shape or info.dtype not in _DTYPES:
            raise NeedsModelError(f"{name} is not stored as the model holds it")
        return info


class _Place(Tensor):
    """A tensor to be written to through its views: it makes no copy for the sake of its layout."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.contiguous:
            return args[0]
        return super().__torch_function__(  # type: ignore[no-untyped-call]
            func, types, args, kwargs or {}
        )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _working_dtype(stored: StoredModel, dtype: str) -> torch.dtype:
    """The dtype that loading would choose."""
    wanted: Any = dtype if dtype != "auto" else getattr(stored.view.model.config, "dtype", None)
    if wanted is None:
        floats = [info.dtype for info in stored.tensors.values() if info.dtype in TORCH_DTYPES]
        wanted = TORCH_DTYPES[floats[0]] if floats else torch.float32
    kind: torch.dtype = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    return kind


def _built(stored: StoredModel, dtype: torch.dtype) -> Any:
    config = copy.deepcopy(stored.view.model.config)
    config.dtype = dtype
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        return build_on_meta(config)


def _like(twin: Tensor, value: Tensor) -> Tensor:
    if isinstance(twin, nn.Parameter):
        return nn.Parameter(value, requires_grad=False)
    return value


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, own = name.rpartition(".")
    owner = module.get_submodule(path)
    group: dict[str, Any] = owner._parameters if own in owner._parameters else owner._buffers
    group[own] = value


def _read(info: TensorInfo, place: Tensor) -> None:
    """Read a stored tensor into a place of its shape, which may be strided and of another dtype."""
    dtype = _DTYPES[info.dtype]
    direct = place.is_contiguous() and place.dtype == dtype
    data = place if direct else torch.empty(info.shape, dtype=dtype)
    read_into(info.file, info.start, data.reshape(-1).view(torch.uint8).numpy().data)
    if not direct:
        place.copy_(data)
