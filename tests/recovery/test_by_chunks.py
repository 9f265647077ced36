"""The loss in chunks is the loss of whole logits, and so are its gradients, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import UnsupportedModelError
from optipfair.arch.families import FAMILIES
from optipfair.recovery import by_chunks, forward_kl
from optipfair.recovery.by_chunks import Parted, summed
from optipfair.testing import tiny_model

# Heads that scale or cap logits, bodies in other places, wrappers, and families outside the table.
OTHERS = ("cohere", "granite", "gemma3", "olmo2", "llama4_text", "lfm2", "mamba", "deepseek_v3")


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_chunks_give_the_loss_and_gradients_of_whole_logits(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = tiny_model(family).eval(), tiny_model(family, seed=1).eval()
    vocabulary = student.config.get_text_config().vocab_size
    monkeypatch.setattr(by_chunks, "_ELEMENTS", 4 * vocabulary)
    ids = torch.randint(0, vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = teacher(ids).logits.flatten(0, 1)
    forward_kl(student(ids).logits.flatten(0, 1), wanted).sum().backward()
    whole = gradients(student)

    parted, sizes = Parted(student), []
    states = parted.states(input_ids=ids).flatten(0, 1)

    def loss(chunk: Tensor, place: slice) -> Tensor:
        sizes.append(len(chunk))
        return forward_kl(parted.logits(chunk), wanted[place]).sum()

    summed(loss, states, vocabulary, parted.of_head()).backward()
    assert sizes == [4, 4, 4, 4, 2]
    by_parts = gradients(student)
    assert by_parts.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(by_parts[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_without_gradients_only_the_sum_is_computed() -> None:
    model = tiny_model("llama")
    parted = Parted(model)
    with torch.no_grad():
        states = parted.states(input_ids=torch.arange(6)[None])[0]
        total = summed(lambda chunk, _: parted.logits(chunk).sum(), states, 4, [])
        expected = model(torch.arange(6)[None]).logits.sum()
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-4)


def test_a_frozen_head_gets_no_gradient() -> None:
    model = tiny_model("llama").requires_grad_(False)
    model.model.layers[0].mlp.down_proj.weight.requires_grad_(True)
    parted = Parted(model)
    states = parted.states(input_ids=torch.arange(6)[None])[0]
    summed(
        lambda chunk, _: parted.logits(chunk).square().sum(), states, 300, parted.of_head()
    ).backward()
    assert [*gradients(model)] == ["model.layers.0.mlp.down_proj.weight"]


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_model("gemma2")
    before = model(torch.arange(6)[None]).logits
    parted = Parted(model)
    parted.logits(parted.states(input_ids=torch.arange(6)[None])[0])
    assert "forward" not in vars(model.model) and not model.model._forward_hooks
    assert torch.equal(model(torch.arange(6)[None]).logits, before)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no head that gives logits"):
        Parted(tiny_model("llama").model)
