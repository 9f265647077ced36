"""What a step of `recover` costs, beside the same forwards and backward without anything around.

    python benchmarks/recovery_cost.py [--steps 6] [--threads 2]

The embedded model is pruned to 80 % of its neurons (by weights alone, which is as costly to train).
"bare" is a forward of the original without gradients, and a forward and a backward of the pruned
model with a loss of whole logits, in bfloat16 as `recover` runs them; "step" is the mean of a step
inside `recover`, its optimizer included. The peak is of the process, beside what weights, gradients
and the optimizer's numbers take. With kept answers of the original it is measured in a process of
its own, without the original.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from optipfair import load_model, load_tokenizer, prune_checkpoint, recover_checkpoint
from optipfair.recovery import RecoverOptions
from optipfair.recovery.recovering import read_text
from optipfair.recovery.teachers import LiveTeacher
from optipfair.recovery.trainer import RecoveryTrainer
from optipfair.recovery.training_run import train

ROWS, LENGTH = 4, 512


def seconds_of(work: Callable[[], None], count: int) -> float:
    work()
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count


def bare(model: Any, original: Any, count: int) -> tuple[float, float]:
    """Seconds of the original's forward, and of the model's forward and backward.

    Embeddings get no gradient, as inside `recover`.
    """
    model.get_input_embeddings().requires_grad_(False)
    ids = torch.randint(0, 49_000, (ROWS, LENGTH))

    def answer() -> None:
        with torch.no_grad():
            original(input_ids=ids, use_cache=False)

    def learn() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
            logits.float().logsumexp(dim=-1).mean().backward()
        model.zero_grad()

    found = seconds_of(answer, count), seconds_of(learn, count)
    model.get_input_embeddings().requires_grad_(True)
    return found


def of_steps(optimizer: str, model: Any, original: Any, tokenizer: Any, count: int) -> float:
    """Seconds of a step inside `recover`, from the beginning of the second to the end."""
    times: list[float] = []
    step = RecoveryTrainer.training_step

    def timed(self: Any, *arguments: Any, **more: Any) -> Any:
        times.append(time.perf_counter())
        return step(self, *arguments, **more)

    RecoveryTrainer.training_step = timed  # type: ignore[method-assign]
    tokens = (count + 2) * ROWS * LENGTH
    asked = RecoverOptions(
        tokens=tokens,
        length=LENGTH,
        batch_size=ROWS,
        device="cpu",
        checks=1,
        optimizer=optimizer,
    )
    rows = read_text(asked, tokenizer, lambda: original)
    train(asked, model, LiveTeacher(original), rows)
    RecoveryTrainer.training_step = step  # type: ignore[method-assign]
    return (times[-1] - times[1]) / (len(times) - 2)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def with_answers(folder: Path, answers: Path) -> float:
    """The peak of a process that learns from answers that are there."""
    work = (
        "import sys; from optipfair import recover_checkpoint; "
        "recover_checkpoint(sys.argv[1], sys.argv[2], 'demo', tokens=16384, length=512, checks=1, "
        "device='cpu', cache_teacher=sys.argv[3]); "
        # Not ru_maxrss, which begins at what the parent holds.
        "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1e6)"
    )
    command = [sys.executable, "-c", work, str(folder), str(folder) + "-healed", str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pruned"
        prune_checkpoint("demo", folder, pruning_percentage=20)
        tokenizer: Any = load_tokenizer("demo")
        original: Any = load_model("demo", dtype="bfloat16")
        model: Any = load_model(folder, dtype="float32")
        answer, learn = bare(model, original, asked.steps)
        print(f"{torch.get_num_threads()} threads, {ROWS} x {LENGTH} tokens a step")
        print(f"bare: original's forward {answer:.2f} s, forward and backward {learn:.2f} s")
        for optimizer in ("adamw", "muon"):
            step = of_steps(optimizer, model, original, tokenizer, asked.steps)
            ratio = step / (answer + learn)
            print(f"step with {optimizer}: {step:.2f} s, {ratio:.2f} x bare", flush=True)
        trained = sum(each.numel() for each in model.parameters())
        print(f"peak {peak():.2f} GB; float32 weights {4 * trained / 1e9:.2f} GB")
        answers = Path(temporary) / "answers"
        options: dict[str, Any] = {"tokens": 16384, "length": 512, "checks": 1, "device": "cpu"}
        recover_checkpoint(
            folder, Path(temporary) / "first", "demo", cache_teacher=answers, **options
        )
        print(f"with kept answers: peak {with_answers(folder, answers):.2f} GB")
        print(json.dumps({"torch": torch.__version__}))


if __name__ == "__main__":
    main()
