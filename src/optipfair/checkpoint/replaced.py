"""Replaced tensors as they are stored: where they go in the files, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files.torch_dtypes import TORCH_DTYPES
from ..pruning.calibration.holding import Key
from .stored_model import StoredModel

_KEPT = 2  # layers' tensors in memory while they are written, whose experts are apart on disk


@dataclass(frozen=True)
class StoredReplacements:
    """The tensors that take the place of others, by their names on disk.

    Attributes:
        stored: the checkpoint.
        tensors: in the form that they have in memory.
    """

    stored: StoredModel
    tensors: Mapping[Key, Tensor]

    @cached_property
    def keys(self) -> dict[str, Key]:
        """Name on disk → the replaced tensor that it is, or is a part of."""
        twin = self.stored.view.model
        return {
            name: key
            for key in self.tensors
            for name in self._as_stored(key, twin.get_parameter(self._live_name(key)).detach())
        }

    def chunks(self, name: str, dtype: str) -> Iterator[memoryview]:
        """The bytes of a stored tensor, in the dtype to store."""
        yield self.elements(name, dtype).data

    def elements(self, name: str, dtype: str) -> NDArray[Any]:
        """The same as plain bytes, (n,)."""
        tensor = self._saved(self.keys[name])[name].to(TORCH_DTYPES[dtype])
        found: NDArray[np.uint8] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        return found

    @cached_property
    def _saved(self) -> Any:
        return lru_cache(maxsize=_KEPT)(self._as_saved)

    def _as_saved(self, key: Key) -> dict[str, Tensor]:
        return self._as_stored(key, self.tensors[key])

    def _as_stored(self, key: Key, tensor: Tensor) -> dict[str, Tensor]:
        return self.stored.saved({self._live_name(key): tensor})

    def _live_name(self, key: Key) -> str:
        return f"{self.stored.view.layers_path}.{key[0]}.{key[2]}"
