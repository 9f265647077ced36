"""What a folder's model is made of, from its config and headers alone: exactly, or not at all.

The family's entry says which tensors a config implies. If the folder holds just these, in these
shapes, nothing is left to guess. Otherwise the answer is None, and the model has to be built.
Without torch.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..arch.families import FAMILIES
from ..arch.sizes import PARTS, MLPSizes, ModelSizes, part_of
from ..arch.spec import ArchSpec, MLPSpec, StoredSpec, TensorSlot
from ..files.safetensors_reader import Checkpoint, open_checkpoint, read_config
from .stored_config import StoredConfig, UnclearError

HEAD = "lm_head.weight"
_NORM = re.compile(r"(norm|\.ln_\w+)$")

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def read_structure(
    folder: Path, *, trust_remote_code: bool = False
) -> tuple[ModelSizes, Checkpoint] | None:
    """Read what a folder's model is made of; None where config and headers do not prove it.

    Args:
        folder: in transformers format.
        trust_remote_code: whether code that the config names would run.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    fields = read_config(folder)
    spec = FAMILIES.get(fields["model_type"])
    if spec is None or spec.stored is None or (trust_remote_code and "auto_map" in fields):
        return None
    config = StoredConfig(fields, spec, spec.stored)
    try:
        config.check()
        checkpoint = open_checkpoint(folder)
        expected = _expected(config)
        _compare(config, expected, live_shapes(checkpoint, spec, spec.stored))
        return _sizes(config, expected), checkpoint
    except UnclearError:
        return None


def live_shapes(checkpoint: Checkpoint, spec: ArchSpec, stored: StoredSpec) -> Shapes:
    """Shapes of a checkpoint's tensors under their names in the live model, buffers left out.

    Raises:
        UnclearError: its experts are not alike.
    """
    names = {name: _live_name(name, stored) for name in checkpoint.tensors}
    if not any(name.startswith(f"{stored.base}.") for name in names.values()):  # as GPT-2's is
        names = {k: live if live == HEAD else f"{stored.base}.{live}" for k, live in names.items()}
    shapes = {
        live: checkpoint.tensors[name].shape
        for name, live in names.items()
        if not live.endswith(tuple(f".{buffer}" for buffer in stored.buffers))
    }
    for mlp in spec.mlps:
        if mlp.stored_experts:
            shapes = _with_fused_experts(shapes, mlp)
    return shapes


def _live_name(name: str, stored: StoredSpec) -> str:
    for old, new in stored.renamed.items():
        name = name.replace(old, new)
    return name


def _with_fused_experts(shapes: Shapes, mlp: MLPSpec) -> Shapes:
    """Replace the projections of single experts by tensors that hold them all, (E, ..., ...)."""
    found: defaultdict[str, list[dict[int, Shape]]] = defaultdict(lambda: [{}, {}, {}])
    patterns = [_expert_pattern(name) for name in mlp.stored_experts]
    fused: Shapes = {}
    for name, shape in shapes.items():
        matches = [pattern.fullmatch(name) for pattern in patterns]
        match = next(filter(None, matches), None)
        if match:
            found[match[1]][matches.index(match)][int(match[2])] = shape
        else:
            fused[name] = shape
    for layer, (gate, up, down) in found.items():
        if gate != up:
            raise UnclearError(f"the experts of {layer} are not alike")
        for slot in (slot for slot in mlp.slots if not slot.optional):
            fused[f"{layer}{slot.name}"] = _stacked(down if slot == mlp.down else gate, slot)
    return fused


def _expert_pattern(name: str) -> re.Pattern[str]:
    """Matches a stored name: (all before the path below the layer, number of the expert)."""
    return re.compile(r"(.+\.)" + re.escape(name).replace(r"\{\}", r"(\d+)"))


def _stacked(experts: Mapping[int, Shape], slot: TensorSlot) -> Shape:
    """Shape of the slot's tensor that holds all these experts."""
    if experts.keys() != set(range(len(experts))) or len(set(experts.values())) != 1:
        raise UnclearError("experts are not alike")
    shape = [len(experts), *experts[0]]
    shape[slot.axis] *= slot.blocks
    return tuple(shape)


def _expected(config: StoredConfig) -> Shapes:
    """Names and shapes of all parameters that the config implies."""
    stored, base = config.stored, f"{config.stored.base}."
    vocabulary = (config.number("vocab_size"), config.number("hidden_size"))
    shapes: Shapes = {f"{base}{stored.embeddings}": vocabulary}
    if not config.has({"tie_word_embeddings": True}):
        shapes[HEAD] = vocabulary
    for group in stored.outside:
        if config.has(group.when):
            shapes |= {f"{base}{k}": _shape(config, axes) for k, axes in group.shapes.items()}
    for layer in range(config.number("num_hidden_layers")):
        prefix = _layer_prefix(config, layer)
        for group in stored.layer:
            if config.has(group.when, layer):
                own = {k: _shape(config, axes, layer) for k, axes in group.shapes.items()}
                shapes |= {f"{prefix}{name}": shape for name, shape in own.items()}
    return shapes


def _shape(config: StoredConfig, axes: str, layer: int | None = None) -> Shape:
    return tuple(config.number(axis, layer) for axis in axes.split())


def _layer_prefix(config: StoredConfig, layer: int) -> str:
    return f"{config.stored.base}.{config.spec.layers}.{layer}."


def _compare(config: StoredConfig, expected: Shapes, found: Shapes) -> None:
    """Refuse what differs; a head that is tied to the embeddings may be stored all the same."""
    embeddings = expected[f"{config.stored.base}.{config.stored.embeddings}"]
    if expected | {HEAD: embeddings} != found | {HEAD: found.get(HEAD, embeddings)}:
        raise UnclearError("its tensors are not those of its config")
    if HEAD in expected and HEAD not in found:
        raise UnclearError("it has no head")


def _sizes(config: StoredConfig, expected: Shapes) -> ModelSizes:
    count = config.number("num_hidden_layers")
    prefixes = [_layer_prefix(config, layer) for layer in range(count)]
    of_layers = [_below(prefix, expected) for prefix in prefixes]
    mlps = tuple(
        mlp for layer, own in enumerate(of_layers) for mlp in _mlps(config.spec, layer, own)
    )
    groups_keys = "num_key_value_heads" in config.fields_of_shapes
    return ModelSizes(
        spec=config.spec,
        model_type=config.spec.model_type,
        architecture=config.stored.architecture,
        listed=True,
        layers=tuple(sum(map(math.prod, own.values())) for own in of_layers),
        mlps=mlps,
        parts=_parts(config, expected, {mlp.spec for mlp in mlps}),
        hidden_size=config.number("hidden_size"),
        attention_heads=config.number("num_attention_heads"),
        key_value_heads=config.number("num_key_value_heads") if groups_keys else None,
        head_dim=config.number("head_dim"),
        vocabulary=config.number("vocab_size"),
        context=config.value("max_position_embeddings"),
    )


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return {name[len(prefix) :]: s for name, s in shapes.items() if name.startswith(prefix)}


def _mlps(spec: ArchSpec, layer: int, shapes: Shapes) -> Iterator[MLPSizes]:
    """The MLPs of a layer, from the shapes of its tensors."""
    for mlp in spec.mlps:
        if all(slot.optional or slot.name in shapes for slot in mlp.slots):
            own = tuple(math.prod(shapes[s.name]) for s in mlp.slots if s.name in shapes)
            down = shapes[mlp.down.name]
            hidden = [size for axis, size in enumerate(down) if axis != mlp.down.axis][-1]
            experts = down[0] if mlp.experts else None
            yield MLPSizes(layer, mlp, down[mlp.down.axis], hidden, experts, own)


def _parts(config: StoredConfig, expected: Shapes, mlps: Iterable[MLPSpec]) -> dict[str, int]:
    base = config.stored.base
    named = {f"{base}.{config.stored.embeddings}": "embeddings", HEAD: "head"}
    totals = dict.fromkeys(PARTS, 0)
    for name, shape in expected.items():
        module = name.rpartition(".")[0]
        is_norm = _NORM.search(module) is not None
        other = "norms" if is_norm else part_of(module, f"{base}.{config.spec.layers}", mlps)
        totals[named.get(name, other)] += math.prod(shape)
    return {part: total for part, total in totals.items() if total}
