"""Hidden states through one layer at a time give what the model gives, or it is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from optipfair.arch.view import describe
from optipfair.errors import DataError, UnsupportedModelError
from optipfair.hooks import evaluating
from optipfair.pruning.calibration.stream import Batches, capture, copied_layer, run_layer
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.walk import MODEL_TYPES

# Families outside the table whose forward makes a cache although nobody asks for one.
MAKE_A_CACHE = ["mvp", "trocr", "moss_transcribe_diarize"]


def padded_batches() -> list[dict[str, Tensor]]:
    """Three batches: rows of one length, rows padded to the right, one row."""
    draw = random.Random(5)
    found = []
    for lengths in ((9, 9), (20, 6, 13), (1,)):
        ids = torch.tensor([[draw.randrange(200) for _ in range(max(lengths))] for _ in lengths])
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        found.append({"input_ids": ids, "attention_mask": mask.long()})
    return found


def layers_outputs(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The hidden states after each layer in the model's own forward."""
    seen: list[Tensor] = []
    handles = [
        layer.module.register_forward_hook(
            lambda _m, _a, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in describe(model).layers
    ]
    inputs = inputs if not inputs["attention_mask"].all() else {"input_ids": inputs["input_ids"]}
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


def flow(model: Any, batches: Batches, index: int) -> list[Tensor]:
    """The hidden states of all batches after layer `index`, which a copy of it gives."""
    layer = copied_layer(describe(model).layers[index].module)
    with torch.no_grad():
        pairs = zip(batches.hidden, batches.arguments, strict=True)
        return [run_layer(layer, hidden, args[index]) for hidden, args in pairs]


@pytest.mark.parametrize("family", [*TINY_FAMILIES, *MAKE_A_CACHE])
def test_layers_one_at_a_time_give_what_the_model_gives(family: str) -> None:
    if family not in MODEL_TYPES:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    model = tiny_model(family)
    data = padded_batches()
    expected = [layers_outputs(model, inputs) for inputs in data]
    batches = capture(describe(model), data)
    for index in range(len(describe(model).layers)):
        before = [hidden.clone() for hidden in batches.hidden]
        once, twice = flow(model, batches, index), flow(model, batches, index)
        for number, inputs in enumerate(data):
            real = inputs["attention_mask"].bool()
            assert torch.equal(batches.hidden[number], before[number])
            assert torch.equal(once[number], twice[number]), "a layer notes that it ran"
            torch.testing.assert_close(
                once[number][real], expected[number][index][real], rtol=1e-4, atol=1e-5
            )
        batches.hidden = once


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_capturing_leaves_the_model_as_it_was(family: str, unchanged: Callable[..., Any]) -> None:
    model = tiny_model(family).train()
    list(model.modules())[3].eval()
    with unchanged(model):
        capture(describe(model), padded_batches())


def test_masks_say_which_tokens_are_real_wherever_the_padding_was() -> None:
    view = describe(tiny_model("llama"))
    left = (torch.tensor([[7, 7, 1], [1, 2, 3]]), torch.tensor([[0, 0, 1], [1, 1, 1]]))
    batches = capture(view, [left])
    assert [mask.sum(dim=1).tolist() for mask in batches.masks] == [[1, 3]]


# Each family's reason: lists, named tuples, attention that later layers reuse, a mask on the way.
@pytest.mark.parametrize("family", ["openai-gpt", "reformer", "glm_moe_dsa", "xlm", "mllama"])
def test_layers_that_cannot_run_alone_are_refused(family: str, refused: Callable[..., Any]) -> None:
    model = tiny_model(family).train()
    with refused(model, "cannot be run one at a time.*static", UnsupportedModelError):
        capture(describe(model), [torch.arange(24).view(2, 12)])


def test_a_tensor_that_layers_pass_on_is_noticed_where_it_changes_nothing(
    refused: Callable[..., Any],
) -> None:
    """As the choice of the most relevant tokens, among few tokens."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        forward = layer.forward
        layer.forward = lambda *args, forward=forward, passed=None, **kwargs: (
            forward(*args, **kwargs),
            torch.ones(1),
        )

    def run(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        hidden, passed = self.embed_tokens(input_ids), None
        rotary = self.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
        for layer in self.layers:
            hidden, passed = layer(hidden, position_embeddings=rotary, passed=passed)
        return hidden

    with refused(with_forward(model, run), "pass on more than hidden", UnsupportedModelError):
        capture(describe(model), [torch.arange(24).view(2, 12)])


def with_forward(model: Any, forward: Callable[..., Any]) -> Any:
    model.model.forward = MethodType(forward, model.model)
    return model


def test_a_model_that_changes_hidden_states_between_layers_is_refused(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama")

    def forward(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        hidden = self.embed_tokens(input_ids)
        position_embeddings = self.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
        for layer in self.layers:
            hidden = 2 * layer(hidden, position_embeddings=position_embeddings)
        return hidden

    with refused(with_forward(model, forward), "pass on more than hidden", UnsupportedModelError):
        capture(describe(model), [torch.arange(24).view(2, 12)])


@pytest.mark.parametrize("runs", [0, 2])
def test_a_model_that_runs_a_layer_twice_or_never_is_refused(
    runs: int, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")

    def forward(self: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        hidden = self.embed_tokens(input_ids)
        position_embeddings = self.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
        for layer in [*self.layers[:-1], *[self.layers[-1]] * runs]:
            hidden = layer(hidden, position_embeddings=position_embeddings)
        return hidden

    with refused(with_forward(model, forward), "one at a time", UnsupportedModelError):
        capture(describe(model), [torch.arange(24).view(2, 12)])


def test_a_forward_of_its_own_stays_on_a_layer() -> None:
    model = tiny_model("llama")
    layer = model.model.layers[1]
    own = layer.forward
    layer.forward = own
    capture(describe(model), padded_batches())
    assert vars(layer)["forward"] is own
    assert "forward" not in vars(model.model.layers[0])


def test_an_error_on_the_way_leaves_the_model_as_it_was(unchanged: Callable[..., Any]) -> None:
    model = tiny_model("llama").train()

    def fail(*_: object) -> None:
        raise KeyError("from the model")

    model.model.norm.register_forward_pre_hook(fail)
    with unchanged(model), pytest.raises(KeyError, match="from the model"):
        capture(describe(model), padded_batches())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("data", [[], iter(()), ["a text"], 7])
def test_data_without_a_batch_is_refused(data: Any, refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "(?i)batch", DataError):
        capture(describe(model), data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_hidden_states_keep_the_dtype_and_device(family: str, dtype: torch.dtype) -> None:
    model: Any = tiny_model(family)
    model.to(dtype)
    batches = capture(describe(model), padded_batches())
    for hidden in [*batches.hidden, *flow(model, batches, 0)]:
        assert (hidden.dtype, hidden.device.type) == (dtype, "cpu")


def test_dropout_plays_no_part() -> None:
    model: Any = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    expected = capture(describe(model), padded_batches())
    found = capture(describe(model.train()), padded_batches())
    for one, other in zip(found.hidden, expected.hidden, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(flow(model, found, 0), flow(model.eval(), expected, 0), strict=True):
        assert torch.equal(one, other)


def test_a_copied_layer_shares_nothing_with_the_live_one() -> None:
    layer = tiny_model("llama").train().model.layers[0]
    copied = copied_layer(layer)
    assert not copied.training
    assert layer.training
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in layer.parameters())
    live = {parameter.data_ptr() for parameter in layer.parameters()}
    assert not live & {parameter.data_ptr() for parameter in copied.parameters()}
    with evaluating(layer):
        assert not layer.training
