"""Where in two models the default pairs of prompts make a difference: the layer profile."""

from __future__ import annotations

from typing import Any

from ..arch.limits import vocabulary
from ..arch.view import describe
from ..bias.prompts.pairs import check_prompt_pairs
from ..bias.study import carry_out, plan_study
from ..bias.study_comparison import excess_by_layer
from ..report.comparison import LayerExcess
from ..uncertainty import bootstrap_bounds

COMPONENT = "mlp_output"
CONTROLS = 8


def layer_profile(
    model: Any, tokenizer: Any, *, seed: int = 0, show_progress: bool = False
) -> list[LayerExcess]:
    """How far the default pairs exceed their neutral controls in each layer's MLP output.

    Returns:
        One row a layer: the mean over pairs of the relative difference beyond controls, with its
        95 % bootstrap interval over pairs.
    """
    view = describe(model)
    count = len(view.layers)
    pairs = check_prompt_pairs(None)
    plan = plan_study(view, tokenizer, pairs, CONTROLS, seed=seed)
    study = carry_out(view, plan, [COMPONENT], range(count), show_progress=show_progress)
    layers, excess = excess_by_layer(
        study, [i for i in range(len(pairs)) if plan.owned[i]], COMPONENT
    )
    bounds = bootstrap_bounds(excess, seed=seed)
    return [
        LayerExcess(
            layer=layer,
            depth=layer / max(1, count - 1),
            excess=float(excess[:, place].mean()),
            low=None if bounds is None else float(bounds[0][place]),
            high=None if bounds is None else float(bounds[1][place]),
        )
        for place, layer in enumerate(layers)
    ]
