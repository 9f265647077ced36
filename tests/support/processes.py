"""What each of two processes does for `test_distributed.py`; a launcher runs it."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optipfair import analyze_layer_importance, get_model_layers, prune_model
from optipfair.arch.view import describe
from optipfair.batches import Batch
from optipfair.cli import main as command_line
from optipfair.distributed import gathered
from optipfair.pruning.calibration.activations import own_batches
from optipfair.pruning.decision import decide
from optipfair.pruning.layers.influence import block_angles
from optipfair.pruning.layers.removal_loss import TextLoss
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.pruning.request.pruning_request import check_request
from optipfair.testing import tiny_model

# What is pruned, on how many batches; with one batch the second process has none.
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "auto": ("llama", 5, {"neuron_selection_method": "AUTO"}),
    "one batch": ("llama", 1, {"neuron_selection_method": "AUTO"}),
    "experts": ("mixtral", 3, {"neuron_selection_method": "AUTO"}),
    "flap": ("gpt2", 4, {"neuron_selection_method": "FLAP", "compensate": True}),
    "maw": ("llama", 5, {"neuron_selection_method": "MAW"}),
    "maw of experts": ("mixtral", 1, {"neuron_selection_method": "MAW"}),
    "by loss": ("llama", 5, {"neuron_selection_method": "AUTO", "layer_widths": "by_loss"}),
    "by loss, one batch": (
        "llama",
        1,
        {"neuron_selection_method": "AUTO", "layer_widths": "by_loss"},
    ),
    "replaced": ("llama", 5, {"layer_indices": [1, 3], "compensate": True}),
    "both": (
        "llama",
        5,
        {
            "pruning_type": "BOTH",
            "neuron_selection_method": "AUTO",
            "pruning_percentage": 40,
            "layer_indices": [1],
        },
    ),
    "whole experts": ("mixtral", 3, {"pruning_type": "EXPERTS", "experts_to_keep": 3}),
    "whole experts, one batch": ("mixtral", 1, {"pruning_type": "EXPERTS", "experts_to_keep": 2}),
    "replaced, one batch": ("gpt2", 1, {"layer_indices": [1, 2], "compensate": True}),
}
METHODS = ("block_influence", "angular", "perplexity", "block_perplexity", "auto")
CASES |= {
    method: ("llama", 5, {"layer_selection_method": method, "num_layers_to_remove": 2})
    for method in METHODS
}
BROKEN = ("by loss", "replaced", "both", *METHODS)
COSTS: dict[str, tuple[object, ...]] = {
    "streamed": ("--pruning-percentage", 40),
    "loaded": ("--pruning-type", "DEPTH", "--num-layers-to-remove", 2),
}
SAMPLE_TOKENS = 700  # less than there are, so that it matters which


def sequences() -> Tensor:
    return torch.randint(0, 256, (29, 90), generator=torch.Generator().manual_seed(4))


def batches(count: int) -> list[dict[str, Tensor]]:
    """Some sequences in a number of batches, no two of one size, some rows padded."""
    ends = [0, *(29 * (n + 1) ** 2 // count**2 for n in range(count))]
    mask = torch.arange(90) < (90 - torch.arange(29) % 7 * 9)[:, None]
    return [
        {"input_ids": sequences()[start:end], "attention_mask": mask[start:end].long()}
        for start, end in pairwise(ends)
    ]


def pruned(family: str, data: Any, options: dict[str, Any]) -> dict[str, Tensor]:
    model: Any = tiny_model(family)
    prune_model(model, dataloader=data, show_progress=False, **what(options))
    found: dict[str, Tensor] = model.state_dict()
    return found


def what(options: dict[str, Any]) -> dict[str, Any]:
    if "pruning_type" in options:
        return options
    depth = {"num_layers_to_remove", "layer_indices"} & set(options)
    return options | ({"pruning_type": "DEPTH"} if depth else {"pruning_percentage": 40})


def measured() -> dict[str, list[float]]:
    """The figures by which layers are chosen, of all processes together."""
    model: Any = tiny_model("llama")
    view, own = describe(model), own_batches(batches(5))
    text = TextLoss(view, own, most_tokens=SAMPLE_TOKENS)
    request = check_request(PruneOptions(pruning_percentage=40, **CASES["by loss"][2]), own)
    losses = dict(decide(view, request, batches(5))[0].request["layer_losses"])
    return {
        "block influence": list(analyze_layer_importance(model, batches(5)).values()),
        "angles": list(chain(*block_angles(view, own))),
        "sampled tokens": sorted(chain(*gathered(_tokens(text.sample)))),
        "losses without each": list(text.without_each([1]).values()),
        "layer losses": list(losses.values()),
    }


def _tokens(sample: list[Batch]) -> list[int]:
    """The real tokens, each with its place in the sequence."""
    found: list[int] = []
    for batch in sample:
        placed = batch.input_ids * 1000 + torch.arange(batch.input_ids.shape[1])
        found += placed[batch.attention_mask].tolist()
    return found


def broken(name: str, rank: int) -> list[str]:
    """How a run fails when a layer fails in process 1: halfway, and when it runs last."""
    family, count, options = CASES[name]
    whole: Any = tiny_model(family)
    calls = _breaking(whole, None)
    prune_model(whole, dataloader=batches(count), show_progress=False, **what(options))
    places = [len(calls) // 2, len(calls)]
    found: list[str] = []
    for place in places:
        model: Any = tiny_model(family)
        _breaking(model, place if rank == 1 else None)
        found.append(error_of(batches(count), model, **what(options)))
    return found


def _breaking(model: Any, place: int | None) -> list[None]:
    """Let a layer fail when it runs for the `place`-th time; gives a list of its runs."""
    calls: list[None] = []

    def hook(*_: object) -> None:  # copies of the layer share it
        calls.append(None)
        if len(calls) == place:
            raise OSError("the device is gone")

    get_model_layers(model)[2].register_forward_hook(hook)
    return calls


def error_of(data: Any, model: Any = None, **options: Any) -> str:
    """How a run fails, after which the model must be as it was."""
    model = model or tiny_model("llama")
    options = options or {"neuron_selection_method": "AUTO"}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        prune_model(model, dataloader=data, show_progress=False, **options)
    except (OSError, RuntimeError, ValueError) as exc:
        after = model.state_dict()
        assert list(before) == list(after)
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
        return f"{type(exc).__name__}: {exc}"
    return ""


def unreadable() -> Iterator[dict[str, Tensor]]:
    yield from batches(3)
    raise OSError("the disk is gone")


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and all output of `optipfair` in this process."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = command_line([str(argument) for argument in arguments])
    return code, output.getvalue()


def cost(model: Path, folder: Path, name: str) -> dict[str, float]:
    """What the command line measures at the end; nothing in a process that does not print."""
    text = folder / f"text-{name}.txt"
    text.write_text("".join(chr(32 + n * n % 89) for n in range(3000)), encoding="utf-8")
    code, output = command(
        *("prune", "--model-path", model, "--output-path", folder / f"{name} {os.getpid()}"),
        *("--calibration", text, "--calibration-samples", 20, "--calibration-length", 64),
        *("--preset", "quality", "--json", *COSTS[name]),
    )
    assert code == 0, output
    return dict(json.loads(output[output.index("{") :])["cost"]) if output else {}


def main(folder: Path, model: Path) -> None:
    from accelerate import Accelerator, DataLoaderConfiguration

    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False)
    )
    rank = accelerator.process_index
    found: dict[str, Any] = {
        name: pruned(family, batches(count), options)
        for name, (family, count, options) in CASES.items()
    }
    loader = accelerator.prepare(torch.utils.data.DataLoader(sequences(), batch_size=4))
    found["prepared"] = pruned("llama", loader, CASES["auto"][2])
    found["failed"] = error_of(unreadable() if rank == 1 else batches(3))
    found["different"] = error_of(batches(3 + rank))
    found["empty"] = error_of([])
    found["measured"] = measured()
    found["broken"] = {name: broken(name, rank) for name in BROKEN}
    found["cost"] = {name: cost(model, folder, name) for name in COSTS}
    prune = ("prune", "--model-path", model, "--output-path", folder / "out")
    prune += ("--calibration", "none")
    found["command"], found["refused"] = command(*prune), command(*prune)
    torch.save(found, folder / f"{rank}.pt")
    accelerator.state.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
