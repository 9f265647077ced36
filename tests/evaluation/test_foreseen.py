"""What is said of the time beforehand: counted from what will run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair.evaluation.agenda import make_agenda
from optipfair.evaluation.evaluate_options import EvaluateOptions
from optipfair.evaluation.foreseen import Foreseen, foreseen
from optipfair.evaluation.rows import measured
from optipfair.testing import byte_tokenizer, tiny_model


def asked(data: Path, *names: str, **more: Any) -> EvaluateOptions:
    return EvaluateOptions(data=data, names=names, context=64, **more)


def test_what_is_read_is_what_will_be_read(data: Path) -> None:
    model, tokenizer, read = tiny_model("llama"), byte_tokenizer(), []
    options = asked(data, "model", tasks=["piqa", "crows_pairs", "next_token"])
    agenda = make_agenda(tokenizer, options, model.config)
    known = foreseen(agenda, [model], tokenizer)
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    measured(agenda, [model], tokenizer)
    assert known is not None
    assert (known.read, known.written) == (sum(read), 0)
    assert known.seconds > 0


def test_steps_of_writing_are_those_that_will_be_taken(data: Path) -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    pair = [model, tiny_model("llama", num_hidden_layers=2)]
    more: Any = {"tasks": ["piqa"], "prompts": ["One", "Two", "Three"]}

    def steps(**given: Any) -> int:
        options = asked(data, "a", "b", **more, **given)
        agenda = make_agenda(tokenizer, options, *(each.config for each in pair))
        known = foreseen(agenda, pair, tokenizer)
        assert known is not None
        return known.written

    # Each prompt once for a sample, and (1 to warm up + 2) times by the clock.
    assert steps(max_new_tokens=8, num_runs=2, generation=False) == 3 * (1 + 3) * 8
    assert steps(max_new_tokens=8, speed=False, generation=False) == 3 * 8
    written = steps(max_new_tokens=8, speed=False) - 3 * 8
    assert written in (32, 64)  # 32 tokens after 16 prompts at a time


def test_a_second_model_takes_its_share(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its weights, as the first one does: the clock is one that ticks evenly."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("optipfair.evaluation.foreseen.time.perf_counter", lambda: next(ticks))
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    half = tiny_model("llama", num_hidden_layers=2)

    def seconds(*models: Any) -> float:
        options = asked(data, "a", "b", tasks=["piqa"], speed=False)
        agenda = make_agenda(tokenizer, options, *(each.config for each in models))
        known = foreseen(agenda, models, tokenizer)
        assert known is not None
        return known.seconds

    share = half.num_parameters() / model.num_parameters()
    assert seconds(model, half) / seconds(model, model) == pytest.approx((1 + share) / 2)


def test_a_broken_model_is_refused_later(data: Path) -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    model.lm_head.weight.data[7, 3] = torch.nan
    agenda = make_agenda(tokenizer, asked(data, "model", tasks=["piqa"]), model.config)
    assert foreseen(agenda, [model], tokenizer) is None


def test_it_is_said_in_one_line() -> None:
    assert Foreseen(250.0, 63_000, 700, 2).in_words() == (
        "This will take about 4 minutes, less where scores are kept from before. Each model reads "
        "63,000 tokens and takes 700 steps to write."
    )
    assert Foreseen(30.0, 2_000, 0, 1).in_words().endswith("The model reads 2,000 tokens.")
