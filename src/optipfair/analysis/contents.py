"""What a model holds: its twin on `meta`, and how much each tensor weighs. No weight is read.

Bytes come from the headers of its files; where it has none, from its dtype.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ..arch.twin import build_on_meta
from ..arch.units.experts import by_experts
from ..arch.view import ModelView, describe
from ..checkpoint.pickled import SameBytes, write_headers
from ..checkpoint.stored_experts import predicting_experts, without_experts_of_predicting
from ..checkpoint.stored_model import StoredModel
from ..errors import UnsupportedModelError
from ..files.safetensors_reader import Checkpoint, open_checkpoint, pickled_files, same_bytes
from ..loading.models import load_config
from ..loading.sources import Source
from ..pruning.cut.plan import PruningPlan

PARTS = ("embeddings", "attention", "mlp", "norms", "head", "other")


@dataclass(frozen=True)
class Portion:
    """What one tensor weighs."""

    size: int  # in parameters or bytes
    layers: frozenset[int]  # that hold it; none where it stands outside of them
    mlp: tuple[int, str] | None  # layer and name of the MLP whose neurons it holds, if it does
    goes_with_widths: bool = False  # of layers that predict further tokens
    goes: bool = False  # of layers that the config does not count
    stays: int = 0  # what of it is of no neuron or unit


@dataclass(frozen=True)
class Contents:
    """A model and its weights."""

    view: ModelView  # its twin
    parameters: Sequence[Portion]  # of each tensor in memory, those of tied ones once
    bytes: int  # of all weights
    dtypes: list[str]  # of all weights
    stored: StoredModel | None = None  # where they lie; None where the files do not say
    why_not: str = ""  # why nothing of it can be pruned; empty where that depends

    def seen_by(self, pruning_type: str) -> Contents:
        """The same with what a pruning type cuts in the place of neurons."""
        if pruning_type != "EXPERTS":
            return self
        view = by_experts(self.view)
        stored = self.stored
        if stored is not None:
            stored = copy.copy(stored)
            stored.view = view
        return replace(self, view=view, parameters=_of_twin(view), stored=stored)

    def weights(self, pruning_type: str) -> Sequence[Portion]:
        """The bytes of each tensor."""
        if self.why_not:
            raise UnsupportedModelError(self.why_not)
        if self.stored is not None:
            return _of_files(self.stored, with_neurons=pruning_type != "DEPTH")
        item = _dtype(self.view.model.config).itemsize
        return _of_twin(self.view, item)


def read_contents(source: Source, *, trust_remote_code: bool = False) -> Contents:
    """Build a model without its weights, and read what its files say of them."""
    config = load_config(source, trust_remote_code=trust_remote_code)
    if source.kind == "folder":
        return _read_folder(Path(source.location), config)
    view, dtype = describe(build_on_meta(config)), _dtype(config)
    parameters = _of_twin(view)
    size = sum(portion.size for portion in parameters) * dtype.itemsize
    return Contents(view, parameters, size, [str(dtype).removeprefix("torch.")])


def _read_folder(folder: Path, config: Any) -> Contents:
    pickled = pickled_files(folder)
    if not pickled:
        return _read_weights(folder, config)
    with TemporaryDirectory(prefix=".optipfair-") as made:
        same = write_headers(folder, pickled, Path(made))
        return _read_weights(Path(made), config, same)


def _read_weights(folder: Path, config: Any, same: SameBytes = same_bytes) -> Contents:
    try:
        stored = StoredModel(folder, config, same)
    except UnsupportedModelError as refusal:
        view = describe(build_on_meta(config))
        return _with_bytes(view, open_checkpoint(folder), why_not=str(refusal))
    return _with_bytes(stored.view, stored.checkpoint, stored=stored)


def _with_bytes(view: ModelView, checkpoint: Checkpoint, **others: Any) -> Contents:
    return Contents(view, _of_twin(view), checkpoint.nbytes, checkpoint.dtypes, **others)


def _dtype(config: Any) -> torch.dtype:
    """In which it is once loaded (a GGUF file is quantized)."""
    dtype = getattr(config, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _of_twin(view: ModelView, item_bytes: int = 1) -> list[Portion]:
    layers: defaultdict[int, set[int]] = defaultdict(set)
    for layer in view.layers:
        for parameter in layer.module.parameters():
            layers[id(parameter)].add(layer.index)
    mlps = {
        id(tensor): (mlp.key, slot.tail * tensor.numel() // tensor.shape[slot.axis])
        for mlp in view.mlps
        for slot, tensor in mlp.tensors.items()
    }
    portions = []
    for each in view.model.parameters():
        key, stays = mlps.get(id(each), (None, 0))
        size, held_by = each.numel() * item_bytes, frozenset(layers[id(each)])
        portions.append(Portion(size, held_by, key, stays=stays * item_bytes))
    return portions


def _of_files(stored: StoredModel, *, with_neurons: bool) -> list[Portion]:
    mlps: dict[str, tuple[int, str]] = {}
    fixed: dict[str, int] = {}
    for mlp in stored.view.mlps if with_neurons else ():
        for name, pieces in stored.pieces(mlp).items():
            mlps[name] = mlp.key
            of_none = sum(int((piece.neurons < 0).sum()) for piece in pieces)
            places = sum(len(piece.neurons) for piece in pieces)
            fixed[name] = stored.tensors[name].nbytes * of_none // places
    last = stored.view.mlps[-1] if with_neurons and stored.view.mlps else None
    cut_too = False  # whether layers that predict further tokens are cut, not left out
    if last is not None and last.spec.routed:
        mlps |= {n: last.key for own in predicting_experts(stored, last).values() for n in own}
        cut_too = not without_experts_of_predicting(stored, last)
    portions, counted = [], set(range(len(stored.view.layers)))
    for name, info in stored.tensors.items():
        layers = frozenset(counted & {stored.layer_of(name)})
        further, over = stored.predicts_further(name) and not cut_too, stored.is_left_over(name)
        stays = fixed.get(name, 0)
        portions.append(Portion(info.nbytes, layers, mlps.get(name), further, over, stays))
    return portions


def removed(portions: Iterable[Portion], plan: PruningPlan) -> int:
    """How much goes with the layers and neurons that a plan removes."""
    keep = set(plan.keep_layers)
    shares = {(cut.layer, cut.mlp): (cut.width - cut.kept, cut.width) for cut in plan.width_cuts}
    gone = Fraction(0)
    for portion in portions:
        with_cuts = portion.goes or (portion.goes_with_widths and plan.width_cuts)
        if with_cuts or (portion.layers and not portion.layers & keep):
            gone += portion.size
        elif portion.mlp in shares:
            neurons, width = shares[portion.mlp]
            gone += Fraction((portion.size - portion.stays) * neurons, width)
    return int(gone)


def parameters_by_part(view: ModelView) -> dict[str, int]:
    """Parameters of each part; a head that is tied to the embeddings counts there."""
    model: Any = view.model
    special = {model.get_input_embeddings(): "embeddings"}
    special.setdefault(model.get_output_embeddings(), "head")
    mlps = {slot.module.split(".")[0] for mlp in view.mlps for slot in mlp.spec.slots}
    totals = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                part = special.get(module) or _part_of(path, module, view.layers_path, mlps)
                totals[part] += parameter.numel()
    return {part: total for part, total in totals.items() if total}


def _part_of(path: str, module: nn.Module, layers_path: str, mlps: Set[str]) -> str:
    if "norm" in type(module).__name__.lower():
        return "norms"
    if not path.startswith(f"{layers_path}."):
        return "other"
    name = path.removeprefix(f"{layers_path}.").split(".")[1:2] or [""]  # after the number
    if name[0] in mlps:
        return "mlp"
    return "attention" if "attn" in name[0] or "attention" in name[0] else "other"
