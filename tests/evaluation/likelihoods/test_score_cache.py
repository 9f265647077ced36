"""Scores on disk: resumed to the bit, and never another model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import OutputError, PruningWarning
from optipfair.arch.fingerprint import fingerprint
from optipfair.evaluation.likelihoods.score import score
from optipfair.evaluation.likelihoods.score_cache import ScoreCache
from optipfair.evaluation.tasks.task import Query
from optipfair.testing import byte_tokenizer, tiny_model

QUERIES = [Query("a" * n, "bcd"[: n % 3 + 1]) for n in range(1, 30)]


def run(model: Any, folder: Path, queries: list[Query] = QUERIES) -> tuple[list[Any], int]:
    """Scores, and how many forward passes they took."""
    passes: list[None] = []
    handle = model.register_forward_hook(lambda *_: passes.append(None))
    try:
        with ScoreCache(folder, model) as done:
            scores = score(model, byte_tokenizer(), queries, batch_tokens=16, done=done)
    finally:
        handle.remove()
    return scores, len(passes)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What a whole run leaves."""
    run(tiny_model("llama"), tmp_path)
    (found,) = tmp_path.iterdir()
    return found


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, calls = tiny_model("llama"), []
    expected, passes = run(model, tmp_path / "other")

    def stop(*_: object) -> None:
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt

    handle = model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    handle.remove()
    assert run(model, tmp_path) == (expected, passes - 4)
    assert run(model, tmp_path) == (expected, 0)


def test_a_query_in_other_company_is_scored_anew(tmp_path: Path) -> None:
    model = tiny_model("llama")
    run(model, tmp_path, QUERIES[:5])
    assert run(model, tmp_path)[0] == score(model, byte_tokenizer(), QUERIES, batch_tokens=16)


DAMAGES: dict[str, Callable[[list[str]], list[str]]] = {
    "cut off": lambda lines: [*lines[:-1], lines[-1][:20]],
    "no JSON": lambda lines: [lines[0], "{" + lines[1], *lines[2:]],
    "another number": lambda lines: [lines[0], lines[1].replace("-5", "-6"), *lines[2:]],
    "not an object": lambda lines: [lines[0], "7", *lines[2:]],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_line_is_named_and_scored_again(file: Path, name: str) -> None:
    expected = score(tiny_model("llama"), byte_tokenizer(), QUERIES, batch_tokens=16)
    whole = file.read_text()
    damaged = DAMAGES[name](whole.splitlines())
    assert damaged != whole.splitlines()
    file.write_text("\n".join(damaged))
    with pytest.warns(PruningWarning, match=r"damaged: 1 of its lines") as caught:
        found = run(tiny_model("llama"), file.parent)
    assert str(file) in str(caught[0].message)
    assert found == (expected, 1)
    assert sorted(file.read_text().splitlines()) == sorted(whole.splitlines())


def test_a_wrong_header_leaves_nothing_of_the_file(file: Path) -> None:
    whole = file.read_text()
    lines = whole.splitlines()
    file.write_text("\n".join(["{}", *lines[1:]]))
    with pytest.warns(PruningWarning, match=f"damaged: {len(lines)} of its lines"):
        _, passes = run(tiny_model("llama"), file.parent)
    assert passes == len(lines) - 1
    assert file.read_text() == whole


def test_an_empty_file_is_begun_anew(file: Path) -> None:
    whole = file.read_text()
    file.write_text("")
    run(tiny_model("llama"), file.parent)
    assert file.read_text() == whole


def test_another_model_has_another_file(file: Path) -> None:
    _, passes = run(tiny_model("llama", seed=1), file.parent)
    assert passes > 0
    assert len(list(file.parent.iterdir())) == 2


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Scores cannot be kept"):
        ScoreCache(tmp_path / "file" / "below", tiny_model("llama"))


def test_a_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    def changed(change: Callable[[Any], object]) -> Any:
        model = tiny_model("llama")
        change(model)
        return model

    weight = "model.layers.1.mlp.up_proj.weight"
    different = [
        tiny_model("llama"),
        tiny_model("llama", seed=1),
        tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 7.0}),
        tiny_model("llama").to(torch.bfloat16),
        tiny_model("llama", tie_word_embeddings=True),
        changed(lambda model: model.get_parameter(weight).data[3, 5].add_(1e-6)),
        changed(lambda model: setattr(model.get_parameter(weight), "data", torch.ones(2, 2))),
    ]
    found = [fingerprint(model) for model in different]
    assert len(set(found)) == len(found)
    assert all(len(each) == 64 for each in found)


def test_a_fingerprint_stays_where_a_model_goes(reloaded: Callable[[Any], Any]) -> None:
    for ties in (False, True):
        model = tiny_model("llama", tie_word_embeddings=ties)
        found = fingerprint(model)
        assert fingerprint(reloaded(model)) == found
        model.lm_head.weight.data = model.lm_head.weight.data.T.contiguous().T
        assert fingerprint(model) == found, "how a tensor lies in memory does not count"
