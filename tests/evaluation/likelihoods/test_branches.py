"""Queries that begin alike in one row: the same scores as each in a row of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optipfair.arch.families import PAIR_MASKS
from optipfair.evaluation.likelihoods import score as scoring
from optipfair.evaluation.likelihoods.branches import Row, plain_rows, tree_inputs, trees
from optipfair.evaluation.likelihoods.query_tokens import Encoded, encode
from optipfair.evaluation.likelihoods.score import batch_key, planned, score
from optipfair.evaluation.tasks.task import Query
from optipfair.testing import byte_tokenizer, tiny_model
from support.scoring_processes import some_queries

# Queries of all kinds: long shared contexts, none, one whose own context goes on as another's text.
QUERIES = [
    *some_queries(40),
    *(
        Query("The doctor asked the nurse whether", f" {who} left.")
        for who in ("he", "she", "they")
    ),
    *(Query("", f"The {who} wrote to the office") for who in ("man", "woman", "men")),
    Query("The man wrote", " to the office"),
]


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Score each text in a row of its own."""

    def scored(*arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "_room_for_trees", lambda _: 0)
            return score(*arguments, **options)

    return scored


def distance(some: Any, others: Any) -> float:
    """The largest difference of two log-probabilities of a token, in nats."""
    return max(
        abs(a - b)
        for one, other in zip(some, others, strict=True)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(PAIR_MASKS))
def test_families_score_the_same_in_trees(
    family: str, attention: str, plainly: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"sliding_window": 64} if hasattr(tiny_model(family).config, "sliding_window") else {}
    model, tokenizer = tiny_model(family, attn_implementation="eager", **wide), byte_tokenizer()
    if family != "gemma2":  # which knows eager attention alone
        model.set_attn_implementation(attention)
    batches = planned(model, encode(tokenizer, QUERIES))
    assert sum(row.branched for batch in batches for row in batch) >= 2
    expected = plainly(model, tokenizer, QUERIES)
    found = score(model, tokenizer, QUERIES)
    assert distance(found, expected) < 2e-5
    assert [each.greedy for each in found] == [each.greedy for each in expected]

    def all_before(rows: Any) -> dict[str, torch.Tensor]:
        inputs = tree_inputs(rows)
        return inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"]).tril()}

    monkeypatch.setattr(scoring, "tree_inputs", all_before)
    assert distance(score(model, tokenizer, QUERIES), expected) > 1e-4  # it would be seen


@pytest.mark.parametrize("family", ["bloom", "falcon", "mpt", "mamba"])
def test_other_families_read_each_text_in_a_row_of_its_own(family: str) -> None:
    model = tiny_model(family)
    batches = planned(model, encode(byte_tokenizer(), QUERIES))
    assert not any(row.branched for batch in batches for row in batch)


@pytest.mark.parametrize("window", [12, 30])
def test_no_tree_is_longer_than_a_window_of_attention(window: int, plainly: Any) -> None:
    model, tokenizer = tiny_model("gemma3_text", sliding_window=window), byte_tokenizer()
    rows = [row for batch in planned(model, encode(tokenizer, QUERIES)) for row in batch]
    assert max(len(row.inputs) for row in rows) > window
    assert max(len(row.inputs) for row in rows if row.branched) <= window
    found = score(model, tokenizer, QUERIES)
    assert distance(found, plainly(model, tokenizer, QUERIES)) < 2e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_padding_and_beginnings_change_nothing(side: str, bos: bool, plainly: Any) -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    tokenizer.padding_side = side
    if not bos:
        tokenizer.bos_token = None
    found = score(model, tokenizer, QUERIES)
    assert distance(found, plainly(model, tokenizer, QUERIES)) < 2e-5


def test_what_is_common_is_read_once() -> None:
    model, tokenizer, read = tiny_model("llama"), byte_tokenizer(), []
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_hook(lambda _, ids, __: read.append(ids[0].numel()))
    context = "The doctor asked the nurse whether"
    queries = [Query(context, f" {who} left.") for who in ("he", "she")]
    score(model, tokenizer, queries)
    # Both begin with a space, and of what follows the last token is only predicted.
    assert sum(read) == len(context) + 1 + len("he left") + len("she left")


def test_the_head_runs_on_scored_places_alone() -> None:
    model, shapes = tiny_model("llama"), []
    model.lm_head.register_forward_hook(lambda *given: shapes.append(given[-1].shape[1]))
    score(model, byte_tokenizer(), [Query("A context of some length", end) for end in ("ab", "cd")])
    assert shapes == [3]  # the end of the context, a and c


def test_trees_are_bounded_by_what_is_asked_for() -> None:
    model = tiny_model("llama")
    batches = planned(model, encode(byte_tokenizer(), QUERIES), batch_tokens=100)
    assert any(row.branched for batch in batches for row in batch)
    for batch in batches:
        assert len(batch) * max(len(row.inputs) for row in batch) <= 100


def test_the_key_of_a_batch_names_its_tree_and_the_dtype() -> None:
    queries = [Encoded((1, 2, 3), 1), Encoded((1, 4, 3), 1)]
    (tree,) = trees(queries)
    plain = Row(tree.inputs, tuple(range(-1, len(tree.inputs) - 1)), tree.queries, tree.places)
    keys = {
        batch_key([row], dtype)
        for row in (tree, plain)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(keys) == 4


texts = st.lists(st.integers(0, 2), min_size=2, max_size=12).map(tuple)
asked = st.lists(
    texts.flatmap(lambda ids: st.integers(1, len(ids) - 1).map(lambda start: Encoded(ids, start))),
    min_size=1,
    max_size=30,
)


@given(asked, st.sampled_from([1, 8, 20, 1000]))
def test_every_place_sees_its_own_text_and_nothing_else(queries: list[Encoded], room: int) -> None:
    rows = trees(queries, room)
    inputs = tree_inputs(rows)
    assert {query for row in rows for query in row.queries} == set(queries)
    assert sum(len(row.queries) for row in rows) == len(set(queries))
    for number, row in enumerate(rows):
        assert len(row.queries) == 1 or len(row.inputs) <= room
        seen = inputs["attention_mask"][number, 0]
        assert not seen.triu(1).any()  # nothing comes from behind
        assert row.kept <= len(row.inputs)
        for query, places in zip(row.queries, row.places, strict=True):
            assert len(places) == len(query.wanted)
            path = seen[places[-1]].nonzero()[:, 0]
            own = inputs["position_ids"][number, path].argsort()
            assert inputs["input_ids"][number, path[own]].tolist() == list(query.inputs)
            assert sorted(inputs["position_ids"][number, path].tolist()) == [*range(len(path))]


@given(asked)
def test_trees_hold_no_more_tokens_than_plain_rows(queries: list[Encoded]) -> None:
    held = [sum(len(row.inputs) for row in rows) for rows in (trees(queries), plain_rows(queries))]
    assert held[0] <= held[1]
