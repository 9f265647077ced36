"""Where contrasts arise in one or two models, by name: check, load, attribute, write."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..devices import check_device, check_dtype
from ..errors import ArgumentError, CheckpointError
from ..loading.models import check_readable, load_model
from ..loading.sources import DEMO, DEMO_NAME, Source, find_source
from ..loading.tokenizers import load_tokenizer
from .attribution import attribute_bias
from .attribution_result import Attribution, ModelAttribution
from .contrasts.contrast_files import find_contrasts
from .settings import BiasFolder, BiasOptions, output_path

NUMBERS = "attribution.json"
_NOT_WITH = ("pairs", "categories", "components", "visualization_types")
_FIGURE_OF = "how much of the contrast it makes, nats"


@dataclass(frozen=True)
class AttributionRun:
    """What was found in each model."""

    models: Sequence[ModelAttribution]
    folder: Path | None  # where figures and numbers are

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"models": [each.to_dict() for each in self.models]}


def run_attribution(
    model_path: str | Path,
    options: BiasOptions,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> AttributionRun:
    """Say which parts of a model, or of each of two, make the contrasts of `options.attribute`.

    Raises:
        ArgumentError, UnknownNameError, CheckpointError: refused before a model was loaded.
    """
    contrasts = find_contrasts(options.attribute)
    _check_alone(options)
    folder = BiasFolder(
        output_path(options.output_dir), options.figure_format, {}, any_figure=_draws(options)
    )
    check_device(device)
    check_dtype(dtype)
    paths = [path for path in (model_path, options.compare_with) if path is not None]
    sources = [find_source(path) for path in paths]
    tokenizers = [_tokenizer(source, trust_remote_code) for source in sources]
    found: list[ModelAttribution] = []
    for source, tokenizer in zip(sources, tokenizers, strict=True):
        loading: dict[str, Any] = {"device": device, "dtype": dtype}
        model = load_model(source, trust_remote_code=trust_remote_code, **loading)
        name = DEMO_NAME if source.given == DEMO else source.given
        found.append(ModelAttribution(name, attribute_bias(model, tokenizer, contrasts)))
        del model  # before the next one is loaded
    run = AttributionRun(found, folder.path)
    with folder.all_or_none():
        _write(run, folder, draws=_draws(options))
    return run


def _check_alone(options: BiasOptions) -> None:
    beside = [name for name in _NOT_WITH if getattr(options, name)]
    if beside:
        raise ArgumentError(
            f"attribute is about contrasts and {beside[0]} about pairs of prompts. Ask for them "
            "in two runs."
        )
    if options.compare_with is not None and str(options.compare_with) == "":
        raise ArgumentError("compare_with is empty. Give the folder of the second model.")


def _draws(options: BiasOptions) -> bool:
    return options.output_dir is not None and importlib.util.find_spec("matplotlib") is not None


def _tokenizer(source: Source, trust_remote_code: bool) -> Any:
    check_readable(source)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    if tokenizer is None:
        raise CheckpointError(
            f"{source.given!r} has no tokenizer, and contrasts are made of words. Put its "
            "tokenizer.json into the folder."
        )
    return tokenizer


def _write(run: AttributionRun, folder: BiasFolder, *, draws: bool) -> None:
    if folder.path is None:
        return
    folder.write(NUMBERS, run.to_dict())
    for number, each in enumerate(run.models):
        for found in each.contrasts if draws else ():
            which = f"_{'ab'[number]}" if len(run.models) > 1 else ""
            figure = _figure(each.model, found, folder.style)
            folder.save(f"attribution_{found.contrast}{which}", figure)


def _figure(model: str, found: Attribution, style: Any) -> Any:
    """The effect of each component over the layers."""
    from .figures.panels import Line
    from .figures.summary_panels import by_layer

    lines: dict[str, Line] = {}
    for component in dict.fromkeys(each.component for each in found.layers):
        rows = [each for each in found.layers if each.component == component]
        lows = [each.effect.low for each in rows if each.effect.low is not None]
        highs = [each.effect.high for each in rows if each.effect.high is not None]
        band = (lows, highs) if len(lows) == len(rows) else None
        values = [each.effect.value for each in rows]
        lines[component] = Line([each.layer for each in rows], values, band)
    title = f"{model}: {found.contrast}, {found.behaviour.value:.2f} nats in all"
    return by_layer(lines, style, title=title, figure_of=_FIGURE_OF)
