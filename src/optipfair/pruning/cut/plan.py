"""`PruningPlan`: a pruning run as a value. Frozen, with an exact JSON round trip.

Everything before a plan only reads a model, everything after it only writes.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...arch.spec import ATTENTION_UNITS
from ...errors import ArgumentError

PLAN_VERSION = 1

Indices = tuple[int, ...]


@dataclass(frozen=True)
class WidthCut:
    """The neurons that stay in one MLP.

    Attributes:
        layer: index of the layer in the model before pruning.
        mlp: name of the MLP in its family's spec.
        width: number of neurons before.
        keep: sorted kept indices, one tuple, or one for each expert (all of one length).
    """

    layer: int
    mlp: str
    width: int
    keep: tuple[Indices, ...]

    @property
    def kept(self) -> int:
        """Number of neurons that stay (in each expert, where there are)."""
        return len(self.keep[0])


@dataclass(frozen=True)
class PruningPlan:
    """What goes and what stays, as decided by one run.

    Attributes:
        model_type: family of the model it was made for.
        num_layers: number of decoder layers before.
        keep_layers: sorted indices of the layers that stay.
        width_cuts: the MLPs that get narrower (layers that go have none).
        request: what was asked for, for the record.
    """

    model_type: str
    num_layers: int
    keep_layers: Indices
    width_cuts: tuple[WidthCut, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def drop_layers(self) -> Indices:
        kept = set(self.keep_layers)
        return tuple(i for i in range(self.num_layers) if i not in kept)

    @property
    def attention_unit(self) -> str | None:
        """What a unit of attention is in its cuts, `group` or `head`; None where it cuts MLPs."""
        names = {cut.mlp for cut in self.width_cuts}
        return next((unit for unit, name in ATTENTION_UNITS.items() if name in names), None)

    @property
    def empty(self) -> bool:
        """Whether carrying it out changes nothing."""
        return not self.drop_layers and not self.width_cuts

    def to_json(self) -> str:
        """Return the plan as JSON; index lists are written as ranges, `0-4 6 9-11`."""
        return json.dumps(
            {
                "version": PLAN_VERSION,
                "model_type": self.model_type,
                "num_layers": self.num_layers,
                "keep_layers": format_ranges(self.keep_layers),
                "request": dict(self.request),
                "width_cuts": [
                    {
                        "layer": cut.layer,
                        "mlp": cut.mlp,
                        "width": cut.width,
                        "keep": [format_ranges(keep) for keep in cut.keep],
                    }
                    for cut in self.width_cuts
                ],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what `to_json` wrote.

        Raises:
            ArgumentError: the text is no plan, or of an unknown version.
        """
        try:
            data = json.loads(text)
            if data["version"] != PLAN_VERSION:
                raise ArgumentError(
                    f"The plan has version {data['version']!r}; this release reads {PLAN_VERSION}."
                )
            cuts = tuple(
                WidthCut(
                    operator.index(cut["layer"]),
                    cut["mlp"],
                    operator.index(cut["width"]),
                    tuple(parse_ranges(keep) for keep in cut["keep"]),
                )
                for cut in data["width_cuts"]
            )
            keep_layers = parse_ranges(data["keep_layers"])
            total, request = operator.index(data["num_layers"]), data["request"]
            if not isinstance(request, dict):
                raise TypeError("its request is no object")
            return cls(data["model_type"], total, keep_layers, cuts, request)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
            if isinstance(exc, ArgumentError):
                raise
            raise ArgumentError(
                f"This is no pruning plan as `to_json` writes it: {exc!r}. Give the file that "
                "--save-plan (save_plan) wrote, or pruning_plan.json of a pruned model."
            ) from exc

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PruningPlan:
        """Read a plan that `save` wrote.

        Raises:
            ArgumentError: the file holds no plan, or one of an unknown version.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            return cls.from_json(text)
        except ArgumentError as exc:
            raise ArgumentError(f"{path}: {exc}") from exc

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's JSON, first 16 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def format_ranges(indices: Iterable[int]) -> str:
    """Write sorted indices as ranges with inclusive ends: `0-4 6 9-11`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def parse_ranges(text: str) -> Indices:
    """Read what `format_ranges` wrote."""
    indices: list[int] = []
    for run in text.split():
        first, _, last = run.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)
