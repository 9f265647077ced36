"""Every function of the specification is here, with the specification's signature."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import optipfair

PRUNING = (
    "calculate_pruning_percentage_from_expansion_rate",
    "compute_neuron_pair_importance_l2",
    "compute_neuron_pair_importance_maw",
    "compute_neuron_pair_importance_pon",
    "compute_neuron_pair_importance_vow",
    "count_parameters",
    "get_model_layers",
    "get_pruning_statistics",
    "prune_model",
    "prune_model_depth",
    "prune_model_mlp_glu",
    "prune_neuron_pairs",
    "remove_layers_from_model",
    "select_layers_to_remove",
    "validate_layer_removal_params",
    "validate_model_for_glu_pruning",
)


EVALUATION = ("compare_models_inference", "time_inference")
BIAS = (
    "calculate_bias_metrics",
    "visualize_bias",
    "visualize_heatmap",
    "visualize_mean_differences",
    "visualize_pca",
)
AVAILABLE = (*PRUNING, *EVALUATION, *BIAS)


@pytest.fixture(scope="module")
def specified(shared_folder: Path) -> dict[str, ast.FunctionDef]:
    """The functions in the specification's Python blocks."""
    text = (shared_folder / "spec" / "api-reference.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    nodes = [node for block in blocks for node in ast.parse(block).body]
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def parameters_of(function: ast.FunctionDef) -> list[tuple[str, object]]:
    """Names and defaults; the specification has plain parameters and `**params` only."""
    arguments = function.args
    required = len(arguments.args) - len(arguments.defaults)
    defaults = [inspect.Parameter.empty] * required + [
        value_of(node) for node in arguments.defaults
    ]
    return [
        (argument.arg, default) for argument, default in zip(arguments.args, defaults, strict=True)
    ]


def value_of(node: ast.expr) -> object:
    return getattr(optipfair, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


def test_this_test_knows_every_function_of_the_specification(
    specified: dict[str, ast.FunctionDef],
) -> None:
    assert set(specified) == set(AVAILABLE)


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_signature_is_the_specified_one(
    name: str, specified: dict[str, ast.FunctionDef]
) -> None:
    ours = list(inspect.signature(getattr(optipfair, name)).parameters.values())
    theirs = parameters_of(specified[name])
    assert [(parameter.name, parameter.default) for parameter in ours[: len(theirs)]] == theirs
    assert {p.kind for p in ours[: len(theirs)]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    more = {p.kind for p in ours[len(theirs) :]}
    open_ended = specified[name].args.kwarg is not None
    assert more <= {inspect.Parameter.VAR_KEYWORD if open_ended else inspect.Parameter.KEYWORD_ONLY}
    assert bool(more) or not open_ended


@pytest.mark.parametrize("name", BIAS)
def test_bias_functions_import_from_both_packages(name: str) -> None:
    bias = importlib.import_module("optipfair.bias")
    assert getattr(bias, name) is getattr(optipfair, name)


@pytest.mark.parametrize("name", EVALUATION)
def test_evaluation_functions_import_from_both_packages(name: str) -> None:
    evaluation = importlib.import_module("optipfair.evaluation")
    assert getattr(evaluation, name) is getattr(optipfair, name)


@pytest.mark.parametrize("name", PRUNING)
def test_pruning_functions_import_from_both_packages(name: str) -> None:
    pruning = importlib.import_module("optipfair.pruning")
    assert getattr(pruning, name) is getattr(optipfair, name)


@pytest.mark.parametrize("package", ["optipfair", "optipfair.pruning"])
def test_all_public_names_are_sorted_and_importable(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_public_functions_and_classes_have_docstrings() -> None:
    public = {name: getattr(optipfair, name) for name in optipfair.__all__}
    assert not [name for name, thing in public.items() if callable(thing) and not thing.__doc__]


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, optipfair, optipfair.pruning; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
