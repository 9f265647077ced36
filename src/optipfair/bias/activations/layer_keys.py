"""What activations are called: `mlp_output_layer_3` is a component of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...checking import split_layer_key, whole_number
from ...errors import ArgumentError, UnknownNameError
from ...registry import unknown_name

COMPONENTS = {
    "residual_output": "what the layer gives to the next one",
    "attention_output": "what attention gives: the output of its last projection",
    "head_output": "what the attention heads give to their output projection, one after the other",
    "mlp_output": "what the MLP, or the mixture of experts, gives",
    "gate_proj": "the MLP's gate, before its activation function",
    "up_proj": "the MLP's other projection into its neurons",
    "down_proj": "the MLP's projection out of its neurons",
    "neuron_output": "what each neuron gives: the input of the MLP's projection out of them",
    "input_norm": "the norm before attention",
    "post_attention_norm": "the norm after attention, or before the MLP",
}
ALIASES = {"down_proj_input": "neuron_output", "attention": "attention_output"}
DEFAULT_COMPONENTS = (
    "mlp_output",
    "attention_output",
    "gate_proj",
    "up_proj",
    "down_proj",
    "input_norm",
)
SELECTIONS = ("first_middle_last", "all")


class LayerKey(NamedTuple):
    """A component of a layer; its text is the key that the user sees."""

    component: str
    layer: int

    def __str__(self) -> str:
        return f"{self.component}_layer_{self.layer}"


def read_key(text: object) -> LayerKey:
    """Read a key such as `mlp_output_layer_3`."""
    found = split_layer_key(text)
    if found is None:
        raise ArgumentError(
            f"{text!r} is no layer key. Give a component and a layer, like 'mlp_output_layer_3'."
        )
    return LayerKey(check_component(found[0]), found[1])


def _integers(layers: object) -> list[int]:
    """Layer numbers as plain integers; none where something else is among them."""
    plain = layers.tolist() if hasattr(layers, "tolist") else layers
    listed = list(plain) if isinstance(plain, Sequence) else []
    numbers = [number for each in listed if (number := whole_number(each)) is not None]
    return numbers if len(numbers) == len(listed) else []


def check_component(name: object) -> str:
    """The name of a component; an alias becomes it."""
    name = ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in COMPONENTS:
        raise UnknownNameError(unknown_name("component", name, list(COMPONENTS)))
    return name


def check_components(names: object) -> tuple[str, ...]:
    """Some components, each once."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ArgumentError(
            f"components={names!r} is no list of components. Available: {', '.join(COMPONENTS)}."
        )
    return tuple(dict.fromkeys(check_component(name) for name in names))


def layer_numbers(layers: object, count: int, model: str = "the model") -> list[int]:
    """Which of so many layers are meant, by a word or by a list, range or array; sorted."""
    if isinstance(layers, str):
        if layers not in SELECTIONS:
            raise UnknownNameError(
                unknown_name("layer selection", layers, list(SELECTIONS))
                + " Or give a list of layer numbers."
            )
        return list(range(count)) if layers == "all" else sorted({0, count // 2, count - 1})
    numbers = _integers(layers)
    if not numbers:
        raise ArgumentError(
            f"layers={layers!r} is no list of layer numbers. Give one, or one of: "
            f"{', '.join(SELECTIONS)}."
        )
    outside = [number for number in numbers if not 0 <= number < count]
    if outside:
        raise ArgumentError(
            f"Layer {outside[0]} is out of range: {model} has layers 0 to {count - 1}."
        )
    return sorted(set(numbers))
