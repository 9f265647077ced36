"""`distill_model`: a student learns, rightly scaled, and a failed call leaves everything alone."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import optipfair
from optipfair import ArgumentError, ModelOutputError, distill_model
from optipfair.batches import read_batch
from optipfair.recovery.distilling.lesson import counts
from support.pairs_of_models import KEPT, PLAN, lesson_of, slope, student_and_teacher, token_batches

Unchanged = Callable[[Any], AbstractContextManager[None]]
ONE: dict[str, Any] = {"epochs": 1, "scheduler": "none", "show_progress": False}
WEIGHTS = ("alpha", "beta", "gamma", "delta")


def only(weight: str) -> dict[str, float]:
    return {name: float(name == weight) for name in WEIGHTS}


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def test_the_signature_is_the_published_one_and_ours_follows_by_keyword() -> None:
    parameters = inspect.signature(distill_model).parameters
    published = [(name, each.default) for name, each in parameters.items() if name != "plan"]
    assert published[:3] == [
        (name, inspect.Parameter.empty) for name in ("student_model", "teacher_model", "dataloader")
    ]
    assert published[3:] == [
        ("layer_mapping_strategy", "uniform"),
        ("alpha", 0.6),
        ("beta", 0.4),
        ("gamma", 0.0),
        ("delta", 0.0),
        ("temperature", 2.0),
        ("skew_alpha", 0.4),
        ("epochs", 3),
        ("learning_rate", 4e-5),
        ("scheduler", "cosine"),
        ("warmup_ratio", 0.05),
        ("accumulation_steps", 4),
        ("show_progress", True),
        ("return_stats", False),
    ]
    assert parameters["plan"].kind == inspect.Parameter.KEYWORD_ONLY
    assert optipfair.distill_model is optipfair.recovery.distill_model


@pytest.mark.parametrize("weight", WEIGHTS)
def test_each_term_is_learned(weight: str) -> None:
    student, teacher = student_and_teacher()
    _, stats = distill_model(
        student,
        teacher,
        token_batches(4, 2),
        layer_mapping_strategy="last",
        **only(weight),
        epochs=6,
        learning_rate=3e-3,
        accumulation_steps=1,
        show_progress=False,
        return_stats=True,
    )
    total = stats["loss_history"]["total"]
    assert total[-1] < 0.9 * total[0]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_first_step_goes_against_the_gradient_of_finite_differences(weight: str) -> None:
    # AdamW's first step is -rate * (sign(gradient) + 0.01 * weight)
    student, teacher = student_and_teacher()
    before, batch = copy.deepcopy(student), token_batches(1, 2)[0]
    asked = {**only(weight), "learning_rate": 1e-3}
    distill_model(student, teacher, [batch], **asked, **ONE)
    name = "model.layers.1.mlp.up_proj.weight"
    moved = student.get_parameter(name).detach() - before.get_parameter(name).detach()
    lesson, parameter = lesson_of(before, teacher, **asked), before.get_parameter(name)
    term = {"alpha": "task", "beta": "logits", "gamma": "trajectory", "delta": "derivative"}[weight]
    signs = moved.sign()
    assert slope(lesson, read_batch(batch), term, parameter, signs / signs.norm()) < -1e-3
    for place in ((0, 0), (3, 2), (9, 5), (20, 11)):
        direction = torch.zeros_like(moved)
        direction[place] = 1.0
        found = slope(lesson, read_batch(batch), term, parameter, direction)
        assert abs(found) < 2e-4 or found * float(moved[place]) < 0
    apart = (moved + 1e-3 * (-signs + 0.01 * parameter.detach())).abs()
    assert float((apart > 5e-5).double().mean()) < 0.01  # but where the gradient is next to 0


def test_a_student_comes_near_to_its_teacher_by_the_logits_alone() -> None:
    student, teacher = student_and_teacher()
    data = token_batches(6, 2)
    _, stats = distill_model(
        student,
        teacher,
        data,
        alpha=0.0,
        beta=1.0,
        epochs=30,
        learning_rate=5e-3,
        accumulation_steps=2,
        show_progress=False,
        return_stats=True,
    )
    assert stats["loss_history"]["logits"][-1] < 0.3 * stats["loss_history"]["logits"][0]


def test_four_batches_of_one_make_the_step_of_one_batch_of_four() -> None:
    lengths = (9, 5, 7, 3)
    rows = [token_batches(1, length=n, seed=n)[0] for n in lengths]
    ids = torch.cat([torch.nn.functional.pad(row, (9 - row.shape[1], 0)) for row in rows])
    mask = torch.stack([torch.arange(9) >= 9 - n for n in lengths]).long()
    weights = dict.fromkeys(WEIGHTS, 0.25)
    ways: list[tuple[Any, int]] = [(rows, 4), ([(ids, mask)], 1), ([(ids, mask)], 4)]
    found = []
    for batches, accumulation_steps in ways:
        student, teacher = student_and_teacher()
        _, stats = distill_model(
            student,
            teacher,
            batches,
            accumulation_steps=accumulation_steps,
            learning_rate=1e-3,
            return_stats=True,
            **weights,
            **ONE,
        )
        found.append((weights_of(student), stats))
    for own, stats in found[1:]:
        for name, value in found[0][0].items():
            # the first step of AdamW has the sign of the gradient: zeros of rounding may differ
            apart = (own[name] - value).abs()
            assert float((apart > 1e-5).double().mean()) < 0.01, name
        assert stats["effective_batch_size"] == 4
        for term, values in found[0][1]["loss_history"].items():
            assert stats["loss_history"][term] == pytest.approx(values, rel=1e-5), term


def test_batches_that_are_left_over_make_a_step_of_their_own() -> None:
    first, second, third = token_batches(3)
    together, teacher = student_and_teacher()
    _, stats = distill_model(
        together, teacher, [first, second, third], accumulation_steps=2, return_stats=True, **ONE
    )
    assert stats["optimizer_steps"] == 2 and stats["effective_batch_size"] == 2
    same, _ = student_and_teacher()
    distill_model(same, teacher, [torch.cat([first, second]), third], accumulation_steps=1, **ONE)
    for name, value in weights_of(together).items():
        torch.testing.assert_close(dict(same.named_parameters())[name].detach(), value, msg=name)


def test_a_generator_is_gone_through_in_every_epoch() -> None:
    def once() -> Iterator[Tensor]:
        yield from token_batches(3)

    found = []
    for data in (once(), token_batches(3)):
        student, teacher = student_and_teacher()
        _, stats = distill_model(student, teacher, data, show_progress=False, return_stats=True)
        found.append((stats["loss_history"], weights_of(student)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_what_is_frozen_stays_and_the_teacher_is_only_read(unchanged: Unchanged) -> None:
    student, teacher = student_and_teacher()
    student.model.embed_tokens.requires_grad_(False)
    student.model.layers[0].requires_grad_(False)
    student.model.layers[1].train()
    student.lm_head.weight.grad = torch.ones_like(student.lm_head.weight)
    teacher.train()
    teacher.lm_head.weight.requires_grad_(False)
    before, modes = weights_of(student), [each.training for each in student.modules()]
    with unchanged(teacher):
        assert distill_model(student, teacher, token_batches(2), show_progress=False) is student
    after = weights_of(student)
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    frozen = {name for name, each in student.named_parameters() if not each.requires_grad}
    assert same == frozen and frozen
    assert [each.training for each in student.modules()] == modes
    assert student.lm_head.weight.grad.eq(1).all()
    assert all(each.grad is None for n, each in student.named_parameters() if "lm_head" not in n)


def test_bfloat16_students_learn_in_small_steps() -> None:
    student, teacher = (model.bfloat16() for model in student_and_teacher())
    _, stats = distill_model(
        student,
        teacher,
        token_batches(2, 2),
        epochs=25,
        scheduler="none",
        learning_rate=2e-4,
        accumulation_steps=1,
        show_progress=False,
        return_stats=True,
    )
    assert student.dtype == torch.bfloat16
    assert stats["loss_history"]["total"][-1] < stats["loss_history"]["total"][0]


def test_dropout_is_on_and_draws_no_random_numbers_outside() -> None:
    losses = []
    for p in (0.0, 0.5):
        student, teacher = student_and_teacher("gpt2")
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = p
        state = torch.get_rng_state()
        _, stats = distill_model(student, teacher, token_batches(1), return_stats=True, **ONE)
        assert torch.equal(state, torch.get_rng_state())
        losses.append(stats["loss_history"]["task"])
    assert losses[0] != losses[1]


def test_it_trains_where_gradients_are_off() -> None:
    student, teacher = student_and_teacher()
    before = weights_of(student)
    with torch.no_grad():
        distill_model(student, teacher, token_batches(1), **ONE)
    assert not torch.equal(before["lm_head.weight"], weights_of(student)["lm_head.weight"])


def test_statistics_say_what_was_done() -> None:
    student, teacher = student_and_teacher()
    ids = torch.cat(token_batches(5))
    loader = DataLoader(TensorDataset(ids, torch.ones_like(ids)), batch_size=2)
    _, stats = distill_model(
        student, teacher, loader, "last", 0.5, 0.3, 0.2, epochs=2, accumulation_steps=2,
        show_progress=False, return_stats=True,
    )  # fmt: skip
    assert set(stats) >= {
        *("epochs", "learning_rate", "accumulation_steps", "effective_batch_size", "weights"),
        *("layer_mapping", "seconds", "epoch_seconds", "loss_history", "optimizer_steps"),
    }
    assert (stats["epochs"], stats["learning_rate"], stats["accumulation_steps"]) == (2, 4e-5, 2)
    assert (stats["effective_batch_size"], stats["optimizer_steps"]) == (4, 4)
    assert stats["weights"] == {"alpha": 0.5, "beta": 0.3, "gamma": 0.2, "delta": 0.0}
    assert stats["layer_mapping"] == [1, 2, 3] and stats["layer_mapping_strategy"] == "last"
    assert len(stats["epoch_seconds"]) == 2 and stats["seconds"] >= sum(stats["epoch_seconds"]) > 0
    history = stats["loss_history"]
    assert list(history) == ["total", "task", "logits", "trajectory", "derivative"]
    assert history["derivative"] == [0.0, 0.0] and min(history["trajectory"]) > 0
    for n in range(2):
        task, logits, trajectory = (history[name][n] for name in list(history)[1:4])
        assert history["total"][n] == pytest.approx(0.5 * task + 0.3 * logits + 0.2 * trajectory)
    assert json.loads(json.dumps(stats)) == stats.to_dict()


def test_task_and_logits_are_measured_whatever_their_weights() -> None:
    student, teacher = student_and_teacher()
    _, stats = distill_model(
        student, teacher, token_batches(1), **only("alpha"), return_stats=True, **ONE
    )
    history = stats["loss_history"]
    assert history["logits"][0] > 0 and history["total"] == history["task"]
    assert stats["layer_mapping"] is None


def test_the_plan_maps_layers_to_what_they_were(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "pruning_plan.json")
    for plan in (PLAN, tmp_path / "pruning_plan.json", str(tmp_path / "pruning_plan.json")):
        student, teacher = student_and_teacher()
        weights = {"alpha": 0.5, "beta": 0.3, "gamma": 0.1, "delta": 0.1}
        _, stats = distill_model(
            student, teacher, token_batches(1), "original", **weights, plan=plan,
            return_stats=True, **ONE,
        )  # fmt: skip
        assert stats["layer_mapping"] == list(KEPT)


def test_after_a_scattered_cut_the_original_map_is_the_nearest() -> None:
    found = {}
    for strategy in ("uniform", "last", "original"):
        student, teacher = student_and_teacher()
        _, stats = distill_model(
            student, teacher, token_batches(4), strategy, **only("gamma"), return_stats=True,
            learning_rate=1e-9, plan=PLAN if strategy == "original" else None, **ONE,
        )  # fmt: skip
        found[strategy] = stats["loss_history"]["trajectory"][0]
    assert found["original"] < min(found["uniform"], found["last"])


@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_a_loss_that_is_not_finite_leaves_both_models_alone(
    broken: str, unchanged: Unchanged
) -> None:
    student, teacher = student_and_teacher()
    student.train()
    model = student if broken == "student" else teacher
    model.model.norm.weight.data[3] = float("nan")
    with (
        unchanged(student),
        unchanged(teacher),
        pytest.raises(ModelOutputError, match="loss of step 1 is NaN or Inf, so the student"),
    ):
        distill_model(student, teacher, token_batches(2), show_progress=False)


def test_a_failure_after_some_steps_gives_the_first_weights_back(unchanged: Unchanged) -> None:
    student, teacher = student_and_teacher()
    with unchanged(student), pytest.raises(ModelOutputError, match="lower learning_rate"):
        distill_model(
            student, teacher, token_batches(5), epochs=9, learning_rate=1e30, scheduler="none",
            accumulation_steps=1, show_progress=False,
        )  # fmt: skip


def test_an_interruption_gives_the_first_weights_back(unchanged: Unchanged) -> None:
    student, teacher = student_and_teacher()
    forward, calls = teacher.forward, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with unchanged(student), pytest.raises(KeyboardInterrupt):
        teacher.forward = interrupted
        distill_model(student, teacher, token_batches(5), accumulation_steps=1, show_progress=False)
    assert len(calls) == 4


def test_a_batch_of_single_tokens_among_others_counts_nothing() -> None:
    student, teacher = student_and_teacher()
    data = [*token_batches(2), torch.ones(2, 1, dtype=torch.long)]
    assert counts([read_batch(data[2])])["task"] == 0
    _, stats = distill_model(student, teacher, data, accumulation_steps=2, return_stats=True, **ONE)
    assert stats["optimizer_steps"] == 2


@pytest.mark.parametrize("weight", ["gamma", "delta"])
def test_a_term_that_would_teach_nothing_is_refused(weight: str, refused: Any) -> None:
    student, teacher = student_and_teacher()
    student.model.requires_grad_(False)  # the head alone is trained
    with refused(student, f"no trained parameter .* Give {weight}=0", ArgumentError):
        distill_model(student, teacher, token_batches(1), **only(weight), **ONE)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("weight", WEIGHTS)
def test_gradient_checkpointing_changes_nothing(weight: str) -> None:
    found = []
    for checkpointing in (False, True):
        student, teacher = student_and_teacher()
        if checkpointing:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        distill_model(student, teacher, token_batches(2), **only(weight), **ONE)
        found.append(weights_of(student))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)
