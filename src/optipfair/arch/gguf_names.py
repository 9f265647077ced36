"""The tables of names by which transformers reads `.gguf` files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def names_once() -> Iterator[None]:
    """Inside the block each table is made once; transformers makes one for each module."""
    try:
        import gguf
    except ImportError:  # then nothing is read, and transformers says so
        yield
        return
    made = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = cache(made)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = made
