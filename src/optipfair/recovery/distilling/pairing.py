"""Whether a student can learn from a teacher, on which data, and which of their layers belong
together. It only reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ...arch.limits import check_sequences
from ...arch.view import ModelView, describe
from ...batches import Batch
from ...distributed import world_size
from ...errors import ArgumentError, DataError
from ...pruning.calibration.activations import no_batch, read_batches
from .distillation_request import DistillationRequest
from .layer_maps import MAPPING_ORIGINAL, map_layers
from .lesson import MappedLayers, counts


def check_pair(student: Any, teacher: Any) -> list[nn.Parameter]:
    """Return the parameters of the student that are trained.

    Raises:
        ArgumentError: the two are no language models with one vocabulary, share weights, or
            nothing of the student can be trained.
    """
    if world_size() > 1:
        raise ArgumentError(
            f"Distillation runs in one process; here are {world_size()}. Start it without a "
            "launcher; a model may lie on several devices (device_map)."
        )
    if student is teacher:
        raise ArgumentError(
            "student_model and teacher_model are the same object. Copy the model before it is "
            "pruned (copy.deepcopy), or load the original again, and give that as teacher_model."
        )
    own, wanted = _vocabulary("student_model", student), _vocabulary("teacher_model", teacher)
    if own != wanted:
        raise ArgumentError(
            f"The student predicts {own} tokens, the teacher {wanted}, so their predictions cannot "
            "be compared. Give two models with one vocabulary, as a pruned model and its original "
            "have."
        )
    return _trained(student, teacher)


def _vocabulary(name: str, model: Any) -> int:
    """How many tokens a model predicts."""
    head = model.get_output_embeddings() if _has_embeddings(model) else None
    if head is None:
        raise ArgumentError(
            f"{name} is a {type(model).__name__}, which predicts no tokens. Give a model that "
            "AutoModelForCausalLM or optipfair.load_model has loaded."
        )
    return int(head.weight.shape[0])


def _has_embeddings(model: Any) -> bool:
    return isinstance(model, nn.Module) and hasattr(model, "get_output_embeddings")


def _trained(student: nn.Module, teacher: nn.Module) -> list[nn.Parameter]:
    named = {name: each for name, each in student.named_parameters() if each.requires_grad}
    if not named:
        raise ArgumentError(
            "No parameter of the student has requires_grad=True, so there is nothing to train. Set "
            "it for those that may change: student_model.requires_grad_(True)."
        )
    empty = next((name for name, each in named.items() if each.is_meta), None)
    if empty is not None:
        raise ArgumentError(
            f"{empty} of the student is on the 'meta' device: it has a shape but no values. Load "
            "the model with its weights, without disk offload."
        )
    others = {id(each) for each in teacher.parameters()}
    shared = next((name for name, each in named.items() if id(each) in others), None)
    if shared is not None:
        raise ArgumentError(
            f"Student and teacher share {shared}, so training the one would change the other. "
            "Copy the model before it is pruned (copy.deepcopy)."
        )
    return list(named.values())


def read_data(dataloader: Iterable[Any], student: Any, teacher: Any) -> list[Batch]:
    """Read all batches: there may be only one chance to, and each epoch needs them.

    Raises:
        DataError: there are none, or the models cannot take them.
    """
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed
        batches = list(read_batches(dataloader))
    if not batches:
        raise no_batch()
    for model in (student, teacher):
        check_sequences(model, batches, "training")
    if not counts(batches)["task"]:
        raise DataError("No sequence of the dataloader has two tokens. Give longer ones.")
    return batches


def mapped_layers(
    student: Any, teacher: Any, request: DistillationRequest
) -> tuple[list[int] | None, MappedLayers]:
    """The teacher's layer for each of the student's, where layers are compared; and the modules."""
    if not request.compares_layers:
        return None, MappedLayers()
    own, wanted = describe(student), describe(teacher)
    _check_comparable(own, wanted, request)
    chosen = map_layers(
        request.layer_mapping_strategy, len(own.layers), len(wanted.layers), request.read_plan
    )
    theirs = [wanted.layers[layer].module for layer in chosen]
    return chosen, MappedLayers([layer.module for layer in own.layers], theirs)


def _check_comparable(student: ModelView, teacher: ModelView, request: DistillationRequest) -> None:
    own, wanted = student.text_config.hidden_size, teacher.text_config.hidden_size
    if own != wanted:
        raise ArgumentError(
            f"The student's hidden size is {own}, the teacher's {wanted}, so their hidden states "
            "cannot be compared. Give gamma=0 and delta=0, which leaves the task and the logits."
        )
    if request.delta > 0 and len(student.layers) == 1:
        raise ArgumentError(
            f"delta={request.delta:g} compares what changes between layers, and the student has "
            "one layer. Give delta=0."
        )
    plan = request.read_plan
    made_for = teacher.spec.model_type if plan is None else plan.model_type
    if made_for != teacher.spec.model_type:
        raise ArgumentError(
            f"The plan is for a {made_for!r}; the teacher is a {teacher.spec.model_type!r}. Give "
            f"the plan that made this student, or another strategy than {MAPPING_ORIGINAL!r}."
        )
