"""`apply_plan`: the only code that changes a live model.

Everything is checked and proved before the first tensor is replaced. Then one layer at a time is
cut, so that no more than one layer's new weights exist beside the old ones. Where a cut ends before
the last layer all the same, the exception says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...arch.attention_form import let_pass
from ...arch.heterogeneous import allow_reading
from ...arch.slots import take, zero_
from ...arch.spec import NEURON, UNITS
from ...arch.twin import AttributeChange, apply_config
from ...arch.view import LayerView, MLPView, ModelView, describe, find_mlp
from ...errors import ArgumentError
from ...progress import track
from ..calibration.holding import Replacements
from .checks import check_cuttable, check_plan_fits, check_sharing, seen_by
from .guard import Rewrite, cut_mlps, prove
from .plan import PruningPlan, WidthCut, runs
from .plan_files import check_complete

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def apply_plan(
    model: PreTrainedModel,
    plan: PruningPlan,
    replacements: Replacements | None = None,
    *,
    show_progress: bool = False,
) -> PreTrainedModel:
    """Carry out a plan on a live model, in place.

    Parameters keep their identity, dtype, device and `requires_grad`; hooks stay; gradients are
    cut along. The config and the modules' own bookkeeping follow.

    Args:
        model: the model that the plan was made for.
        plan: what stays, and the tensors with which it makes up for what goes.
        replacements: tensors that take the place of others instead of the plan's own; `{}` for
            none.
        show_progress: whether to show a bar.

    Returns:
        The same object.

    Raises:
        ArgumentError: the plan or a replacement is for another model, or the plan's tensors are
            missing.
        UnsupportedModelError: the result would not reload as itself; nothing was changed.
    """
    if not isinstance(plan, PruningPlan):
        raise ArgumentError(
            f"plan={plan!r} is no PruningPlan. Give what plan_pruning or PruningPlan.load returns."
        )
    if plan.empty:
        return model
    if replacements is None:
        check_complete(plan)
    else:
        plan = replace(plan, replacements=replacements)
    view = seen_by(describe(model), plan.units)
    check_plan_fits(view, plan)
    check_cuttable(view)
    check_sharing(view)
    carry_out(plan, prove(view, plan), show_progress=show_progress)
    return model


def carry_out(plan: PruningPlan, rewrite: Rewrite, *, show_progress: bool = False) -> None:
    """Cut, drop and rewrite. Every check has been made, and the proof of the plan's counts."""
    view, replacements = rewrite.view, plan.replacements or {}
    whole = {(*mlp.key, slot.name): p for mlp in view.mlps for slot, p in mlp.tensors.items()}
    done: set[int] = set()
    with _saying_what_is_cut(view, done):
        for cut, mlp in track(cut_mlps(view, plan), "cutting", show_progress, unit="MLP"):
            _cut_mlp(mlp, cut, done, replacements)
        cuts = {cut.key for cut in plan.width_cuts}
        for key in replacements:
            if key[:2] not in cuts:
                parameter = whole[key]
                new = replacements[key].to(parameter.device)
                done.add(id(parameter))
                _replace(parameter, new, parameter.grad)
        for index in reversed(plan.drop_layers):
            del view.container[index]
        for change in rewrite.attributes:
            _set_attribute(view.model.get_submodule(change.module), change)
        apply_config(view.text_config, rewrite.config)
        allow_reading(view.text_config)


@contextmanager
def _saying_what_is_cut(view: ModelView, done: set[int]) -> Iterator[None]:
    """Say with whatever ends the block, such as no memory or Ctrl-C, how far the cuts have come."""
    layers = len(view.container)
    try:
        yield
    except BaseException as exc:
        cut = {m.layer for m in view.mlps if any(id(p) in done for p in m.tensors.values())}
        if not cut and len(view.container) == layers:
            exc.add_note("No layer is cut yet: the model is as it was.")
            raise
        said = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in runs(sorted(cut)))
        what = f"layers {said} are" if cut else "only some layers are"
        exc.add_note(
            f"Of the model's {layers} layers, {what} cut and its config is not, so it is of no "
            "use. Load it again."
        )
        raise


def cut_copy(layer: LayerView, copied: nn.Module, plan: PruningPlan, rewrite: Rewrite) -> nn.Module:
    """A layer's copy, cut in place as is planned for it, its modules' bookkeeping included."""
    cuts = {cut.key: cut for cut in plan.width_cuts}
    done: set[int] = set()
    for mlp in layer.mlps:
        if mlp.key in cuts:
            _cut_mlp(own_mlp(mlp, copied), cuts[mlp.key], done, plan.replacements or {})
    prefix = f"{rewrite.view.layers_path}.{rewrite.numbers[layer.index]}."
    for change in rewrite.attributes:
        if change.module.startswith(prefix) and change.name != "layer_idx":
            _set_attribute(copied.get_submodule(change.module[len(prefix) :]), change)
    for module in copied.modules() if plan.units - {NEURON, "attention"} else ():
        config = vars(module).get("config")  # a copy of its own, which some forwards read
        for name in rewrite.config:
            if hasattr(config, name):
                setattr(config, name, rewrite.config[name])
    return copied


def own_mlp(mlp: MLPView, copied: nn.Module) -> MLPView:
    """The same MLP in a copy of its layer."""
    own = find_mlp(mlp.layer, copied, mlp.spec)
    assert own is not None
    return own


def _set_attribute(module: nn.Module, change: AttributeChange) -> None:
    if getattr(module, change.name, None) == change.old:
        setattr(module, change.name, change.new)


@torch.no_grad()
def _cut_mlp(mlp: MLPView, cut: WidthCut, done: set[int], replacements: Replacements) -> None:
    """Replace the tensors of one MLP; all new ones exist before the first old one goes.

    Tensors that two MLPs share are cut once: `done` holds the identities of those already cut.
    """
    keep = torch.tensor(cut.keep if mlp.spec.experts else cut.keep[0], dtype=torch.long)
    replaced = {key[2]: replacements[key] for key in replacements if key[:2] == mlp.key}
    parameters = {slot: each for slot, each in mlp.tensors.items() if id(each) not in done}
    new = {
        slot: replaced[slot.name].to(each.device)
        if slot.name in replaced
        else take(each.data, slot, keep)
        for slot, each in parameters.items()
    }
    gradients = {
        slot: take(each.grad, slot, keep)
        for slot, each in parameters.items()
        if each.grad is not None
    }
    for slot, parameter in parameters.items():
        done.add(id(parameter))
        _replace(parameter, new[slot], gradients.get(slot))
    bias = mlp.down_bias
    if bias is not None and mlp.spec.down_bias in replaced:
        _replace(bias, replaced[mlp.spec.down_bias].to(bias.device), bias.grad)
    if mlp.spec.name == UNITS["attention"]:
        let_pass(mlp.owner.get_submodule(mlp.spec.down.module.rpartition(".")[0]))


def _replace(parameter: nn.Parameter, data: Tensor, gradient: Tensor | None) -> None:
    parameter.grad = None
    parameter.data = data
    parameter.grad = gradient


@torch.no_grad()
def zero_mlp(mlp: MLPView, neurons: Tensor) -> None:
    """Set the rows and columns of these neurons to zero, in place."""
    for slot, parameter in mlp.tensors.items():
        zero_(parameter.data, slot, neurons)
