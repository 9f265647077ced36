"""`optipfair evaluate`: one model, by files or by lm-eval."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optipfair import evaluate_model, load_model, load_tokenizer
from optipfair.evaluation import evaluate_by_name as runs
from optipfair.evaluation.tasks import TASKS
from optipfair.testing import tiny_model
from support.comparing_processes import saved
from support.small_data import written

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPTIPFAIR_DATA", raising=False)
    monkeypatch.setenv("OPTIPFAIR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, one with NaN, and data."""
    folder = tmp_path_factory.mktemp("home")
    model: Any = tiny_model("llama", num_hidden_layers=2)
    saved(model, folder / "model")
    model.lm_head.weight.data[5] = float("nan")
    saved(model, folder / "broken")
    written(folder / "data", "piqa", "crows_pairs")
    return folder


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, ...]:
    capsys.readouterr()  # the bars of saving
    return "evaluate", "--model-path", home / "model"


def test_json_is_what_the_function_finds(run: Run, home: Path, command: tuple[object, ...]) -> None:
    code, out, _ = run(*command, "--data", home / "data", "--seed", 2, "--limit", 3, "--json")
    found = json.loads(out)
    expected = evaluate_model(
        load_model(home / "model"), load_tokenizer(home / "model"),
        data=home / "data", seed=2, limit=3, name=str(home / "model"),
    )  # type: ignore[arg-type]  # fmt: skip
    assert code == 0
    for name in ("model", "measures", "tasks", "text", "left_out"):
        assert found[name] == expected[name], name
    assert found["harness"] is None
    missing = {each["section"] for each in found["left_out"]}
    assert missing == {n for n in TASKS if TASKS[n].default and TASKS[n].path} - {
        "piqa", "crows_pairs",
    }  # fmt: skip


def test_tasks_without_data_are_named(run: Run, home: Path, command: tuple[object, ...]) -> None:
    _, out, _ = run(*command, "--data", home / "data", "--limit", 2)
    left_out = [line for line in out.splitlines() if line.startswith("Left out")]
    assert "Left out: bbq: bbq/bbq_shared.jsonl is not in the data folder." in left_out
    assert (
        "Left out: winobias_type1, winobias_type2: winobias is not in the data folder." in left_out
    )
    assert not re.search("piqa|crows", "".join(left_out))


def test_a_text_alone_is_enough(run: Run, command: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("One text of mine, and not a long one.")
    code, out, err = run(*command, "--text", tmp_path / "mine.txt", "--limit", 1)
    assert code == 0
    assert "37 tokens of mine.txt; next_token 1 of" in err
    (row,) = [line.split() for line in out.splitlines() if "text.perplexity" in line]
    assert float(row[1]) > 1
    assert ": no data folder (give one with --data" in out
    assert run(*command, "--text", tmp_path / "mine.txt", "--limit", 1, "--quiet") == (0, "", "")


def test_a_model_that_gives_nan_ends_with_its_name(run: Run, home: Path) -> None:
    code, out, err = run("evaluate", "--model-path", home / "broken", "--limit", 1)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"Error: {home / 'broken'}\b.* not finite.*", err.splitlines()[-1])


REFUSED: list[tuple[list[str], str]] = [
    (["--backend", "harness"], "backend='harness' is unknown. Give auto, offline or lm-eval"),
    (["--backend", "offline", "--tasks", "pika"], "Did you mean 'piqa'"),
    (["--backend", "offline", "--tasks", "piqa"], "give one with --data"),
    (["--backend", "offline", "--tasks", "hellaswag"], "Unknown task 'hellaswag'. Available"),
    (["--data", "nowhere", "--tasks", "piqa"], "'nowhere' does not exist"),
    (["--data", "nowhere"], "'nowhere' does not exist"),
    (["--limit", "0"], "limit=0"),
    (["--batch-tokens", "-1"], "batch_tokens=-1"),
    (["--context", "1"], "a context of 2 or more"),
    (["--text", "nowhere.txt"], "nowhere.txt cannot be read"),
    (["--model-path", "nowhere/at/all"], "nowhere/at/all"),
]


@pytest.mark.parametrize(("arguments", "match"), REFUSED)
def test_what_is_wrong_is_refused_before_a_model_is_loaded(
    refuses: Refuses, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], match: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(runs, "load_model", None)
    refuses(match, *command, *arguments, "--quiet")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval with a short list of tasks: making the whole one takes it ten seconds."""
    tasks = pytest.importorskip("lm_eval.tasks", reason="the extra `eval` is not installed")
    names = ["hellaswag", "piqa", "winogrande"]
    monkeypatch.setattr(tasks, "TaskManager", lambda **_: SimpleNamespace(all_tasks=names))


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--backend", "lm-eval", "--tasks", "hellaswagg"], "Close ones: hellaswag"),
        (["--tasks", "pika"], "no task 'pika'. Close ones: piqa.*from files of --data: lambada, "),
        (["--tasks", "winobias_type1"], "from files of --data: winobias_type1 from winobias"),
        (["--tasks", "piqa,", "--backend", "lm-eval"], "no task ''"),
    ],
)
def test_a_task_that_nobody_has_is_refused_before_a_model_is_loaded(
    refuses: Refuses, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], match: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(runs, "load_model", None)
    refuses(match, *command, *arguments)


def test_without_lm_eval_its_tasks_say_how_to_install_it(
    refuses: Refuses, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_installed", lambda: False)
    refuses(r"hellaswag: measured by lm-eval, which is not installed.*optipfair\[eval\]",
            *command, "--tasks", "hellaswag")  # fmt: skip
    refuses("pika: measured by lm-eval.*Did you mean 'piqa'", *command, "--tasks", "pika")


@pytest.mark.usefixtures("harness")
def test_each_task_is_measured_by_who_has_it(
    run: Run, home: Path, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def measured(
        _model: object, _tokenizer: object, tasks: list[str], **_: object
    ) -> dict[str, Any]:
        asked.append(tasks)
        return {"lm_eval_version": "1", "results": {name: {"acc,none": 0.5} for name in tasks}}

    monkeypatch.setattr(runs, "harness_tasks", measured)
    data = ("--data", home / "data", "--limit", 2, "--json")
    code, out, _ = run(*command, *data, "--tasks", "piqa,winogrande,next_token")
    assert code == 0
    assert [each["name"] for each in json.loads(out)["tasks"]] == ["piqa", "next_token"]
    assert json.loads(out)["harness"]["results"] == {"winogrande": {"acc,none": 0.5}}
    _, out, _ = run(*command, *data, "--tasks", "piqa", "--backend", "lm-eval")
    assert json.loads(out)["tasks"] == []
    assert asked == [["winogrande"], ["piqa"]]


def test_the_text_of_the_calibration_is_called_so(run: Run, home: Path, tmp_path: Path) -> None:
    text, out = tmp_path / "x.txt", tmp_path / "smaller"
    text.write_text(" ".join(f"{n} foxes jump over {n * n} dogs." for n in range(90)))
    calibrated = ("--calibration", text, "--calibration-length", 32, "--calibration-samples", 4)
    pruned = run(
        *("prune", "--model-path", home / "model", "--output-path", out, "--method", "WACT"),
        *("--quiet", *calibrated),
    )
    assert pruned == (0, "", "")
    code, shown, err = run("evaluate", "--model-path", out, "--text", text, "--json")
    assert code == 0
    assert json.loads(shown)["text"]["file"] == f"x.txt, on which {out} was calibrated"
    assert "was calibrated on x.txt" in err
    _, shown, err = run("evaluate", "--model-path", home / "model", "--text", text, "--json")
    assert json.loads(shown)["text"]["file"] == "x.txt"
    assert "was calibrated" not in err
    other = tmp_path / "y.txt"
    other.write_text(text.read_text() + "And another fox.")
    _, shown, err = run("evaluate", "--model-path", out, "--text", other, "--json")
    assert json.loads(shown)["text"]["file"] == f"y.txt, on which {out} was not calibrated"
    assert "was calibrated" not in err


def test_a_text_of_chats_is_measured_as_one(
    run: Run, command: tuple[object, ...], tmp_path: Path
) -> None:
    rows = [{"instruction": "Count.", "input": "", "output": " ".join("12345" * 9)}] * 9
    text = tmp_path / "x.jsonl"
    text.write_text("\n".join(map(json.dumps, rows)))
    code, shown, _ = run(*command, "--text", text, "--json")
    assert code == 0
    assert json.loads(shown)["text"]["tokens"] > 800
