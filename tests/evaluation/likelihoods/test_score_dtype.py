"""Scores in bfloat16: where it is fast, said in the protocol, and never mixed with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import UnknownNameError, evaluate_model
from optipfair.arch import fast_dtype
from optipfair.evaluation.evaluate_options import EvaluateOptions
from optipfair.evaluation.likelihoods.score import score
from optipfair.evaluation.likelihoods.score_cache import ScoreCache
from optipfair.evaluation.likelihoods.score_dtype import in_words, multiplying, scored_in
from optipfair.evaluation.text.two_models import Text, on_text
from optipfair.testing import byte_tokenizer, tiny_model
from support.scoring_processes import some_queries

WIDE: dict[str, Any] = {"hidden_size": 256, "head_dim": 64}


@pytest.fixture(autouse=True)
def has_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_dtype, "has_units", lambda: True)


def total(scores: Any) -> float:
    return sum(each.total for each in scores)


def test_products_are_fast_for_float32_models_of_real_size_alone() -> None:
    wide, small = tiny_model("llama", **WIDE), tiny_model("llama")
    assert scored_in(wide) == torch.bfloat16
    assert scored_in(small) == torch.float32
    assert scored_in(wide, "float32") == torch.float32
    assert scored_in(tiny_model("llama", **WIDE).to(torch.float16)) == torch.float16
    assert in_words([torch.bfloat16, torch.bfloat16]) == "bfloat16"
    assert in_words([torch.float32, torch.bfloat16]) == "float32, bfloat16"


def test_scores_are_near_and_not_the_same() -> None:
    model, tokenizer = tiny_model("llama", **WIDE), byte_tokenizer()
    plain = score(model, tokenizer, some_queries())
    fast = score(model, tokenizer, some_queries(), products=torch.bfloat16)
    distances = [
        abs(a - b)
        for one, other in zip(plain, fast, strict=True)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    ]
    assert 1e-6 < max(distances) < 0.05  # bfloat16 has 8 bits: 0.4 % of logits below 5


def test_logits_stay_in_float32_and_the_head_comes_back() -> None:
    model = tiny_model("llama", **WIDE)
    head, ids = model.lm_head, torch.arange(20)[None]
    with torch.no_grad(), multiplying(model, torch.bfloat16):
        hidden = model.model(ids).last_hidden_state
        logits = model(ids).logits
        assert model.model.layers[0].mlp.up_proj(hidden).dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(hidden))
    assert "forward" not in vars(head)


def test_a_cache_does_not_mix_dtypes(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama", **WIDE), byte_tokenizer()
    found = []
    for products in (None, torch.bfloat16, None, torch.bfloat16):
        with ScoreCache(tmp_path, model) as done:
            scores = score(model, tokenizer, some_queries(), products=products, done=done)
            found.append((total(scores), done.reused > 0))
    assert found[:2] == [(found[0][0], False), (found[1][0], False)]
    assert found[2:] == [(found[0][0], True), (found[1][0], True)]
    assert found[0][0] != found[1][0]


def test_of_two_models_each_has_its_own_dtype_on_a_text() -> None:
    """A model that is not served is read as by itself, beside one that is."""
    tokenizer = byte_tokenizer()
    wide, small = tiny_model("llama", **WIDE), tiny_model("llama")
    text = Text("text", "What both are asked to predict, again and again. " * 3, "", None)
    both, _ = on_text({"a": wide, "b": small}, tokenizer, text, products="bfloat16")
    for model, columns in zip((wide, small), both, strict=True):
        (alone,), _ = on_text({"a": model}, tokenizer, text, products="bfloat16")
        assert columns["nll"].tolist() == alone["nll"].tolist()
    (plain,), _ = on_text({"a": wide}, tokenizer, text, products="float32")
    assert both[0]["nll"].tolist() != plain["nll"].tolist()
    assert both[0]["nll"].sum() == pytest.approx(plain["nll"].sum(), rel=1e-3)


def test_the_protocol_says_in_which_dtype() -> None:
    model, tokenizer = tiny_model("llama", **WIDE), byte_tokenizer()
    more: Any = {"data": "none", "tasks": ["next_token"], "limit": 5}
    fast = evaluate_model(model, tokenizer, **more)
    plain = evaluate_model(model, tokenizer, products="float32", **more)
    assert (fast.protocol.scored_in, plain.protocol.scored_in) == ("bfloat16", "float32")
    for one, other in zip(fast.measures, plain.measures, strict=True):
        if one.id == "text.perplexity":
            assert one.value != other.value
            assert one.value == pytest.approx(other.value, rel=1e-3)


def test_auto_is_fast_for_the_quick_preset_unless_weights_are_asked_for_in_float32() -> None:
    meant = {
        (preset, products): EvaluateOptions(preset=preset, products=products).score_products
        for preset in ("quick", "full")
        for products in ("auto", "bfloat16", "float32")
    }
    fast = {("quick", "auto"), ("quick", "bfloat16"), ("full", "bfloat16")}
    assert {key for key, value in meant.items() if value == "bfloat16"} == fast
    assert set(meant.values()) == {"bfloat16", "float32"}


def test_another_type_is_refused() -> None:
    with pytest.raises(
        UnknownNameError, match=r"Unknown products 'float8'.*auto, bfloat16, float32"
    ):
        evaluate_model(tiny_model("llama"), byte_tokenizer(), products="float8", data="none")
