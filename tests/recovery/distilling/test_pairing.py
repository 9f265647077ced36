"""Which models fit each other, and which data they can learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from optipfair import ArgumentError, distill_model
from optipfair.testing import tiny_model
from support.pairs_of_models import sharp_model, student_and_teacher, token_batches


def test_models_that_do_not_fit_each_other_are_refused(refused: Any) -> None:
    student, teacher = student_and_teacher()
    data, layers = token_batches(1), {"alpha": 0.5, "gamma": 0.1}
    pairs: list[tuple[Any, dict[str, Any], str]] = [
        (student, {}, "are the same object"),
        (sharp_model(vocab_size=300), {}, r"The student predicts \d+ tokens, the teacher 300"),
        (sharp_model(hidden_size=64), layers, r"hidden size is \d+, the teacher's 64"),
        (sharp_model(hidden_size=64), {"alpha": 0.5, "delta": 0.1, "beta": 0.4}, "hidden size"),
        (sharp_model(num_hidden_layers=2), layers, "has 3 layers, the teacher 2"),
        (teacher.model, {}, "teacher_model is a LlamaModel, which predicts no tokens"),
        ("gpt2", {}, "teacher_model is a str, which predicts no tokens"),
    ]
    for other, given, said in pairs:
        with refused(student, said, ArgumentError):
            distill_model(student, other, data, **{"beta": 0.4, **given})
    student.requires_grad_(False)
    with refused(student, "No parameter of the student has requires_grad=True", ArgumentError):
        distill_model(student, teacher, data)


def test_models_of_other_sizes_learn_by_task_and_logits() -> None:
    student, _ = student_and_teacher()
    distill_model(student, sharp_model(hidden_size=64), token_batches(1), epochs=1)


def test_models_that_share_weights_are_refused(refused: Any) -> None:
    student, teacher = student_and_teacher()
    student.model.layers[1] = teacher.model.layers[1]
    with refused(student, r"share model\.layers\.1\.\S+, so training the one", ArgumentError):
        distill_model(student, teacher, token_batches(1))


def test_a_student_without_values_is_refused() -> None:
    _, teacher = student_and_teacher()
    with torch.device("meta"):
        student = tiny_model("llama").to("meta")
    with pytest.raises(ArgumentError, match="on the 'meta' device"):
        distill_model(student, teacher, token_batches(1))


def test_one_layer_has_no_changes_to_compare(refused: Any) -> None:
    student, teacher = sharp_model(num_hidden_layers=1), sharp_model()
    with refused(student, "the student has one layer. Give delta=0", ArgumentError):
        distill_model(student, teacher, token_batches(1), alpha=0.5, delta=0.1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "gave no batch"),
        (5, "dataloader is a int"),
        ([{"labels": torch.ones(1, 3)}], "no 'input_ids', only .'labels'"),
        ([torch.full((1, 4), 999)], "The training data hold token id 999"),
        ([torch.ones(3, 1, dtype=torch.long)], "No sequence of the dataloader has two tokens"),
    ],
    ids=["empty", "no loader", "no ids", "unknown ids", "short"],
)
def test_data_that_cannot_be_used_are_refused(data: Any, said: str, refused: Any) -> None:
    student, teacher = student_and_teacher()
    with refused(student, said):
        distill_model(student, teacher, data)
