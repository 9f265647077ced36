"""Where figures and numbers go: a folder, checked before any model runs, and notebooks."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, UnknownNameError
from ..files.output_folder import check_writable, writing_explained
from ..registry import unknown_name
from .settings import FORMATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        if figure_format not in FORMATS:
            raise UnknownNameError(unknown_name("figure format", figure_format, list(FORMATS)))
        self.format = figure_format
        self.style: Any = _style(style) if any_figure or style else None
        self.path = output_path(folder)
        if self.path is not None:
            check_writable(self.path)

    def save(self, name: str, figure: Figure) -> None:
        """Save a figure, and show it in a notebook."""
        with warnings.catch_warnings():
            # Characters that the font lacks are drawn as boxes, as `visualize_bias` says.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            self._save(f"{name}.{self.format}", figure.savefig)
            _show(figure)

    def write(self, name: str, numbers: Mapping[str, Any]) -> None:
        text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self._save(name, lambda path: path.write_text(text, encoding="utf-8"))

    def _save(self, name: str, write: Callable[[Path], object]) -> None:
        """Make the folder, and name it where it cannot be written after all."""
        if self.path is not None:
            with writing_explained(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                write(self.path / name)


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
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return
    from IPython.display import Image, display  # type: ignore[import-not-found]

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    display(Image(data=buffer.getvalue()))
