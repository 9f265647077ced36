"""Text that a model writes itself: the same for a seed, kept batch by batch, by the model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import calibration_loader
from optipfair.errors import ArgumentError, DataError
from optipfair.pruning.calibration.self_written import OPENINGS, SelfWritten
from optipfair.testing import byte_tokenizer, tiny_model

TEMPLATE = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"


def written(cache: Path, seed: int = 0, model: Any = None, tokenizer: Any = None) -> SelfWritten:
    return SelfWritten(
        model or tiny_model("llama"), tokenizer or byte_tokenizer(), 24, seed, cache / "kept"
    )


def test_the_same_seed_writes_the_same_text(tmp_path: Path) -> None:
    rows = written(tmp_path / "a").sequences(40)
    assert rows.shape == (40, 24)
    assert rows.equal(written(tmp_path / "b").sequences(40))
    assert not rows.equal(written(tmp_path / "a", seed=1).sequences(40))
    assert len({tuple(row.tolist()) for row in rows}) == 40


def test_each_sequence_begins_with_an_opening(tmp_path: Path) -> None:
    rows = written(tmp_path).sequences(40)
    for number, row in enumerate(rows):
        opening = byte_tokenizer()(OPENINGS[number % len(OPENINGS)])["input_ids"][:12]
        assert row[: len(opening)].tolist() == opening


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = written(tmp_path).sequences(70)
    files = sorted(tmp_path.rglob("*.pt"))
    assert len(files) == 3
    files[1].write_bytes(b"half")
    files[2].unlink()
    known = files[0].stat().st_mtime_ns
    assert whole.equal(written(tmp_path).sequences(70))
    assert files[0].stat().st_mtime_ns == known
    assert files == sorted(tmp_path.rglob("*.pt"))


def test_other_weights_have_other_text(tmp_path: Path) -> None:
    first, other = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        other.model.layers[0].mlp.down_proj.weight.mul_(2)
    written(tmp_path, model=first).sequences(2)
    written(tmp_path, model=other).sequences(2)
    assert len({file.parent for file in tmp_path.rglob("*.pt")}) == 2


def test_the_models_own_settings_and_the_random_state_do_not_matter(tmp_path: Path) -> None:
    model = tiny_model("llama")
    plain = written(tmp_path / "a", model=model).sequences(4)
    model.generation_config.num_beams = 2
    model.generation_config.eos_token_id = [*range(300)]
    model.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert plain.equal(written(tmp_path / "b", model=model).sequences(4))
    assert torch.get_rng_state().equal(state)
    assert model.training
    assert model.generation_config.num_beams == 2


def test_models_with_a_template_are_asked_in_it(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    texts = [tokenizer.decode(row) for row in written(tmp_path, tokenizer=tokenizer).sequences(6)]
    assert [text.startswith("<") for text in texts] == [False, True] * 3


def test_text_that_cannot_be_kept_is_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where a folder should be")
    with pytest.warns(UserWarning, match="is not kept in"):
        assert written(tmp_path).sequences(2).shape == (2, 24)


def test_a_loader_needs_the_model_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIPFAIR_CACHE", str(tmp_path))
    with pytest.raises(ArgumentError, match=r"'self' is written by the model\. Give model="):
        calibration_loader("self", byte_tokenizer())
    loader = calibration_loader(
        "builtin,self", byte_tokenizer(), model=tiny_model("llama"), samples=4, length=16
    )
    assert next(iter(loader))["input_ids"].shape == (4, 16)
    assert list(tmp_path.rglob("*.pt"))


def test_how_long_it_takes_is_known_before_and_nothing_where_it_is_written(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert text.seconds(40) > 0
    assert not list(tmp_path.rglob("*.pt"))
    rows = text.sequences(32)
    assert text.seconds(32) == 0
    assert text.seconds(64) > 0
    assert rows.equal(written(tmp_path / "again").sequences(32))


def test_a_model_with_few_positions_writes_as_far_as_they_go(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    length = model.config.n_positions
    text = SelfWritten(model, byte_tokenizer(), length, 0, tmp_path)
    assert text.seconds(2) > 0
    rows = text.sequences(34)
    assert rows.shape == (34, length)
    opening = byte_tokenizer()(OPENINGS[33])["input_ids"]
    assert rows[33, : len(opening)].tolist() == opening


def test_a_model_that_does_not_know_the_openings_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.set_input_embeddings(torch.nn.Embedding(100, model.config.hidden_size))
    with pytest.raises(DataError, match=r"hold token id \d+; the model knows 0 to 99"):
        written(tmp_path, model=model).sequences(2)
