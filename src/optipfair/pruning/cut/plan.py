"""`PruningPlan`: a pruning run as a value. Frozen, with an exact JSON round trip.

Everything before a plan only reads a model, everything after it only writes.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...arch.spec import NEURON, UNITS
from ...errors import ArgumentError
from ...files.foreign import read_text, reading

if TYPE_CHECKING:
    from ..calibration.holding import Replacements

PLAN_VERSION = 1

Indices = tuple[int, ...]


_MOST = 10**7  # neurons of a layer
_WAY_OUT = (
    "Give the file that --save-plan (save_plan) wrote, or pruning_plan.json of a pruned model."
)


@dataclass(frozen=True)
class WidthCut:
    """The neurons that stay in one MLP, or how many they will be.

    Attributes:
        layer: index of the layer in the model before pruning.
        mlp: name of the MLP in its family's spec.
        width: number of neurons before.
        keep: sorted kept indices, one tuple, or one for each expert (all of one length); no tuple
            while it is not decided which neurons stay, an empty one where none does.
        count: how many stay then.
    """

    layer: int
    mlp: str
    width: int
    keep: tuple[Indices, ...] = ()
    count: int | None = None

    @property
    def key(self) -> tuple[int, str]:
        """The layer, and the MLP in it."""
        return self.layer, self.mlp

    @property
    def kept(self) -> int:
        """Number of neurons that stay (in each expert, where there are)."""
        return len(self.keep[0]) if self.keep else self.count or 0

    def keeping(self, keep: tuple[Indices, ...]) -> WidthCut:
        """The same cut, now that it is decided which neurons stay."""
        return replace(self, keep=keep, count=None)


@dataclass(frozen=True)
class PruningPlan:
    """What goes and what stays, as decided by one run.

    Attributes:
        model_type: family of the model it was made for.
        num_layers: number of decoder layers before.
        keep_layers: sorted indices of the layers that stay.
        width_cuts: the MLPs that get narrower (layers that go have none).
        request: what was asked for, for the record.
        replacements: the tensors with which what stays makes up for what goes, by layer (of the
            model before), MLP and tensor name, in the shape after the cut. None where there are
            none, or where they are missing: the JSON does not hold them.
    """

    model_type: str
    num_layers: int
    keep_layers: Indices
    width_cuts: tuple[WidthCut, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)
    replacements: Replacements | None = field(default=None, compare=False, repr=False)

    @property
    def drop_layers(self) -> Indices:
        kept = set(self.keep_layers)
        return tuple(i for i in range(self.num_layers) if i not in kept)

    @property
    def units(self) -> frozenset[str]:
        """What is cut: `neuron`, `group`, `head`, `expert`, or a layer's whole `attention`."""
        units = {name: unit for unit, name in UNITS.items()}
        names = {cut.mlp for cut in self.width_cuts} | {mlp for _, mlp in self.replaced_blocks}
        return frozenset(units.get(name, NEURON) for name in names)

    @property
    def empty(self) -> bool:
        """Whether carrying it out changes nothing."""
        return not self.drop_layers and not self.width_cuts

    @property
    def replaced_blocks(self) -> set[tuple[int, str]]:
        """Layer and MLP of what is fitted to removed blocks, as the record says."""
        blocks = self.request.get("replaced_blocks") or ()
        try:
            return {(block["layer"], block["mlp"]) for block in blocks}
        except (TypeError, KeyError) as exc:
            raise ArgumentError(
                f"The plan's replaced_blocks are not as they were written ({exc!r}). Copy the plan "
                "again, or decide anew with --save-plan (save_plan)."
            ) from exc

    @property
    def lacks_replacements(self) -> bool:
        """Whether what stays makes up for what goes by tensors that the plan does not hold."""
        makes_up = bool(self.request.get("compensate"))
        kept_parts = any(cut.kept for cut in self.width_cuts)
        needed = makes_up and (kept_parts or bool(self.replaced_blocks))
        return needed and self.replacements is None

    def to_json(self) -> str:
        """Return the plan as JSON; index lists are written as ranges, `0-4 6 9-11`."""
        return json.dumps(
            {
                "version": PLAN_VERSION,
                "model_type": self.model_type,
                "num_layers": self.num_layers,
                "keep_layers": format_ranges(self.keep_layers),
                "request": dict(self.request),
                "width_cuts": [_written_cut(cut) for cut in self.width_cuts],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what `to_json` wrote.

        Raises:
            ArgumentError: the text is no plan, or of an unknown version.
        """
        with reading("This pruning plan", ArgumentError, _WAY_OUT):
            data = json.loads(text)
            if data["version"] != PLAN_VERSION:
                raise ArgumentError(
                    f"The plan has version {data['version']!r}; this release reads {PLAN_VERSION}."
                )
            cuts = tuple(_read_cut(cut) for cut in data["width_cuts"])
            keep_layers = parse_ranges(data["keep_layers"])
            total = operator.index(data["num_layers"])
            return cls(
                _text(data["model_type"]), total, keep_layers, cuts, _read_request(data["request"])
            )

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, and its replaced tensors beside it, if it holds some.

        The tensors of `p.json` lie in `p.<digest of the plan>.safetensors`. A file appears only
        when it is complete.
        """
        from .plan_files import write_plan

        write_plan(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> PruningPlan:
        """Read a plan that `save` wrote, with the tensors beside it, which are read when needed.

        Raises:
            ArgumentError: the file holds no plan, or one of an unknown version, or the tensors
                beside it are not as they were written.
        """
        from .plan_files import find_replacements

        with reading(path, ArgumentError, _WAY_OUT):
            text = read_text(Path(path))
        try:
            plan = cls.from_json(text)
        except ArgumentError as exc:
            raise ArgumentError(f"{path}: {exc}") from exc
        return replace(plan, replacements=find_replacements(Path(path), plan))

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's JSON, first 16 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def _written_cut(cut: WidthCut) -> dict[str, Any]:
    own: dict[str, Any] = {"layer": cut.layer, "mlp": cut.mlp, "width": cut.width}
    if cut.count is not None:
        return {**own, "kept": cut.count}
    return {**own, "keep": [format_ranges(keep) for keep in cut.keep]}


def _read_cut(cut: Any) -> WidthCut:
    layer, width = operator.index(cut["layer"]), operator.index(cut["width"])
    if "kept" in cut:
        return WidthCut(layer, _text(cut["mlp"]), width, count=operator.index(cut["kept"]))
    keep = tuple(parse_ranges(_text(each)) for each in cut["keep"])
    return WidthCut(layer, _text(cut["mlp"]), width, keep)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]} stands where a text belongs")
    return value


def _read_request(request: Any) -> dict[str, Any]:
    """The record of what was asked for; what is read of it later is of the kind that was written.

    `replaced_blocks` are checked where they are read.
    """
    if not isinstance(request, dict):
        raise TypeError("its request is no object")
    for name in ("pruning_type", "neuron_selection_method", "scores_digest"):
        _text(request.get(name) or "")
    for layer in request.get("layer_indices") or ():
        operator.index(layer)
    return request


def format_ranges(indices: Iterable[int]) -> str:
    """Write sorted indices as ranges with inclusive ends: `0-4 6 9-11`."""
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs(indices))


def runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive ones among sorted indices, as (first, last)."""
    spans: list[tuple[int, int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    return spans


def parse_ranges(text: str) -> Indices:
    """Read what `format_ranges` wrote."""
    indices: list[int] = []
    for run in text.split():
        first, _, last = run.partition("-")
        start, stop = int(first), int(last or first) + 1
        if stop <= start or (indices and start <= indices[-1]):
            raise ValueError(f"{run} does not count up from what stands before it")
        if stop - start > _MOST - len(indices):  # a few digits may say more than memory holds
            raise ValueError(f"{run} are more than any layer has")
        indices.extend(range(start, stop))
    return tuple(indices)
