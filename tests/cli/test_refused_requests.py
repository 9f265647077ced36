"""Requests that the command line refuses: options that are wrong, missing or at odds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Refuses = Callable[..., None]

WIDTH = [
    (
        ["--method", "PPN"],
        r"Unknown .*'PPN'\. Did you mean 'PP?O?[NM]'.*Available: .*L2, MAW, .*PON",
    ),
    (["--method", ""], "Available: .*L2, MAW, .*PON, PPM, .*VOW"),
    (["--pruning-type", "DEPHT"], r"'DEPHT'.* mean 'DEPTH' .*Available: ATTENTION, BLOCKS, BOTH, "),
    (["--pruning-type", "mlp_glue"], "Did you mean 'MLP_GLU'"),
    (["--attention-unit", "head"], "attention_unit='head' does not go with.*'ATTENTION'"),
    (["--pruning-type", "ATTENTION", "--attention-unit", "heads"], "Did you mean 'head'"),
    (["--pruning-percentage", "-5"], r"pruning_percentage=-5.* outside \[0, 100\)"),
    (["--pruning-percentage", "100"], r"pruning_percentage=100.* outside \[0, 100\)"),
    (["--pruning-percentage", "120"], r"pruning_percentage=120.* outside \[0, 100\)"),
    (["--pruning-percentage", "nan"], "nan is no finite number"),
    (["--pruning-percentage", "inf"], "inf is no finite number"),
    (["--pruning-percentage", "text"], "--pruning-percentage.*'text' is not a valid float"),
    (["--pruning-percentage", "20%"], "'20%' is not a valid float"),
    (["--pruning-percentage", "20", "--expansion-rate", "140"], "are mutually exclusive"),
    (["--pruning-percentage", "10", "--expansion-rate", "140"], "are mutually exclusive"),
    (["--expansion-rate", "260"], "expansion_rate=260 is above the current 250"),
    (["--expansion-rate", "0"], "not above 0"),
    (["--expansion-rate", "-140"], "not above 0"),
    (["--expansion-rate", "nan"], "no finite number"),
    (["--expansion-rate", "wide"], "not a valid float"),
    (["--expansion-divisor", "7"], "expansion_divisor=7.*32, 64, 128, 256"),
    (["--expansion-divisor", "64"], "multiple of 64"),
    (["--num-layers-to-remove", "1"], "num_layers_to_remove=1 does not go with.*DEPTH"),
    (["--layer-selection-method", "first"], "layer_selection_method.*does not go with.*DEPTH"),
    (["--device", "tpu9000"], "'tpu9000' is not available.*cpu"),
    (["--device", "cuda:99"], "'cuda:99' is not available.*cpu"),
    (["--dtype", "bfloat"], "Unknown dtype 'bfloat'. Did you mean 'bfloat16'"),
    (["--percentage", "10"], "No such option.*--percentage"),
    (["stray"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "match"), WIDTH, ids=str)
def test_bad_width_requests_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    output = llama_copy.parent / "out"
    refuses(match, "prune", "--model-path", llama_copy, "--output-path", output, *arguments)


ONE_LAYER = ["--pruning-type", "DEPTH", "--num-layers-to-remove", "1"]
DEPTH = [
    ([], "No depth target"),
    (["--num-layers-to-remove", "0"], "num_layers_to_remove=0"),
    (["--num-layers-to-remove", "-1"], "num_layers_to_remove=-1"),
    (["--num-layers-to-remove", "4"], "1 to 3"),
    (["--num-layers-to-remove", "two"], "not a valid integer"),
    (["--num-layers-to-remove", "1.5"], "not a valid integer"),
    (["--layer-indices", "4"], r"\[4\].*4 layers.*from 0 to 3"),
    (["--layer-indices", "-1"], r"\[-1\].*distinct indices"),
    (["--layer-indices", "1,1"], r"\[1\] more than once"),
    (["--layer-indices", "0,1,2,3"], "at least one must stay"),
    (["--layer-indices", ""], "'' is no list of layer numbers.*2,5,8"),
    (["--layer-indices", "1,,2"], "no list of layer numbers"),
    (["--layer-indices", "1;2"], "no list of layer numbers"),
    (["--layer-indices", "1", "--num-layers-to-remove", "1"], "are mutually exclusive"),
    (["--layer-indices", "1", "--pruning-percentage", "30"], "are mutually exclusive"),
    (["--num-layers-to-remove", "1", "--pruning-percentage", "10"], "are mutually exclusive"),
    (["--layer-indices", "1", "--layer-selection-method", "first"], "first"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "custom"], "layer_indices"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "frist"], "mean 'first'"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "angular"], "calibration data"),
    (["--num-layers-to-remove", "1", "--layer-selection-method", "perplexity"], "calibration data"),
    (["--num-layers-to-remove", "1", "--compensate"], "compensate=True needs calibration data"),
    (["--pruning-percentage", "24"], "smallest that removes one is 25"),
    (["--pruning-percentage", "10"], "10 of 4 layers is no whole layer.*removes one is 25"),
    (["--pruning-percentage", "100"], r"outside \[0, 100\)"),
    (["--num-layers-to-remove", "1", "--expansion-rate", "140"], "does not go with.*MLP_GLU"),
    (["--num-layers-to-remove", "1", "--expansion-divisor", "32"], "does not go with.*MLP_GLU"),
    (["--num-layers-to-remove", "1", "--method", "VOW"], "does not go with.*MLP_GLU"),
]


@pytest.mark.parametrize(("arguments", "match"), DEPTH, ids=str)
def test_bad_depth_requests_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    command = ["prune", "--pruning-type", "DEPTH", "--output-path", llama_copy.parent / "out"]
    refuses(match, *command, "--model-path", llama_copy, *arguments)


CALIBRATED = [
    (
        [*ONE_LAYER, "--layer-selection-method", "last", "--no-compensate"],
        r"does not go with layer_selection_method='last', which needs no data. Choose .*'angu",
    ),
    ([*ONE_LAYER, "--layer-selection-method", "anglar"], "Did you mean 'angular'"),
    ([*ONE_LAYER, "--method", "AUTO"], "neuron_selection_method='AUTO' does not go with.*'DEPTH'"),
    (["--calibration-samples", "0"], "calibration_samples=0 .* 1 or more"),
    (["--calibration-samples", "9" * 20], "has more than 64 bits"),
    (["--calibration-samples", "9" * 15], "is more than the .* places .* Give fewer, or a longer"),
    (["--calibration-length", "1"], "calibration_length=1 is no whole number of 2 or more"),
    (["--calibration-length", "9" * 20], "has more than 64 bits; .* of 2 or more"),
    (["--calibration-length", "9" * 15], "Give a longer text, or a smaller calibration_length"),
    (["--seed", "9" * 20], r"is no whole number from 0 to 2\*\*64 - 1"),
    (
        ["--method", "MAW", "--layer-widths", "by_loss"],
        "by_loss'.*Use 'AUTO' or give compensate=True.$",
    ),
]


@pytest.mark.parametrize(("arguments", "match"), CALIBRATED, ids=str)
def test_bad_calibrated_requests_are_refused(
    refuses: Refuses, llama_copy: Path, arguments: list[str], match: str
) -> None:
    text = llama_copy.parent / "x.txt"
    text.write_text("Some words, and some more of them. " * 40)
    command = ["prune", "--output-path", llama_copy.parent / "out", "--calibration-length", "32"]
    refuses(match, *command, "--model-path", llama_copy, "--calibration", text, *arguments)


def test_widths_by_loss_ask_for_data(refuses: Refuses, llama_copy: Path) -> None:
    command = ["prune", "--model-path", llama_copy, "--output-path", llama_copy.parent / "out"]
    refuses("Use 'AUTO' or .*: --calibration", *command, "--layer-widths", "by_loss")


def test_required_options_are_asked_for(refuses: Refuses, llama_copy: Path) -> None:
    refuses("Missing option '--model-path'", "prune", "--output-path", "x")
    refuses("output_path is missing. Give the folder", "prune", "--model-path", llama_copy)
    refuses("Missing option '--model-path'", "analyze")
    refuses("No such command 'prunes'", "prunes")
