"""A training that is killed at random moments and goes on: does it end as one that nothing killed?

    python benchmarks/recover_kills.py [--kills 20] [--seed 0]

Each trial is a fork that has everything imported and runs `optipfair recover` on a toy. In the
first part a run is killed once, at a moment drawn from the CPU seconds that a whole one takes, and
goes on to its end with `--resume`. In the second part one run is killed, and what goes on
from it is too, until it ends. After every kill the output must be absent or whole. At the end the
folder must hold the same bytes as that of a run that nothing killed (but for its seconds and the
command), no working folder may be left, and what lies beside must be as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from optipfair import prune_checkpoint
from optipfair.cli import main as command_line
from optipfair.pipeline.healing.unfinished import folder_beside
from optipfair.testing import byte_tokenizer, tiny_model

ASKED = ("--tokens", "20k", "--length", "64", "--learning-rate", "1e-3", "--device", "cpu")


def prepare(root: Path) -> None:
    tiny_model("llama", hidden_size=64, intermediate_size=256).save_pretrained(root / "original")
    byte_tokenizer().save_pretrained(root / "original")
    prune_checkpoint(root / "original", root / "pruned", pruning_percentage=50)
    (root / "work").mkdir()
    (root / "work" / "thesis").write_text("mine")


def run(root: Path, output: Path, *more: str, seconds: float | None = None) -> int | None:
    """Run the command in a fork; its exit code, or None where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            said = (root / "said.txt").open("w")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                places = ("--model-path", str(root / "pruned"), "--output-path", str(output))
                code = command_line(["recover", *places, *ASKED, *more])
        finally:
            said.close()
            os._exit(code)
    if seconds is not None:
        clock = ~child << 3 | 2  # the kernel's number for the CPU clock of a process
        over = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while time.clock_gettime(clock) < seconds and os.waitid(os.P_PID, child, over) is None:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code


def state(folder: Path) -> dict[str, Any]:
    """What a folder holds, without times and the command."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    record = json.loads(found["recovery.json"])
    del record["found"]["seconds"]
    return {**found, "recovery.json": record, "README.md": None, ".optipfair.json": None}


def go_on(root: Path, output: Path, seconds: float | None = None) -> int | None:
    """What a user does after a kill: go on if something was begun, else begin."""
    more = ("--resume",) if folder_beside(output).exists() else ()
    return run(root, output, *more, seconds=seconds)


def is_whole_or_absent(output: Path, expected: dict[str, Any]) -> bool:
    return not output.exists() or state(output) == expected


def note_kill(counts: Counter[str], output: Path, expected: dict[str, Any]) -> None:
    counts["half-written"] += not is_whole_or_absent(output, expected)
    counts["begun"] += folder_beside(output).exists()


def end(root: Path, output: Path, expected: dict[str, Any], counts: Counter[str]) -> None:
    """Go on to the end if it is not there, and count what it is."""
    if not output.exists():
        assert go_on(root, output) == 0, (root / "said.txt").read_text()
    counts["the same"] += state(output) == expected
    counts["left"] += {each.name for each in output.parent.iterdir()} != {"out", "thesis"}


def one_kill_each(
    root: Path, kills: int, seconds: float, expected: dict[str, Any], choice: random.Random
) -> Counter[str]:
    counts = Counter[str]()
    while counts["kills"] < kills:
        output = root / "work" / "out"
        if run(root, output, seconds=choice.uniform(0, 1.02) * seconds) is None:
            counts["kills"] += 1
            note_kill(counts, output, expected)
        end(root, output, expected, counts)
        shutil.rmtree(output)
    return counts


def all_kills_in_one(
    root: Path, kills: int, seconds: float, expected: dict[str, Any], choice: random.Random
) -> Counter[str]:
    counts, output = Counter[str](), root / "work" / "out"
    while counts["kills"] < kills and not output.exists():
        counts["kills"] += go_on(root, output, choice.uniform(0, 0.5) * seconds) is None
        note_kill(counts, output, expected)
    end(root, output, expected, counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}  torch {torch.__version__}; seed {asked.seed}")
    columns = ("kills", "begun", "half-written", "the same", "left")
    print(f"{'':24}" + "".join(f"{each:>14}" for each in columns))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        preparing = multiprocessing.get_context("spawn").Process(target=prepare, args=(root,))
        preparing.start()  # threads of torch in this process would be broken in its forks
        preparing.join()
        assert preparing.exitcode == 0 and run(root, root / "first") == 0
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert run(root, root / "second") == 0
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        expected = state(root / "second")
        first = state(root / "first")
        differ = [name for name in expected if expected[name] != first.get(name)]
        assert not differ, f"two undisturbed runs differ in {differ}"
        for name, trial in (("one kill each", one_kill_each), ("all in one run", all_kills_in_one)):
            counts = trial(root, asked.kills, seconds, expected, random.Random(asked.seed))
            print(f"{name:24}" + "".join(f"{counts[each]:14}" for each in columns), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
