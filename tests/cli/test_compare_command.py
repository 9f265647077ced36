"""`optipfair compare`: what it prints and writes, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optipfair import compare_models, load_model, load_tokenizer
from optipfair.evaluation import evaluate_by_name as runs
from optipfair.report.comparison import Generation
from optipfair.report.views import same_text
from optipfair.testing import tiny_model
from support.comparing_processes import models, saved, steady
from support.small_data import written

Run = Callable[..., tuple[int, str, str]]
Refuses = Callable[..., None]

NO_GENERATION = "--no-generation"
FAST = ("--no-speed", "--no-layers", NO_GENERATION, "--limit", "2", "--max-new-tokens", "3")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPTIPFAIR_DATA", raising=False)
    monkeypatch.setenv("OPTIPFAIR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, others that do not fit them, one with NaN, one without tokenizer, and data."""
    folder = tmp_path_factory.mktemp("home")
    original, pruned = models()
    saved(original, folder / "original")
    saved(pruned, folder / "pruned")
    saved(tiny_model("llama", num_hidden_layers=2, vocab_size=300), folder / "wider")
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    saved(tiny_model("llama", vocab_size=100, **ids), folder / "narrow")
    pruned.lm_head.weight.data[5] = float("nan")
    saved(pruned, folder / "broken")
    shutil.copytree(folder / "original", folder / "silent")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "silent" / name).unlink()
    written(folder / "data")
    return folder


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, ...]:
    capsys.readouterr()  # the bars of saving
    return "compare", "--original", home / "original", "--pruned", home / "pruned"


def test_it_writes_and_prints_what_the_function_finds(
    run: Run, home: Path, command: tuple[object, ...], tmp_path: Path
) -> None:
    options = ("--data", home / "data", "--seed", 3, "--output-dir", tmp_path / "new" / "report")
    code, out, err = run(*command, *options, *FAST, "--json")
    found = json.loads(out)
    assert code == 0
    folder = tmp_path / "new" / "report"
    assert json.loads((folder / "comparison.json").read_text()) == found
    assert {file.name for file in folder.iterdir()} == {
        "report.html", "comparison.json", "measures.csv",
    }  # fmt: skip
    tokens = re.search(r"([\d,]+) tokens to score", err)
    assert tokens is not None
    assert int(tokens[1].replace(",", "")) == found["protocol"]["tokens"]
    models_ = [load_model(home / name) for name in ("original", "pruned")]
    expected = compare_models(
        *models_, load_tokenizer(home / "original"), data=home / "data", seed=3, limit=2,
        speed=False, layers=False, generation=False, max_new_tokens=3,
        names=(str(home / "original"), str(home / "pruned")),
    )  # type: ignore[misc]  # fmt: skip
    assert steady(found) == steady(expected) | {
        "protocol": steady(expected)["protocol"] | {"command": found["protocol"]["command"]}
    }


def test_the_tables_say_the_verdicts_and_where_the_report_is(
    run: Run, home: Path, command: tuple[object, ...], tmp_path: Path
) -> None:
    options = (
        "--data",
        home / "data",
        "--tasks",
        "piqa,crows_pairs",
        "--output-dir",
        tmp_path / "r",
    )
    code, out, _ = run(*command, *options, "--limit", 2, "--num-runs", 2, "--max-new-tokens", 3)
    assert code == 0
    found = json.loads((tmp_path / "r" / "comparison.json").read_text())
    lines = [line.split() for line in out.splitlines() if line.strip()]
    for row in found["measures"]:
        assert any(line[0] == row["id"] for line in lines) is row["headline"], row["id"]
    for each in found["verdicts"]:
        assert f"{each['question']}: {each['verdict']}. {each['sentence']}" in out
    assert f"The report is {tmp_path / 'r' / 'report.html'}." in out
    assert f"generation: {same_text(Generation.from_dict(found['generation']))}" in out
    assert "tokens until they part, median" in out and "KL divergence at positions 16-63" in out


def test_what_is_left_out_is_said_once_for_each_reason(
    run: Run, command: tuple[object, ...]
) -> None:
    _, out, _ = run(*command, *FAST)
    left_out = [line for line in out.splitlines() if line.startswith("Left out")]
    assert left_out == [
        "Left out: lambada, piqa, arc_easy, winogrande, bbq, crows_pairs, stereoset, "
        "winobias_type1, winobias_type2, winogender: no data folder (give one with --data, or set "
        "OPTIPFAIR_DATA).",
        "Left out: arithmetic, speed, layer profile, generation: not asked for.",
    ]
    _, out, _ = run(*command, *(each for each in FAST if each != NO_GENERATION))
    assert "generation: The two models write" in out
    assert "Left out: speed, layer profile: not asked for." in out


def test_quiet_prints_nothing_and_a_pruned_model_needs_no_tokenizer(
    run: Run, home: Path, tmp_path: Path
) -> None:
    models_ = ("--original", home / "original", "--pruned", home / "silent")
    assert run("compare", *models_, *FAST, "--quiet", "--output-dir", tmp_path / "r") == (0, "", "")
    assert (tmp_path / "r" / "report.html").is_file()


@pytest.mark.parametrize(
    ("conditions", "failed"),
    [
        (["perplexity_ratio>100", "kl<0", "agreement>1", "crows_pairs.stereotyped>1"], []),
        (["parameters_ratio<1", "weight_bytes_ratio>1"], ["parameters_ratio<1"]),
        (["piqa.acc>=0", "crows_pairs.stereotyped.harm>-2"],
         ["piqa.acc>=0", "crows_pairs.stereotyped.harm>-2"]),
        (["crows_pairs.stereotyped[nobody]>1"], ["crows_pairs.stereotyped[nobody]>1"]),
    ],
)  # fmt: skip
def test_conditions_decide_the_exit_code_and_the_report_is_written_all_the_same(
    run: Run, home: Path, command: tuple[object, ...], tmp_path: Path,
    conditions: list[str], failed: list[str],
) -> None:  # fmt: skip
    options = [part for condition in conditions for part in ("--fail-if", condition)]
    data = ("--data", home / "data", "--tasks", "piqa,crows_pairs", "--output-dir", tmp_path / "r")
    code, out, err = run(*command, *data, *options, *FAST, "--quiet")
    assert (code, out) == (3 if failed else 0, "")
    lines = err.splitlines()
    assert [line.removeprefix("Failed: ").split(": ")[0] for line in lines] == failed
    assert (tmp_path / "r" / "report.html").is_file()


def test_a_model_that_gives_nan_ends_with_its_name_and_no_report(
    run: Run, home: Path, tmp_path: Path
) -> None:
    for name in ("--original", "--pruned"):
        paths = {"--original": home / "original", "--pruned": home / "pruned"}
        paths[name] = home / "broken"
        arguments = [part for pair in paths.items() for part in pair]
        code, out, err = run("compare", *arguments, *FAST, "--output-dir", tmp_path / "r")
        assert (code, out) == (1, "")
        assert re.fullmatch(rf"Error: {home / 'broken'}\b.* not finite.*", err.splitlines()[-1])
        assert not (tmp_path / "r").exists()


def test_an_interrupt_leaves_no_report_and_says_so(
    run: Run, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> Any:
        model = load_model(*args, **options)
        model.register_forward_hook(interrupt)
        return model

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "load_model", load)
    code, out, err = run(*command, *FAST, "--output-dir", tmp_path / "r")
    assert (code, out, err.splitlines()[-1]) == (130, "", "Error: Interrupted.")
    assert not (tmp_path / "r").exists()


REFUSED: list[tuple[list[str], str]] = [
    (["--pruned", "HOME/wider"], "vocabulary of 272 tokens and HOME/wider of 300"),
    (["--pruned", "HOME/nowhere"], "HOME/nowhere"),
    (["--original", "HOME/narrow", "--pruned", "HOME/narrow"], "has 259 tokens and the model 100"),
    (["--original", "HOME/silent"], "has no tokenizer"),
    (["--data", "HOME/nowhere"], "'HOME/nowhere' does not exist"),
    (["--data", "HOME/original/config.json"], "is no folder"),
    (["--data", "HOME/original", "--tasks", "piqa"], "piqa/piqa_shared.jsonl is not in the data"),
    (["--tasks", "piqa"], "give one with --data"),
    (["--tasks", "pika"], "Unknown task 'pika'. Did you mean 'piqa'.*Available: arc_easy"),
    (["--tasks", "next_token,next_token"], "Name each once"),
    (["--tasks", ""], "Unknown task ''. Available"),
    (["--output-dir", "HOME/original/config.json"], "is a file"),
    (["--output-dir", "HOME/original/config.json/below"], "is a file"),
    (["--output-dir", "/proc/nowhere"], "cannot be written"),
    (["--output-dir", ""], "empty name"),
    (["--cache-dir", "HOME/original/config.json"], "Scores cannot be kept in HOME/.*, or none"),
    (["--fail-if", "perplexity_ratio"], "is no condition. Give NAME>NUMBER"),
    (["--fail-if", "kl>=high"], "is no condition"),
    (["--fail-if", "kl=1"], "is no condition"),
    (["--fail-if", "perplexity>1"], "Unknown measure 'perplexity'.*Did you mean.*text.perplexity"),
    (["--fail-if", "kl.harm>1"], "Unknown measure 'kl.harm'"),
    (["--fail-if", "speedup<1", "--no-speed"], "speed is not measured: --no-speed was given"),
    (["--fail-if", "generation.same_8<1", "--no-generation"], "--no-generation was given"),
    (["--fail-if", "piqa.acc.harm>0"], "piqa is not measured: no data folder"),
    (["--fail-if", "bbq.sAMB>0", "--tasks", "next_token"], "not among the chosen tasks"),
    (["--limit", "0"], "limit=0 is no whole number of 1 or more"),
    (["--seed", "-1"], "seed=-1"),
    (["--preset", "quik"], "Did you mean 'quick'"),
    (["--text", "HOME/nowhere.txt"], "HOME/nowhere.txt cannot be read"),
    (["--text", "HOME/original/model.safetensors"], "cannot be read|zero bytes"),
    (["--context", "1000"], "128 positions"),
    (["--stride", "0"], "stride from 1 to the context"),
    (["--prompt", ""], "not empty"),
    (["--num-runs", "0"], "num_runs=0"),
    (["--max-new-tokens", "1"], "max_new_tokens=1"),
    (["--max-new-tokens", "500"], "or less, or a shorter prompt"),
    (["--batch-tokens", "0"], "batch_tokens=0"),
    (["--device", "gpu"], "'gpu' is not available"),
    (["--dtype", "int3"], "Unknown dtype 'int3'"),
]
NEED_MODELS = ("--cache-dir", "500")


@pytest.mark.parametrize(("arguments", "match"), REFUSED)
def test_what_is_wrong_is_refused_before_models_are_loaded(
    refuses: Refuses, home: Path, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], match: str,
) -> None:  # fmt: skip
    if not set(NEED_MODELS) & set(arguments):
        monkeypatch.setattr(runs, "load_model", None)
    given = [each.replace("HOME", str(home)) for each in arguments]
    refuses(match.replace("HOME", str(home)), *command, *given, "--quiet")


def test_a_bad_row_is_refused_with_file_line_and_what_was_expected(
    refuses: Refuses, command: tuple[object, ...], tmp_path: Path
) -> None:
    file = written(tmp_path / "data", "piqa") / "piqa/piqa_shared.jsonl"
    file.write_text(file.read_text().replace('"label": 1', '"label": 2', 1))
    refuses(
        rf"{file}, line 2: label is 2; expected is 0 to 1",
        *command, "--data", tmp_path / "data", "--quiet",
    )  # fmt: skip


def test_a_data_folder_of_the_environment_is_named_with_its_variable(
    refuses: Refuses, run: Run, home: Path, command: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OPTIPFAIR_DATA", str(home / "data"))
    code, out, _ = run(*command, *FAST, "--tasks", "winogrande", "--json")
    assert (code, [each["name"] for each in json.loads(out)["tasks"]]) == (0, ["winogrande"])
    shutil.rmtree(home / "nothing", ignore_errors=True)
    monkeypatch.setenv("OPTIPFAIR_DATA", str(home / "nothing"))
    refuses("nothing', which OPTIPFAIR_DATA names, does not exist", *command)


def test_generation_settings_of_their_own_change_no_answer(
    run: Run, home: Path, tmp_path: Path
) -> None:
    own = {
        "output_hidden_states": 0.5, "return_dict": False, "num_beams": 1_000_000,
        "stop_strings": ["a"], "eos_token_id": ["x", 5, -1, 10**9],
    }  # fmt: skip
    shutil.copytree(home / "original", tmp_path / "odd")
    (tmp_path / "odd" / "generation_config.json").write_text(json.dumps(own))
    answers = []
    for model in (home / "original", tmp_path / "odd"):
        code, out, err = run(
            *("compare", "--original", model, "--pruned", home / "pruned", "--data", "none"),
            *("--no-layers", "--num-runs", 1, "--max-new-tokens", 3, "--limit", 2, "--json"),
        )
        assert code == 0, err
        answers.append([each["original"] for each in json.loads(out)["samples"]])
    assert answers[0] == answers[1]


def test_a_control_answers_too_and_must_fit(
    run: Run, home: Path, command: tuple[object, ...]
) -> None:
    options = ("--data", home / "data", *FAST, "--json")
    code, out, _ = run(*command, "--control", home / "original", *options)
    assert code == 0
    rows = [row for row in json.loads(out)["measures"] if row["question"] == "fairness"]
    used = [row["against_control"] is not None for row in rows]
    refused = [row["no_control"] is not None for row in rows]
    assert any(used) != any(refused)
    code, _, err = run(*command, "--control", home / "wider", *options)
    assert code != 0 and "vocabulary" in err


def test_answers_that_turned_and_first_tokens_are_printed(
    run: Run, home: Path, command: tuple[object, ...]
) -> None:
    code, out, _ = run(*command, "--data", home / "data", *FAST, "--verbose")
    assert code == 0
    assert "Changed answers" in out
    assert re.search(r"Texts begin with <bos>: .*winobias_type1", out)
    assert "too few to tell" in out
