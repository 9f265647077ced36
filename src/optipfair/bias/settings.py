"""The keyword arguments of `visualize_bias` and its kin beyond the specification's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..checking import whole_number
from ..errors import ArgumentError, UnknownNameError
from ..registry import unknown_name
from .activations.layer_keys import DEFAULT_COMPONENTS, check_components
from .prompts.controls import Words

_STYLE = ("figsize", "dpi", "cmap", "title")


@dataclass(frozen=True)
class Settings:
    """What they set.

    Attributes:
        components: which to capture.
        controls: neutral control pairs for each pair, 0 for none.
        control_words: word class → the caller's own neutral words.
        seed: of the choice of controls.
        style: of the figures: `figsize`, `dpi`, `cmap`, `title`.
    """

    components: tuple[str, ...] = DEFAULT_COMPONENTS
    controls: int = 8
    control_words: Words | None = None
    seed: int = 0
    style: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = whole_number(self.controls)
        if count is None or count < 0:
            raise ArgumentError(
                f"controls={self.controls!r} is no count. Give 0 or more; 8 is usual."
            )
        if whole_number(self.seed) is None:
            raise ArgumentError(f"seed={self.seed!r} is no whole number. Give one, such as 0.")

    @classmethod
    def read(cls, given: Mapping[str, Any], function: Callable[..., object]) -> Settings:
        """Check the keywords that a function has no parameters for; an unknown one is refused."""
        parameters = inspect.signature(function).parameters.values()
        named = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
        own = [each.name for each in fields(cls) if each.name != "style"]
        for name in given:
            if name not in own and name not in _STYLE:
                raise UnknownNameError(unknown_name("keyword", name, [*named[2:], *own, *_STYLE]))
        chosen = {name: value for name, value in given.items() if name in own}
        if "components" in chosen:
            chosen["components"] = check_components(chosen["components"])
        style = {name: value for name, value in given.items() if name in _STYLE}
        return cls(**chosen, style=style)
