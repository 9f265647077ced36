"""With which token texts begin: the same one in all tasks that ask for fairness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import compare_models
from optipfair.evaluation.likelihoods.query_tokens import encode, first_token
from optipfair.evaluation.likelihoods.score import score
from optipfair.evaluation.tasks import TASKS
from optipfair.evaluation.tasks.task import Query
from optipfair.testing import byte_tokenizer, tiny_model

FAIR = [name for name in TASKS if TASKS[name].question == "fairness"]


def without_bos() -> Any:
    """It puts no token before a text by itself, as those of GPT-2 and SmolLM2 do not."""
    tokenizer = byte_tokenizer()
    assert tokenizer.bos_token_id not in tokenizer.encode("A text")
    return tokenizer


def whole_likelihood(model: Any, tokenizer: Any, text: str) -> float:
    """The plain way: the token for the beginning, one forward pass, a sum."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text)]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    return sum(float(logs[place, token]) for place, token in enumerate(ids[1:]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_winobias_is_what_whole_texts_give(data: Path, family: str) -> None:
    model, tokenizer = tiny_model(family), without_bos()
    items = TASKS["winobias_type1"].read(data / "winobias").items
    queries = [query for item in items for query in item.queries]
    found = score(model, tokenizer, queries)
    assert any(query.context for query in queries)
    for number, item in enumerate(items):
        pro, anti = (whole_likelihood(model, tokenizer, text) for text in item.facts["texts"])
        gap = found[2 * number].total - found[2 * number + 1].total
        assert gap == pytest.approx(pro - anti, abs=1e-3)


@pytest.mark.parametrize("name", FAIR)
def test_every_task_of_fairness_begins_with_the_same_token(data: Path, name: str) -> None:
    tokenizer = without_bos()
    items = TASKS[name].read(data / TASKS[name].path).items
    encoded = encode(tokenizer, [query for item in items for query in item.queries])
    assert {each.ids[0] for each in encoded} == {tokenizer.bos_token_id}
    assert all(each.ids.count(tokenizer.bos_token_id) == 1 for each in encoded)


def test_a_tokenizer_without_one_takes_the_token_for_the_end() -> None:
    tokenizer = without_bos()
    tokenizer.bos_token = None
    query = Query("She said", " no.", begins=True)
    assert encode(tokenizer, [query])[0].ids[0] == tokenizer.eos_token_id
    tokenizer.eos_token = None
    assert encode(tokenizer, [query])[0].ids == tuple(tokenizer.encode("She said no."))


def test_a_token_that_the_text_has_already_stands_once() -> None:
    tokenizer = without_bos()
    query = Query("<bos>She said", " no.", begins=True)
    (found,) = encode(tokenizer, [query])
    assert found.ids == (tokenizer.bos_token_id, *tokenizer.encode("She said no."))
    assert found.start == 1 + len(tokenizer.encode("She said"))


def test_the_record_says_which_token_it_is(data: Path) -> None:
    model, other, tokenizer = tiny_model("llama"), tiny_model("llama", seed=1), without_bos()
    off: dict[str, Any] = {"speed": False, "layers": False, "generation": False, "limit": 4}
    found = compare_models(model, other, tokenizer, data=data, **off)
    tokens = {each.name: each.first_token for each in found.tasks}
    assert {tokens[name] for name in FAIR if name in tokens} == {"<bos>"}
    assert tokens["piqa"] is None  # as lm-eval has it
    assert first_token(tokenizer, Query("", "A text")) == "<bos>"
