"""`prune_model` on the MLP width: what works, what warns, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from optipfair import (
    ArgumentError,
    PruningWarning,
    UnknownNameError,
    UnsupportedModelError,
    plan_pruning,
    prune_model,
    prune_model_mlp_glu,
)
from optipfair.arch.view import describe
from optipfair.pruning.importance.criteria import CRITERIA, WEIGHTS
from optipfair.testing import tiny_model


def quietly(model: Any, *args: Any, **kwargs: Any) -> Any:
    return prune_model(model, *args, **kwargs, show_progress=False)


def widths(model: Any) -> set[int]:
    return {mlp.width for mlp in describe(model).mlps}


def test_the_default_removes_ten_percent_in_place() -> None:
    model = tiny_model("llama")
    assert quietly(model) is model
    assert widths(model) == {36}
    assert model.config.intermediate_size == 36


def test_prune_model_mlp_glu_does_what_prune_model_does(logits_of: Callable[..., Tensor]) -> None:
    one, other = tiny_model("llama"), tiny_model("llama")
    assert prune_model_mlp_glu(one, "VOW", 20, None, False) is one
    quietly(other, "MLP_GLU", "VOW", 20)
    assert torch.equal(logits_of(one), logits_of(other))


def test_an_expansion_rate_stands_beside_the_untouched_default() -> None:
    # 140 % of 16 is 22.4: 23 neurons stay.
    assert widths(quietly(tiny_model("llama"), expansion_rate=140)) == {23}
    assert widths(quietly(tiny_model("llama"), pruning_percentage=10, expansion_rate=140)) == {23}
    assert widths(prune_model_mlp_glu(tiny_model("llama"), expansion_rate=140)) == {23}


def test_the_real_sizes_of_the_design_come_out_exactly() -> None:
    sizes = {"hidden_size": 896, "num_attention_heads": 14, "intermediate_size": 4864}
    model = tiny_model("qwen2", **sizes, num_hidden_layers=1, max_window_layers=0)
    with pytest.warns(PruningWarning, match="by their weights alone"):  # it is no toy
        assert plan_pruning(model, expansion_rate=450).width_cuts[0].kept == 4032
    random = plan_pruning(model, "MLP_GLU", "RANDOM", expansion_rate=90)  # known for what it is
    assert random.width_cuts[0].kept == 807  # 806.4


@pytest.mark.parametrize("name", ["MAW", *(n for n in CRITERIA if CRITERIA[n].needs == WEIGHTS)])
def test_every_method_keeps_the_neurons_with_the_highest_scores(name: str) -> None:
    model = tiny_model("llama")
    strong = [1, 8, 20, 39]
    for mlp in describe(model).mlps:
        for role in ("gate", "up"):
            mlp.matrices()[role][strong] *= 100
    assert {cut.keep for cut in plan_pruning(model, "MLP_GLU", name, 90).width_cuts} == {
        (tuple(strong),)
    }


def test_ties_go_to_the_lower_index() -> None:
    model = tiny_model("llama")
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    plan = plan_pruning(model, pruning_percentage=50)
    assert {cut.keep for cut in plan.width_cuts} == {(tuple(range(20)),)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_planning_changes_nothing_and_gives_the_same_plan_again(
    family: str, unchanged: Callable[..., Any]
) -> None:
    model = tiny_model(family)
    with unchanged(model):
        first = plan_pruning(model, expansion_rate=100)
    assert plan_pruning(model, expansion_rate=100) == first


@pytest.mark.parametrize(
    "percentage", [-5, -1e-9, 100, 120, math.nan, math.inf, -math.inf, "20", True, [20], None]
)
def test_percentages_that_cannot_be_are_refused(
    percentage: Any, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, "pruning_percentage", ArgumentError):
        quietly(model, pruning_percentage=percentage)


@pytest.mark.parametrize("rate", [0, -140, math.nan, math.inf, "140", True, [140]])
def test_expansion_rates_that_cannot_be_are_refused(rate: Any, refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "expansion_rate", ArgumentError):
        quietly(model, expansion_rate=rate)


def test_an_expansion_rate_above_the_current_one_is_refused_saying_it(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama")
    with refused(model, "expansion_rate=300 is above the current 250 %", ArgumentError):
        quietly(model, expansion_rate=300)


@pytest.mark.parametrize("request_", [{"expansion_rate": 250}, {"pruning_percentage": 0},
                                      {"pruning_percentage": 2.4}], ids=str)  # fmt: skip
def test_a_request_that_removes_nothing_warns_and_changes_nothing(
    request_: dict[str, Any], unchanged: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with unchanged(model), pytest.warns(PruningWarning, match="Nothing was removed"):
        quietly(model, **request_)


def test_less_than_one_percent_left_is_done_with_a_warning() -> None:
    model = tiny_model("llama", intermediate_size=256)
    with pytest.warns(PruningWarning, match="Fewer than 1 %"):
        quietly(model, pruning_percentage=99.5)
    assert widths(model) == {2}  # floor(256 * 0.995) = 254 go


def test_one_neuron_always_stays(logits_of: Callable[..., Tensor]) -> None:
    model = quietly(tiny_model("llama"), pruning_percentage=99.999)
    assert widths(model) == {1}
    assert logits_of(model).isfinite().all()


def test_every_width_gets_the_asked_for_rate_and_narrower_ones_are_left() -> None:
    model = tiny_model("qwen2_moe")  # experts 24, shared expert 32, dense layer 40
    with pytest.warns(PruningWarning, match=r"rounded from 20 down to 16"):
        quietly(model, expansion_rate=125)  # 20 neurons; experts keep a multiple of 8
    assert widths(model) == {16, 20}
    model = quietly(tiny_model("qwen2_moe"), expansion_rate=175)  # 28 neurons
    found = {mlp.spec.name: mlp.width for mlp in describe(model).mlps}
    assert found == {"experts": 24, "shared_expert": 28, "mlp": 28}


def test_expert_widths_stay_multiples_of_eight() -> None:
    model = tiny_model("mixtral")
    with pytest.warns(PruningWarning, match="rounded from 36 down to 32"):
        quietly(model, pruning_percentage=10)
    assert widths(model) == {32}


@pytest.mark.parametrize(("divisor", "kept"), [(32, 192), (64, 192), (128, 128)])
def test_a_divisor_rounds_the_kept_width_down(divisor: int, kept: int) -> None:
    model = tiny_model("llama", intermediate_size=256)
    quietly(model, pruning_percentage=20, expansion_divisor=divisor)
    assert widths(model) == {kept}  # 256 - 51 = 205 before rounding


def test_a_divisor_larger_than_the_width_is_refused(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "multiple of 64", ArgumentError):
        quietly(model, expansion_divisor=64)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"pruning_percentage": 20, "expansion_rate": 140}, "are mutually exclusive"),
        ({"num_layers_to_remove": 1}, "num_layers_to_remove=1.*DEPTH"),
        ({"depth_pruning_percentage": 25}, "depth_pruning_percentage=25.*DEPTH"),
        ({"layer_selection_method": "first"}, "layer_selection_method='first'.*DEPTH"),
        ({"expansion_divisor": 48}, "expansion_divisor=48"),
        ({"expansion_divisor": torch.tensor([32, 64])}, "expansion_divisor=tensor"),
        ({"pruning_percentage": torch.tensor([1, 2])}, "pruning_percentage=tensor.*no finite"),
        ({"seed": 2**64}, r"seed=18446744073709551616 is no whole number from 0 to 2\*\*64 - 1"),
        (
            {"neuron_selection_method": "PPN"},
            "'PPN'.*Did you mean 'PPM'.*L2, MAW, .*PON, PPM, .*VOW",
        ),
        ({"neuron_selection_method": "maww"}, "Did you mean 'MAW'"),
        ({"neuron_selection_method": None}, "Available: ACT, .*L2"),
        ({"pruning_type": "MLP_GUL"}, "'MLP_GUL'.*Did you mean 'MLP_GLU'"),
        ({"pruning_type": "depths"}, "Did you mean 'DEPTH'"),
        ({"pruning_type": None}, "Available: ATTENTION, BLOCKS, BOTH, DEPTH, EXPERTS, MLP_GLU"),
    ],
    ids=str,
)
def test_requests_that_do_not_fit_are_refused(
    request_: dict[str, Any], match: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, match, ArgumentError):
        quietly(model, **request_)


def test_an_unknown_name_has_an_error_of_its_own(refused: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    with refused(model, "criterion", UnknownNameError):
        quietly(model, neuron_selection_method="L1")


@pytest.mark.parametrize("method", ["VOW", "PON", "L2"])
def test_a_dataloader_goes_with_ppm_only_and_is_not_read_otherwise(
    method: str, refused: Callable[..., Any], token_ids: Tensor
) -> None:
    model = tiny_model("llama")
    read: list[int] = []

    def data() -> Iterator[Tensor]:
        read.append(1)
        yield token_ids

    with refused(model, f"dataloader does not go with.*{method}.*MAW", ArgumentError):
        quietly(model, neuron_selection_method=method, dataloader=data())
    assert not read


def test_a_wrong_target_is_refused_before_data_is_read(
    refused: Callable[..., Any], token_ids: Tensor
) -> None:
    model = tiny_model("llama")
    data = iter([token_ids])
    with refused(model, "above the current", ArgumentError):
        quietly(model, expansion_rate=999, dataloader=data)
    assert next(data) is token_ids


@pytest.mark.parametrize("method", ["MAW", "PPM"])
def test_a_dataloader_goes_with_either_name_of_ppm(method: str, token_ids: Tensor) -> None:
    model = quietly(tiny_model("llama"), "MLP_GLU", method, 20, dataloader=[token_ids])
    assert widths(model) == {32}


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_on_standard_error_only_when_asked(
    shown: bool, capsys: pytest.CaptureFixture[str], token_ids: Tensor
) -> None:
    model = tiny_model("llama")
    capsys.readouterr()
    prune_model(model, dataloader=[token_ids], show_progress=shown)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("cutting" in captured.err) is shown


@pytest.mark.parametrize("model", [None, "gpt2", torch.nn.Linear(2, 2), {}], ids=repr)
def test_what_is_no_transformers_model_is_refused(model: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="PreTrainedModel"):
        quietly(model)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((32,), "sixth argument .* expansion_divisor=32"),
        ((None, [torch.arange(4)[None]]), "show_progress is of type list.* dataloader="),
        ((None, None, True), "show_progress is of type NoneType"),
        ((None, False, 4), "return_stats is of type int"),
    ],
)
def test_an_argument_in_the_place_of_another_is_named(
    places: tuple[Any, ...], said: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, said):
        prune_model(model, "MLP_GLU", "MAW", 10, None, *places)


def test_statistics_say_how_many_of_the_layers_were_chosen() -> None:
    asked = {"pruning_percentage": 40, "return_stats": True}
    _, chosen = quietly(tiny_model("llama"), **asked, layer_indices=[0, 2])
    assert (chosen["pruned_layers"], chosen["total_layers"]) == (2, 4)
    _, every = quietly(tiny_model("llama"), **asked)
    assert "pruned_layers" not in every


def test_mlp_pruning_of_chosen_layers_by_scores_of_which_the_highest_go() -> None:
    model, scores = tiny_model("llama"), torch.arange(40.0)
    expected = model.model.layers[1].mlp.up_proj.weight[:30].clone()
    prune_model_mlp_glu(
        model,
        pruning_percentage=25,
        show_progress=False,
        layer_indices=[1],
        fairness_scores={1: scores},
    )
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, expected)
    assert [mlp.width for mlp in describe(model).mlps] == [40, 30, 40, 40]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({}, "fairness_scores is empty.*higher is removed"),
        ({0: "x"}, r"fairness_scores\[0\]"),
        ({0: [1.0]}, r"^fairness_scores\[0\] has shape \(1,\), but the neurons"),
        ({9: [1.0]}, "^fairness_scores has layer 9, but"),
        ({0: [1.0] * 40}, r"^fairness_scores lacks layers \[1, 2, 3\]"),
    ],
    ids=repr,
)
def test_fairness_scores_that_cannot_be_read_are_refused(
    scores: Any, said: str, refused: Callable[..., Any]
) -> None:
    model = tiny_model("llama")
    with refused(model, said, ArgumentError):
        prune_model_mlp_glu(model, show_progress=False, fairness_scores=scores)


def test_fairness_scores_beside_a_method_are_refused_by_their_name(
    refused: Callable[..., Any],
) -> None:
    model = tiny_model("llama")
    with refused(model, "^fairness_scores and neuron_selection_method='VOW'", ArgumentError):
        prune_model_mlp_glu(model, "VOW", show_progress=False, fairness_scores={0: [1.0] * 40})


def test_a_percentage_below_one_is_done_and_said_to_be_percent() -> None:
    model = tiny_model("llama", intermediate_size=1000)
    said = "pruning_percentage=0.2 removes 0.2 percent. For 0.2 of all give 20"
    with pytest.warns(PruningWarning, match=said):
        plan = plan_pruning(model, pruning_percentage=0.2)
    assert plan.width_cuts[0].kept == 998
    few = pytest.warns(PruningWarning, match="Fewer than 1 % of the neurons")
    with few, pytest.warns(PruningWarning, match=r"For 1\.4 times the hidden size give 140"):
        plan_pruning(model, expansion_rate=1.4)
