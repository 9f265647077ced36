"""A hash of a model: the same weights under the same config give the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

_CHUNK = 2**24  # elements hashed at once
_OF_LOADING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


def fingerprint(model: Any) -> str:
    """SHA-256 over a model's config, and its tensors' names, dtypes, shapes and bytes.

    Tensors that are one and the same are read once. Where the model came from does not count.
    """
    stated = model.config.to_dict().items()
    config = {name: value for name, value in stated if name not in _OF_LOADING}
    described = json.dumps([type(model).__name__, config], sort_keys=True, default=str)
    digest = hashlib.sha256(described.encode())
    seen: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        same = seen.setdefault(place, name) if tensor.numel() else name
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape), same)).encode())
        for chunk in tensor.contiguous().view(-1).split(_CHUNK) if same == name else ():
            digest.update(memoryview(chunk.cpu().view(torch.uint8).numpy()))
    return digest.hexdigest()
