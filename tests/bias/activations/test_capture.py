"""What is captured is what the model computes, prompt by prompt, however it is batched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.activations import ACT2FN

from optipfair.arch.view import describe
from optipfair.bias.activations import capture as module
from optipfair.bias.activations.capture import Captured, Comparison, Groups, Kept, capture
from optipfair.bias.activations.differences import Differences
from optipfair.bias.activations.layer_keys import COMPONENTS, LayerKey
from optipfair.bias.prompts.tokens import Encoded, encode
from optipfair.errors import ArgumentError, DataError, UnsupportedModelError
from optipfair.testing import TINY_FAMILIES, byte_tokenizer, tiny_model

PAIRS = (
    ("The man slept.", "The woman slept."),
    ("A dog", "A very long sentence about a dog that slept"),
    ("The man slept.", "The man slept."),
    ("x", "y"),
)
# Where a family differs from Llama's names: attention's last projection, and the MLP's modules.
LLAMA = ("self_attn.o_proj", "mlp", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NEOX = ("", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
NAMES = {
    "phi3": ("self_attn.o_proj", "mlp", "mlp.gate_up_proj", "", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp", "", "mlp.c_fc", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2", "", "fc1", "fc2"),
    "gpt_neox": ("attention.dense", "mlp", *NEOX),
    "falcon": ("self_attention.dense", "mlp", *NEOX),
    # BLOOM's MLP adds what came in by itself.
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h", *NEOX),
}
NORMS_BETWEEN = ("gemma2", "gemma3_text")  # between what a block gives and the residual stream
Found = dict[tuple[int, LayerKey], tuple[Tensor, Tensor]]


def comparisons(pairs: Sequence[tuple[str, str]] = PAIRS, **keywords: Any) -> list[Comparison]:
    tokenizer: Any = byte_tokenizer()
    for name, value in keywords.items():
        setattr(tokenizer, name, value)
    return [Comparison(*(encode(tokenizer, text, 259) for text in pair)) for pair in pairs]


def captured(
    model: Any, given: Sequence[Comparison], components: Sequence[str] = tuple(COMPONENTS)
) -> tuple[Found, Captured]:
    view = describe(model)
    layers = range(len(view.layers))
    keys = [LayerKey(component, layer) for component in components for layer in layers]
    kept = Kept(keys, range(len(given)))
    return kept.found, capture(view, given, components, layers, [kept.add])


def truth(model: Any, family: str, ids: Sequence[int]) -> dict[LayerKey, Tensor]:
    """The components of one prompt run by itself, (S, U) each, by the modules' names."""
    caught: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, given: Any, output: Any) -> None:
            first = output if isinstance(output, Tensor) else output[0]
            # Copies, since Falcon adds to its MLP's output in place.
            caught[name] = (given[0] if given else first).clone(), first.clone()

        return hook

    layers = [layer.module for layer in describe(model).layers]
    handles = [
        part.register_forward_hook(watch(f"{index}.{name}"))
        for index, layer in enumerate(layers)
        for name, part in layer.named_modules()
    ]
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    attention, mlp, gate, up, down = NAMES.get(family, LLAMA)
    found: dict[LayerKey, Tensor] = {}
    for index, layer in enumerate(layers):
        norms = [n for n, part in layer.named_children() if "Norm" in type(part).__name__]
        values = {
            "residual_output": caught[f"{index}."][1],
            "head_output": caught[f"{index}.{attention}"][0],
            "attention_output": caught[f"{index}.{attention}"][1],
            "mlp_output": caught[f"{index}.{mlp}"][1],
            "input_norm": caught[f"{index}.{norms[0]}"][1],
            "post_attention_norm": caught[f"{index}.{norms[1]}"][1],
        }
        if f"{index}.{down}" in caught:
            values["neuron_output"], values["down_proj"] = caught[f"{index}.{down}"]
            for component, name in (("gate_proj", gate), ("up_proj", up)):
                if name:
                    values[component] = caught[f"{index}.{name}"][1]
        if family == "phi3":
            values["gate_proj"], values["up_proj"] = values["gate_proj"].chunk(2, dim=-1)
        given, after = states[index], values["residual_output"]
        if index + 1 < len(layers):  # the last state comes normed
            assert torch.equal(after, states[index + 1])
        if family not in NORMS_BETWEEN:
            assert close(after, given + values["attention_output"] + values["mlp_output"])
        for component, value in values.items():
            found[LayerKey(component, index)] = value.reshape(len(ids), -1)
    return found


def activation(config: Any) -> Callable[[Tensor], Tensor]:
    names = ("hidden_activation", "hidden_act", "activation_function", "activation")
    named = next((getattr(config, n) for n in names if getattr(config, n, None)), None)
    function: Callable[[Tensor], Tensor] = ACT2FN[named or "gelu_pytorch_tanh"]  # BLOOM's is fixed
    return function


def rows(values: Tensor, comparison: Comparison, side: int) -> Tensor:
    """The means over each compared unit's tokens, done one by one."""
    units = [(unit.first, unit.second)[side] for unit in comparison.alignment.units]
    return torch.stack([values[list(tokens)].float().mean(dim=0) for tokens in units])


def close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_components_are_what_the_model_computes(family: str) -> None:
    model: Any = tiny_model(family)
    given = comparisons()
    found, seen = captured(model, given)
    act = activation(model.config)
    for number, comparison in enumerate(given):
        for side, prompt in enumerate((comparison.first, comparison.second)):
            expected = truth(model, family, prompt.ids)
            assert {key for n, key in found if n == number} == set(expected)
            for key, values in expected.items():
                assert close(found[number, key][side], rows(values, comparison, side)), key
            for layer in range(len(describe(model).layers)):
                of = {c: expected.get(LayerKey(c, layer)) for c in COMPONENTS}
                if of["up_proj"] is not None and of["neuron_output"] is not None:
                    gate = of["gate_proj"]
                    neurons = act(of["up_proj"]) if gate is None else act(gate) * of["up_proj"]
                    assert close(neurons, of["neuron_output"])
                absent = {c for c, layers in seen.missing.items() if layer in layers}
                assert absent == {c for c in COMPONENTS if of[c] is None}
    assert seen.prompts == len({side.ids for c in given for side in (c.first, c.second)})


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "qwen3_moe"])
def test_batching_changes_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    given = comparisons()
    together, all_at_once = captured(model, given)
    left, _ = captured(model, comparisons(padding_side="left"))
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    apart, one_by_one = captured(model, given)
    assert (all_at_once.passes, one_by_one.passes) == (1, len(given))
    assert set(together) == set(apart) == set(left)
    for place, sides in together.items():
        for side in (0, 1):
            assert close(sides[side], apart[place][side])
            assert torch.equal(sides[side], left[place][side])
    assert torch.equal(*apart[2, LayerKey("mlp_output", 1)])  # the same prompt twice


def test_every_prompt_of_a_batch_runs_once() -> None:
    model: Any = tiny_model("llama")
    shapes = []
    embed = model.get_input_embeddings()
    handle = embed.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    head = model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head ran"))
    pairs = [*PAIRS, ("The woman slept.", "The man slept."), ("y", "A dog")]
    _, seen = captured(model, comparisons(pairs), ["residual_output"])
    handle.remove()
    head.remove()
    distinct = {text for pair in pairs for text in pair}
    assert shapes == [(len(distinct), max(map(len, distinct)))]
    assert (seen.prompts, seen.passes) == (len(distinct), 1)


@hypothesis.given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 200))
def test_batches_hold_all_comparisons_in_order(lengths: list[int], room: int) -> None:
    given = [_made(n, n // 2 + 1) for n in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_TOKENS", room)
        batches = list(module._batches(given))
    starts = [batch.groups.start for batch in batches]
    sizes = [len(batch.groups.sizes) for batch in batches]
    assert starts == [sum(sizes[:i]) for i in range(len(sizes))] and sum(sizes) == len(given)
    for batch, size in zip(batches, sizes, strict=True):
        assert size == 1 or len(batch.prompts) * batch.length <= room


def _made(*lengths: int) -> Comparison:
    first, second = (Encoded("", (n,) * n, (False,) * n) for n in lengths)
    return Comparison(first, second)


def test_the_model_is_left_as_it_was(
    unchanged: Callable[[Any], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = tiny_model("gpt2", resid_pdrop=0.5)
    expected, _ = captured(model, comparisons(), ["mlp_output"])
    model.train()
    model.transformer.h[1].eval()
    with unchanged(model):
        found, _ = captured(model, comparisons(), ["mlp_output"])
    assert all(torch.equal(found[place][0], expected[place][0]) for place in expected)
    for error, note in (
        (RuntimeError("a layer breaks"), False),
        (torch.OutOfMemoryError("no room"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
    ):
        broken = model.transformer.h[2].attn
        monkeypatch.setattr(broken, "forward", _raiser(error))
        with unchanged(model), pytest.raises(type(error)) as caught:
            captured(model, comparisons())
        assert caught.value is error
        assert ("need less memory" in str(getattr(error, "__notes__", ""))) == note


def _raiser(error: Exception) -> Callable[..., None]:
    def forward(*_: Any, **__: Any) -> None:
        raise error

    return forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_captured_as_float32(dtype: torch.dtype) -> None:
    model: Any = tiny_model("qwen3").to(dtype)
    given = comparisons()
    found, _ = captured(model, given)
    assert all(value.dtype == torch.float32 for sides in found.values() for value in sides)
    exact, _ = captured(model.float(), given)
    for place, (one, _) in found.items():
        error = (one - exact[place][0]).norm() / exact[place][0].norm()
        assert 0 < error < 0.05


def test_what_a_family_lacks_is_listed() -> None:
    _, dense = captured(tiny_model("gpt2"), comparisons())
    assert dense.missing == {"gate_proj": dict.fromkeys(range(4), "its MLP has no gate")}
    _, mixed = captured(tiny_model("qwen3_moe"), comparisons())
    reason = "each token has experts of its own"
    layers = describe(tiny_model("qwen3_moe")).layers
    sparse = [layer.index for layer in layers if layer.mlps[0].spec.experts]
    assert 0 < len(sparse) < 4
    assert mixed.missing == {
        name: dict.fromkeys(sparse, reason)
        for name in ("gate_proj", "up_proj", "down_proj", "neuron_output")
    }
    with pytest.raises(ArgumentError, match=r"gate_proj \(its MLP has no gate\)"):
        captured(tiny_model("gpt2"), comparisons(), ["gate_proj"])


def test_a_module_that_the_model_passes_by_is_listed_and_not_measured() -> None:
    model: Any = tiny_model("llama")
    idle = model.model.layers[1].mlp
    idle.forward = lambda x: x  # its projections never run
    view, keys = describe(model), [LayerKey("down_proj", layer) for layer in (0, 1)]
    differences = Differences(keys, len(PAIRS))
    seen = capture(view, comparisons(), ["down_proj"], [0, 1], [differences.add])
    assert seen.missing == {"down_proj": {1: "it did not run"}}
    assert differences.measured().keys == (LayerKey("down_proj", 0),)
    nothing = Differences(keys, len(PAIRS))
    capture(view, comparisons(), ["down_proj"], [1], [nothing.add])
    with pytest.raises(UnsupportedModelError, match="None of the components ran"):
        nothing.measured()


def test_what_cannot_be_compared_is_refused(
    unchanged: Callable[[Any], AbstractContextManager[None]],
) -> None:
    model: Any = tiny_model("gpt2")
    model.transformer.h[1].mlp.c_fc.bias.data[3] = torch.inf
    with unchanged(model), pytest.raises(DataError, match="up_proj_layer_1 gives NaN or Inf"):
        captured(model, comparisons(), ["up_proj"])
    long = comparisons([("a" * 129, "b")])
    with unchanged(model), pytest.raises(DataError, match="129 tokens; this model has 128"):
        captured(model, long, ["residual_output"])
    odd: Any = tiny_model("llama")
    odd.model.layers[0].register_forward_hook(lambda *_: "no tensor")
    with pytest.raises(UnsupportedModelError, match="residual_output_layer_0 gives None"):
        capture(describe(odd), comparisons(), ["residual_output"], [0], [])


def test_reducers_see_every_comparison_once() -> None:
    class Counting:
        def __init__(self) -> None:
            self.rows: dict[LayerKey, int] = {}

        def add(self, key: LayerKey, first: Tensor, second: Tensor, groups: Groups) -> None:
            assert len(first) == len(second) == sum(groups.sizes)
            self.rows[key] = self.rows.get(key, 0) + len(first)

    counting, given = Counting(), comparisons([PAIRS[0]] * 300)
    view = describe(tiny_model("llama"))
    seen = capture(view, given, ["up_proj", "input_norm"], [0, 3], [counting.add])
    assert seen.passes > 1
    assert counting.rows == dict.fromkeys(
        (LayerKey(c, i) for c in ("up_proj", "input_norm") for i in (0, 3)),
        sum(len(c.alignment.units) for c in given),
    )
