"""What `docs/ship.md` says of widths, asked of the package that defines llama.cpp's files."""

from __future__ import annotations

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")

BLOCKS_OF_32 = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")
BLOCKS_OF_256 = ("Q3_K", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("name", [*BLOCKS_OF_32, *BLOCKS_OF_256])
def test_block_sizes_are_as_documented(name: str) -> None:
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert block == (32 if name in BLOCKS_OF_32 else 256)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_a_width_of_20_percent_less_is_taken_only_as_a_multiple_of_32(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    gguf.quants.quantize(np.zeros((2, 1216), np.float32), kind)
    with pytest.raises(gguf.quants.QuantError):
        gguf.quants.quantize(np.zeros((2, 1229), np.float32), kind)
