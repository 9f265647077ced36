"""The heatmap of one prompt: its numbers, its file, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optipfair import get_prompt_activations, visualize_prompt_heatmap
from optipfair.bias.figures import prompt_heatmap as figures
from optipfair.errors import ArgumentError, UnknownNameError
from optipfair.testing import byte_tokenizer, tiny_model

KEY = "up_proj_layer_2"
TOKENIZER = byte_tokenizer()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is drawn, instead of the figures themselves."""
    seen: list[Any] = []
    draw = figures.prompt_heatmap

    def watching(values: Any, *more: Any, **keywords: Any) -> Any:
        seen.append((values, *more))
        return draw(values, *more, **keywords)

    monkeypatch.setattr(figures, "prompt_heatmap", watching)
    return seen


def test_bins_hold_the_mean_size_of_their_units(drawn: list[Any], tmp_path: Path) -> None:
    model = tiny_model("llama")
    visualize_prompt_heatmap(model, TOKENIZER, "a dog", KEY, 16, str(tmp_path / "new"))
    (values, tokens, _style) = drawn[0]
    raw = get_prompt_activations(model, TOKENIZER, "a dog")[KEY][0].abs()
    parts = (raw[:, :16], raw[:, 16:32], raw[:, 32:])
    wanted = np.stack([part.mean(dim=1).numpy() for part in parts], axis=1)
    np.testing.assert_allclose(values, wanted, rtol=1e-6)
    assert len(tokens) == 5
    made = tmp_path / "new" / f"prompt_heatmap_{KEY}.png"
    assert made.read_bytes().startswith(b"\x89PNG")


def test_of_several_prompts_the_mean_or_the_first_is_drawn(drawn: list[Any]) -> None:
    model, prompts = tiny_model("llama"), ["a dog", "a cat"]
    for given, how in (("a dog", "mean"), ("a cat", "mean"), (prompts, "mean"), (prompts, "first")):
        visualize_prompt_heatmap(model, TOKENIZER, given, KEY, reduce_batch=how, show=False)
    dog, cat, mean, first = (values for values, *_ in drawn)
    np.testing.assert_allclose(mean, (dog + cat) / 2, rtol=1e-6)
    np.testing.assert_array_equal(first, dog)


def test_long_prompts_are_drawn_too(tmp_path: Path) -> None:
    where = {"output_dir": str(tmp_path), "figure_format": "svg", "vmax_percentile": 50}
    visualize_prompt_heatmap(tiny_model("llama"), TOKENIZER, "a $long$ prompt " * 5, KEY, **where)
    assert (tmp_path / f"prompt_heatmap_{KEY}.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"prompt": ""}, ArgumentError, "prompt='' is no text"),
        ({"prompt": []}, ArgumentError, "is no text"),
        ({"prompt": 3}, ArgumentError, "is no text"),
        ({"prompt": ["a", "ab"]}, ArgumentError, "reduce_batch='first'"),
        ({"layer_key": "up_proj"}, ArgumentError, "no layer key"),
        ({"layer_key": "up_proj_layer_4"}, ArgumentError, "0 to 3"),
        ({"bin_size": 0}, ArgumentError, "bin_size=0"),
        ({"vmax_percentile": 0}, ArgumentError, "vmax_percentile=0"),
        ({"vmax_percentile": True}, ArgumentError, "vmax_percentile=True"),
        ({"reduce_batch": "last"}, UnknownNameError, "reduce_batch 'last'"),
        ({"show": 2}, ArgumentError, "show=2"),
        ({"cmap": "nothing"}, UnknownNameError, "'nothing'"),
        ({"figure_format": "gif"}, UnknownNameError, "'gif'"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(
    given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    asked = {"prompt": "a dog", "layer_key": KEY, **given}
    with pytest.raises(kind, match=said):
        visualize_prompt_heatmap(tiny_model("llama"), TOKENIZER, **asked)
