"""Scores against one forward pass for each query, and what must not change them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import ArgumentError, DataError, PruningWarning
from optipfair.errors import ModelOutputError
from optipfair.evaluation.likelihoods import score as scoring
from optipfair.evaluation.likelihoods.query_tokens import encode
from optipfair.evaluation.likelihoods.score import planned, score
from optipfair.evaluation.tasks.task import Query, Score
from optipfair.testing import byte_tokenizer, tiny_model
from support.launching import in_two_processes
from support.scoring_processes import some_queries


def alone(model: Any, tokenizer: Any, query: Query) -> Score:
    """A forward pass of its own, unpadded; every token's distribution in float64."""
    context = query.context.rstrip()
    whole = tokenizer.encode(query.context + query.continuation)
    start = len(tokenizer.encode(context))
    if not context:
        whole, start = [tokenizer.bos_token_id, *whole], 1
    with torch.no_grad():
        logits = model(torch.tensor([whole[:-1]])).logits[0].double()
    logprobs = logits.log_softmax(-1)[torch.arange(len(whole) - 1), whole[1:]]
    greedy = logits.argmax(-1)[start - 1 :].tolist() == whole[start:]
    return Score(tuple(whole[start:]), tuple(logprobs[start - 1 :].tolist()), greedy)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mixtral", "opt"])
def test_scores_are_those_of_a_pass_for_each_query(family: str) -> None:
    model, tokenizer = tiny_model(family), byte_tokenizer()
    queries = some_queries()
    for found, query in zip(score(model, tokenizer, queries), queries, strict=True):
        expected = alone(model, tokenizer, query)
        assert (found.ids, found.greedy) == (expected.ids, expected.greedy)
        assert found.logprobs == pytest.approx(expected.logprobs, abs=2e-5)


def test_the_likeliest_continuation_is_greedy() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    context = tokenizer.encode("Once")
    with torch.no_grad():
        best = int(model(torch.tensor([context])).logits[0, -1, :256].argmax())
    texts = [tokenizer.decode([byte]) for byte in {best, *tokenizer.encode("xyz")}]
    queries = [Query("Once", text) for text in texts if text.isascii()]
    found = score(model, tokenizer, queries)
    assert [each.greedy for each in found] == [each.ids == (best,) for each in found]


@pytest.mark.parametrize("batch_tokens", [1, 30, 200, 10_000])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_size_of_batches_changes_nothing(family: str, batch_tokens: int) -> None:
    model, queries = tiny_model(family), some_queries()
    expected = score(model, byte_tokenizer(), queries)
    found = score(model, byte_tokenizer(), queries, batch_tokens=batch_tokens)
    for one, other in zip(found, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)
        assert (one.ids, one.greedy) == (other.ids, other.greedy)


def test_neither_order_nor_padding_side_changes_a_bit() -> None:
    model, queries = tiny_model("llama"), some_queries()
    expected = dict(zip(queries, score(model, byte_tokenizer(), queries), strict=True))
    for side in ("left", "right"):
        tokenizer = byte_tokenizer()
        tokenizer.padding_side = side
        mixed = random.Random(side).sample(queries, len(queries))
        found = dict(zip(mixed, score(model, tokenizer, mixed), strict=True))
        assert found == expected


def test_batches_hold_each_query_once_within_both_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")  # 272 tokens in its vocabulary
    encoded = encode(byte_tokenizer(), some_queries(200))
    monkeypatch.setitem(scoring._LOGIT_BYTES, "cpu", 4 * 272 * 60)
    monkeypatch.setattr(scoring, "_room_for_trees", lambda _: 0)
    batches = planned(model, encoded, batch_tokens=100)
    asked = [query for batch in batches for row in batch for query in row.queries]
    assert len(asked) == len(set(asked))
    assert set(asked) == set(encoded)
    lengths = [len(row.inputs) for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert any(len(batch) > 1 for batch in batches)
    for batch in batches:
        width, kept = len(batch[0].inputs), max(row.kept for row in batch)
        assert len(batch) == 1 or (len(batch) * width <= 100 and len(batch) * kept <= 60)
        assert len(batch) * width <= 25 or len(batch[-1].inputs) >= 0.875 * width


def test_continuations_of_one_token_share_a_row() -> None:
    model, passes = tiny_model("llama"), []
    model.register_forward_hook(lambda *_: passes.append(None))
    encoded = encode(byte_tokenizer(), [Query("One of", letter) for letter in "abcd"])
    assert [len(batch) for batch in planned(model, encoded)] == [1]
    score(model, byte_tokenizer(), [Query("One of", letter) for letter in "abcd"])
    assert len(passes) == 1


def test_only_the_last_positions_go_through_the_head() -> None:
    model, shapes = tiny_model("llama"), []
    model.lm_head.register_forward_hook(lambda *given: shapes.append(given[-1].shape[1]))
    score(model, byte_tokenizer(), [Query("A context of some length", "end")])
    assert shapes == [3]


def test_a_model_without_that_option_is_scored_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, queries = tiny_model("llama"), some_queries()
    expected = score(model, byte_tokenizer(), queries)
    monkeypatch.setattr(scoring, "_keeps_some", lambda _: False)
    for one, other in zip(score(model, byte_tokenizer(), queries), expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-5)


def test_contexts_that_are_too_long_lose_tokens_from_the_left() -> None:
    model, tokenizer = tiny_model("gpt2"), byte_tokenizer()  # 128 positions
    long = "".join(random.Random(1).choices("abc ", k=300))
    with pytest.warns(PruningWarning, match="1 of 2 queries are longer than the model's 128"):
        cut, whole = score(model, tokenizer, [Query(long, "end"), Query("short", "end")])
    (expected,) = score(model, tokenizer, [Query(long[-126:], "end")])
    assert cut.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert whole.logprobs != cut.logprobs
    with pytest.raises(DataError, match="129 tokens; the model has 128 positions"):
        score(model, tokenizer, [Query("x", 129 * "y")])


def test_a_context_without_tokens_follows_the_beginning_else_the_end_of_a_text() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    (with_bos,) = encode(tokenizer, [Query("", "hi")])
    assert with_bos.ids[0] == tokenizer.bos_token_id
    tokenizer.bos_token = None
    (with_eos,) = encode(tokenizer, [Query(" ", "hi")])
    assert with_eos.ids == (tokenizer.eos_token_id, *tokenizer.encode(" hi"))
    tokenizer.eos_token = None
    with pytest.raises(ArgumentError, match="no token to begin a text"):
        score(model, tokenizer, [Query("", "hi")])
    assert len(score(model, tokenizer, [Query("with", "out")])) == 1


def test_a_tokenizer_that_begins_texts_by_itself_does_so_once() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer: Any = byte_tokenizer()
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    queries = [Query("hi", " you"), Query("<bos>hi", " you"), Query("", "hi"), Query("", "<bos>hi")]
    encoded = encode(tokenizer, queries)
    assert [each.ids.count(bos) for each in encoded] == [1, 1, 1, 1]
    assert [each.start for each in encoded] == [3, 3, 1, 1]


@pytest.mark.parametrize("query", [Query("", ""), Query("text", "")])
def test_nothing_to_score_is_refused(query: Query) -> None:
    with pytest.raises(DataError, match="token"):
        score(tiny_model("llama"), byte_tokenizer(), [query])


def test_the_tokenizer_of_another_model_is_refused() -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.add_tokens([f"<{n}>" for n in range(50)])
    with pytest.raises(DataError, match="knows 0 to 271"):
        score(tiny_model("llama"), tokenizer, [Query("a", "<40>")])


@pytest.mark.parametrize("batch_tokens", [0, -1, 1.5, "many"])
def test_no_tokens_in_a_batch_are_refused(batch_tokens: Any) -> None:
    with pytest.raises(ArgumentError, match="batch_tokens"):
        score(tiny_model("llama"), byte_tokenizer(), [], batch_tokens=batch_tokens)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_model_is_refused(value: float) -> None:
    model = tiny_model("llama")
    model.lm_head.weight.data[7, 3] = value
    with pytest.raises(ModelOutputError, match="'LlamaForCausalLM' gives"):
        score(model, byte_tokenizer(), some_queries())


def test_of_equally_likely_tokens_the_first_is_the_greedy_one() -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    model.lm_head.weight.data.zero_()
    texts = ["a", tokenizer.decode([0])]
    assert [s.greedy for s in score(model, tokenizer, [Query("x", t) for t in texts])] == [
        False,
        True,
    ]


def test_bfloat16_becomes_probabilities_in_float32() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    model.lm_head.weight.data.zero_()
    (found,) = score(model, byte_tokenizer(), [Query("a", "bc")])
    assert found.logprobs == pytest.approx([-math.log(272)] * 2, rel=1e-6)


def test_no_queries_have_no_scores() -> None:
    assert score(tiny_model("llama"), byte_tokenizer(), []) == []


def test_scoring_leaves_the_model_as_it_was(
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5)
    quiet = score(model, byte_tokenizer(), some_queries())
    model.train()
    with unchanged(model):
        assert score(model, byte_tokenizer(), some_queries()) == quiet


@pytest.mark.slow
def test_two_processes_give_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the extra `demo` is not installed")
    done = in_two_processes("support.scoring_processes", tmp_path)
    assert done.returncode == 0, done.stderr
    torch.set_num_threads(1)
    expected = score(tiny_model("llama"), byte_tokenizer(), some_queries(), batch_tokens=60)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["scores"] == [list(each.logprobs) for each in expected]
        assert found["again"] == found["scores"]
        assert 0 < found["passes"] < found["batches"], "the work is not shared"
        assert found["passes again"] == 0, "what is on disk is scored again"
