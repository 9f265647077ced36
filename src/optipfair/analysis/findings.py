"""What either way of looking at a model finds: by its headers, or by building it."""

from __future__ import annotations

from dataclasses import dataclass

from ..arch.sizes import ModelSizes


@dataclass(frozen=True)
class Findings:
    """What is known of a model, before anything is computed from it.

    Attributes:
        sizes: what it is made of.
        refusals: for `MLP_GLU` and `DEPTH`, why it is not possible; empty where it is.
        bytes: of its weights.
        dtypes: of its weights.
    """

    sizes: ModelSizes
    refusals: dict[str, str]
    bytes: int
    dtypes: list[str]
