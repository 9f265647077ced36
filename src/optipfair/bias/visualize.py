"""`visualize_bias` and its kin: prompts in, figures and figures' numbers out.

capture → align → measure → draw; every prompt runs through the model once, whatever is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arch.view import ModelView, describe
from ..checking import check_count
from ..errors import ArgumentError, UnknownNameError
from ..progress import track
from ..registry import unknown_name
from .activations.capture import find_taps
from .activations.layer_keys import check_component, layer_numbers, read_key
from .figures.kinds import FIGURE_KINDS, DrawnPair, comparison_figure, summary_figures
from .prompts.pairs import PromptPair, check_prompt_pair, check_prompt_pairs
from .settings import BiasFolder, Settings
from .study import Study, carry_out, plan_study
from .study_comparison import StudyComparison, compare_studies
from .study_results import BiasMetrics, FoundBias
from .study_summary import bias_metrics

METRICS_FILE = "bias_metrics.json"
SUMMARY = "summary"  # the type of the figures of all pairs together
COMPARISON = "bias_comparison"  # the names of its figure and numbers


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
        visualization_types: `mean_diff`, `heatmap`, `pca` for each pair; `summary` for the excess
            of all pairs by layer and by category; empty for numbers alone.
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
        overall, by category and by key, with 95 % intervals and two-sided p-values over distinct
        swaps of words, keys corrected by Holm), and `pair_1`, `pair_2`, ..., each with `prompt1`,
        `prompt2`, `category`, `coverage` and `metrics` as of `calculate_bias_metrics`. Its items
        are the pairs alone; JSON and `to_dict()` hold all. The JSON Schema is in the package,
        `bias/bias_metrics.schema.json`.

    Raises:
        ArgumentError: a wrong argument; nothing ran and nothing was written.
        DataError: a prompt that the model cannot read, or activations that are NaN or Inf.
        OutputError: the folder cannot be written.
    """
    settings = Settings.read(visualization_params, visualize_bias)
    kinds = check_types(visualization_types)
    pairs = check_prompt_pairs(prompt_pairs)
    folder = BiasFolder(output_dir, figure_format, settings.style, any_figure=bool(kinds))
    studied = study_bias(
        model, tokenizer, pairs, kinds, layers, folder, settings, show_progress=show_progress
    )
    studied.write(show_progress)
    return None, FoundBias.of(studied.numbers)


@dataclass(frozen=True)
class Studied:
    """A model that was studied, before anything of it is drawn or written."""

    study: Study
    numbers: BiasMetrics  # what `visualize_bias` returns
    kinds: Sequence[str]  # the figures to draw
    layers: Sequence[int]  # of the figures
    folder: BiasFolder

    def write(self, show_progress: bool) -> None:
        """Draw the figures, save them and the numbers."""
        single = [kind for kind in self.kinds if kind != SUMMARY]
        numbers = range(len(self.study.plan.pairs) if single else 0)
        with self.folder.all_or_none():
            if SUMMARY in self.kinds:
                for name, figure in summary_figures(self.numbers, self.folder.style):
                    self.folder.save(name, figure)
            for number in track(numbers, "drawing", show_progress and bool(single), unit="pair"):
                self._draw(number, single)
            self.folder.write(METRICS_FILE, self.numbers)

    def _draw(self, number: int, kinds: Sequence[str]) -> None:
        pair = DrawnPair(self.study, number, self.layers, self.folder.style)
        for kind in kinds:
            for component, figure in FIGURE_KINDS[kind].draw(pair):
                parts = (kind, component, _label(number))
                self.folder.save("_".join(filter(None, parts)), figure)


def study_bias(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[PromptPair],
    kinds: Sequence[str],
    layers: str | Sequence[int],
    folder: BiasFolder,
    settings: Settings,
    *,
    show_progress: bool = False,
    name: str | None = None,
) -> Studied:
    """Do what `visualize_bias` does, but for drawing and writing.

    `name` is that of the model in the numbers; what its config says if None.
    """
    view = describe(model)
    chosen = layer_numbers(layers, len(view.layers))
    single = [FIGURE_KINDS[kind] for kind in kinds if kind != SUMMARY]
    keep = chosen if any(kind.activations for kind in single) else []
    study = carry_out(
        view,
        plan_study(view, tokenizer, pairs, settings),
        settings.components,
        range(len(view.layers)),
        keep=keep,
        name=name,
        show_progress=show_progress,
    )
    return Studied(study, bias_metrics(study), kinds, chosen, folder)


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
        layer_type: a component.
        pair_index: number of the pair, from 0, for the file's name.
        model, tokenizer, prompt_pair, layers, output_dir, figure_format, params: as in
            `visualize_bias`, one pair and no `components`. So are the errors.
    """
    layer_type = check_component(layer_type)
    settings = _of_one(layer_type, params, visualize_mean_differences)
    folder = BiasFolder(output_dir, figure_format, settings.style)
    name = f"mean_diff_{layer_type}_{_label(pair_index)}"
    _draw_one("mean_diff", model, tokenizer, prompt_pair, layers, settings, folder, name)


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
        layer_key: a component of a layer, like `mlp_output_layer_3`.
        pair_index: number of the pair, from 0, for the file's name.
        model, tokenizer, prompt_pair, output_dir, figure_format, params: as in `visualize_bias`,
            one pair and no `components`; controls are not run. So are the errors.
    """
    key = read_key(layer_key)
    settings = replace(_of_one(key.component, params, visualize_heatmap), controls=0)
    folder = BiasFolder(output_dir, figure_format, settings.style)
    name = f"heatmap_{key}_{_label(pair_index)}"
    _draw_one("heatmap", model, tokenizer, prompt_pair, [key.layer], settings, folder, name)


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
        layer_key: a component of a layer, like `mlp_output_layer_3`.
        highlight_diff: whether to ring the tokens that differ.
        pair_index: number of the pair, from 0, for the file's name.
        model, tokenizer, prompt_pair, output_dir, figure_format, params: as in `visualize_bias`,
            one pair and no `components`; controls are not run. So are the errors.
    """
    key = read_key(layer_key)
    settings = replace(_of_one(key.component, params, visualize_pca), controls=0)
    folder = BiasFolder(output_dir, figure_format, settings.style)
    name = f"pca_{key}_{_label(pair_index)}"
    _draw_one(
        *("pca", model, tokenizer, prompt_pair, [key.layer], settings, folder, name),
        highlight=highlight_diff,
    )


def write_comparison(
    first: Study, second: Study, folder: BiasFolder, *, figure: bool
) -> StudyComparison:
    """Compare two models on the pairs that both saw; save the numbers and perhaps the figure."""
    comparison = compare_studies(first, second)
    drawn = comparison_figure(first, second, folder.style) if figure else None
    with folder.all_or_none():
        if drawn is not None:
            folder.save(COMPARISON, drawn)
        folder.write(f"{COMPARISON}.json", comparison)
    return comparison


def check_types(types: object) -> list[str]:
    """Kinds of figures, each once."""
    known = [SUMMARY, *FIGURE_KINDS]
    if isinstance(types, str) or not isinstance(types, Sequence):
        raise ArgumentError(
            f"visualization_types={types!r} is no list. Give some of: {', '.join(known)}."
        )
    for name in types:
        if name not in known:
            raise UnknownNameError(
                unknown_name("visualization type", name, known)
                + " None of them, an empty list, gives the numbers alone."
            )
    return list(dict.fromkeys(types))


def _draw_one(
    kind: str,
    model: Any,
    tokenizer: Any,
    prompt_pair: object,
    layers: str | list[int],
    settings: Settings,
    folder: BiasFolder,
    name: str,
    *,
    highlight: bool = True,
) -> None:
    """Run one pair by itself, and save its figure under a name."""
    view = describe(model)
    chosen = layer_numbers(layers, len(view.layers))
    _check_present(view, settings.components[0], chosen)
    plan = plan_study(view, tokenizer, [check_prompt_pair(prompt_pair)], settings)
    study = carry_out(view, plan, settings.components, chosen, keep=chosen)
    for _, figure in FIGURE_KINDS[kind].draw(DrawnPair(study, 0, chosen, folder.style, highlight)):
        folder.save(name, figure)


def _of_one(component: str, params: Mapping[str, Any], function: Callable[..., object]) -> Settings:
    """The keyword arguments of a function that draws one component."""
    if "components" in params:
        raise ArgumentError("components does not go with a single component. Leave it out.")
    return replace(Settings.read(params, function), components=(component,))


def _label(pair_index: object) -> str:
    return f"pair_{check_count('pair_index', pair_index, 0) + 1}"


def _check_present(view: ModelView, component: str, layers: Sequence[int]) -> None:
    taps, missing = find_taps(view, [component], layers)
    for layer, reason in missing.get(component, {}).items():
        there = [key.layer for key in taps]
        way_out = f"other layers, for example {there}" if there else "another component"
        raise ArgumentError(f"Layer {layer} has no {component}: {reason}. Choose {way_out}.")
