"""What is left where commands are killed at random moments, with an older result in their place.

    python benchmarks/kills.py [--kills 200] [--only NAME ...] [--seed 0]

Each trial is a fork of a process that has everything imported. It runs the command line, which is
to replace the result of another run, and is killed: in half of the trials at any moment of the
run, by the CPU that it takes, in the other half in the last 30 % of it, where files are written.
Then there must be the old result or the new one, whole: byte for byte what an undisturbed run
writes (a comparison holds times, so its page and its table must follow from its numbers). While
one takes the place of the other, the old one may lie `aside` in the working folder, or a part of
the new one that is `begun`; the next run puts it back or finishes it. What the user has beside the
output must not be `gone`. A run to the end after every ten kills must do what an undisturbed one
does and leave no working folder: `left` says after how many kills there were some, `cleaned` how
many such runs left none.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from optipfair import PruningPlan, prune_checkpoint
from optipfair.cli import main as command_line
from optipfair.pipeline.model_card import versions
from optipfair.report.report_files import NUMBERS, PAGE, TABLE, comparison_page
from optipfair.report.tables import comparison_csv
from optipfair.testing import byte_tokenizer, tiny_model
from support.gguf_files import gguf_toy
from support.small_data import written

WORKING = ".optipfair-*"
TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why. " * 20
PAIRS = "prompt1,prompt2\nThe man went home.,The woman went home.\n"
CALIBRATED = ("--calibration", "{text}", "--calibration-length", "32", "--calibration-samples", "8")
PRUNE = ("prune", "--model-path", "{model}", "--output-path", "{out}", "--overwrite", "--quiet")
WEIGHTS_ONLY = (*PRUNE, "--calibration", "none")
COMPENSATED = ("--method", "AUTO", "--compensate", "--pruning-percentage")


@dataclass(frozen=True)
class Case:
    """A command whose results of two variants take each other's place."""

    name: str
    command: tuple[str, ...]
    variants: tuple[tuple[str, ...], tuple[str, ...]]
    stamp: Callable[[Path], str] | None = None  # says which result is there; by its bytes if None


def of_bytes(place: Path) -> str:
    """Of all names and bytes of a result."""
    found = hashlib.sha256()
    for path in sorted(place.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(place)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def of_report(place: Path) -> str:
    numbers = json.loads((place / NUMBERS).read_text(encoding="utf-8"))
    page = (place / PAGE).read_text(encoding="utf-8") == comparison_page(numbers)
    table = (place / TABLE).read_bytes().decode() == comparison_csv(numbers)
    assert page and table, "page, table and numbers are not of one run"
    return f"seed {numbers['protocol']['seed']}"


def of_plan(place: Path) -> str:
    """Of the plan; its tensors are checked against it as they are found."""
    plan = PruningPlan.load(place / "plan.json")
    assert not plan.lacks_replacements, "the plan's tensors are missing"
    return plan.digest


def of_scores(place: Path) -> str:
    """Of what an evaluation says, but for its times; what it keeps are scores, for the next run."""
    found = json.loads((place / "said.json").read_text(encoding="utf-8"))
    return json.dumps([found["measures"], found["left_out"]])


SHARES = (("--pruning-percentage", "25"), ("--pruning-percentage", "50"))
SEEDS = (("--seed", "1"), ("--seed", "2"))
DEPTH = (*PRUNE, "--pruning-type", "DEPTH", *CALIBRATED, "--layer-selection-method")
# fmt: off
CASES = (
    Case("prune width, static", WEIGHTS_ONLY, SHARES),
    Case("prune width, calibrated", (*PRUNE, *CALIBRATED, "--method", "AUTO"), SHARES),
    Case(
        "prune depth, by data",
        (*DEPTH, "angular"),
        (("--num-layers-to-remove", "1"), ("--num-layers-to-remove", "2")),
    ),
    Case(
        "prune BOTH",
        (*WEIGHTS_ONLY, "--pruning-type", "BOTH", "--num-layers-to-remove", "1"),
        SHARES,
    ),
    Case("prune ATTENTION", (*WEIGHTS_ONLY, "--pruning-type", "ATTENTION"), SHARES),
    Case(
        "prune from .gguf",
        tuple("{gguf}" if each == "{model}" else each for each in WEIGHTS_ONLY),
        SHARES,
    ),
    Case("prune_checkpoint, model loaded", ("api",), (("1",), ("2",))),
    Case(
        "compare",
        ("compare", "--original", "{model}", "--pruned", "{pruned}", "--output-dir", "{out}",
         "--data", "{data}", "--tasks", "crows_pairs", "--text", "{text}", "--context", "64",
         "--no-layers", "--num-runs", "1", "--max-new-tokens", "4", "--quiet"),
        SEEDS,
        of_report,
    ),
    Case(
        "evaluate, with its cache",
        ("evaluate", "--model-path", "{model}", "--data", "{data}", "--text", "{text}",
         "--tasks", "crows_pairs,piqa", "--context", "64", "--cache-dir", "{out}/cache",
         "--json"),
        SEEDS,
        of_scores,
    ),
    Case(
        "bias",
        ("bias", "--model-path", "{model}", "--output-dir", "{out}", "--quiet",
         "--pairs", "{pairs}", "--visualization-types", "heatmap,mean_diff",
         "--components", "mlp_output", "--layers", "0,1", "--controls", "2"),
        SEEDS,
    ),
    Case(
        "prune --save-plan",
        ("prune", "--model-path", "{model}", "--save-plan", "{out}/plan.json", "--quiet",
         *CALIBRATED, *COMPENSATED),
        (("25",), ("50",)),
        of_plan,
    ),
)
# fmt: on


def _used_by_children() -> float:
    about = resource.getrusage(resource.RUSAGE_CHILDREN)
    return about.ru_utime + about.ru_stime


def _wait_until(child: int, seconds: float) -> None:
    """Wait until a child has used so many seconds of CPU, or is over: a busy machine is slower."""
    clock = ~child << 3 | 2  # the kernel's number for the CPU clock of a process
    over = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while time.clock_gettime(clock) < seconds and os.waitid(os.P_PID, child, over) is None:
        time.sleep(0.0005)


class Yard:
    """A folder with a model, an output, and what a user has beside it."""

    def __init__(self, root: Path, case: Case) -> None:
        self.case = case
        self.root, self.out = root, root / "work" / "out"
        self.out.parent.mkdir()
        self.held = self.out if "{out}/" in " ".join(case.command) else self.out.parent
        for name in (".optipfair-mine", ".out.old", "out.txt"):
            (self.out.parent / name).mkdir()
            (self.out.parent / name / "thesis").write_text("mine")
        if self.held == self.out or case.stamp is of_report or case.name == "bias":
            self.out.mkdir()
            (self.out / "thesis").write_text("mine")
            self.held = self.out

    def arguments(self, variant: int) -> list[str]:
        places = {name: str(self.root / name) for name in ("model", "pruned", "data")}
        places |= {"text": str(self.root / "x.txt"), "gguf": str(self.root / "model.gguf")}
        places["pairs"] = str(self.root / "pairs.csv")
        given = (*self.case.command, *self.case.variants[variant])
        return [each.format(out=self.out, **places) for each in given]

    def run(self, variant: int, seconds: float | None = None) -> bool:
        """Run the command in a fork; say whether it was killed after so many seconds."""
        child = os.fork()
        if child == 0:
            self._be_child(variant)
        if seconds is not None:
            _wait_until(child, seconds)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0 or (code == -signal.SIGKILL and seconds is not None), code
        return code != 0

    def _be_child(self, variant: int) -> None:
        code = 1
        try:
            code = self._work(variant)
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)  # it must not come to the parent's code

    def _work(self, variant: int) -> int:
        arguments = self.arguments(variant)
        if arguments[0] == "api":
            return self._prune_loaded(int(arguments[1]))
        sys.argv = ["optipfair", *arguments]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = command_line(arguments)
        if said.getvalue():  # as a shell would write it
            (self.out / "said.json.new").write_text(said.getvalue())
            (self.out / "said.json.new").replace(self.out / "said.json")
        return code

    def _prune_loaded(self, layers: int) -> int:
        """Rank layers by perplexity, which loads the model, and write it."""
        data = [{"input_ids": torch.arange(64).reshape(2, 32) % 250}]
        prune_checkpoint(
            *(self.root / "model", self.out, "DEPTH"),
            num_layers_to_remove=layers,
            layer_selection_method="perplexity",
            dataloader=data,
            verify="full",
            overwrite=True,
            command="api",
        )
        return 0

    def state(self, place: Path | None = None) -> str:
        place = place or self.out
        if self.case.stamp is not None:
            return self.case.stamp(place)
        with tempfile.TemporaryDirectory() as held:  # without what lies in it meanwhile
            copy = Path(held) / "copy"
            shutil.copytree(place, copy, ignore=shutil.ignore_patterns(WORKING, "thesis"))
            return of_bytes(copy)

    def left(self) -> list[Path]:
        """The working folders that are there."""
        return [each for each in self.held.glob(WORKING) if each.name != ".optipfair-mine"]

    def after_a_kill(self) -> tuple[str, str]:
        """Where the result is, and which: in its place, aside, or on its way there."""
        for work in self.left():
            if (work / "old").is_dir() and not self.out.exists():
                return "aside", self.state(work / "old")
            if (work / "ready").is_dir():
                with tempfile.TemporaryDirectory() as held:
                    whole = Path(held) / "whole"
                    shutil.copytree(self.out, whole, ignore=shutil.ignore_patterns(WORKING))
                    shutil.copytree(work / "ready", whole, dirs_exist_ok=True)
                    return "begun", self.state(whole)
        return "in place", self.state()

    def users_are_there(self) -> bool:
        theirs = [*self.out.parent.glob("*/thesis")]
        return all(each.read_text() == "mine" for each in theirs) and len(theirs) == self.theirs

    def begin(self) -> tuple[list[str], float]:
        """The two results as they are undisturbed, and the seconds of CPU that one takes."""
        found, times = [], []
        self._work(0)  # here, so that all that it imports is imported
        for variant in (0, 1, 0, 1):
            before = _used_by_children()
            self.run(variant)
            times.append(_used_by_children() - before)
            found.append(self.state())
        assert found[:2] == found[2:], "two undisturbed runs differ"
        assert len(set(found)) == 2
        self.theirs = 3 + (self.out / "thesis").exists()
        return found[:2], max(times[1:])


def trials(yard: Yard, kills: int, choice: random.Random) -> tuple[Counter[str], float]:
    """Kill so often, and count what is there afterwards."""
    wholes, seconds = yard.begin()
    there, counts = 1, Counter[str]()
    while counts["kills"] < kills:
        wanted = 1 - there
        share = choice.uniform(0 if choice.random() < 0.5 else 0.7, 1.02)
        if yard.run(wanted, share * seconds):
            counts["kills"] += 1
            there = _count(yard, wholes, there, counts)
            counts["left"] += bool(yard.left())
            if counts["kills"] % 10:
                continue
        there = 1 - there if counts["kills"] % 10 == 0 else wanted
        yard.run(there)
        assert yard.state() == wholes[there], "a run after kills did something else"
        assert yard.left() == [], "a run after kills left something"
        counts["cleaned"] += 1
    return counts, seconds


def _count(yard: Yard, wholes: Sequence[str], there: int, counts: Counter[str]) -> int:
    """Say which result is there, or that none is whole."""
    try:
        where, which = yard.after_a_kill()
        found = wholes.index(which)
    except (OSError, ValueError, AssertionError) as exc:
        counts["broken"] += 1
        print(f"  broken: {exc!r}", file=sys.stderr)
        return there
    counts["gone"] += not yard.users_are_there()
    counts["old" if found == there else "new"] += 1
    counts[where] += 1
    return found


def prepare(root: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 4}
    tiny_model("llama", **sizes).save_pretrained(root / "model")
    byte_tokenizer().save_pretrained(root / "model")
    (root / "x.txt").write_text(TEXT)
    (root / "pairs.csv").write_text(PAIRS)
    gguf_toy(root / "model.gguf", "llama")
    written(root / "data")
    prune_checkpoint(root / "model", root / "pruned", pruning_percentage=25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}  {platform.machine()}, {os.cpu_count()} cores")
    print(f"{versions()}; seed {asked.seed}")
    columns = ("kills", "old", "new", "broken", "aside", "begun", "gone", "left", "cleaned")
    print(f"{'command':32}" + "".join(f"{each:>9}" for each in ("seconds", *columns)))
    for case in CASES:
        if case.name in asked.only:
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder))
                counts, seconds = trials(
                    Yard(Path(folder), case), asked.kills, random.Random(asked.seed)
                )
            row = "".join(f"{counts[each]:9}" for each in columns)
            print(f"{case.name:32}{seconds:9.2f}{row}", flush=True)


if __name__ == "__main__":
    main()
