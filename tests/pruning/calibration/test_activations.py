"""Data-driven scores depend on the tokens only: not on batch size, order, padding or mode."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from optipfair import DataError, PruningPlan, plan_pruning, prune_model
from optipfair.arch.families import FAMILIES
from optipfair.arch.view import describe
from optipfair.pruning.calibration.activations import neuron_input_norms
from optipfair.testing import TINY_FAMILIES, byte_tokenizer, tiny_model

PRUNABLE = [name for name in TINY_FAMILIES if not any(mlp.why_not for mlp in FAMILIES[name].mlps)]
PADDING = 7  # a byte like any other: only the mask says that it is padding

pytestmark = pytest.mark.filterwarnings("ignore:The kept width of:optipfair.PruningWarning")


def texts() -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(256) for _ in range(length)] for length in (3, 12, 7, 5, 20, 4, 9, 6)]


def padded(rows: list[list[int]], side: str) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = longest - len(row)
        before, after = (gap, 0) if side == "left" else (0, gap)
        ids.append([PADDING] * before + row + [PADDING] * after)
        mask.append([0] * before + [1] * len(row) + [0] * after)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def batches(size: int, side: str = "right", order: int = 1) -> list[dict[str, Tensor]]:
    rows = texts()[::order]
    return [padded(rows[start : start + size], side) for start in range(0, len(rows), size)]


def plan_with(model: Any, data: Any) -> PruningPlan:
    return plan_pruning(model, pruning_percentage=40, dataloader=data)


VARIANTS = {
    "batch of 8": batches(8),
    "left padding": batches(8, "left"),
    "batches of 3": batches(3),
    "reversed": batches(3, order=-1),
    "reversed and left": batches(2, "left", order=-1),
}


@pytest.mark.parametrize("family", PRUNABLE)
def test_batch_size_order_and_padding_do_not_change_norms_or_choice(family: str) -> None:
    model = tiny_model(family)
    one_by_one = [{"input_ids": torch.tensor([row])} for row in texts()]
    norms = neuron_input_norms(describe(model), one_by_one)
    plan = plan_with(model, one_by_one)
    for name, data in VARIANTS.items():
        for key, found in neuron_input_norms(describe(model), data).items():
            torch.testing.assert_close(found, norms[key], rtol=1e-4, atol=1e-6, msg=name)
        assert plan_with(model, data) == plan, name


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "falcon"])
def test_norms_are_those_of_the_inputs_to_the_down_projection(family: str) -> None:
    model = tiny_model(family)
    seen: dict[int, list[Tensor]] = {}
    view = describe(model)
    for mlp in view.mlps:
        down = mlp.owner.get_submodule(mlp.spec.down.module)
        down.register_forward_pre_hook(
            lambda _module, args, layer=mlp.layer: seen.setdefault(layer, []).append(args[0])
        )
    with torch.no_grad():
        for row in texts():
            model(torch.tensor([row]))
    expected = {layer: torch.cat([x.flatten(0, -2) for x in xs]) for layer, xs in seen.items()}
    for (layer, _), norms in neuron_input_norms(view, batches(4)).items():
        torch.testing.assert_close(norms, expected[layer].double().norm(dim=0), rtol=1e-4, atol=0)


def test_an_experts_norms_come_from_the_tokens_that_it_gets() -> None:
    model = tiny_model("mixtral")
    experts = model.model.layers[1].mlp.experts
    calls: list[tuple[Tensor, Tensor]] = []
    experts.register_forward_pre_hook(lambda _module, args: calls.append((args[0], args[1])))
    with torch.no_grad():
        for row in texts():
            model(torch.tensor([row]))
    squares = torch.zeros(4, 40, dtype=torch.float64)
    for hidden, chosen in calls:
        for token, picked in zip(hidden.view(-1, 16), chosen.view(-1, 2), strict=True):
            for expert in picked.tolist():
                gate, up = (experts.gate_up_proj[expert] @ token).chunk(2)
                squares[expert] += (nn.functional.silu(gate) * up).detach().double() ** 2
    norms = neuron_input_norms(describe(model), batches(8))[1, "experts"]
    torch.testing.assert_close(norms, squares.sqrt(), rtol=1e-4, atol=1e-7)


def test_data_changes_the_choice() -> None:
    model = tiny_model("llama")
    assert (
        plan_with(model, batches(8)).width_cuts
        != plan_pruning(model, pruning_percentage=40).width_cuts
    )


class Endless(IterableDataset[Tensor]):
    """Without a length; it ends all the same."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (torch.tensor(row) for row in texts())


FORMS: dict[str, Callable[[], Any]] = {
    "list of dicts": lambda: batches(1),
    "tuples": lambda: [(b["input_ids"], b["attention_mask"]) for b in batches(1)],
    "lists": lambda: [[b["input_ids"], b["attention_mask"]] for b in batches(1)],
    "tensors": lambda: [b["input_ids"] for b in batches(1)],
    "generator": lambda: (batch for batch in batches(8)),
    "labels": lambda: [{**b, "labels": b["input_ids"], "idx": 3} for b in batches(8)],
    "iterable dataset": lambda: DataLoader(Endless(), batch_size=1),
    "data loader": lambda: DataLoader(
        TensorDataset(*padded(texts(), "left").values()), batch_size=4, shuffle=True
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_every_form_of_data_gives_the_same_plan(
    form: Callable[[], Any], unchanged: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with unchanged(model):
        plan = plan_with(model, form())
    assert plan == plan_with(model, batches(8))


def test_tokenizer_output_works_as_a_batch() -> None:
    encoded = byte_tokenizer()(["a text", "another one"], padding=True, return_tensors="pt")
    assert plan_with(tiny_model("llama"), [encoded]).width_cuts


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_calibrating_leaves_the_model_and_the_random_state_alone(
    family: str, unchanged: Callable[..., Any]
) -> None:
    model = tiny_model(family).train()
    list(model.modules())[3].eval()
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
        parameter.requires_grad = parameter.dim() == 2
    with unchanged(model):
        neuron_input_norms(describe(model), batches(8))


def test_dropout_plays_no_part() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    in_eval = plan_with(model, batches(8))
    assert plan_with(model.train(), batches(8)) == in_eval


def test_an_error_in_the_forward_leaves_modes_and_hooks_alone(
    unchanged: Callable[..., Any],
) -> None:
    model = tiny_model("llama").train()
    model.model.layers[1].eval()

    def fail(*_: object) -> None:
        raise KeyError("from the model")

    model.model.layers[2].register_forward_pre_hook(fail)
    with unchanged(model), pytest.raises(KeyError, match="from the model"):
        prune_model(model, pruning_percentage=20, dataloader=batches(8), show_progress=False)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "no batch"),
        (iter(()), "no batch"),
        ([torch.zeros(1, 0, dtype=torch.int64)], r"\(1, 0\)"),
        ([(torch.ones(2, 3).long(), torch.zeros(2, 3).long())], "no real token"),
        (["a text"], "str"),
        ([None], "NoneType"),
        ([torch.ones(2, 3)], "float32"),
        ([{"ids": torch.ones(1, 2)}], "input_ids"),
        ("a text", "dataloader is a str"),
        (7, "dataloader is a int"),
        (padded([[1, 2]], "left"), "dataloader is a dict"),
        ([*batches(8), "a text"], "str"),
    ],
    ids=range(12),
)
def test_data_that_cannot_be_used_is_refused(
    data: Any, match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, DataError):
        prune_model(model, pruning_percentage=20, dataloader=data, show_progress=False)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_nan_activations_are_refused_naming_the_layer(
    family: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    norm = next(m for m in describe(model).layers[1].module.modules() if "Norm" in type(m).__name__)
    norm.weight.data[0] = float("inf")
    with refused(model, r"(?s)layer 1.*NaN or Inf", DataError):
        prune_model(model, pruning_percentage=20, dataloader=batches(8), show_progress=False)


def test_token_ids_beyond_the_vocabulary_leave_the_model_alone(
    unchanged: Callable[..., Any],
) -> None:
    model = tiny_model("llama").train()
    with unchanged(model), pytest.raises(DataError, match="token id 99999"):
        plan_with(model, [torch.tensor([[1, 99_999]])])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_half_precision_models_can_be_calibrated(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family).to(dtype)
    norms = neuron_input_norms(describe(model), batches(8))
    assert all(norm.dtype == torch.float64 and norm.isfinite().all() for norm in norms.values())
    prune_model(model, pruning_percentage=40, dataloader=batches(8), show_progress=False)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_large_float16_activations_do_not_overflow() -> None:
    model = tiny_model("llama").half()
    model.model.layers[0].mlp.up_proj.weight.data *= 20_000  # products of some 10^4
    norms = neuron_input_norms(describe(model), batches(8))[0, "mlp"]
    assert norms.isfinite().all()
    assert norms.max() > 300  # squares beyond float16's 65504


def test_an_mlp_that_two_layers_share_gets_one_choice() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    first, second, *_ = plan_with(model, batches(8)).width_cuts
    assert first.keep == second.keep


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_are_moved_to_the_models_device() -> None:
    model = tiny_model("llama")
    plan = plan_with(model, batches(8))
    assert plan_with(model.cuda(), batches(8)) == plan
