"""How long generation takes: what is counted, and what is refused. No time is asserted."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from optipfair import ArgumentError, time_inference
from optipfair.testing import byte_tokenizer, tiny_model


def test_the_result_has_the_documented_keys_and_they_agree() -> None:
    found = time_inference(tiny_model("llama"), byte_tokenizer(), "hello", 3, 4, 0)
    assert set(found) == {
        "avg_time",
        "median_time",
        "min_time",
        "max_time",
        "tokens_per_second",
        "num_runs",
        "generated_tokens",
        "times",
    }
    times = found["times"]
    assert (found["num_runs"], found["generated_tokens"], len(times)) == (4, 3, 4)
    assert found["avg_time"] == pytest.approx(sum(times) / 4)
    assert found["median_time"] == statistics.median(times)
    assert (found["min_time"], found["max_time"]) == (min(times), max(times))
    assert found["tokens_per_second"] == pytest.approx(3 / found["median_time"])


def test_warmup_runs_do_not_count_but_are_run() -> None:
    model = tiny_model("llama")
    starts: list[int] = []

    def note(_: Any, __: Any, inputs: dict[str, torch.Tensor]) -> None:
        starts.append(inputs["input_ids"].shape[1])

    model.register_forward_pre_hook(note, with_kwargs=True)
    found = time_inference(model, byte_tokenizer(), "hello", 1, num_runs=2, warmup_runs=3)
    assert (len(starts), len(found["times"])) == (5, 2)


def test_an_end_of_text_does_not_stop_a_run() -> None:
    """This model always prefers token 7, which is its end of text."""
    model = tiny_model("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor(7), 9.0))
    model.generation_config.eos_token_id = model.config.eos_token_id = 7
    stopped = model.generate(torch.tensor([[1]]), max_new_tokens=6, do_sample=False)
    assert stopped.shape[1] == 2
    found = time_inference(model, byte_tokenizer(), "hello", 6, 1, 0)
    assert found["generated_tokens"] == 6


def test_timing_leaves_the_model_as_it_was(
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> None:
    model = tiny_model("llama").train()
    with unchanged(model):
        time_inference(model, byte_tokenizer(), "hello", 2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"prompt": ""}, "prompt='' is empty"),
        ({"prompt": None}, "prompt=None"),
        ({"prompt": ["hello"]}, "no text"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"num_runs": 0}, "num_runs=0"),
        ({"num_runs": "3"}, "num_runs='3'"),
        ({"warmup_runs": -1}, "warmup_runs=-1"),
        ({"warmup_runs": None}, "warmup_runs=None"),
    ],
    ids=str,
)
def test_bad_input_is_refused(arguments: dict[str, Any], match: str) -> None:
    given = {"prompt": "hello", "max_new_tokens": 1, "num_runs": 1, "warmup_runs": 0, **arguments}
    with pytest.raises(ArgumentError, match=match):
        time_inference(tiny_model("llama"), byte_tokenizer(), **given)
