"""What each of two processes does for `test_several_processes.py`; a launcher runs it."""

from __future__ import annotations

import copy
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from optipfair import recover, recover_checkpoint
from optipfair.distributed import launched, rank, world_size
from optipfair.recovery import training_run
from optipfair.recovery.recovery_result import Recovery
from optipfair.recovery.shards import whole_values
from optipfair.recovery.student import learning
from optipfair.recovery.teachers import LiveTeacher
from optipfair.testing import tiny_model

FAMILIES = ("llama", "gemma2", "gpt2")  # gemma2 caps its logits, gpt2 ties them to embeddings
AT_ONCE = 4  # sequences of a step, over all processes
PROCESSES = int(os.environ.get("WORLD_SIZE", "1"))  # known before their group is started
BY_FSDP = {  # what `accelerate launch --use_fsdp --fsdp_version 2` sets
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def pair(family: str = "llama") -> tuple[Any, Any]:
    """An original and another model of its shape, which differs by much."""
    original, student = tiny_model(family), tiny_model(family, seed=1)
    with torch.no_grad():
        for model in (original, student):
            for parameter in model.parameters():
                parameter.mul_(2)
    return original, student


def sequences(count: int = 40) -> Tensor:
    return torch.randint(0, 256, (count, 24), generator=torch.Generator().manual_seed(3))


def recovered(*, alike: bool = False, **more: Any) -> tuple[dict[str, Tensor], Recovery]:
    """What a student became by a training, and what is said of that; it may be the original."""
    original, student = pair()
    student = copy.deepcopy(original) if alike else student
    data = [{"input_ids": ids} for ids in sequences().split(4)]
    options: dict[str, Any] = {"learning_rate": 1e-3, "device": "cpu", "checks": 4}
    options |= {"optimizer": "adamw", **more}  # Muon's own products are in bfloat16
    found = recover(student, original, data, batch_size=AT_ONCE // PROCESSES, **options)
    return whole_values(student), found


def written(models: Path, output: Path) -> None:
    """A pruned folder that is trained as the command line does."""
    recover_checkpoint(
        models / "pruned",
        output,
        models / "original",
        tokens=2048,
        length=32,
        learning_rate=1e-3,
        optimizer="adamw",
        batch_size=AT_ONCE // PROCESSES,
        device="cpu",
    )


def gradients(family: str, train: str = "all") -> dict[str, Tensor]:
    """Those of one step's loss; with several processes of a model whose tensors are cut."""
    original, student = pair(family)
    if train == "layers":
        student.get_input_embeddings().weight.requires_grad_(False)
    if world_size() > 1:
        layers = next(each for each in student.modules() if isinstance(each, torch.nn.ModuleList))
        for layer in layers:
            fully_shard(layer)
        fully_shard(student)
        assert all(isinstance(each, DTensor) for each in student.parameters())
    own = sequences(AT_ONCE)[rank() :: world_size()]
    with learning(student, LiveTeacher(original)):
        student(input_ids=own)["loss"].backward()
    found = {name: each.grad for name, each in student.named_parameters() if each.grad is not None}
    return {
        name: each.full_tensor() if isinstance(each, DTensor) else each
        for name, each in found.items()
    }


def _with_fsdp_on_cpu() -> None:
    """accelerate takes processes on CPUs for such that copy the model: say that they are others."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    os.environ.update(BY_FSDP)
    begin = PartialState.__init__

    def begun(self: Any, *args: Any, **more: Any) -> None:
        begin(self, *args, **more)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_NPU

    PartialState.__init__ = begun  # type: ignore[method-assign]


def in_float32() -> None:
    """So that sums of two halves are those of one whole, to the last digits."""
    training_run._in_bfloat16 = lambda _: False


def main(kind: str, folder: Path, models: Path) -> None:
    in_float32()
    if kind == "fsdp":
        _with_fsdp_on_cpu()
    with launched("cpu") if kind == "fsdp" else nullcontext():  # a script starts nothing itself
        found: dict[str, Any] = {"recovered": recovered(), "undone": recovered(alike=True)}
        recovered(work_dir=folder / "work")
        found["again"] = recovered(work_dir=folder / "work", resume=True)
        found["by muon"] = recovered(optimizer="muon")
        found["by answers"] = recovered(cache_teacher=folder / "answers")
        written(models, folder / "healed")
        if kind == "fsdp":
            found["gradients"] = {family: gradients(family) for family in FAMILIES}
            found["gradients of layers"] = gradients("llama", "layers")
        torch.save(found, folder / f"{rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
