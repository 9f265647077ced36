"""What each of two processes does for `test_distributed.py`; a launcher runs it as a script."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optipfair import prune_model
from optipfair.cli import main as command_line
from optipfair.testing import tiny_model

# What is pruned, on how many batches; with one batch the second process has none.
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "auto": ("llama", 5, {"neuron_selection_method": "AUTO"}),
    "one batch": ("llama", 1, {"neuron_selection_method": "AUTO"}),
    "experts": ("mixtral", 3, {"neuron_selection_method": "AUTO"}),
    "flap": ("gpt2", 4, {"neuron_selection_method": "FLAP", "compensate": True}),
    "maw": ("llama", 5, {"neuron_selection_method": "MAW"}),
    "maw of experts": ("mixtral", 1, {"neuron_selection_method": "MAW"}),
    "layers": (
        "llama",
        5,
        {"layer_selection_method": "block_influence", "num_layers_to_remove": 2},
    ),
}


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
    depth = "num_layers_to_remove" in options
    given = {"pruning_type": "DEPTH"} if depth else {"pruning_percentage": 40}
    model = prune_model(model, dataloader=data, show_progress=False, **given, **options)
    found: dict[str, Tensor] = model.state_dict()
    return found


def error_of(data: Any) -> str:
    """The refusal of data, with which the model must stay as it was."""
    model: Any = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        prune_model(model, neuron_selection_method="AUTO", dataloader=data, show_progress=False)
    except (OSError, RuntimeError, ValueError) as exc:
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
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
    prune = ("prune", "--model-path", model, "--output-path", folder / "out")
    found["command"], found["refused"] = command(*prune), command(*prune)
    torch.save(found, folder / f"{rank}.pt")
    accelerator.state.destroy_process_group()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
