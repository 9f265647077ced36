"""Bytes of weights, caches and runs, against what the shapes say."""

from __future__ import annotations

import gc
import mmap
from pathlib import Path

import pytest
import torch
from torch import nn

from optipfair import time_inference
from optipfair.evaluation.speed import footprint
from optipfair.evaluation.speed.footprint import cache_bytes, memory_meter, weight_bytes
from optipfair.testing import byte_tokenizer, tiny_model

MIB = 2**20


def test_keys_and_values_of_the_cache_are_counted() -> None:
    """The last token is given back, not run: 9 prompt tokens and 4 of 5 new ones are held."""
    config = (model := tiny_model("llama")).config
    found = time_inference(model, byte_tokenizer(), "hello you", 5, 1, 0)
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    assert found["kv_cache_bytes"] == 2 * config.num_hidden_layers * heads * (9 + 4) * 4


def test_states_of_recurrent_layers_are_counted() -> None:
    config = (model := tiny_model("mamba")).config
    each = config.intermediate_size * (config.conv_kernel + config.state_size) * 4
    for prompt in ("hi", "hello you"):
        found = time_inference(model, byte_tokenizer(), prompt, 5, 1, 0)
        assert found["kv_cache_bytes"] == config.num_hidden_layers * each


def test_a_cache_of_any_form_is_counted_once() -> None:
    class Layer:
        def __init__(self) -> None:
            self.keys, self.length = torch.zeros(2, 3), torch.tensor([3])
            self.states = {"conv": [torch.zeros(5, dtype=torch.bfloat16)], "model": nn.Linear(9, 9)}
            self.itself = self

    shared = Layer()
    assert cache_bytes((shared, shared, Layer())) == 2 * (6 * 4 + 5 * 2)
    assert cache_bytes(None) is None
    assert cache_bytes([]) is None


def test_weights_are_counted_with_buffers_and_tied_ones_once() -> None:
    model = nn.ModuleList([nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)])
    model.register_buffer("table", torch.zeros(5, dtype=torch.float64))
    assert weight_bytes(model) == 2 * 12 * 4 + 5 * 8
    model[1].weight = model[0].weight
    assert weight_bytes(model) == 12 * 4 + 5 * 8
    model[1].weight = nn.Parameter(model[0].weight.data)  # another tensor, the same memory
    assert weight_bytes(model) == 12 * 4 + 5 * 8


def test_the_other_model_is_taken_off_but_not_what_both_share() -> None:
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 32, bias=False)
    assert memory_meter(first, beside=second).other == 64 * 32 * 4
    second.table = first.weight
    assert memory_meter(first, beside=second).other == 64 * 32 * 4
    assert memory_meter(second, beside=first).other == 0
    assert memory_meter(first, beside=first).other == 0


def use_and_give_back(size: int) -> None:
    """From the system and to it: an allocator may use again what earlier tests have left it."""
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block[:: mmap.PAGESIZE] = b"x" * (size // mmap.PAGESIZE)


def test_a_peak_that_is_over_is_seen_and_then_forgotten() -> None:
    """Half of the peak is the bar: under pressure the system takes other pages away meanwhile."""
    meter = memory_meter(nn.Linear(1, 1))
    if meter.kind != footprint.PEAK:
        pytest.skip("the peak of the resident set cannot be reset here")
    gc.collect()  # earlier tests' waste, which would go at any moment
    meter.start()
    before = meter.read()
    use_and_give_back(128 * MIB)
    during = meter.read()
    meter.start()
    after = meter.read()
    assert before is not None and during is not None and after is not None
    assert during - before > 64 * MIB
    assert during - after > 64 * MIB


def test_where_the_peak_cannot_be_had_the_kind_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  900 kB\nVmRSS:\t  700 kB\n")
    monkeypatch.setattr(footprint, "_STATUS", status)
    monkeypatch.setattr(footprint, "_CLEAR", tmp_path / "absent" / "clear_refs")
    meter = memory_meter(nn.Linear(1, 1))
    meter.start()
    assert (meter.kind, meter.read()) == (footprint.AFTER, 700 * 1024)
    meter = memory_meter(nn.Linear(1, 1), beside=nn.Linear(64, 64, bias=False))
    assert meter.read() == 700 * 1024 - 64 * 64 * 4
    status.unlink()
    meter = memory_meter(nn.Linear(1, 1), beside=nn.Linear(1, 1))
    assert (meter.kind, meter.read()) == (footprint.UNKNOWN, None)
