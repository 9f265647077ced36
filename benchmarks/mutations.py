"""The real commands on damaged files: what is refused, what runs, and what should not happen.

    python benchmarks/mutations.py [--cases 5000] [--seed 0] [--workers 1] [--nice 10] [--log FILE]
        [--only CASE]

A case is a file of one kind, damaged once or twice, and a command that reads it. They run in
children of a process that has all imported, 25 in each, with 10 seconds of the processor beyond
what the good file takes (five times that by the clock) and 4 GB of memory. A case has a folder of
its own: nothing in it may differ afterwards but the output of a command that ended well, and a
model that was written must load wherever its source does. `--only` runs one case again and shows
what it said.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import torch  # noqa: E402
from mutating import (  # noqa: E402
    damaged_bytes,
    damaged_cells,
    damaged_gguf,
    damaged_header,
    damaged_json,
    damaged_lines,
    damaged_yaml,
    either,
)
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from optipfair import load_model  # noqa: E402
from optipfair.cli import main as command_line  # noqa: E402
from optipfair.pipeline.model_card import versions  # noqa: E402

SECONDS, MEMORY = 10.0, 4 * 2**30
SCRATCH = Path("/dev/shm")
TOGETHER = 25  # cases of one child
SAMPLE = 2  # one written model in so many is loaded

ANALYZE = "analyze --model-path model --json"
PRUNE = "prune --model-path model --output-path out"
STATIC = f"{PRUNE} --pruning-percentage 30 --calibration none"
DEEP = f"{PRUNE} --pruning-type DEPTH --layer-indices 1 --calibration none"
PLANNED = f"{PRUNE} --plan"
FED = (
    f"{PRUNE} --pruning-percentage 30 --method AUTO --calibration texts.txt "
    "--calibration-samples 6 --calibration-length 24 --verify full"
)
EVALUATE = "evaluate --model-path model --data none --text texts.txt --limit 3 --json"
COMPARE = (
    "compare --original model --pruned other --data none --text texts.txt --output-dir out "
    "--limit 3 --num-runs 1 --max-new-tokens 3 --prompt abc"
)
BIAS = "bias --model-path model --pairs pairs.csv --controls 2 --visualization-types none"
GGUF = "model.gguf"
ALL = (ANALYZE, ANALYZE, STATIC, DEEP, FED, EVALUATE, COMPARE, BIAS)
WITH_TOKENIZER = (STATIC, FED, EVALUATE, COMPARE, BIAS)

Damage = Callable[[bytes, Random], bytes]
BY_JSON = either(damaged_json)
# Kind → share of the cases, files with how they are damaged, and commands that read them.
KINDS: dict[str, tuple[int, dict[str, Damage], tuple[str, ...]]] = {
    "headers (safetensors)": (
        3,
        {"model/model-00001-of-00002.safetensors": either(damaged_header, 3000)},
        (ANALYZE, ANALYZE, STATIC, DEEP, FED),
    ),
    "headers (gguf)": (
        2,
        {GGUF: either(damaged_gguf, 1500)},
        (ANALYZE.replace("model ", f"{GGUF} "), STATIC.replace("model ", f"{GGUF} ")),
    ),
    "configs": (
        5,
        {
            "model/config.json": BY_JSON,
            "model/generation_config.json": BY_JSON,
            "model/model.safetensors.index.json": BY_JSON,
        },
        ALL,
    ),
    "plans": (2, {"plan.json": BY_JSON}, (f"{PLANNED} plan.json",)),
    "tensors of plans": (
        1,
        {"fed.safetensors": either(damaged_header)},
        (f"{PLANNED} fed.json",),
    ),
    "tokenizers": (
        4,
        {
            "model/tokenizer.json": BY_JSON,
            "model/tokenizer_config.json": BY_JSON,
            "model/special_tokens_map.json": BY_JSON,
        },
        WITH_TOKENIZER,
    ),
    "texts": (
        3,
        {
            "texts.jsonl": either(damaged_lines),
            "texts.json": BY_JSON,
            "texts.txt": damaged_bytes,
            "texts.csv": damaged_cells,
        },
        (FED, EVALUATE),
    ),
    "pairs": (
        2,
        {"pairs.jsonl": either(damaged_lines), "pairs.csv": either(damaged_cells)},
        (BIAS,),
    ),
    "recipes": (
        2,
        {"recipe.yaml": either(damaged_yaml)},
        ("prune --recipe recipe.yaml --output-path out",),
    ),
}  # fmt: skip
GOOD_ENDS = ("ran", "refused (2)", "failed (1)")
FINDINGS = ("traceback", "hang", "memory", "crash", "words", "files", "reload")


@dataclass(frozen=True)
class Case:
    number: int
    kind: str
    file: str
    damage: Damage
    command: str

    @classmethod
    def of(cls, number: int, seed: int) -> tuple[Case, Random]:
        random = Random(f"{seed} {number}")
        wheel = [kind for kind, (share, *_) in KINDS.items() for _ in range(share)]
        kind = wheel[number % len(wheel)]
        _, files, commands = KINDS[kind]
        file = random.choice(list(files))
        command = random.choice(commands)
        for name in ("texts.txt", "pairs.csv"):  # the damaged one is read
            if kind in ("texts", "pairs"):
                command = command.replace(name, file)
        return cls(number, kind, file, files[file], command), random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--nice", type=int, default=10)
    parser.add_argument("--log", type=Path, help="where every case is written as a line of JSON")
    parser.add_argument("--only", type=int)
    asked = parser.parse_args()
    os.nice(asked.nice)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=SCRATCH if SCRATCH.is_dir() else None) as folder:
        home = Path(folder)
        good = home / "good"
        _apart(lambda: prepare(good))
        usual = warm(good, home)
        gc.collect()
        gc.freeze()  # so that children share what the parent has imported
        if asked.only is not None:
            case, random = Case.of(asked.only, asked.seed)
            print(case.kind, case.file, "|", case.command)
            print(json.dumps(one(case, random, good, home / "case", usual), indent=1))
            return
        numbers = iter(range(asked.cases))
        started = time.monotonic()
        results = []
        for found in all_cases(numbers, asked, good, home, usual):
            results.append(found)
            if asked.log:
                with asked.log.open("a") as log:
                    log.write(json.dumps(found) + "\n")
        report(results, asked, time.monotonic() - started)


def prepare(good: Path) -> None:
    """Write a small model in two files, another, and a good file of every other kind."""
    from optipfair import PruningPlan
    from optipfair.testing import byte_tokenizer, tiny_model
    from support.gguf_files import GGUF_TOYS, write_gguf

    good.mkdir()
    family, fields, metadata, tensors = GGUF_TOYS["llama"]
    write_gguf(good / GGUF, tiny_model(family, **fields), metadata, tensors)
    for name, more in (("model", {}), ("other", {"intermediate_size": 24})):
        model: Any = tiny_model("llama", **more)
        model.save_pretrained(good / name, max_shard_size="40KB")
        tokenizer: Any = byte_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        tokenizer.save_pretrained(good / name)
        special = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
        (good / name / "special_tokens_map.json").write_text(json.dumps(special))
    parts = sorted((good / "model").glob("*.safetensors"))
    for part, name in zip(
        parts, (f"model-0000{n}-of-00002.safetensors" for n in (1, 2)), strict=True
    ):
        assert part.name == name, parts
    rows = [
        f"The number {n} is known, even or odd, and a cat sat on mat {n * n}." for n in range(24)
    ]
    (good / "texts.txt").write_text("\n\n".join(rows))
    talk = [{"role": "user", "content": rows[0]}, {"role": "assistant", "content": rows[1]}]
    objects = [*({"text": row, "id": n} for n, row in enumerate(rows)), {"messages": talk},
               {"instruction": rows[2], "input": "x", "output": rows[3]}]  # fmt: skip
    (good / "texts.jsonl").write_text("\n".join(map(json.dumps, objects)))
    (good / "texts.json").write_text(json.dumps(objects))
    (good / "texts.csv").write_text(
        "id,text\n" + "\n".join(f'{n},"{r}"' for n, r in enumerate(rows))
    )
    pairs = [
        ("The white man ran.", "The Black man ran.", "race"),
        ("A tall cook", "A short cook", "size"),
    ]
    names = ("prompt1", "prompt2", "category")
    (good / "pairs.csv").write_text("\n".join(map(",".join, (names, *pairs))))
    (good / "pairs.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(names, pair, strict=True))) for pair in pairs)
    )
    (good / "recipe.yaml").write_text(
        "model_path: model\npruning_type: BOTH\npruning_percentage: 20\nlayer_indices: [1]\n"
        "neuron_selection_method: MAW\nseed: 3\ncalibration: texts.txt\ncalibration_samples: 4\n"
        "calibration_length: 16\ncalibration_batch_size: 2\ndevice: cpu\ndtype: auto\n"
        "max_shard_size: 5GB\nverify: fast\ncheck_weights: true\nevaluate: false\n"
        "compensate: true\n"
    )
    with chdir(good):
        for name, command in (("plan", STATIC), ("fed", FED)):
            done = command.replace("--output-path out", f"--save-plan {name}.json --quiet")
            assert command_line(done.replace("--verify full", "").split()) == 0
        (side,) = Path().glob("fed.*.safetensors")
        assert PruningPlan.load("fed.json").replacements is not None
        (Path() / "fed.name").write_text(side.name)


def warm(good: Path, home: Path) -> dict[str, float]:
    """Seconds of each command on good files, once everything is imported."""
    commands = {command for _, _, commands in KINDS.values() for command in commands}
    seconds = {}
    for warmed in (False, True):  # the first time imports
        for command in sorted(commands):
            case = Case(-1, "good", "texts.txt", lambda data, _: data, command)
            found = one(case, Random(0), good, home / "warm", {command: 60.0})
            assert found["end"] == "ran" or not warmed, (command, found)
            seconds[command] = found["seconds"]
            shutil.rmtree(home / "warm")
    return seconds


def all_cases(numbers: Any, asked: Any, good: Path, home: Path, usual: dict[str, float]) -> Any:
    """Run cases in children, so many at once; one child takes several, one after the other."""
    waiting = [list(each) for each in batched(numbers, TOGETHER)]
    running: dict[int, tuple[list[int], Path, float]] = {}
    while running or waiting:
        while waiting and len(running) < asked.workers:
            batch = waiting.pop(0)
            where = home / f"cases-{batch[0]}"
            where.mkdir()
            running[_begun(batch, asked.seed, good, where, usual)] = batch, where, time.time()
        for pid, (batch, where, since) in list(running.items()):
            lines = [json.loads(line) for line in _read(where / "found.jsonl")]
            if lines:
                running[pid] = batch, where, max((where / "found.jsonl").stat().st_mtime, since)
            case, _ = Case.of(batch[min(len(lines), len(batch) - 1)], asked.seed)
            late = time.time() - running[pid][2] > 5 * (usual_of(case, usual) + SECONDS)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and not late:
                continue
            if not ended:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            del running[pid]
            lines = [json.loads(line) for line in _read(where / "found.jsonl")]
            if len(lines) < len(batch):
                lines.append(_lost(case, where, status, killed=not ended))
                waiting += [batch[len(lines) :]] * (len(lines) < len(batch))
            shutil.rmtree(where, ignore_errors=True)
            for found in lines:
                if found["end"] in FINDINGS:
                    print(json.dumps(found), file=sys.stderr, flush=True)
                yield found
        time.sleep(0.02)


def batched(numbers: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    found = iter(numbers)
    while batch := tuple(islice(found, size)):
        yield batch


def _read(path: Path) -> list[str]:
    """The lines of a file that another process may be writing."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def usual_of(case: Case, usual: dict[str, float]) -> float:
    return max((s for known, s in usual.items() if known[:8] == case.command[:8]), default=1.0)


def _begun(batch: list[int], seed: int, good: Path, where: Path, usual: dict[str, float]) -> int:
    def work() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
        for number in batch:
            case, random = Case.of(number, seed)
            found = {**about(case), **one(case, random, good, where / f"{number}", usual)}
            shutil.rmtree(where / f"{number}")
            with (where / "found.jsonl").open("a") as file:
                file.write(json.dumps(found) + "\n")

    return _child(work, where / "error")


def about(case: Case) -> dict[str, Any]:
    return {"case": case.number, "kind": case.kind, "file": case.file, "command": case.command}


def _lost(case: Case, where: Path, status: int, *, killed: bool) -> dict[str, Any]:
    own = where / "error"
    said = own.read_text()[-1500:] if own.exists() else f"status {status}"
    return {**about(case), "end": "hang" if killed else "crash", "said": said, "seconds": 0.0}


def _child(work: Callable[[], object], error: Path | None = None) -> int:
    """Do something in a child, whose id is returned; what it raises is written to a file."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever comes out is the finding
            if error:
                error.write_text(traceback.format_exc())
            else:
                traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def _apart(work: Callable[[], object]) -> None:
    """Do something in a child, so that what it leaves in memory goes with it."""
    assert os.waitpid(_child(work), 0)[1] == 0


def one(
    case: Case, random: Random, good: Path, where: Path, usual: dict[str, float]
) -> dict[str, Any]:
    """Damage a file, run the command, and say how it ended."""
    shutil.copytree(good, where / "work")
    damage(case, random, where / "work")
    for name in ("tmp", "cache"):
        (where / name).mkdir()
    os.environ |= {"TMPDIR": str(where / "tmp"), "OPTIPFAIR_CACHE": str(where / "cache")}
    tempfile.tempdir = None
    before = snapshot(where)
    out, err = (where / f"said.{name}" for name in ("out", "err"))
    started = time.process_time()
    code, thrown = _command(case.command, where / "work", out, err)
    seconds = time.process_time() - started
    said = err.read_text(errors="replace")
    limit = usual_of(case, usual) + SECONDS
    end = thrown or _end(code, said, out.read_text(errors="replace"), seconds > limit)
    if end in GOOD_ENDS:
        end = _left(end, before, where) or end
    if (
        end == "ran"
        and "out/config.json" in str(list(where.glob("work/out/*.json")))
        and (case.number % SAMPLE == 0)
    ):
        failed = reloads(where / "work")
        end, said = ("reload", failed) if failed else (end, said)
    return {"end": end, "code": code, "seconds": seconds, "said": said[-1500:]}


def damage(case: Case, random: Random, work: Path) -> None:
    file = work / case.file
    if case.file == "fed.safetensors":
        file = work / (work / "fed.name").read_text()
    data = case.damage(file.read_bytes(), random)
    file.unlink()
    file.write_bytes(data)


def _command(command: str, work: Path, out: Path, err: Path) -> tuple[int, str | None]:
    """Run it with its words in files; its exit code, and "traceback" for what came out of it."""
    kept = [os.dup(1), os.dup(2)]
    streams = [path.open("w", encoding="utf-8") for path in (out, err)]
    before = sys.stdout, sys.stderr
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = streams
        with chdir(work):
            try:
                return command_line(command.split()), None
            except BaseException:  # noqa: BLE001 - whatever comes out is the finding
                traceback.print_exc(file=streams[1])
                return 70, "traceback"
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            with suppress(OSError):
                stream.close()
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


def _end(code: int, said: str, printed: str, late: bool) -> str:
    errors = [line for line in said.split("\n") if line.startswith("Error: ")]
    if "Traceback (most recent call last)" in said:
        return "traceback"
    if late:
        return "hang"
    if any("allocate memory" in line or "Out of memory" in line for line in errors):
        return "memory"
    if any((ord(c) < 32 and c not in "\n\r\t") or c in "\x7f\u202e" for c in said + printed):
        return "words"
    if len(errors) != (code != 0) or (errors and said.rstrip("\n").split("\n")[-1] != errors[0]):
        return "words"
    return {0: "ran", 1: "failed (1)", 2: "refused (2)"}.get(code, "words")


def snapshot(where: Path) -> dict[str, Any]:
    """Every file outside what a command may write, with its bytes."""
    return {
        str(path.relative_to(where)): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in sorted(where.rglob("*"))
        if not path.is_relative_to(where / "cache") and not path.name.startswith("said.")
    }


def _left(end: str, before: dict[str, Any], where: Path) -> str | None:
    """ "files" where something is not as it was, but for the output of a run that ended well."""
    after = snapshot(where)
    if end == "ran":
        after = {k: v for k, v in after.items() if not f"{k}/".startswith("work/out/")}
    return None if after == before else "files"


def reloads(work: Path) -> str | None:
    """Why the model in `out` does not load, where its source does."""
    for file in (work / "out").glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                opened.get_tensor(name)
    source = work / GGUF if not (work / "out" / "tokenizer.json").exists() else work / "model"
    ids = torch.tensor([[1, 2, 3]])
    try:
        if source.is_dir():
            AutoModelForCausalLM.from_pretrained(source)(ids)
    except Exception:  # noqa: BLE001 - nor should what is made of it
        return None
    try:
        load_model(work / "out")(ids)  # layers may differ in width, as the card says
    except Exception as exc:  # noqa: BLE001 - whatever comes out is the finding
        return f"{type(exc).__name__}: {exc}"
    return None


def report(results: list[dict[str, Any]], asked: Any, seconds: float) -> None:
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"{datetime.now(UTC):%Y-%m-%d}  {platform.machine()}, {os.cpu_count()} cores, load {load}"
    )
    print(
        f"{versions()}; seed {asked.seed}, {len(results):,} cases in {seconds / 60:.0f} minutes\n"
    )
    ends = (*GOOD_ENDS, *FINDINGS)
    print(f"{'kind':22}{'cases':>7}" + "".join(f"{end:>12}" for end in ends) + f"{'slowest':>9}")
    for kind in (*KINDS, "all"):
        own = [each for each in results if kind in (each["kind"], "all")]
        counts = Counter(each["end"] for each in own)
        cells = "".join(f"{counts[end]:>12,}" for end in ends)
        slowest = max((each["seconds"] for each in own), default=0.0)
        print(f"{kind:22}{len(own):>7,}{cells}{slowest:>7.1f} s")
    print("\nwords: not one line of error, or characters that a terminal acts on")
    print("files: something outside the output differs; reload: a written model does not load")
    words = Counter(
        each["said"].strip().split("\n")[-1][:110]
        for each in results
        if each["end"] == "failed (1)"
    )
    for line, count in words.most_common(8):
        print(f"failed (1), {count:,} times: {line}")


if __name__ == "__main__":
    main()
