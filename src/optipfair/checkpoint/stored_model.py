"""A checkpoint and the model it is of, without weights: where each layer and neuron lies on disk.

Nothing here is known of families: the names on disk are those that transformers gives the twin's
tensors when it saves them, and where the neurons lie is asked the same way (`arch/saved.py`).

Axes: `E` experts, `I` neurons, `H` hidden.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..arch.saved import layers_head, names_in_files, probe, saved_form, saved_shapes
from ..arch.twin import build_on_meta, why_not_on_disk
from ..arch.view import MLPView, ModelView, describe
from ..errors import CheckpointError, UnsupportedModelError
from ..files.safetensors_reader import (
    Checkpoint,
    TensorInfo,
    incomplete,
    open_checkpoint,
    read_config,
    same_bytes,
)
from ..pruning.cut.checks import check_config_unquantized, no_plain_number, seen_by
from .past_layers import fields_of_predictions, is_named_so, predicting_layers
from .pickled import SameBytes
from .pieces import Piece, pieces_of
from .side_files import check_plain

_PLAIN = ("F64", "F32", "F16", "BF16")


class StoredModel:
    """A checkpoint's headers, with the twin of its model, described: its tensors are on `meta`."""

    def __init__(self, folder: Path, config: Any, same: SameBytes = same_bytes) -> None:
        """Open a checkpoint and check it against its config; `same` compares two of its tensors."""
        self.checkpoint: Checkpoint = open_checkpoint(folder)
        check_config_unquantized(read_config(folder))
        model = build_on_meta(config)
        if _head_is_its_own(model, self.tensors, same):  # transformers loads it untied then
            model = build_on_meta(_untied(config))
        self.view: ModelView = describe(model)
        self._names: dict[str, str] = {}  # as transformers would save them → as they are here
        self.expected = saved_shapes(self.view.model)
        self._names_differ = bool(self._missing())
        if self._names_differ:
            self._names = names_in_files(self.view.model, self.tensors)
            self.expected = self._named_here(saved_shapes(self.view.model))  # now as in the files
        check_plain(folder, self.tensors.keys() - self.expected.keys())
        self._check_tensors(config)

    def seen_by(self, units: Collection[str]) -> None:
        """From now on the view has what a pruning cuts, of heads, experts and MLPs."""
        self.view = seen_by(self.view, units)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """By the names in the files."""
        return self.checkpoint.tensors

    @property
    def by_saved_name(self) -> dict[str, TensorInfo]:
        """The model's tensors by the names that transformers gives them when it saves them."""
        own = {name: self._names.get(name, name) for name in saved_shapes(self.view.model)}
        return {name: self.tensors[here] for name, here in own.items() if here in self.tensors}

    @cached_property
    def layers_head(self) -> str | None:
        """What stands before a layer's number in the names; None where they do not say it."""
        return layers_head(self._own_names_by_layer)

    @cached_property
    def _own_names_by_layer(self) -> list[list[str]]:
        return self._names_by_layer(self.view.model)

    def _names_by_layer(self, twin: Any) -> list[list[str]]:
        """What each layer of a twin is stored as, with tied tensors under each of their names."""
        state, path = twin.state_dict(), self.view.layers_path
        names = []
        for index in range(len(twin.get_submodule(path))):
            own = {n: tensor for n, tensor in state.items() if n.startswith(f"{path}.{index}.")}
            names.append(list(self._named_here(saved_form(twin, own))))
        return names

    def saved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the model in the form that they have in these files, by their names there."""
        return self._untied({self._tied.get(name, name): t for name, t in tensors.items()})

    def saved_shapes(self, twin: Any, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """What another twin says of files with these names, which are like the names here."""
        known = names_in_files(twin, names) if self._names_differ else {}
        return {known.get(name, name): shape for name, shape in saved_shapes(twin).items()}

    def _untied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._named_here(saved_form(self.view.model, tensors))

    def _named_here(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {self._names.get(name, name): value for name, value in tensors.items()}

    def layer_of(self, name: str) -> int | None:
        """The number of the layer that a tensor belongs to, None for the others.

        It may be one that the config does not count, as of layers that predict further tokens.
        """
        if self.layers_head is None:
            return self._layer_of_known.get(name)
        match = re.match(rf"{re.escape(self.layers_head)}\.(\d+)\.", name)
        return int(match[1]) if match else None

    def predicts_further(self, name: str) -> bool:
        """Whether a tensor is of the layers that predict the tokens after the next one."""
        if self.layer_of(name) in self.predicting_layers:
            return True
        return name not in self.expected and is_named_so(name)

    def is_left_over(self, name: str) -> bool:
        """Whether a tensor is of a layer of a deeper model, which the config no longer counts."""
        layer = self.layer_of(name) or 0
        return layer >= len(self.view.layers) and layer not in self.predicting_layers

    @cached_property
    def predicting_layers(self) -> list[int]:
        """The layers past the last one that predict further tokens, in order."""
        layers = {name: self.layer_of(name) for name in self.tensors}
        counted = max(fields_of_predictions(self.view.text_config).values(), default=0)
        return predicting_layers(layers, len(self.view.layers), counted)

    @cached_property
    def _layer_of_known(self) -> dict[str, int]:
        by_layer = self._own_names_by_layer
        return {name: index for index, names in enumerate(by_layer) for name in names}

    def renamed(self, keep_layers: Sequence[int], twin: Any) -> Callable[[str, int], str]:
        """What gives a tensor its name after pruning, of which `twin` is: name, layer → name.

        Layers that predict further tokens follow the last one.
        """
        number = {old: new for new, old in enumerate([*keep_layers, *self.predicting_layers])}
        head = self.layers_head
        if head is not None:
            start = re.compile(rf"^{re.escape(head)}\.\d+\.")
            return lambda name, layer: start.sub(f"{head}.{number[layer]}.", name)
        before, after = self._own_names_by_layer, self._names_by_layer(twin)
        names = {
            old: new
            for index, layer in enumerate(keep_layers)
            for old, new in zip(before[layer], after[index], strict=True)
        }
        return lambda name, _: names[name]

    def pieces(self, mlp: MLPView) -> dict[str, list[Piece]]:
        """An MLP's neurons in the files: name → one piece or one for each expert, in file order."""
        places = probe(self.view, mlp, self.saved)
        return {name: pieces_of(mlp, *place, self.tensors[name]) for name, place in places.items()}

    def _check_tensors(self, config: Any) -> None:
        self._check_plain_numbers()
        wrong = [
            f"{name} has shape {self.tensors[name].shape}, its config.json says {shape}"
            for name, shape in self.expected.items()
            if name in self.tensors and self.tensors[name].shape != shape
        ]
        where = self.checkpoint.folder
        if wrong:
            raise CheckpointError(
                f"{where}: {wrong[0]}. Restore the config or download the model again."
            )
        missing = self._missing()
        with_encoder = getattr(config, "is_encoder_decoder", False)  # the twin is none
        if with_encoder and missing & self._names_of_embeddings():
            raise UnsupportedModelError(why_not_on_disk(config))
        if missing:
            raise _of_another_class(config, self.view.model) or incomplete(where, sorted(missing))

    def _check_plain_numbers(self) -> None:
        """Refuse floats of the model that are stored as something else."""
        stored = {name: self.tensors[name].dtype for name in self.expected if name in self.tensors}
        if odd := {name: dtype for name, dtype in stored.items() if dtype not in _PLAIN}:
            saved = self._untied(self.view.model.state_dict())
            for name in sorted(name for name in odd if saved[name].is_floating_point()):
                raise no_plain_number(name, odd[name])

    def _missing(self) -> set[str]:
        return self.expected.keys() - self.tensors.keys() - self._may_be_missing()

    def _names_of_embeddings(self) -> set[str]:
        """What an encoder-decoder stores once for both, under a name that the decoder lacks."""
        model: Any = self.view.model
        table = model.get_input_embeddings().weight
        return {n for n, each in model.named_parameters(remove_duplicate=False) if each is table}

    def _may_be_missing(self) -> set[str]:
        """Tied tensors of which one name is there, and those that transformers does without."""
        free: set[str] = set()
        for group in self._tied_names():
            if any(names <= self.tensors.keys() for names in group.values()):
                free |= set().union(*group.values())
        patterns = list(getattr(self.view.model, "_keys_to_ignore_on_load_missing", None) or ())
        return free | {n for n in self.expected if any(re.search(each, n) for each in patterns)}

    @cached_property
    def _tied(self) -> dict[str, str]:
        """Tied tensors that are stored under another of their names, by their names in memory."""
        stored_as: dict[str, str] = {}
        for group in self._tied_names():
            there = [live for live, names in group.items() if names <= self.tensors.keys()]
            stored_as |= {live: there[0] for live in group if there and live not in there}
        return stored_as

    def _tied_names(self) -> Iterator[dict[str, set[str]]]:
        """For each tensor with several names in memory: each of them → what it is stored as."""
        groups: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self.view.model.state_dict(keep_vars=True).items():
            groups.setdefault(id(tensor), {})[name] = tensor.detach()
        for group in groups.values():
            if len(group) > 1:
                yield {live: set(self._untied({live: tensor})) for live, tensor in group.items()}


def kept_in_float32(model: Any, dtype: str) -> set[str]:
    """Patterns of the names that transformers keeps in float32 in a model of a narrower dtype."""
    if dtype not in ("float16", "bfloat16"):
        return set()
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == "float16":
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return kept


def _head_is_its_own(model: Any, tensors: Mapping[str, TensorInfo], same: SameBytes) -> bool:
    """Whether the files hold a head other than the embeddings that the config ties it to."""
    table = model.get_input_embeddings().weight
    named = model.named_parameters(remove_duplicate=False)
    stored = [tensors[name] for name, tensor in named if tensor is table and name in tensors]
    return any(not same(stored[0], other) for other in stored[1:])


def _of_another_class(config: Any, model: Any) -> CheckpointError | None:
    """The error where a config says that its files are of a class without a head for text."""
    named = next(iter(getattr(config, "architectures", None) or ()), type(model).__name__)
    if named == type(model).__name__ or not re.search("Classification|Answering|Choice", named):
        return None
    return CheckpointError(
        f"The checkpoint is of a {named}, which lacks what a {type(model).__name__} has to write "
        "text. Give the language model that it was made from."
    )


def _untied(config: Any) -> Any:
    untied = copy.deepcopy(config)
    for part in (untied, untied.get_text_config()):
        part.tie_word_embeddings = False
    return untied
