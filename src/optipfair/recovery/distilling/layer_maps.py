"""Layer maps: which layer of the teacher each layer of a student is compared with.

Pure functions of two numbers of layers, and of the plan that made the student.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import ArgumentError
from ...pruning.cut.plan import PruningPlan
from ...registry import Registry

MAPPING_UNIFORM = "uniform"
MAPPING_LAST = "last"
MAPPING_ORIGINAL = "original"

LayerMap = Callable[[int, int, PruningPlan | None], list[int]]

LAYER_MAPS: Registry[LayerMap] = Registry("layer_mapping_strategy")


def map_layers(
    strategy: str, student: int, teacher: int, plan: PruningPlan | None = None
) -> list[int]:
    """The teacher's layer for each layer of the student, increasing, by numbers of layers.

    Raises:
        ArgumentError: the student has more layers than the teacher, or the plan does not fit.

    Example:
        >>> map_layers("uniform", 3, 8), map_layers("last", 3, 8)
        ([0, 4, 7], [5, 6, 7])
    """
    if student > teacher:
        raise ArgumentError(
            f"The student has {student} layers, the teacher {teacher}, so its layers have no "
            "counterparts. Give the larger model as teacher_model, or gamma=0 and delta=0."
        )
    return LAYER_MAPS[strategy](student, teacher, plan)


@LAYER_MAPS.register(MAPPING_UNIFORM)
def uniform(student: int, teacher: int, plan: PruningPlan | None) -> list[int]:
    """At even distances from the first layer to the last, rounded to the nearest, halves up."""
    if student == 1:
        return [teacher - 1]
    steps = student - 1
    return [(2 * layer * (teacher - 1) + steps) // (2 * steps) for layer in range(student)]


@LAYER_MAPS.register(MAPPING_LAST)
def last(student: int, teacher: int, plan: PruningPlan | None) -> list[int]:
    """The deepest layers."""
    return list(range(teacher - student, teacher))


@LAYER_MAPS.register(MAPPING_ORIGINAL)
def original(student: int, teacher: int, plan: PruningPlan | None) -> list[int]:
    """The layers that they were before the others were cut."""
    assert plan is not None  # `checked` of the request has seen to it
    kept = list(plan.keep_layers)
    in_order = kept == sorted(set(kept)) and all(0 <= layer < teacher for layer in kept)
    if plan.num_layers != teacher or len(kept) != student or not in_order:
        raise ArgumentError(
            f"The plan keeps {len(kept)} of {plan.num_layers} layers; the student has {student}, "
            f"the teacher {teacher}. Give the plan that made this student from this teacher."
        )
    return kept
