"""`visualize_bias` and its kin: prompts in, figures and figures' numbers out.

capture → align → measure → draw; every prompt runs through the model once, whatever is drawn.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..arch.view import ModelView, describe
from ..errors import ArgumentError, OutputError, UnknownNameError
from ..progress import track
from ..registry import unknown_name
from .activations.capture import find_taps
from .activations.layer_keys import (
    DEFAULT_COMPONENTS,
    LayerKey,
    check_component,
    check_components,
    read_key,
    select_layers,
)
from .prompts.controls import Words
from .prompts.pairs import DEFAULT_PROMPT_PAIRS, PromptPair, check_prompt_pair, check_prompt_pairs
from .study import Study, carry_out, plan_study, summarize_study
from .study_comparison import Subject, compare_studies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1  # of the JSON
TYPES = ("mean_diff", "heatmap", "pca")
FORMATS = ("png", "pdf", "svg")
METRICS_FILE = "bias_metrics.json"
COMPARISON = "bias_comparison"  # the names of its figure and numbers
_STYLE = ("figsize", "dpi", "cmap", "title")


@dataclass(frozen=True)
class Settings:
    """What the keyword arguments beyond the specification's set.

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

    @classmethod
    def read(cls, given: Mapping[str, Any], beside: Sequence[str] = ()) -> Settings:
        """Check keyword arguments; an unknown one is refused.

        Args:
            given: the keywords that a function has no parameters for.
            beside: its parameters, which the caller may have meant.
        """
        own = [each.name for each in fields(cls) if each.name != "style"]
        for name in given:
            if name not in own and name not in _STYLE:
                raise UnknownNameError(unknown_name("keyword", name, [*beside, *own, *_STYLE]))
        chosen = {name: value for name, value in given.items() if name in own}
        if "components" in chosen:
            chosen["components"] = check_components(chosen["components"])
        count = chosen.get("controls", 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ArgumentError(f"controls={count!r} is no count. Give 0 or more; 8 is usual.")
        seed = chosen.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ArgumentError(f"seed={seed!r} is no whole number. Give one, such as 0.")
        style = {name: value for name, value in given.items() if name in _STYLE}
        return cls(**chosen, style=style)


def visualize_bias(
    model: Any,
    tokenizer: Any,
    prompt_pairs: list[tuple[str, str]] | None = None,
    visualization_types: list[str] = ["mean_diff", "heatmap", "pca"],  # noqa: B006
    layers: str | list[int] = "first_middle_last",
    output_dir: str | None = None,
    figure_format: str = "png",
    show_progress: bool = True,
    **visualization_params: Any,
) -> tuple[None, dict[str, Any]]:
    """Compare what a model does on pairs of prompts: figures, and figures' numbers as plain data.

    Every prompt, those of the neutral controls included, runs through the model once. Tokens are
    aligned by their ids, so that prompts may differ in length.

    Args:
        model: a causal language model of transformers; it is left as it was.
        tokenizer: of the model.
        prompt_pairs: (reference, comparison) each; a `PromptPair` adds a category. The seven
            `DEFAULT_PROMPT_PAIRS` if None.
        visualization_types: `mean_diff`, `heatmap`, `pca`; empty for numbers alone.
        layers: which to draw: `first_middle_last`, `all`, or numbers. The numbers cover all layers.
        output_dir: folder for figures and `bias_metrics.json`; None to save nothing. In a notebook
            figures are shown as well.
        figure_format: `png`, `pdf` or `svg`.
        show_progress: whether to show a bar.
        **visualization_params: `components` (of `COMPONENTS`), `controls` (8 neutral control pairs
            for each pair, 0 for none), `control_words` (word class → words), `seed`, and of the
            figures `figsize` (inches), `dpi`, `cmap` and `title`. Characters that the figures' font
            lacks are boxes: set `matplotlib.rcParams["font.family"]`.

    Returns:
        None and a dict: `version`, `model`, `summary` (how far the pairs exceed their controls:
        overall, by category and by key, with 95 % bootstrap intervals over pairs and permutation
        p-values, corrected by Holm), and `pair_1`, `pair_2`, ..., each with `prompt1`, `prompt2`,
        `category`, `coverage` and `metrics` as of `calculate_bias_metrics`. Its JSON Schema is in
        the package, `bias/bias_metrics.schema.json`.

    Raises:
        ArgumentError: a wrong argument; nothing ran and nothing was written.
        DataError: a prompt that the model cannot read, or activations that are NaN or Inf.
        OutputError: the folder cannot be written.
    """
    found = study_bias(
        *(model, tokenizer, prompt_pairs, visualization_types, layers, output_dir, figure_format),
        show_progress=show_progress,
        **visualization_params,
    )
    found.write(show_progress)
    return None, found.numbers


@dataclass(frozen=True)
class Found:
    """What a study found, before any of it is drawn or written.

    Attributes:
        study: all sums.
        numbers: what `visualize_bias` returns.
        types: which figures to draw.
        layers: which layers to draw.
        sink: where all of it goes.
    """

    study: Study
    numbers: dict[str, Any]
    types: Sequence[str]
    layers: Sequence[int]
    sink: _Sink

    def write(self, show_progress: bool) -> None:
        """Draw the figures, save them and the numbers.

        Raises:
            OutputError: the folder cannot be written.
        """
        pairs = range(len(self.study.plan.pairs))
        for number in track(pairs, "drawing", show_progress and bool(self.types), unit="pair"):
            for kind in self.types:
                self.sink.draw(self.study, number, kind, self.layers, f"pair_{number + 1}")
        self.sink.write(self.numbers)


def study_bias(
    model: Any,
    tokenizer: Any,
    prompt_pairs: Sequence[Any] | None,
    visualization_types: Sequence[str],
    layers: str | Sequence[int],
    output_dir: str | Path | None,
    figure_format: str,
    *,
    show_progress: bool = True,
    name: str | None = None,
    **visualization_params: Any,
) -> Found:
    """Do what `visualize_bias` does, but for drawing and writing.

    Args:
        name: of the model in the numbers; what its config says if None.
    """
    settings = Settings.read(visualization_params, _parameters(visualize_bias))
    types = check_types(visualization_types)
    view = describe(model)
    chosen = select_layers(layers, len(view.layers))
    pairs = check_prompt_pairs(DEFAULT_PROMPT_PAIRS if prompt_pairs is None else prompt_pairs)
    sink = _Sink(output_dir, figure_format, settings, any_figure=bool(types))
    keep = [LayerKey(c, i) for c in settings.components for i in chosen]
    study = _study(
        *(view, tokenizer, pairs, settings.components, range(len(view.layers)), settings),
        keep=keep if {"heatmap", "pca"} & set(types) else [],
        show_progress=show_progress,
    )
    return Found(study, bias_metrics(model, study, name), types, chosen, sink)


def visualize_mean_differences(
    model: Any,
    tokenizer: Any,
    prompt_pair: tuple[str, str],
    layer_type: str = "mlp_output",
    layers: str | list[int] = "first_middle_last",
    output_dir: str | None = None,
    figure_format: str = "png",
    pair_index: int = 0,
    **params: Any,
) -> None:
    """Draw how much a component differs between two prompts, layer by layer.

    Args:
        model, tokenizer, layers, output_dir, figure_format: as in `visualize_bias`.
        prompt_pair: (reference, comparison).
        layer_type: a component.
        pair_index: number of the pair, from 0, for the file's name.
        **params: as in `visualize_bias`, but for `components`.

    Raises:
        As `visualize_bias`.
    """
    settings = _single(params, visualize_mean_differences)
    component, label = check_component(layer_type), _label(pair_index)
    view = describe(model)
    chosen = select_layers(layers, len(view.layers))
    _check_present(view, component, chosen)
    pairs = [check_prompt_pair(prompt_pair)]
    sink = _Sink(output_dir, figure_format, settings)
    study = _study(view, tokenizer, pairs, (component,), chosen, settings)
    sink.draw(study, 0, "mean_diff", chosen, label, name=f"mean_diff_{component}_{label}")


def visualize_heatmap(
    model: Any,
    tokenizer: Any,
    prompt_pair: tuple[str, str],
    layer_key: str,
    output_dir: str | None = None,
    figure_format: str = "png",
    pair_index: int = 0,
    **params: Any,
) -> None:
    """Draw aligned tokens by the units that differ most in one layer.

    Args:
        model, tokenizer, output_dir, figure_format: as in `visualize_bias`.
        prompt_pair: (reference, comparison).
        layer_key: a component of a layer, like `mlp_output_layer_3`.
        pair_index: number of the pair, from 0, for the file's name.
        **params: as in `visualize_bias`, but for `components`; controls are not run.

    Raises:
        As `visualize_bias`.
    """
    key, label = read_key(layer_key), _label(pair_index)
    settings = replace(_single(params, visualize_heatmap), controls=0)
    sink = _Sink(output_dir, figure_format, settings)
    study = _study_key(model, tokenizer, prompt_pair, key, settings)
    sink.draw(study, 0, "heatmap", [key.layer], label, name=f"heatmap_{key}_{label}")


def visualize_pca(
    model: Any,
    tokenizer: Any,
    prompt_pair: tuple[str, str],
    layer_key: str,
    highlight_diff: bool = True,
    output_dir: str | None = None,
    figure_format: str = "png",
    pair_index: int = 0,
    **params: Any,
) -> None:
    """Draw the tokens of both prompts on the two directions in which they vary most in one layer.

    Args:
        model, tokenizer, output_dir, figure_format: as in `visualize_bias`.
        prompt_pair: (reference, comparison).
        layer_key: a component of a layer, like `mlp_output_layer_3`.
        highlight_diff: whether to ring the tokens that differ.
        pair_index: number of the pair, from 0, for the file's name.
        **params: as in `visualize_bias`, but for `components`; controls are not run.

    Raises:
        As `visualize_bias`.
    """
    key, label = read_key(layer_key), _label(pair_index)
    settings = replace(_single(params, visualize_pca), controls=0)
    sink = _Sink(output_dir, figure_format, settings)
    study = _study_key(model, tokenizer, prompt_pair, key, settings)
    name = f"pca_{key}_{label}"
    sink.draw(study, 0, "pca", [key.layer], label, name=name, highlight=highlight_diff)


def write_comparison(
    first: Subject,
    second: Subject,
    output_dir: str | Path | None,
    figure_format: str,
    *,
    figure: bool = True,
) -> dict[str, Any]:
    """Compare two models on the pairs that both saw; save the numbers and the figure.

    Args:
        first: the model that the other one is compared with.
        second: the other one.
        output_dir: folder for `bias_comparison.json` and the figure; None to save nothing.
        figure_format: `png`, `pdf` or `svg`.
        figure: whether to draw.
    """
    sink = _Sink(output_dir, figure_format, Settings(), any_figure=figure)
    found = compare_studies(first, second)
    if figure:
        from . import drawing

        drawn = drawing.comparison_figure(first, second, sink.style)
        if drawn is not None:
            sink.take(COMPARISON, drawn)
    sink.write(found, f"{COMPARISON}.json")
    return found


def bias_metrics(model: Any, study: Study, name: str | None = None) -> dict[str, Any]:
    """All numbers of a study as plain data, strict JSON."""
    said = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    found: dict[str, Any] = {
        "version": VERSION,
        "optipfair": __version__,
        "model": {
            "name": said if name is None else name,
            "model_type": str(getattr(model.config, "model_type", "")),
        },
        "summary": summarize_study(study),
    }
    for number, pair in enumerate(study.plan.pairs):
        found[f"pair_{number + 1}"] = {
            "prompt1": pair.prompt1,
            "prompt2": pair.prompt2,
            "category": pair.category,
            "coverage": study.plan.comparisons[number].alignment.coverage(),
            "controls": [list(texts) for texts in study.plan.controls[number].pairs],
            "metrics": study.measured.groups(number),
        }
    return found


def _study(
    view: ModelView,
    tokenizer: Any,
    pairs: Sequence[PromptPair],
    components: Sequence[str],
    layers: Sequence[int],
    settings: Settings,
    *,
    keep: Sequence[LayerKey] = (),
    show_progress: bool = False,
) -> Study:
    embeddings: Any = view.model.get_input_embeddings()
    vocabulary = int(embeddings.weight.shape[0])
    plan = plan_study(
        *(tokenizer, vocabulary, pairs, settings.controls),
        words=settings.control_words,
        seed=settings.seed,
    )
    return carry_out(view, plan, components, layers, keep=keep, show_progress=show_progress)


def _study_key(
    model: Any, tokenizer: Any, prompt_pair: Any, key: LayerKey, settings: Settings
) -> Study:
    """One component of one layer for one pair, its activations kept."""
    view = describe(model)
    select_layers([key.layer], len(view.layers))
    _check_present(view, key.component, [key.layer])
    pairs = [check_prompt_pair(prompt_pair)]
    return _study(view, tokenizer, pairs, [key.component], [key.layer], settings, keep=[key])


class _Sink:
    """Where figures and numbers go. It is checked before any model runs."""

    def __init__(
        self,
        folder: str | Path | None,
        figure_format: str,
        settings: Settings,
        *,
        any_figure: bool = True,
    ) -> None:
        if figure_format not in FORMATS:
            raise UnknownNameError(unknown_name("figure format", figure_format, list(FORMATS)))
        self.format = figure_format
        self.style: Any = _style(settings.style) if any_figure or settings.style else None
        self.folder = output_folder(folder)
        if self.folder is not None:
            check_writable(self.folder)

    def draw(
        self,
        study: Study,
        number: int,
        kind: str,
        layers: Sequence[int],
        label: str,
        *,
        name: str | None = None,
        highlight: bool = True,
    ) -> None:
        """Draw the figures of one kind for one pair; `name` replaces that of the only figure."""
        from .drawing import figures

        drawn = figures(study, number, kind, layers, self.style, label, highlight=highlight)
        for own, figure in drawn:
            self.take(name or own, figure)

    def take(self, name: str, figure: Figure) -> None:
        """Save a figure, and show it in a notebook."""
        with warnings.catch_warnings():
            # Characters that the font lacks are drawn as boxes, as `visualize_bias` says.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            if self.folder is not None:
                with self._writing():
                    figure.savefig(self.folder / f"{name}.{self.format}")
            _show(figure)

    def write(self, found: Mapping[str, Any], name: str = METRICS_FILE) -> None:
        if self.folder is not None:
            text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
            with self._writing():
                (self.folder / name).write_text(text + "\n", encoding="utf-8")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Make the folder, and name it where it cannot be written after all."""
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as exc:
            raise _unwritable(self.folder, exc) from exc


def output_folder(given: object) -> Path | None:
    """The folder that a caller named; None for none.

    Raises:
        ArgumentError: an empty text, or no path.
    """
    if given is None:
        return None
    if not isinstance(given, str | PathLike) or not str(given):
        raise ArgumentError(
            f"output_dir={given!r} is no folder. Give its path ('.' for the current one), or None "
            "to save nothing."
        )
    return Path(given)


def check_writable(folder: Path) -> None:
    """Try the folder, or the nearest one above it that exists; nothing stays behind."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(0, f"{existing} is a file")
        with TemporaryDirectory(dir=existing, prefix=".optipfair-"):
            pass
    except OSError as exc:
        raise _unwritable(folder, exc) from exc


def _unwritable(folder: Path, exc: OSError) -> OutputError:
    return OutputError(
        f"The folder {folder} cannot be written: {exc.strerror or exc}. Choose another, or free it "
        "for writing."
    )


def _style(given: Mapping[str, Any]) -> Any:
    try:
        from .figures.plots import Style
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
    import io

    from IPython.display import Image, display  # type: ignore[import-not-found]

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    display(Image(data=buffer.getvalue()))


def check_types(types: object) -> list[str]:
    if isinstance(types, str) or not isinstance(types, Sequence):
        raise ArgumentError(
            f"visualization_types={types!r} is no list. Give some of: {', '.join(TYPES)}."
        )
    for name in types:
        if name not in TYPES:
            raise UnknownNameError(
                unknown_name("visualization type", name, list(TYPES))
                + " None of them, an empty list, gives the numbers alone."
            )
    return list(dict.fromkeys(types))


def _single(params: Mapping[str, Any], function: Callable[..., object]) -> Settings:
    """The keyword arguments of a function that draws one component."""
    if "components" in params:
        raise ArgumentError("components does not go with a single component. Leave it out.")
    return Settings.read(params, _parameters(function))


def _parameters(function: Callable[..., object]) -> list[str]:
    """Those that may be given by name, model and tokenizer aside."""
    named = inspect.signature(function).parameters.values()
    return [each.name for each in named if each.kind is not each.VAR_KEYWORD][2:]


def _label(pair_index: object) -> str:
    if not isinstance(pair_index, int) or isinstance(pair_index, bool) or pair_index < 0:
        raise ArgumentError(f"pair_index={pair_index!r} is no number of a pair. Give 0 or more.")
    return f"pair_{pair_index + 1}"


def _check_present(view: ModelView, component: str, layers: Sequence[int]) -> None:
    taps, missing = find_taps(view, [component], layers)
    for layer, reason in missing.get(component, {}).items():
        there = [key.layer for key in taps]
        way_out = f"other layers, for example {there}" if there else "another component"
        raise ArgumentError(f"Layer {layer} has no {component}: {reason}. Choose {way_out}.")
