"""One or two models by name, looked at with pairs of prompts: check, load, study, compare.

Everything that can be wrong in what was asked for is found before a model is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError, DataError, UnsupportedModelError
from ..loading import (
    check_device,
    check_dtype,
    check_readable,
    load_config,
    load_model,
    load_tokenizer,
)
from ..sources import DEMO, DEMO_NAME, Source, find_source
from .activations.layer_keys import SELECTIONS, check_components, select_layers
from .bias_folder import check_format, check_writable, output_path
from .figures.kinds import FIGURE_KINDS
from .prompts.pair_files import read_prompt_pairs
from .prompts.pair_templates import generate_prompt_pairs
from .prompts.pairs import DEFAULT_PROMPT_PAIRS, PromptPair, check_prompt_pairs
from .settings import Settings
from .study_comparison import StudyComparison
from .study_results import BiasMetrics
from .visualize import Studied, check_types, study_bias, write_comparison


@dataclass(frozen=True)
class BiasRun:
    """One model's numbers, or those of two and their comparison.

    Attributes:
        models: the numbers of each model.
        comparison: of two models; None for one.
        folder: where figures and numbers are, None where nothing was written.
    """

    models: tuple[BiasMetrics, ...]
    comparison: StudyComparison | None
    folder: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the model; of two, `model_a`, `model_b` and `comparison`."""
        if self.comparison is None:
            return self.models[0].to_dict()
        first, second = (model.to_dict() for model in self.models)
        return {"model_a": first, "model_b": second, "comparison": self.comparison.to_dict()}


def run_bias(
    model_path: str | Path,
    pairs: str | Path | None = None,
    categories: Sequence[str] = (),
    layers: str | Sequence[int] = "first_middle_last",
    *,
    components: Sequence[str] | None = None,
    controls: int = 8,
    seed: int = 0,
    visualization_types: Sequence[str] | None = None,
    figure_format: str = "png",
    output_dir: str | Path | None = None,
    compare_with: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    show_progress: bool = False,
) -> BiasRun:
    """Compare what a model, or each of two, does on pairs of prompts.

    Figures and numbers go to `output_dir`; those of two models to `model_a` and `model_b` in it.

    Args:
        pairs: file of pairs, `.csv` or `.jsonl`.
        categories: use generated pairs of these; the default pairs if neither is given.
        layers: as in `visualize_bias`, numbers also as text (`0,5,7`).
        visualization_types: None for all of them where there is a folder.
        compare_with: a second model.
    """
    chosen = _pairs(pairs, categories)
    parameters: dict[str, Any] = {"controls": controls, "seed": seed}
    if components is not None:
        parameters["components"] = check_components(components)
    Settings(**parameters)
    types = _types(visualization_types, output_dir, figure_format)
    folder = output_path(output_dir)
    two = compare_with is not None
    folders = [folder] if folder is None or not two else [folder / "model_a", folder / "model_b"]
    for own in folders:
        if own is not None:
            check_writable(own)
    wanted = _layers(layers)
    if two and not controls:
        raise ArgumentError(
            "Two models are compared by their excess over neutral controls, and controls=0 makes "
            "none. Give 1 or more; 8 is usual."
        )
    check_device(device)
    check_dtype(dtype)
    sources = [find_source(path) for path in (model_path, compare_with) if path is not None]
    tokenizers = [_check_model(each, wanted, trust_remote_code, two) for each in sources]
    studied: list[Studied] = []
    for source, tokenizer, own in zip(sources, tokenizers, folders * 2, strict=False):
        model = load_model(source, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        name = DEMO_NAME if source.given == DEMO else source.given
        with _naming(name if two else None):
            each = study_bias(
                model,
                tokenizer,
                chosen,
                types,
                wanted,
                own,
                figure_format,
                show_progress=show_progress,
                name=name,
                **parameters,
            )
        studied.append(each)
        del model  # before the next one is loaded
    for each in studied:  # once all models ran, so that nothing is written where one cannot
        each.write(show_progress)
    comparison = None
    if two:
        first, second = (each.subject for each in studied)
        comparison = write_comparison(first, second, folder, figure_format, figure=bool(types))
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


def _pairs(path: str | Path | None, categories: Sequence[str]) -> list[PromptPair]:
    if path is not None and categories:
        raise ArgumentError("A file of pairs and categories exclude each other. Give one of them.")
    if path is not None:
        return read_prompt_pairs(path)
    if categories:
        return generate_prompt_pairs(categories)
    return check_prompt_pairs(DEFAULT_PROMPT_PAIRS)


def _types(
    types: Sequence[str] | None, output_dir: str | Path | None, figure_format: str
) -> list[str]:
    """The figures to draw, all of which can be drawn."""
    check_format(figure_format)
    if types is None:
        types = list(FIGURE_KINDS) if output_dir is not None else []
    checked = check_types(types)
    if checked and output_dir is None:
        raise ArgumentError("Figures need a folder to be saved in. Give one with --output-dir.")
    if checked and importlib.util.find_spec("matplotlib") is None:
        raise ArgumentError(
            "Figures need matplotlib. Install it with: pip install 'optipfair[viz]', or ask for "
            "no figures (none)."
        )
    return checked


def _layers(layers: str | Sequence[int]) -> str | list[int]:
    """A word, or numbers, which may come as text; how many layers there are is not known yet."""
    if not isinstance(layers, str):
        return list(layers)
    if layers in SELECTIONS or not any(each.isdigit() for each in layers):
        select_layers(layers, 1)
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
    count = _count_layers(load_config(source, trust_remote_code=trust_remote_code))
    if count is not None:
        select_layers(layers, count, repr(source.given) if named else "the model")
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    if tokenizer is None:
        raise CheckpointError(
            f"{source.given!r} has no tokenizer, and prompts cannot be read without one. Put its "
            "tokenizer.json into the folder."
        )
    return tokenizer


def _count_layers(config: Any) -> int | None:
    return getattr(config.get_text_config(), "num_hidden_layers", None)
