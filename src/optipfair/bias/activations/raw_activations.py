"""Raw activations, by layer key: of one prompt, of a pair, or of whatever runs meanwhile.

Axes: `B` batch, `S` sequence, `U` units of a component.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...arch.view import describe
from ...errors import ArgumentError
from ...hooks import evaluating, watch
from ..prompts.tokens import encode_for
from .capture import check_length, find_taps, run_base, some_taps
from .components import Tap, first_tensor
from .layer_keys import (
    DEFAULT_COMPONENTS,
    check_component,
    check_components,
    layer_numbers,
    read_key,
)


class Hooks(list[RemovableHandle]):
    """The handles of `register_hooks`; `activations` holds what the last run gave."""

    def __init__(self) -> None:
        super().__init__()
        self.activations: dict[str, Tensor] = {}

    def keep(self, key: str, place: Tap, value: object) -> None:
        """Note what a component gives, detached."""
        tensor = first_tensor(value)
        if tensor is not None:
            part = tensor if place.part is None else place.part(tensor)
            self.activations[key] = part.detach()


def register_hooks(
    model: Any,
    components: Sequence[str] = DEFAULT_COMPONENTS,
    layers: str | Sequence[int] = "all",
) -> Hooks:
    """Keep what the components of a model give whenever it runs, until `remove_hooks`.

    Args:
        model: a causal language model of transformers.
        components: of `COMPONENTS`.
        layers: `all`, `first_middle_last`, or numbers.

    Returns:
        A list of handles with `activations`: key → what the last run gave, as the model gave it.

    Raises:
        ArgumentError: an unknown component or layer, or components that no layer has.
        UnsupportedModelError: the layers are not found.

    Example:
        >>> from optipfair.testing import tiny_model
        >>> model = tiny_model("llama")
        >>> hooks = register_hooks(model, ["mlp_output"], [0])
        >>> _ = model(torch.arange(5)[None])
        >>> remove_hooks(hooks)
        >>> tuple(hooks.activations["mlp_output_layer_0"].shape)
        (1, 5, 16)
    """
    view = describe(model)
    numbers = layer_numbers(layers, len(view.layers))
    taps, _ = some_taps(view, check_components(components), numbers)
    hooks = Hooks()
    for key, place in taps.items():
        hooks.append(watch(place.module, place.inputs, partial(hooks.keep, str(key), place)))
    return hooks


def remove_hooks(hooks: Iterable[RemovableHandle]) -> None:
    """Remove hooks; what they kept stays."""
    for handle in hooks:
        handle.remove()


def get_prompt_activations(
    model: Any,
    tokenizer: Any,
    prompt: str,
    components: Sequence[str] = DEFAULT_COMPONENTS,
    layers: str | Sequence[int] = "all",
) -> dict[str, Tensor]:
    """Run one prompt and give what the components of a model gave, token by token.

    Args:
        model: a causal language model; it runs in eval mode and is left as it was.
        tokenizer: of the model.
        prompt: a text.
        components, layers: as in `register_hooks`.

    Returns:
        Key (`mlp_output_layer_3`) → (1, S, U), in the model's dtype and on its device. All tokens
        are there, those that the tokenizer adds too.

    Raises:
        ArgumentError: an unknown component or layer, or components that no layer has.
        DataError: a prompt that the model cannot read.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> found = get_prompt_activations(tiny_model("llama"), byte_tokenizer(), "hello")
        >>> tuple(found["gate_proj_layer_3"].shape)
        (1, 5, 40)
    """
    view = describe(model)
    encoded = encode_for(model, tokenizer, prompt)
    check_length(view, encoded)
    device: Any = model.get_input_embeddings().weight.device
    hooks = register_hooks(model, components, layers)
    try:
        with evaluating(model):
            run_base(view, {"input_ids": torch.tensor([encoded.ids], device=device)})
    finally:
        remove_hooks(hooks)
    return {key: each.reshape(1, len(encoded), -1) for key, each in hooks.activations.items()}


def get_activation_pairs(
    model: Any,
    tokenizer: Any,
    prompt1: str,
    prompt2: str,
    components: Sequence[str] = DEFAULT_COMPONENTS,
    layers: str | Sequence[int] = "all",
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give the activations of two prompts, for `calculate_bias_metrics`.

    Arguments, results and errors as in `get_prompt_activations`.

    Example:
        >>> from optipfair import calculate_bias_metrics
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> model, tokenizer = tiny_model("llama"), byte_tokenizer()
        >>> both = get_activation_pairs(model, tokenizer, "a tall man", "a fair man")
        >>> calculate_bias_metrics(*both)["overall_metrics"]["mean"] > 0
        True
    """
    one, two = (
        get_prompt_activations(model, tokenizer, prompt, components, layers)
        for prompt in (prompt1, prompt2)
    )
    return one, two


process_prompt = get_prompt_activations


def get_layer_names(source: Any, component: str | None = None) -> list[str]:
    """Give the layer keys of a model (of its default components), or of a dict of activations.

    Args:
        source: a model, or key → activations.
        component: only the keys of this one; of a model, any of `COMPONENTS`.

    Returns:
        Keys, by component and layer.

    Raises:
        ArgumentError: an unknown component.

    Example:
        >>> get_layer_names({"mlp_output_layer_0": 0, "up_proj_layer_0": 0}, "up_proj")
        ['up_proj_layer_0']
    """
    wanted = DEFAULT_COMPONENTS if component is None else (check_component(component),)
    if isinstance(source, nn.Module):
        view = describe(source)  # type: ignore[arg-type]
        taps = find_taps(view, wanted, range(len(view.layers)))[0]
        return [str(key) for key in sorted(taps)]
    if not isinstance(source, Mapping):
        raise ArgumentError(f"{type(source).__name__} has no layers. Give a model or activations.")
    return [name for name in source if component is None or read_key(name).component in wanted]


def select_layers(
    names: Iterable[str], layers: str | Sequence[int] = "first_middle_last"
) -> list[str]:
    """Select, among layer keys, those of some layers.

    Args:
        names: keys such as `mlp_output_layer_3`.
        layers: `first_middle_last` of the layers that have keys, `all`, or numbers.

    Returns:
        Keys in their order.

    Raises:
        ArgumentError: no key, or layers that none of them has.

    Example:
        >>> select_layers([f"up_proj_layer_{number}" for number in range(5)])
        ['up_proj_layer_0', 'up_proj_layer_2', 'up_proj_layer_4']
    """
    listed = list(names)
    there = sorted({read_key(name).layer for name in listed})
    if not there:
        raise ArgumentError("There are no layer keys to select from. Give get_layer_names(model).")
    if isinstance(layers, str):
        chosen = {there[place] for place in layer_numbers(layers, len(there))}
    else:
        chosen = set(layer_numbers(layers, there[-1] + 1, "what was given"))
    return [name for name in listed if read_key(name).layer in chosen]
