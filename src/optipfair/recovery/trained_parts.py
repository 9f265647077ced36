"""Which numbers of a model are trained, and how it becomes again what it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..arch.units.experts import by_experts
from ..arch.view import ModelView, describe
from ..distributed import is_first_here, rank, together
from ..errors import ArgumentError
from .recover_options import RecoverOptions
from .shards import is_cut, named, put

_START = "as_it_came.safetensors"


@dataclass(frozen=True)
class Trained:
    """A model of which some numbers are trained.

    `undo` gives it back the values with which it came. `go_back` goes towards these, so that this
    share of the way from them stays. `finish` removes what was added to the model, after its values
    have been merged where they are kept.
    """

    model: Any  # what a trainer is given
    count: int
    undo: Callable[[], None]
    go_back: Callable[[float], None]
    finish: Callable[[], None]


def checkpoint_bytes(model: Any, asked: RecoverOptions) -> int:
    """Bytes of what a training keeps on disk at most; of adapters, which are small, none.

    That is what is trained as it came, and two checkpoints while the second replaces the first: all
    weights, and two numbers of the optimizer for each that is trained; all in float32.
    """
    if asked.lora is not None:
        return 0
    count = sum(each.numel() for each in _parts(model, asked.train))
    every: int = sum(each.numel() for each in model.parameters())
    return 4 * (count + 2 * (every + 2 * count))


@contextmanager
def trained(model: Any, asked: RecoverOptions, folder: Path) -> Iterator[Trained]:
    """Inside the block only what was asked for needs gradients; after an error it is as it came.

    `folder` keeps the values with which the model came. Modes, devices and what needs gradients are
    afterwards as they were.
    """
    needed = {name: each.requires_grad for name, each in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    own = dict(vars(model))
    device = next(model.parameters()).device
    chosen = {id(each) for each in _parts(model, asked.train)}
    for each in model.parameters():
        each.requires_grad_(id(each) in chosen and each.is_floating_point())
    part = _whole(model, folder) if asked.lora is None else _adapters(model, asked.lora, asked.dora)
    try:
        yield part
    except BaseException:
        part.undo()
        raise
    finally:
        part.finish()
        for name, each in named(model).items():
            each.requires_grad_(needed[name])
            each.grad = None
        for module, mode in modes:
            module.training = mode
        for name in vars(model).keys() - own.keys():  # accelerate's marks and its forward
            del vars(model)[name]
        first = next(model.parameters())
        if first.device != device and not is_cut(first):
            model.to(device)


def _parts(model: Any, named: str) -> list[nn.Parameter]:
    """The parameters that a name stands for; embeddings and head are in `all` alone."""
    if named == "all":
        return list(model.parameters())
    view = describe(model)
    if named == "mlp":
        return [each for mlp in view.mlps for each in mlp.tensors.values()]
    if named == "routers":
        return _routers(view)
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    apart = {id(each) for table in tables if table is not None for each in table.parameters()}
    return [each for each in model.parameters() if id(each) not in apart]


def _routers(view: ModelView) -> list[nn.Parameter]:
    """What the routers choose by, and weigh with."""
    found: list[nn.Parameter | None] = []
    for experts in by_experts(view).mlps:
        modules = {slot.module for slot in experts.tensors} - {experts.spec.down.module}
        for path in sorted(modules):
            found += experts.owner.get_submodule(path)._parameters.values()
    return [each for each in found if each is not None]


def _whole(model: Any, folder: Path) -> Trained:
    """The values themselves are trained; those with which it came wait on disk."""
    chosen = {name: each for name, each in model.named_parameters() if each.requires_grad}
    file = folder / _START
    with together():
        if is_first_here() and not file.exists():
            part = file.with_suffix(f".part-{rank()}")
            save_file({name: each.detach().contiguous() for name, each in chosen.items()}, part)
            part.replace(file)

    def go_back(kept: float) -> None:
        _go_back(model, load_file(file), kept)

    count = sum(each.numel() for each in chosen.values())
    return Trained(model, count, partial(go_back, 0.0), go_back, lambda: None)


def _go_back(model: Any, came: Mapping[str, Tensor], kept: float) -> None:
    """Go towards the values with which these parameters came; this share of the way stays."""
    parameters = named(model)
    for name, value in came.items():
        put(parameters[name], value, kept)


def _adapters(model: Any, rank: int, dora: bool) -> Trained:
    """Low-rank adapters beside the linear layers that would be trained."""
    import peft

    chosen = {id(each) for each in model.parameters() if each.requires_grad}
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module.weight) in chosen
    ]
    if not targets:
        raise ArgumentError(
            "No linear layer is among what is trained, so adapters have no place. Leave lora out."
        )
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets,
        task_type="CAUSAL_LM",
        use_dora=dora,
    )
    with warnings.catch_warnings():  # it asks transformers by a name that changed in 5.23
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = peft.get_peft_model(model, config)
    adapters = {name: each for name, each in named(wrapped).items() if each.requires_grad}
    came = {
        name: each.detach().clone()
        for name, each in adapters.items()
        if ".lora_A." not in name  # its product with lora_B, which came as zero, is the way
    }
    undone: list[bool] = []

    def finish() -> None:
        if undone:
            wrapped.unload()
        else:
            wrapped.merge_and_unload()

    count = sum(each.numel() for each in adapters.values())
    go_back = partial(_go_back, wrapped, came)
    return Trained(wrapped, count, lambda: undone.append(True), go_back, finish)
