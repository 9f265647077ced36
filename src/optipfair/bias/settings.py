"""What can be asked of bias figures and numbers, and the folder or notebook where they go."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checking import check_count, whole_number
from ..errors import ArgumentError, UnknownNameError
from ..files.filled_folder import check_writable, filled_folder, writing_explained
from ..noted import warn
from ..option_fields import in_usual_case, option
from ..registry import same_but_for_case, unknown_name
from .activations.layer_keys import DEFAULT_COMPONENTS, check_components
from .prompts.controls import Words
from .prompts.scripts import script_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")
_MISSING = re.compile(r"Glyph (\d+) .* missing from (?:font\(s\) |font |current )?(.*)")
_SHOWN = 6  # figures in a notebook for one call
_FONTS = {
    "symbols": "Noto Sans Symbols",
    "Chinese": "Noto Sans CJK SC",
    **dict.fromkeys(("Hiragana", "Katakana"), "Noto Sans CJK JP"),
    "Hangul": "Noto Sans CJK KR",
}
_MARK = {"files": "bias"}
_STYLE = ("figsize", "dpi", "cmap", "title")


@dataclass(frozen=True)
class BiasOptions:
    """What can be asked of `optipfair bias`, one field an option; nothing is checked here."""

    pairs: str | Path | None = option(
        None, "Your own pairs of prompts: a .csv or .jsonl file.", metavar="FILE"
    )
    categories: Sequence[str] = option(
        (),
        "Category of generated pairs, such as gender; repeatable. [the seven default pairs]",
        flag="--category",
        metavar="NAME",
        repeatable=True,
    )
    attribute: Sequence[str] = option(
        (),
        "Contrasts to find in the model, in the place of comparing pairs: which layers, neurons "
        "and heads make them, checked by taking the largest away. Names or .json files with "
        "commas between them, such as gender-occupation.",
        metavar="NAME|FILE,...",
    )
    layers: str = option(
        "first_middle_last",
        "Layers to draw of each pair. The numbers and the summary cover all of them.",
        metavar="first_middle_last|all|I,J,...",
    )
    components: Sequence[str] | None = option(
        None, "What to compare in a layer, such as mlp_output. [six of them]", metavar="NAME,..."
    )
    controls: int = option(8, "Neutral swaps for each pair.")
    seed: int = option(0, "Seed of the choice of neutral words.")
    visualization_types: Sequence[str] | None = option(
        None,
        "Figures to draw: summary, or mean_diff, heatmap, pca of each pair, or none. "
        "[summary where there is a folder]",
        metavar="NAME,...",
    )
    figure_format: str = option("png", "Format of the figures.", allowed=lambda: FORMATS)
    output_dir: str | Path | None = option(
        None, "Folder for figures and numbers. [nothing is written]", metavar="DIR"
    )
    compare_with: str | Path | None = option(
        None, "A second model, to compare on the same pairs.", metavar="PATH"
    )

    def __post_init__(self) -> None:
        in_usual_case(self)


@dataclass(frozen=True)
class Settings:
    """The keyword arguments of `visualize_bias` and its kin beyond the specification's."""

    components: tuple[str, ...] = DEFAULT_COMPONENTS
    controls: int = 8  # neutral control pairs for each pair, 0 for none
    control_words: Words | None = None  # word class → the caller's own neutral words
    seed: int = 0
    style: Mapping[str, Any] = field(default_factory=dict)  # figsize, dpi, cmap, title

    def __post_init__(self) -> None:
        check_count("controls", self.controls, 0)
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


class BiasFolder:
    """A folder for figures of one format and style; `path` is None where nothing is saved."""

    def __init__(
        self,
        folder: object,
        figure_format: str,
        style: Mapping[str, Any],
        *,
        any_figure: bool = True,
    ) -> None:
        known = same_but_for_case(str(figure_format), FORMATS)
        if known is None:
            raise UnknownNameError(unknown_name("figure format", figure_format, list(FORMATS)))
        self.format = known
        self._missing: set[str] = set()
        self._shown = 0
        self.style: Any = _style(style) if any_figure or style else None
        self.path = output_path(folder)
        self._new: Path | None = None  # where files are until all are complete
        if self.path is not None:
            check_writable(self.path)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Let what the block saves and writes appear when it ends well, and not before."""
        if self.path is None:
            yield
            return
        with writing_explained(self.path), filled_folder(self.path, _MARK) as new:
            self._new = new
            try:
                yield
            finally:
                self._new = None

    def save(self, name: str, figure: Figure, *, show: bool = True) -> None:
        """Save a figure, and show it in a notebook unless asked not to."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._save(f"{name}.{self.format}", figure.savefig)
            if show and self._shown < _SHOWN:
                _show(figure)
            self._shown += show
        for each in caught:
            self._say_again(each.message)

    def _say_again(self, warning: Warning | str) -> None:
        """Pass a warning on; of letters that the font lacks, once for each script."""
        missing = _MISSING.match(str(warning))
        if missing is None:
            warnings.warn(warning, stacklevel=3)
            return
        letter = chr(int(missing[1]))
        script = script_of(letter)
        if script in self._missing:
            return
        self._missing.add(script)
        font = _FONTS.get(script, f"Noto Sans {script}")
        warn(
            f"The font {missing[2].rstrip('.')} lacks {letter!r} ({script}), which is drawn as a "
            f"box. Install a font that has it, such as {font!r}, and set "
            f'matplotlib.rcParams["font.family"] = [{font!r}, "DejaVu Sans"].'
        )

    def write(self, name: str, numbers: Mapping[str, Any]) -> None:
        text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self._save(name, lambda path: path.write_text(text, encoding="utf-8"))
        if self._shown > _SHOWN and _in_notebook():
            where = f"all are in {self.path}" if self.path else "give output_dir to get all of them"
            warn(f"Only the first {_SHOWN} of {self._shown} figures are shown here; {where}.")

    def _save(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file, which appears whole; name the folder if it cannot be written after all."""
        if self.path is None:
            return
        with writing_explained(self.path):
            if self._new is not None:
                write(self._new / name)
                return
            with filled_folder(self.path, _MARK) as new:
                write(new / name)


def output_path(given: object) -> Path | None:
    """The folder that a caller named, None for none; an empty text or no path is refused."""
    if given is None:
        return None
    if not isinstance(given, str | PathLike) or not str(given):
        raise ArgumentError(
            f"output_dir={given!r} is no folder. Give its path ('.' for the current one), or None "
            "to save nothing."
        )
    return Path(given)


def _style(given: Mapping[str, Any]) -> Any:
    try:
        from .figures.canvas import Style
    except ImportError as exc:
        raise ImportError(
            "Figures need matplotlib. Install it: pip install 'optipfair[viz]'"
        ) from exc
    return Style.read(given)


def _show(figure: Figure) -> None:
    """Show a figure in a notebook; elsewhere nothing opens."""
    if not _in_notebook():
        return
    from IPython.display import Image, display  # type: ignore[import-not-found]

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    display(Image(data=buffer.getvalue()))


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
