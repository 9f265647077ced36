"""What a teacher answers, on disk: the same loss, resumable, and never another teacher's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import ArgumentError, ModelOutputError, OutputError, recover
from optipfair.recovery import teacher_cache
from optipfair.recovery.objectives import bucketed_kl
from optipfair.recovery.teacher_cache import CachedTeacher, TeacherCache, fill
from optipfair.recovery.training_rows import collated, rows_of_batches
from optipfair.testing import byte_tokenizer, tiny_model

VOCABULARY = 272


def some_rows(count: int = 9) -> Any:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (count, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[::3, 7:] = 0
    return rows_of_batches([{"input_ids": ids, "attention_mask": mask}]).everything


def test_the_loss_is_that_of_the_bucketed_distribution(tmp_path: Path) -> None:
    teacher, rows = tiny_model("llama"), some_rows()
    cache = TeacherCache.of(tmp_path / "answers", "a", rows, VOCABULARY)
    fill(cache, teacher, rows, at_once=30, show_progress=False)
    assert cache.complete and cache.kept == 64
    assert (tmp_path / "answers" / "tokens.bin").stat().st_size == cache.starts[-1] * 64 * 4

    batch = collated([rows[4], rows[3]])
    real = batch["attention_mask"].bool()
    student = torch.randn(int(real.sum()), VOCABULARY)
    distance = CachedTeacher(cache).distance(batch["input_ids"], real, batch["row"])
    found = torch.cat([distance(student[:5], slice(0, 5)), distance(student[5:], slice(5, None))])
    with torch.no_grad():
        logits = teacher(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits[real]
    logs, tokens = logits.log_softmax(dim=-1).topk(64)
    torch.testing.assert_close(found, bucketed_kl(student, tokens, logs), atol=1e-5, rtol=1e-5)


def test_an_interrupted_answer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, rows = tiny_model("llama"), some_rows()
    whole = TeacherCache.of(tmp_path / "whole", "a", rows, VOCABULARY)
    fill(whole, teacher, rows, at_once=24, show_progress=False)
    write, written = TeacherCache.write, []

    def stopping(self: Any, *args: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(self, *args))

    part = TeacherCache.of(tmp_path / "part", "a", rows, VOCABULARY)
    with monkeypatch.context() as patch:
        patch.setattr(TeacherCache, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            fill(part, teacher, rows, at_once=24, show_progress=False)
    assert 0 < part.done < len(rows)
    fill(part, teacher, rows, at_once=24, show_progress=False)
    for name in ("tokens.bin", "log_probabilities.bin"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_answers_of_another_teacher_or_for_other_text_are_refused(tmp_path: Path) -> None:
    rows = some_rows()
    TeacherCache.of(tmp_path / "answers", "a", rows, VOCABULARY)
    TeacherCache.of(tmp_path / "answers", "a", rows, VOCABULARY)
    for teacher, wanted in (("b", rows), ("a", rows[1:])):
        with pytest.raises(ArgumentError, match="another original, or for other text"):
            TeacherCache.of(tmp_path / "answers", teacher, wanted, VOCABULARY)


def test_a_folder_with_something_else_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        TeacherCache.of(tmp_path, "a", some_rows(), VOCABULARY)
    assert [each.name for each in tmp_path.iterdir()] == ["diary.txt"]


def test_answers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    teacher, rows = tiny_model("llama"), some_rows()
    with torch.no_grad():
        teacher.lm_head.weight[0] = float("nan")
    cache = TeacherCache.of(tmp_path / "answers", "a", rows, VOCABULARY)
    with pytest.raises(ModelOutputError, match="not finite"):
        fill(cache, teacher, rows, at_once=30, show_progress=False)


def test_a_model_learns_from_answers_as_from_the_model_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, student = tiny_model("llama"), tiny_model("llama", seed=1)
    with torch.no_grad():
        for parameter in (*original.parameters(), *student.parameters()):
            parameter.mul_(4)
    other = copy.deepcopy(student)
    options: dict[str, Any] = {
        "tokenizer": byte_tokenizer(),
        "tokens": 1024,
        "length": 32,
        "checks": 2,
        "learning_rate": 1e-3,
        "device": "cpu",
    }
    monkeypatch.setattr(teacher_cache, "KEPT", VOCABULARY - 1)  # all but one: the bucket holds one
    live = recover(student, original, **options)
    answered = recover(other, original, cache_teacher=tmp_path / "answers", **options)
    assert answered.helped
    assert answered.before == pytest.approx(live.before, rel=0.02)  # products in bfloat16 or not
    assert answered.after == pytest.approx(live.after, rel=0.02)
