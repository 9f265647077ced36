"""What may be asked of a distillation, and what is refused before anything changes."""

from __future__ import annotations

from typing import Any

import pytest

from optipfair import ArgumentError, PruningPlan, PruningWarning, distill_model
from support.pairs_of_models import KEPT, PLAN, student_and_teacher, token_batches

ONE: dict[str, Any] = {"epochs": 1, "scheduler": "none", "show_progress": False}


@pytest.mark.parametrize("weights", [{"gamma": 0.2}, {"delta": 0.1, "beta": 0.0}])
def test_weights_of_layers_that_do_not_sum_to_1_are_warned_of(weights: dict[str, float]) -> None:
    student, teacher = student_and_teacher()
    with pytest.warns(PruningWarning, match="sum to .*not a mean"):
        distill_model(student, teacher, token_batches(1), **weights, **ONE)


def test_weights_of_task_and_logits_may_sum_to_anything() -> None:
    student, teacher = student_and_teacher()
    distill_model(student, teacher, token_batches(1), alpha=1.0, beta=1.0, **ONE)


NUMBERS = [
    ("alpha", -0.1, "alpha=-0.1 is no finite number of 0 or more"),
    ("beta", float("nan"), "beta=nan is no finite number"),
    ("gamma", float("inf"), "gamma=inf is no finite number"),
    ("delta", "0.1", "delta='0.1' is no finite number"),
    ("temperature", 0, "temperature=0 is no finite number above 0"),
    ("skew_alpha", 1, "skew_alpha=1 is no finite number from 0 to below 1"),
    ("skew_alpha", -0.1, "from 0 to below 1"),
    ("epochs", 0, "epochs=0 is no whole number of 1 or more"),
    ("epochs", 1.5, "epochs=1.5 is no whole number"),
    ("learning_rate", 0, "learning_rate=0 is no finite number above 0"),
    ("warmup_ratio", 1.1, "warmup_ratio=1.1 is no finite number from 0 to 1"),
    ("warmup_ratio", -0.1, "from 0 to 1"),
    ("accumulation_steps", 0, "accumulation_steps=0 is no whole number of 1 or more"),
    ("accumulation_steps", True, "accumulation_steps=True is no whole number"),
    ("scheduler", "cosin", "Unknown scheduler 'cosin'. Did you mean 'cosine'"),
    ("scheduler", None, "Unknown scheduler None.* Available: cosine, none"),
    ("layer_mapping_strategy", "unifrom", "Did you mean 'uniform'.* Available: last, original, u"),
    ("layer_mapping_strategy", "original", "without a plan cannot say"),
    ("plan", PLAN, "layer_mapping_strategy='uniform' reads no plan"),
]


@pytest.mark.parametrize(("name", "value", "said"), NUMBERS)
def test_arguments_are_refused_before_anything_changes(
    name: str, value: Any, said: str, refused: Any, unchanged: Any
) -> None:
    student, teacher = student_and_teacher()
    with unchanged(teacher), refused(student, said, ArgumentError):
        distill_model(student, teacher, token_batches(1), **{name: value})


def test_weights_that_sum_to_0_are_refused(refused: Any) -> None:
    student, teacher = student_and_teacher()
    with refused(student, "sum to 0, so there is nothing to learn", ArgumentError):
        distill_model(student, teacher, token_batches(1), alpha=0, beta=0)


def test_names_may_be_in_any_case() -> None:
    student, teacher = student_and_teacher()
    distill_model(student, teacher, token_batches(1), "LAST", scheduler="Cosine", epochs=1)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (7, "with a int as plan cannot say"),
        (PruningPlan("llama", 4, (0, 1)), r"keeps 2 of 4 layers; the student has 3"),
        (PruningPlan("llama", 5, KEPT), "keeps 3 of 5 layers"),
        (PruningPlan("qwen2", 4, KEPT), "for a 'qwen2'; the teacher is a 'llama'"),
        ("nowhere.json", "nowhere.json"),
    ],
    ids=["no plan", "student", "teacher", "family", "no file"],
)
def test_plans_that_do_not_fit_are_refused(plan: Any, said: str, refused: Any) -> None:
    student, teacher = student_and_teacher()
    with refused(student, said, ArgumentError):
        distill_model(
            student, teacher, token_batches(1), "original", alpha=0.5, gamma=0.1, plan=plan
        )
