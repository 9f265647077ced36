"""The terms of a distillation on one batch: their gradients, and which tokens count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from optipfair.batches import read_batch
from optipfair.recovery.distilling.distillation_request import TERMS
from optipfair.recovery.distilling.lesson import Lesson, MappedLayers, counts
from optipfair.recovery.objectives import cross_entropy, skewed_kl
from support.pairs_of_models import lesson_of, slope, student_and_teacher, token_batches

EVERY: dict[str, Any] = {"alpha": 0.25, "beta": 0.25, "gamma": 0.25, "delta": 0.25}


def means(lesson: Lesson, item: Any) -> dict[str, float]:
    batch = read_batch(item)
    tokens = counts([batch])
    return {name: float(each.detach()) / tokens[name] for name, each in lesson.sums(batch).items()}


@pytest.mark.parametrize("term", TERMS.values())
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_gradient_of_every_term_is_that_of_finite_differences(family: str, term: str) -> None:
    student, teacher = student_and_teacher(family)
    lesson, batch = lesson_of(student, teacher, **EVERY), read_batch(token_batches(1, 2)[0])
    lesson.sums(batch)[term].backward()
    norms = []
    for name, parameter in list(student.named_parameters()):
        if (".0." not in name and ".1." not in name) or parameter.dim() < 2:
            continue
        gradient = parameter.grad
        assert gradient is not None, name
        steepest = gradient / gradient.norm()
        for direction in (steepest, torch.randn_like(gradient).sign() / gradient.numel() ** 0.5):
            expected = float((gradient * direction).sum())
            assert slope(lesson, batch, term, parameter, direction) == pytest.approx(
                expected, rel=0.02, abs=max(0.02 * float(gradient.norm()), 4e-4)
            ), name
        norms.append(float(gradient.norm()))
    assert sorted(norms)[len(norms) // 2] > 0.02  # far above what float32 can tell


def test_the_terms_are_sums_of_the_objectives_over_the_tokens_that_are_predicted() -> None:
    student, teacher = student_and_teacher()
    ids = token_batches(1, 2)[0]
    found = lesson_of(student, teacher, beta=1.0).sums(read_batch(ids))
    with torch.no_grad():
        own, wanted = (model(ids).logits[:, :-1].flatten(0, 1) for model in (student, teacher))
    found = {name: each.detach() for name, each in found.items()}
    torch.testing.assert_close(found["task"], cross_entropy(own, ids[:, 1:].flatten()).sum())
    torch.testing.assert_close(found["logits"], skewed_kl(own, wanted, 0.4, 2.0).sum())
    assert counts([read_batch(ids)])["task"] == 16 and counts([read_batch(ids)])["derivative"] == 18


def test_hidden_states_are_those_behind_the_mapped_layers() -> None:
    student, teacher = student_and_teacher()
    ids = token_batches(1, 2)[0]
    lesson = lesson_of(student, teacher, layer_mapping_strategy="last", **EVERY)
    assert [*lesson.layers.student] == [*student.model.layers]
    assert [*lesson.layers.teacher] == [*teacher.model.layers][1:]
    # transformers gives the last layer's behind the norm, so it is left out here
    two = MappedLayers(lesson.layers.student[:2], lesson.layers.teacher[:2])
    with torch.no_grad():
        found = means(replace(lesson, layers=two), ids)
        own, wanted = (
            model(ids, output_hidden_states=True).hidden_states for model in (student, teacher)
        )
    by_hand = [1 - torch.cosine_similarity(own[n], wanted[n + 1], dim=-1).mean() for n in (1, 2)]
    assert found["trajectory"] == pytest.approx(float(sum(by_hand)) / 2, abs=1e-5)
    changes = own[2] - own[1], wanted[3] - wanted[2]
    derivative = 1 - float(torch.cosine_similarity(*changes, dim=-1).mean())
    assert found["derivative"] == pytest.approx(derivative, abs=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_padding_counts_in_no_term(family: str, side: str) -> None:
    student, teacher = student_and_teacher(family)
    lesson = lesson_of(student, teacher, **EVERY)
    long, short = token_batches(1, length=9)[0], token_batches(1, length=5, seed=4)[0]
    padding = torch.full((1, 4), 7)
    ids, real = [short, padding], [torch.ones_like(short), torch.zeros_like(padding)]
    row, mask = (torch.cat(parts if side == "right" else parts[::-1], 1) for parts in (ids, real))
    padded = read_batch((torch.cat([long, row]), torch.cat([torch.ones_like(long), mask])))
    together = {name: float(value.detach()) for name, value in lesson.sums(padded).items()}
    apart = [lesson.sums(read_batch(each)) for each in (long, short)]
    for name, value in together.items():
        assert value == pytest.approx(sum(float(each[name].detach()) for each in apart), rel=1e-5)
    trimmed = [read_batch(each) for each in (long, short)]
    assert (
        counts([padded])
        == counts(trimmed)
        == dict.fromkeys(("task", "logits"), 12) | dict.fromkeys(("trajectory", "derivative"), 14)
    )


def test_what_has_no_weight_has_no_gradient_and_layers_are_not_watched() -> None:
    student, teacher = student_and_teacher()
    lesson = lesson_of(student, teacher, alpha=0.0, beta=1.0)
    found = lesson.sums(read_batch(token_batches(1)[0]))
    assert list(found) == ["task", "logits"]
    assert not found["task"].requires_grad and found["logits"].requires_grad
    assert lesson.layers.student == ()


def test_a_model_that_is_its_own_copy_is_at_no_distance() -> None:
    _, teacher = student_and_teacher()
    _, twin = student_and_teacher()
    found = means(lesson_of(twin, teacher, **EVERY), token_batches(1)[0])
    assert found["task"] > 1
    assert [found[name] for name in ("logits", "trajectory", "derivative")] == pytest.approx(
        [0, 0, 0], abs=1e-6
    )
