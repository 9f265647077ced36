"""Code in the shapes in which users of the published package write it runs here."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.utils.data import DataLoader, TensorDataset

import optipfair
from optipfair.testing import byte_tokenizer, tiny_model

PATHS = {
    "pruning.utils": "validate_model_for_glu_pruning get_model_layers count_parameters "
    "get_pruning_statistics",
    "pruning.mlp_glu": "prune_model_mlp_glu prune_neuron_pairs round_to_divisor "
    "calculate_pruning_percentage_from_expansion_rate setup_mlp_hooks_for_importance "
    "get_activation_norms run_calibration_forward_passes compute_neuron_pair_importance_maw "
    "compute_neuron_pair_importance_vow compute_neuron_pair_importance_pon "
    "compute_neuron_pair_importance_l2",
    "pruning.depth": "prune_model_depth validate_layer_removal_params select_layers_to_remove "
    "remove_layers_from_model analyze_layer_importance",
    "bias": "visualize_bias analyze_neuron_bias compute_fairness_pruning_scores",
    "bias.activations": "get_prompt_activations get_activation_pairs process_prompt register_hooks "
    "remove_hooks get_layer_names select_layers",
    "bias.defaults": "DEFAULT_PROMPT_PAIRS PROMPT_TEMPLATES ATTRIBUTES generate_prompt_pairs",
    "bias.utils": "clean_token_text ensure_directory extract_layer_info flatten_dict "
    "format_metric_value get_token_differences",
    "bias.metrics": "calculate_bias_metrics calculate_activation_differences",
    "bias.visualization": "visualize_bias visualize_mean_differences visualize_heatmap "
    "visualize_pca visualize_prompt_heatmap",
    "evaluation.benchmarks": "time_inference compare_models_inference",
    "cli.commands": "cli prune analyze main",
    "distillation": "distill_model MAPPING_UNIFORM MAPPING_LAST",
}

BLOCKS = {
    "width with statistics": """
pruned_model, stats = optipfair.prune_model(
    model=model,
    pruning_type="MLP_GLU",
    neuron_selection_method="MAW",
    pruning_percentage=20,
    show_progress=True,
    return_stats=True,
)
assert f"{stats['original_parameters']:,} {stats['pruned_parameters']:,} {stats['reduction']:,}"
assert 0 < stats["percentage_reduction"] < 100 and stats["expansion_rate"] == 200
""",
    "width by rate, in multiples": """
pruned = optipfair.prune_model(
    wide, pruning_percentage=None, expansion_rate=200, expansion_divisor=32, show_progress=False
)
assert pruned.config.intermediate_size == 32
""",
    "width with data": """
pruned = optipfair.prune_model(
    model, neuron_selection_method="MAW", pruning_percentage=20, dataloader=dataloader
)
""",
    "width of some layers": """
pruned, stats = optipfair.prune_model(
    model, pruning_percentage=30, layer_indices=[0, 2], return_stats=True
)
assert f"{stats['pruned_layers']}/{stats['total_layers']}" == "2/4"
assert pruned.config.intermediate_size in (28, 40)
pruned.generate(torch.arange(3)[None], max_new_tokens=2)
""",
    "depth": """
from optipfair.pruning.depth import prune_model_depth, validate_layer_removal_params

checked = validate_layer_removal_params(model, num_layers_to_remove=1)
assert checked["layers"] == [3]
pruned = prune_model_depth(model, layer_indices=checked["layers"])
assert len(optipfair.get_model_layers(pruned)) == 3
""",
    "layers by importance": """
scores = optipfair.analyze_layer_importance(
    model, dataloader, layers_path="model.layers", show_progress=True
)
least = sorted(scores.items(), key=lambda each: each[1])[:1]
optipfair.prune_model(model, pruning_type="DEPTH", layer_indices=[layer for layer, _ in least])
""",
    "loop over pairs": """
_, metrics = optipfair.visualize_bias(
    model,
    tokenizer,
    prompt_pairs=pairs,
    visualization_types=["mean_diff", "heatmap", "pca"],
    output_dir="figures",
    show_progress=False,
)
for name, pair in metrics.items():
    overall = pair["metrics"]["overall_metrics"]
    assert overall["mean_difference"] > 0 and overall["total_layers"] == overall["num_layers"]
    for component, values in pair["metrics"]["component_metrics"].items():
        assert f"{component}: {values['mean_difference']:.6f} {values['max_difference']:.6f}"
    for component, values in pair["metrics"]["progression_metrics"].items():
        assert values["layer_with_max_diff"] in range(4)
        assert len(values["mean_diffs_by_layer"]) == 4
        assert values["is_increasing"] in (True, False) and values["first_to_last_ratio"] > 0
with open("metrics.json", "w") as file:
    json.dump(metrics, file, indent=2)
""",
    "single figures": """
pair = pairs[0]
optipfair.visualize_mean_differences(model, tokenizer, pair, "attention", output_dir="f")
optipfair.visualize_heatmap(model, tokenizer, pair, "down_proj_input_layer_1", output_dir="f")
optipfair.visualize_pca(model, tokenizer, pair, "mlp_output_layer_1", output_dir="f")
optipfair.visualize_prompt_heatmap(
    model, tokenizer, pair[0], "gate_proj_layer_1", bin_size=8, output_dir="f", show=False
)
assert len(list(Path("f").iterdir())) == 4
""",
    "templates": """
from optipfair.bias.defaults import ATTRIBUTES, PROMPT_TEMPLATES, generate_prompt_pairs

race = ATTRIBUTES["race"]
made = generate_prompt_pairs(
    template=PROMPT_TEMPLATES["neighborhood"],
    attribute_category="race",
    attribute_pairs=[(race[0], race[1]), (race[0], race[2])],
)
for prompt1, prompt2 in made:
    assert race[0] in prompt1 and race[0] not in prompt2
""",
    "raw activations": """
from optipfair.bias.activations import get_activation_pairs, get_layer_names, select_layers
from optipfair.bias.metrics import calculate_activation_differences, calculate_bias_metrics

act1, act2 = get_activation_pairs(model, tokenizer, *pairs[0])
differences = calculate_activation_differences(act1, act2)
for name in select_layers(get_layer_names(act1, "mlp_output"), "first_middle_last"):
    assert differences[name].mean() > 0
assert calculate_bias_metrics(act1, act2)["layer_metrics"]["mlp_output_layer_0"]["l2_norm"] > 0
""",
    "hooks": """
from optipfair.bias.activations import process_prompt, register_hooks, remove_hooks

handles = register_hooks(model)
try:
    activations = process_prompt(model, tokenizer, "The tall man")
finally:
    remove_hooks(handles)
assert activations.keys() == handles.activations.keys()
""",
    "fairness pruning": """
from optipfair.bias import analyze_neuron_bias, compute_fairness_pruning_scores
from optipfair.pruning.mlp_glu import prune_model_mlp_glu

bias_scores = analyze_neuron_bias(
    model, tokenizer, pairs, target_layers=["gate_proj", "up_proj"], aggregation="mean"
)
assert bias_scores["gate_proj_layer_2"].shape == (40,)
fairness_scores = compute_fairness_pruning_scores(model, bias_scores, bias_weight=0.45)
pruned = prune_model_mlp_glu(
    model, pruning_percentage=10, fairness_scores=fairness_scores, layer_indices=[1, 2]
)
""",
    "neurons set to zero": """
worst = {2: [3, 17]}
optipfair.zero_neurons_mlp(model, neuron_indices=worst, show_progress=True)
assert not model.model.layers[2].mlp.gate_proj.weight[[3, 17]].any()
""",
    "one MLP at a time": """
from optipfair.bias.activations import remove_hooks
from optipfair.pruning.mlp_glu import (
    get_activation_norms,
    prune_neuron_pairs,
    run_calibration_forward_passes,
    setup_mlp_hooks_for_importance,
)

handles = setup_mlp_hooks_for_importance(model, "cpu")
run_calibration_forward_passes(model, dataloader, "cpu", show_progress=False)
remove_hooks(handles)
norms = get_activation_norms(handles)
for number, layer in enumerate(optipfair.get_model_layers(model)):
    gate, up, down, size = prune_neuron_pairs(
        layer.mlp, 25, activation_norms=norms, layer_idx=number
    )
    assert size == 30 == gate.out_features == down.in_features
""",
    "speed": """
from optipfair.evaluation.benchmarks import compare_models_inference, time_inference

timing = time_inference(model, tokenizer, "Paris is", max_new_tokens=2, num_runs=1, warmup_runs=0)
assert timing["avg_time"] > 0 and timing["tokens_per_second"] > 0
both = compare_models_inference(model, model, tokenizer, ["Paris is"], max_new_tokens=2)
assert both["speedup"] > 0 and "tps_improvement_percent" in both
""",
    "distillation": """
from copy import deepcopy

from optipfair.distillation import MAPPING_LAST, distill_model

teacher = deepcopy(model)
student = optipfair.prune_model(
    model, pruning_type="DEPTH", num_layers_to_remove=1, show_progress=False
)
student, stats = distill_model(
    student_model=student,
    teacher_model=teacher,
    dataloader=dataloader,
    layer_mapping_strategy=MAPPING_LAST,
    alpha=0.4,
    beta=0.3,
    gamma=0.2,
    delta=0.1,
    epochs=2,
    accumulation_steps=1,
    return_stats=True,
)
for name in ("total", "task", "logits", "trajectory", "derivative"):
    assert len(stats["loss_history"][name]) == 2
assert stats["effective_batch_size"] == 2 and stats["weights"]["gamma"] == 0.2
student = distill_model(student, teacher, dataloader, show_progress=False)
assert len(optipfair.get_model_layers(student)) == 3
""",
    "helpers": """
from optipfair.bias.utils import (
    clean_token_text,
    ensure_directory,
    extract_layer_info,
    flatten_dict,
    format_metric_value,
    get_token_differences,
)

assert clean_token_text("Ġman") == clean_token_text("▁man") == "man"
ensure_directory("new/folder")
component, layer = extract_layer_info("mlp_output_layer_3")
assert (component, layer) == ("mlp_output", 3)
assert flatten_dict({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}
assert format_metric_value(0.123456) == "0.1235" and format_metric_value(None) == "None"
assert get_token_differences(["a", "b", "c"], ["a", "x"]) == [1, 2]
""",
    "unknown models": """
assert optipfair.get_model_layers(torch.nn.Linear(2, 2)) == []
assert not optipfair.validate_model_for_glu_pruning(torch.nn.Linear(2, 2))
""",
}

REFUSED = [
    ({"pruning_percentage": 20, "expansion_rate": 140}, "mutually exclusive"),
    ({"pruning_percentage": None}, "Must specify"),
    ({"expansion_divisor": 48}, "expansion_divisor must be one of"),
    ({"pruning_percentage": None, "expansion_divisor": 64}, "cannot be used alone"),
    ({"layer_indices": [9]}, "Invalid layer indices"),
    ({"layer_indices": []}, "cannot be an empty list"),
    ({"layer_indices": [1, 1]}, "duplicate"),
    ({"pruning_type": "DEPTH"}, "Must specify"),
    (
        {"pruning_type": "DEPTH", "num_layers_to_remove": 1, "layer_indices": [1]},
        "mutually exclusive",
    ),
]


def loader() -> Any:
    ids = torch.arange(48).reshape(4, 12)
    return DataLoader(TensorDataset(ids, torch.ones_like(ids)), batch_size=2)


@pytest.mark.parametrize("path", PATHS)
def test_module_paths_lead_to_the_names(path: str) -> None:
    module = importlib.import_module(f"optipfair.{path}")
    assert [name for name in PATHS[path].split() if not hasattr(module, name)] == []
    public = [name for name in PATHS[path].split() if name in optipfair.__all__]
    assert [n for n in public if getattr(module, n) is not getattr(optipfair, n)] == []


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "optipfair": optipfair,
        "torch": torch,
        "json": json,
        "Path": Path,
        "model": tiny_model("llama"),
        "wide": tiny_model("llama", intermediate_size=64),
        "tokenizer": byte_tokenizer(),
        "dataloader": loader(),
        "pairs": [("The white man said", "The Black man said"), ("A tall boy", "A small boy")],
    }
    exec(compile(BLOCKS[block], block, "exec"), names)


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=str)
def test_errors_say_the_words_that_tests_match(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        optipfair.prune_model(tiny_model("llama"), **given)


def test_arguments_in_their_places_there_are_refused_here_with_their_names() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="expansion_divisor=32"):
        optipfair.prune_model(model, "MLP_GLU", "MAW", 20, None, 32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dataloader="):
        optipfair.prune_model(model, "MLP_GLU", "MAW", 20, None, None, loader())


def test_commands_run_by_click() -> None:
    from optipfair.cli.commands import cli

    shown = CliRunner().invoke(cli, ["prune", "--help"])
    assert shown.exit_code == 0 and "--expansion-divisor" in shown.output
