"""How long generation takes: what is run and counted, and what is refused. No time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from optipfair import (
    ArgumentError,
    UnsupportedModelError,
    compare_models_inference,
    time_inference,
)
from optipfair.evaluation import speed_table
from optipfair.evaluation.speed import speed_measures
from optipfair.evaluation.speed.footprint import WITHOUT_OTHER
from optipfair.testing import byte_tokenizer, tiny_model

HOSTILE: dict[str, Any] = {
    "beams": {"num_beams": 3, "num_return_sequences": 2, "early_stopping": True},
    "sampling": {"do_sample": True, "temperature": 9.0, "top_p": 0.5, "renormalize_logits": True},
    "penalties": {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "suppress_tokens": [7]},
    "ends": {"eos_token_id": [7, 257], "forced_eos_token_id": 9, "stop_strings": ["a", "b"]},
    "lengths": {"max_length": 4, "min_length": 3, "min_new_tokens": 2, "max_time": 1e-9},
    "assistant": {"prompt_lookup_num_tokens": 3},
    "outputs": {"output_scores": True, "output_attentions": True, "use_cache": False},
}


@contextmanager
def fed(*models: Any) -> Iterator[list[tuple[int, Tensor, dict[str, Any]]]]:
    """What is given to each model, call by call: its number, the ids, everything."""
    calls: list[tuple[int, Tensor, dict[str, Any]]] = []
    with ExitStack() as stack:
        for number, model in enumerate(models):

            def note(_: Any, __: Any, given: dict[str, Any], number: int = number) -> None:
                calls.append((number, given["input_ids"], given))

            stack.callback(model.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield calls


def greedy(model: Any, prompt: str, count: int) -> list[int]:
    """The most likely continuation, token by token, without a cache."""
    ids = torch.tensor([byte_tokenizer()(prompt)["input_ids"]])
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    found: list[int] = ids[0, start:].tolist()
    return found


def test_the_figures_are_those_of_the_runs() -> None:
    found = time_inference(tiny_model("llama"), byte_tokenizer(), "hello", 3, 4, 0)
    assert (found["num_runs"], found["generated_tokens"], found["prompt_tokens"]) == (4, 3, 5)
    assert len(found["times"]) == 4
    assert found["avg_time"] == pytest.approx(sum(found["times"]) / 4)
    assert (found["min_time"], found["max_time"]) == (min(found["times"]), max(found["times"]))
    first, between = found["time_to_first_token"]["runs"], found["time_per_output_token"]["runs"]
    for whole, start, step in zip(found["times"], first, between, strict=True):
        assert 0 < start < start + 2 * step <= whole
    json.dumps(found, allow_nan=False)


def test_warmup_runs_do_not_count_but_are_run() -> None:
    model = tiny_model("llama")
    with fed(model) as calls:
        found = time_inference(model, byte_tokenizer(), "hello", 1, num_runs=2, warmup_runs=3)
    assert (len(calls), len(found["times"])) == (5, 2)
    assert found["time_per_output_token"]["median"] is None
    assert "single token" in found["time_per_output_token"]["reason"]


@pytest.mark.parametrize("given", ["attention_mask", "token_type_ids"])
def test_ids_and_mask_are_passed_and_nothing_else(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    tokenizer.model_input_names = ["input_ids", given]
    generate, passed = model.generate, []

    def note(*arguments: Any, **keywords: Any) -> Any:
        passed.append(keywords)
        return generate(*arguments, **keywords)

    monkeypatch.setattr(model, "generate", note)
    time_inference(model, tokenizer, "hello", 1, 1, 0)
    assert [set(each) - {"generation_config", "streamer"} for each in passed] == [
        {"input_ids", "attention_mask"}
    ]
    assert passed[0]["attention_mask"].tolist() == [[1] * 5]


@pytest.mark.parametrize("kind", HOSTILE)
def test_generation_settings_do_not_change_what_is_timed(kind: str) -> None:
    model = tiny_model("llama")
    expected = greedy(model, "abab", 6)
    settings = GenerationConfig(**HOSTILE[kind])
    model.generation_config = settings
    before = settings.to_dict()
    with fed(model) as calls:
        found = time_inference(model, byte_tokenizer(), "abab", 6, 1, 0)
    assert [ids.tolist() for _, ids, _ in calls[1:]] == [[[token]] for token in expected[:-1]]
    assert (found["generated_tokens"], len(calls)) == (6, 6)
    assert model.generation_config is settings
    assert settings.to_dict() == before


def test_an_end_of_text_does_not_stop_a_run() -> None:
    """This model always prefers token 7, which is its end of text."""
    model = tiny_model("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor(7), 9.0))
    model.generation_config.eos_token_id = model.config.eos_token_id = 7
    stopped = model.generate(torch.tensor([[1]]), max_new_tokens=6, do_sample=False)
    assert stopped.shape[1] == 2
    assert time_inference(model, byte_tokenizer(), "hello", 6, 1, 0)["generated_tokens"] == 6


@pytest.mark.parametrize("family", ["gpt2", "opt", "mixtral", "mamba", "jamba", "openai-gpt"])
def test_families_are_timed_with_or_without_a_cache(family: str) -> None:
    found = time_inference(tiny_model(family), byte_tokenizer(), "hello", 3, 1, 0)
    assert found["generated_tokens"] == 3
    assert (found["kv_cache_bytes"] is None) == (family == "openai-gpt")
    assert (found["kv_cache_reason"] is None) == (family != "openai-gpt")


def test_a_tokenizer_without_pad_and_end_tokens_will_do() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    assert time_inference(tiny_model("llama"), tokenizer, "hi", 2, 1, 0)["generated_tokens"] == 2


def test_timing_leaves_the_models_as_they_were(
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> None:
    first, second = tiny_model("llama").train(), tiny_model("llama", num_hidden_layers=1)
    settings = first.generation_config
    with unchanged(first), unchanged(second):
        time_inference(first, byte_tokenizer(), "hello", 2, 1, 1)
        compare_models_inference(
            first, second, byte_tokenizer(), ["hello"], 2, num_runs=1, batch_sizes=[2]
        )
    assert first.generation_config is settings


def test_after_an_error_the_settings_are_back() -> None:
    model = tiny_model("llama").train()
    settings = model.generation_config

    def fail(*_: Any) -> None:
        raise RuntimeError("out of order")

    model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of order"):
        time_inference(model, byte_tokenizer(), "hello", 2, 1, 1)
    assert model.generation_config is settings
    assert model.training


def test_a_model_that_stops_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    generate = model.generate

    def short(*args: Any, generation_config: Any, **keywords: Any) -> Any:
        generation_config.max_new_tokens = 2
        return generate(*args, generation_config=generation_config, **keywords)

    monkeypatch.setattr(model, "generate", short)
    with pytest.raises(UnsupportedModelError, match="gave 2 tokens of 5"):
        time_inference(model, byte_tokenizer(), "hello", 5, 1, 0)


class Clock:
    """A machine on which nothing takes time but the calls of models that are charged for.

    Attributes:
        slowing: by what everything takes longer after each call.
    """

    def __init__(self) -> None:
        self.now, self.pace, self.slowing = 0.0, 1.0, 1.0

    def perf_counter(self) -> float:
        return self.now

    def charge(self, model: Any, prompt_cost: float, token_cost: float) -> None:
        def advance(_: Any, __: Any, given: dict[str, Any], ___: Any) -> None:
            self.now += self.pace * (prompt_cost if given["input_ids"].shape[1] > 1 else token_cost)
            self.pace *= self.slowing

        model.register_forward_hook(advance, with_kwargs=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(speed_measures, "time", found)
    return found


def test_tokens_are_timed_within_the_call(clock: Clock) -> None:
    model = tiny_model("llama")
    clock.charge(model, 10.0, 2.0)
    found = time_inference(model, byte_tokenizer(), "hello", 6, 3, 1)
    assert found["times"] == [20.0] * 3
    assert found["time_to_first_token"]["runs"] == [10.0] * 3
    assert found["time_per_output_token"]["runs"] == [2.0] * 3
    assert found["tokens_per_second"] == 6 / 20
    assert found["std_time"] == 0


def test_a_comparison_has_the_promised_figures(clock: Clock) -> None:
    models = tiny_model("llama"), tiny_model("llama", num_hidden_layers=1)
    clock.charge(models[0], 10.0, 2.0)
    clock.charge(models[1], 7.0, 1.0)
    found = compare_models_inference(
        *models, byte_tokenizer(), ["hello", "hi"], 6, num_runs=3, prompt_lengths=[3, 9]
    )
    expected = {
        "avg_original_time": 20.0,
        "avg_pruned_time": 12.0,
        "avg_original_tokens_per_second": 6 / 20,
        "avg_pruned_tokens_per_second": 6 / 12,
        "speedup": pytest.approx(20 / 12),
        "speedup_interval": pytest.approx([20 / 12] * 2),
        "speedup_interval_reason": None,
        "tps_improvement_percent": pytest.approx(100 * (20 / 12 - 1)),
        "num_prompts": 2,
        "num_runs": 3,
        "prompt_tokens": [5, 2],
    }
    assert {name: found[name] for name in expected} == expected
    assert set(found) == {*expected, "original", "pruned", "table"}
    alone = time_inference(models[0], byte_tokenizer(), "hello", 6, 1, 0)
    assert (
        set(alone) == {*found["original"], "prompt_tokens"} == {*found["pruned"], "prompt_tokens"}
    )
    assert found["pruned"]["times"] == [12.0] * 6
    assert found["original"]["kv_cache_bytes"] == alone["kv_cache_bytes"]
    assert found["original"]["peak_memory_kind"] == alone["peak_memory_kind"] + WITHOUT_OTHER
    assert [row["prompt_tokens"] for row in found["table"]] == [3, 9]
    json.dumps(found, allow_nan=False)


def test_a_machine_that_drifts_does_not_decide(clock: Clock) -> None:
    """Equal models on a machine that slows down by a factor of 6 while they run."""
    models = tiny_model("llama"), tiny_model("llama")
    for model in models:
        clock.charge(model, 1.0, 1.0)
    clock.slowing = 1.03
    found = compare_models_inference(
        *models, byte_tokenizer(), ["hello"], 2, num_runs=14, warmup_runs=2
    )
    times = found["original"]["times"]
    assert times[-1] > 4 * times[0]
    low, high = found["speedup_interval"]
    assert 0.93 < low <= 1 <= high < 1.07
    assert found["speedup"] == pytest.approx(1, abs=1e-9)


def test_the_models_take_turns_and_alternate() -> None:
    models = tiny_model("llama"), tiny_model("llama", num_hidden_layers=1)
    with fed(*models) as calls:
        compare_models_inference(
            *models, byte_tokenizer(), ["a", "bb"], 1, num_runs=2, warmup_runs=1
        )
    order = [(number, ids.shape[1]) for number, ids, _ in calls]
    assert order == [
        *[(0, 1), (1, 1), (1, 2), (0, 2)],
        *[(1, 1), (0, 1), (0, 2), (1, 2)],
        *[(0, 1), (1, 1), (1, 2), (0, 2)],
    ]


def test_a_model_can_be_compared_with_itself() -> None:
    model = tiny_model("llama")
    settings = model.generation_config
    found = compare_models_inference(model, model, byte_tokenizer(), ["a"], 2, num_runs=1)
    assert found["speedup_interval"] is None
    assert "ask for more runs" in found["speedup_interval_reason"]
    assert model.generation_config is settings


def test_a_table_has_a_row_for_each_shape_and_both_models_see_the_same() -> None:
    models = tiny_model("llama"), tiny_model("llama", num_hidden_layers=1)
    options: dict[str, Any] = {"max_new_tokens": 2, "num_runs": 2, "warmup_runs": 0}
    with fed(*models) as calls:
        rows = speed_table(
            *models, byte_tokenizer(), batch_sizes=(1, 3), prompt_lengths=[4, 6], **options
        )
    shapes = [(row["batch_size"], row["prompt_tokens"]) for row in rows]
    assert shapes == [(1, 4), (1, 6), (3, 4), (3, 6)]
    prompts = [ids for _, ids, _ in calls if ids.shape[1] > 1]
    assert [tuple(ids.shape) for ids in prompts] == [shape for shape in shapes for _ in range(4)]
    assert all(torch.equal(prompts[4 * n], ids) for n in range(4) for ids in prompts[4 * n :][:4])
    assert max(int(ids.max()) for ids in prompts) < 256  # no special tokens
    assert len({tuple(row.tolist()) for row in prompts[-1]}) == 3
    for row in rows:
        low, high = row["speedup_interval"]
        assert low <= row["speedup"] <= high


def test_of_batches_and_lengths_one_may_be_left_out() -> None:
    models = tiny_model("llama"), tiny_model("llama")
    for asked, shape in (({"batch_sizes": [2]}, (2, 5)), ({"prompt_lengths": [3]}, (1, 3))):
        (row,) = compare_models_inference(
            *models, byte_tokenizer(), ["hi", "hello"], 1, num_runs=1, warmup_runs=0, **asked
        )["table"]
        assert (row["batch_size"], row["prompt_tokens"]) == shape
    plain = compare_models_inference(*models, byte_tokenizer(), ["hi"], 1, num_runs=1)
    assert plain["table"] == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"prompt": ""}, "prompt='' is empty"),
        ({"prompt": None}, "prompt=None"),
        ({"prompt": ["hello"]}, "no text"),
        ({"prompt": "a" * 128}, r"128 tokens and .* has 128. The prompt alone fills it"),
        ({"prompt": "a" * 120, "max_new_tokens": 9}, "Give max_new_tokens=8 or less"),
        ({"max_new_tokens": 200}, "Give max_new_tokens=123 or less"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 2.0}, r"max_new_tokens=2\.0"),
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
    model = tiny_model("llama")
    with fed(model) as calls, pytest.raises(ArgumentError, match=match):
        time_inference(model, byte_tokenizer(), **given)
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"prompts": []}, r"prompts=\[\] holds no texts"),
        ({"prompts": None}, "prompts=None"),
        ({"prompts": "hello"}, r"Give a list: prompts=\['hello'\]"),
        ({"prompts": ["hello", ""]}, r"prompts\[1\]='' is empty"),
        ({"prompts": ["hello", 3]}, r"prompts\[1\]=3"),
        ({"prompts": ["hello", "a" * 128]}, "max_position_embeddings"),
        ({"num_runs": 0}, "num_runs=0"),
        ({"warmup_runs": -1}, "warmup_runs=-1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"batch_sizes": []}, r"batch_sizes=\[\] is no list"),
        ({"batch_sizes": 4}, r"batch_sizes=4 is no list of numbers. Give one, such as"),
        ({"prompt_lengths": "12"}, "prompt_lengths='12'"),
        ({"prompt_lengths": [4, 0]}, r"prompt_lengths\[1\]=0"),
        ({"prompt_lengths": [4, 500]}, "500 tokens"),
    ],
    ids=str,
)
def test_a_bad_comparison_is_refused_before_anything_runs(
    arguments: dict[str, Any], match: str
) -> None:
    models = tiny_model("llama"), tiny_model("llama", num_hidden_layers=1)
    given = {"prompts": ["hello"], "max_new_tokens": 1, **arguments}
    with fed(*models) as calls, pytest.raises(ArgumentError, match=match):
        compare_models_inference(*models, byte_tokenizer(), **given)
    assert calls == []


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="LlamaModel cannot generate"):
        time_inference(tiny_model("llama").base_model, byte_tokenizer(), "hello", 1)


def test_two_vocabularies_and_a_foreign_tokenizer_are_refused() -> None:
    models = tiny_model("llama"), tiny_model("llama", vocab_size=300)
    with pytest.raises(ArgumentError, match="different vocabularies: 272 and 300"):
        compare_models_inference(*models, byte_tokenizer(), ["hello"], 1)
    with pytest.raises(ArgumentError, match="different vocabularies"):
        speed_table(*models, byte_tokenizer(), batch_sizes=[1], prompt_lengths=[1])
    small = tiny_model("llama", vocab_size=40, bos_token_id=1, eos_token_id=2, pad_token_id=3)
    with pytest.raises(ArgumentError, match=r"knows 0 to 39. Use the tokenizer that belongs"):
        time_inference(small, byte_tokenizer(), "hello", 1)
