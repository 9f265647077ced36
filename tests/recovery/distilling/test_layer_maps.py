"""Which layer of the teacher each layer of a student is compared with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optipfair import MAPPING_LAST, MAPPING_ORIGINAL, MAPPING_UNIFORM, ArgumentError, PruningPlan
from optipfair.recovery.distilling.layer_maps import map_layers

SIZES = st.integers(1, 60).flatmap(lambda most: st.tuples(st.integers(1, most), st.just(most)))


@pytest.mark.parametrize(
    ("student", "teacher", "by_hand"),
    [
        (3, 5, [0, 2, 4]),
        (4, 8, [0, 2, 5, 7]),  # at 7/3 of a layer: 0, 2.33, 4.67, 7
        (3, 6, [0, 3, 5]),  # at 2.5: 0, 2.5, 5
        (2, 9, [0, 8]),
        (1, 9, [8]),
        (4, 4, [0, 1, 2, 3]),
    ],
)
def test_uniform_by_hand(student: int, teacher: int, by_hand: list[int]) -> None:
    assert map_layers(MAPPING_UNIFORM, student, teacher) == by_hand


def test_last_by_hand() -> None:
    assert map_layers(MAPPING_LAST, 3, 8) == [5, 6, 7]


def test_original_is_what_the_plan_keeps() -> None:
    plan = PruningPlan("llama", 8, (0, 1, 5, 7))
    assert map_layers(MAPPING_ORIGINAL, 4, 8, plan) == [0, 1, 5, 7]


@given(SIZES, st.sampled_from([MAPPING_UNIFORM, MAPPING_LAST]))
def test_maps_increase_within_the_teacher_and_end_at_its_last_layer(
    sizes: tuple[int, int], strategy: str
) -> None:
    student, teacher = sizes
    found = map_layers(strategy, student, teacher)
    assert len(found) == student and found == sorted(set(found))
    assert found[0] >= 0 and found[-1] == teacher - 1


def test_a_student_with_more_layers_than_its_teacher_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"5 layers, the teacher 4.*gamma=0 and delta=0"):
        map_layers(MAPPING_UNIFORM, 5, 4)


@pytest.mark.parametrize(
    "plan",
    [
        PruningPlan("llama", 8, (0, 1)),
        PruningPlan("llama", 6, (0, 1, 5)),
        PruningPlan("llama", 8, (0, 5, 1)),
        PruningPlan("llama", 8, (0, 5, 8)),
    ],
    ids=["layers of the student", "of the teacher", "order", "range"],
)
def test_a_plan_that_does_not_fit_is_refused(plan: PruningPlan) -> None:
    with pytest.raises(ArgumentError, match=r"the student has 3, the teacher 8\. Give the plan"):
        map_layers(MAPPING_ORIGINAL, 3, 8, plan)
