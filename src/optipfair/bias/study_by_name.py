"""One or two models by name, looked at with pairs of prompts: check, load, study, compare.

Everything that can be wrong in what was asked for is found before a model is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..devices import check_device, check_dtype
from ..errors import ArgumentError, CheckpointError, DataError, UnsupportedModelError
from ..loading.models import check_readable, load_config, load_model
from ..loading.sources import DEMO, DEMO_NAME, Source, find_source
from ..loading.tokenizers import load_tokenizer
from .activations.layer_keys import SELECTIONS, check_components, layer_numbers
from .prompts.pair_templates import generate_prompt_pairs
from .prompts.pairs import PromptPair, check_prompt_pairs, read_prompt_pairs
from .settings import BiasFolder, BiasOptions, Settings, output_path
from .study_comparison import StudyComparison
from .study_results import BiasMetrics
from .visualize import SUMMARY, Studied, check_types, study_bias, write_comparison


@dataclass(frozen=True)
class BiasRun:
    """One model's numbers, or those of two and their comparison."""

    models: tuple[BiasMetrics, ...]
    comparison: StudyComparison | None  # of two models
    folder: Path | None  # where figures and numbers are

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the model; of two, `model_a`, `model_b` and `comparison`."""
        if self.comparison is None:
            return self.models[0].to_dict()
        first, second = (model.to_dict() for model in self.models)
        return {"model_a": first, "model_b": second, "comparison": self.comparison.to_dict()}


def run_bias(
    model_path: str | Path,
    options: BiasOptions = BiasOptions(),  # noqa: B008
    *,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    show_progress: bool = False,
) -> BiasRun:
    """Compare what a model, or each of two, does on pairs of prompts.

    Figures and numbers of two models go to `model_a` and `model_b` in the folder.
    """
    pairs, settings = _pairs(options), _settings(options)
    kinds, layers = _kinds(options), _layers(options.layers)
    folder = output_path(options.output_dir)
    folders = _folders(folder, options, any_figure=bool(kinds))
    check_device(device)
    check_dtype(dtype)
    paths = [path for path in (model_path, options.compare_with) if path is not None]
    sources = [find_source(path) for path in paths]
    two = len(sources) == 2
    tokenizers = [_check_model(each, layers, trust_remote_code, two) for each in sources]
    studied: list[Studied] = []
    for source, tokenizer, own in zip(sources, tokenizers, folders, strict=False):
        model = load_model(source, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        name = DEMO_NAME if source.given == DEMO else source.given
        with _naming(name if two else None):
            each = study_bias(
                *(model, tokenizer, pairs, kinds, layers, own, settings),
                show_progress=show_progress,
                name=name,
            )
        studied.append(each)
        del model  # before the next one is loaded
    for each in studied:  # once all models ran, so that nothing is written where one cannot
        each.write(show_progress)
    comparison = None
    if two:
        first, second = (each.study for each in studied)
        comparison = write_comparison(first, second, folders[-1], figure=bool(kinds))
    return BiasRun(tuple(each.numbers for each in studied), comparison, folder)


@contextmanager
def _naming(model: str | None) -> Iterator[None]:
    """Say which of two models a refusal speaks of."""
    try:
        yield
    except (ArgumentError, DataError, UnsupportedModelError) as exc:
        if model is None:
            raise
        raise type(exc)(f"{model}: {exc}") from exc


def _pairs(options: BiasOptions) -> list[PromptPair]:
    if options.pairs is not None and options.categories:
        raise ArgumentError(
            "A file of pairs and categories are mutually exclusive. Give one of them."
        )
    if options.categories:
        return generate_prompt_pairs(options.categories)
    return check_prompt_pairs(None) if options.pairs is None else read_prompt_pairs(options.pairs)


def _settings(options: BiasOptions) -> Settings:
    settings = Settings(controls=options.controls, seed=options.seed)
    if options.compare_with is not None and not options.controls:
        raise ArgumentError(
            "Two models are compared by their excess over neutral controls, and controls=0 makes "
            "none. Give 1 or more; 8 is usual."
        )
    if options.components is None:
        return settings
    return replace(settings, components=check_components(options.components))


def _kinds(options: BiasOptions) -> list[str]:
    """The figures to draw, all of which can be drawn."""
    kinds = options.visualization_types
    if kinds is None:
        kinds = [SUMMARY] if options.output_dir is not None else []
    kinds = check_types([] if list(kinds) == ["none"] else kinds)
    if kinds and options.output_dir is None:
        raise ArgumentError("Figures need a folder to be saved in. Give one with --output-dir.")
    if kinds and importlib.util.find_spec("matplotlib") is None:
        raise ArgumentError(
            "Figures need matplotlib. Install it with: pip install 'optipfair[viz]', or ask for "
            "no figures (none)."
        )
    return kinds


def _folders(folder: Path | None, options: BiasOptions, *, any_figure: bool) -> list[BiasFolder]:
    """Of each model, and of their comparison if there are two."""
    own: list[Path | None] = [folder]
    if options.compare_with is not None:
        own = [folder and folder / "model_a", folder and folder / "model_b", folder]
    return [BiasFolder(each, options.figure_format, {}, any_figure=any_figure) for each in own]


def _layers(layers: str) -> str | list[int]:
    """A word, or numbers with commas; how many layers there are is not known yet."""
    if layers in SELECTIONS or not any(each.isdigit() for each in layers):
        layer_numbers(layers, 1)
        return layers
    try:
        return [int(part) for part in layers.split(",")]
    except ValueError:
        raise ArgumentError(
            f"layers={layers!r} is no list of layer numbers. Give them with commas, for example "
            f"0,5,7, or one of: {', '.join(SELECTIONS)}."
        ) from None


def _check_model(
    source: Source, layers: str | list[int], trust_remote_code: bool, named: bool
) -> Any:
    """Check what can be checked without weights; return the tokenizer."""
    check_readable(source)
    config = load_config(source, trust_remote_code=trust_remote_code).get_text_config()
    count = getattr(config, "num_hidden_layers", None)
    if count is not None:
        layer_numbers(layers, count, repr(source.given) if named else "the model")
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    if tokenizer is None:
        raise CheckpointError(
            f"{source.given!r} has no tokenizer, and prompts cannot be read without one. Put its "
            "tokenizer.json into the folder."
        )
    return tokenizer
