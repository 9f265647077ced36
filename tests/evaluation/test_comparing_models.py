"""`compare_models` and `evaluate_model` as a whole: what they find, keep and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from optipfair import (
    ArgumentError,
    DataError,
    ModelOutputError,
    OutputError,
    PruningWarning,
    UnsupportedModelError,
    compare_models,
    evaluate_model,
)
from optipfair.evaluation import comparing
from optipfair.evaluation.tasks import TASKS
from optipfair.testing import byte_tokenizer, tiny_model
from support.comparing_processes import OPTIONS, models, steady
from support.launching import in_two_processes
from support.small_data import LINES, ROWS, put, written

Unchanged = Callable[[Any], AbstractContextManager[None]]

VALIDATOR = Draft202012Validator(
    json.loads(files("optipfair.report").joinpath("comparison.schema.json").read_text())
)
QUICK: dict[str, Any] = {"speed": False, "layers": False, "max_new_tokens": 3}
WHOLE: dict[str, Any] = {"max_new_tokens": 3, "num_runs": 2, "limit": 3}


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTIPFAIR_DATA", raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("data"))


def compared(original: Any, pruned: Any, **options: Any) -> dict[str, Any]:
    """A comparison, which must be strict JSON and what the schema says."""
    found = compare_models(original, pruned, byte_tokenizer(), **options)
    VALIDATOR.validate(json.loads(json.dumps(found, allow_nan=False)))
    return found


def verdict(found: dict[str, Any], question: str) -> str:
    (each,) = [each for each in found["verdicts"] if each["question"] == question]
    return str(each["verdict"])


@contextmanager
def read(model: Any) -> Iterator[list[list[list[int]]]]:
    """What the model is given to read inside the block, pass by pass."""
    passes: list[list[list[int]]] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, given: passes.append(given["input_ids"].tolist()), with_kwargs=True
    )
    try:
        yield passes
    finally:
        handle.remove()


def test_all_tasks_are_measured_on_the_same_items_of_both(data: Path) -> None:
    original, pruned = models()
    with read(original) as first, read(pruned) as second:
        found = compared(original, pruned, data=data, **QUICK | {"limit": 3})
    assert first == second
    names = [each["name"] for each in found["tasks"]]
    assert names == [name for name in TASKS if TASKS[name].default]
    assert {row["task"] for row in found["measures"]} == {"text", *names}
    assert found["text"]["file"].startswith("wikitext2/valid.txt")
    assert [each["section"] for each in found["left_out"]] == ["speed", "layer profile"]
    assert [each["how"] for each in found["left_out"]] == [
        "Leave out --no-speed.",
        "Leave out --no-layers.",
    ]


def test_without_data_the_text_and_the_rest_are_measured_and_what_is_missing_is_named() -> None:
    found = compared(*models(), **WHOLE)
    assert [each["name"] for each in found["tasks"]] == ["next_token"]
    assert found["text"]["file"] == "the text that ships with the demo"
    assert verdict(found, "speed") != "not measured"
    assert len(found["layers"]["original"]) == 2
    missing = {each["section"]: each for each in found["left_out"]}
    assert set(missing) == {n for n in TASKS if TASKS[n].default and TASKS[n].path}
    assert "lambada/lambada_shared.jsonl" in missing["lambada"]["how"]


def test_one_seed_gives_one_comparison_and_another_another_draw(data: Path) -> None:
    def run(seed: int) -> dict[str, Any]:
        return steady(compared(*models(), data=data, seed=seed, **QUICK | {"limit": 3}))

    first = run(1)
    assert first == run(1)
    assert first["measures"] != run(2)["measures"]


def test_a_model_and_its_copy_do_not_differ(data: Path) -> None:
    model = models()[0]
    found = compared(model, deepcopy(model), data=data, num_runs=2, max_new_tokens=3)
    for row in found["measures"]:
        harm = row["harm"]
        assert harm["value"] in (0, None), row["id"]
        assert {harm["low"], harm["high"]} <= {0, None}, row["id"]
        assert row["p"] in (1, None), row["id"]
        assert row["original"] == row["pruned"], row["id"]
    assert all(flips["total"] == 0 for flips in found["flips"])
    assert len(found["flips"]) >= 8
    assert verdict(found, "quality") == verdict(found, "fairness") == "no detectable change"
    assert found["layers"]["original"] == found["layers"]["pruned"]
    assert all(each["original"] == each["pruned"] for each in found["samples"])


@pytest.fixture(scope="module")
def good() -> Any:
    """A tiny model that has learnt to spell."""
    text = files("optipfair.demo").joinpath("evaluation.txt").read_text(encoding="utf-8")
    ids = torch.tensor(byte_tokenizer()(text)["input_ids"])
    model: Any = tiny_model("llama", num_hidden_layers=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        starts = torch.randint(0, len(ids) - 64, (16,), generator=generator)
        batch = torch.stack([ids[start : start + 64] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def initialised_anew(model: Any) -> Any:
    return tiny_model("llama", num_hidden_layers=2, seed=5)


def noised(model: Any) -> Any:
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    for parameter in copy.parameters():
        parameter.data += 0.7 * torch.randn(parameter.shape, generator=generator)
    return copy


@pytest.mark.parametrize("damage", [initialised_anew, noised])
def test_a_collapsed_model_is_never_called_fairer(
    data: Path, good: Any, damage: Callable[[Any], Any]
) -> None:
    ruined = damage(good)
    found = compared(good, ruined, data=data, **QUICK)
    assert verdict(found, "quality") == "worse"
    assert verdict(found, "fairness") == "too damaged to say"
    back = compared(ruined, good, data=data, **QUICK)
    assert verdict(back, "quality") == "better"
    assert verdict(back, "fairness") != "too damaged to say"


def trained(model: Any) -> Any:
    """As in the middle of a training: modes and flags that differ by module."""
    model.train()
    model.model.layers[0].eval()
    model.lm_head.weight.requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight.grad = torch.ones_like(
        model.model.layers[1].mlp.up_proj.weight
    )
    return model


def test_models_are_left_as_they_were(tmp_path: Path, data: Path, unchanged: Unchanged) -> None:
    original, pruned = map(trained, models())
    with unchanged(original), unchanged(pruned):
        compared(original, pruned, data=data, output_dir=tmp_path / "new" / "report", **WHOLE)
    written_files = {file.name for file in (tmp_path / "new" / "report").iterdir()}
    assert written_files == {"report.html", "comparison.json", "measures.csv"}
    with unchanged(original):
        evaluate_model(original, byte_tokenizer(), data=data, limit=2)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        (0, RuntimeError("no memory")),
        (0.4, KeyboardInterrupt()),
        (0.9, RuntimeError("no memory")),
        (0.99, KeyboardInterrupt()),
    ],
)
def test_a_failure_leaves_models_and_disk_as_they_were(
    tmp_path: Path, unchanged: Unchanged, place: float, error: BaseException
) -> None:
    original, pruned = map(trained, models())
    options: dict[str, Any] = {**WHOLE, "limit": 1, "tasks": ["next_token"], "num_runs": 1}
    with read(pruned) as passes:
        compared(original, pruned, **options)
    calls: list[None] = []

    def fail(*_: object) -> None:
        calls.append(None)
        if len(calls) == 1 + int(place * len(passes)):
            raise error

    handle = pruned.model.layers[1].register_forward_hook(fail)
    with unchanged(original), unchanged(pruned), pytest.raises(type(error)):
        compare_models(
            *(original, pruned, byte_tokenizer()), output_dir=tmp_path / "new" / "r", **options
        )
    handle.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tasks", [["next_token"], []])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_end_it_with_the_models_name(
    tmp_path: Path, tasks: list[str], value: float
) -> None:
    original, pruned = models()
    pruned.model.layers[1].mlp.up_proj.weight.data[0, 0] = value
    for act in (
        lambda: compare_models(
            *(original, pruned, byte_tokenizer()),
            tasks=tasks, names=("whole", "cut"), output_dir=tmp_path / "out", limit=2, **QUICK,
        ),
        lambda: evaluate_model(pruned, byte_tokenizer(), tasks=tasks, limit=2, name="cut"),
    ):  # fmt: skip
        with pytest.raises(ModelOutputError, match=r"\bcut\b.* not finite") as caught:
            act()
        assert "whole" not in str(caught.value)
    assert not (tmp_path / "out").exists()


KEPT: dict[str, Any] = {"tasks": ["piqa", "crows_pairs"], "batch_tokens": 64, **QUICK}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, data: Path) -> None:
    original, pruned = models()

    def run(cache: Path) -> tuple[dict[str, Any], int, int]:
        with read(original) as first, read(pruned) as second:
            found = compared(original, pruned, data=data, cache_dir=cache, **KEPT)
        return steady(found), len(first), len(second)

    expected, passes, others = run(tmp_path / "other")
    calls: list[None] = []

    def stop(*_: object) -> None:
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = pruned.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cache")
    handle.remove()
    found, first, second = run(tmp_path / "cache")
    assert found == expected
    assert second == others - 3
    scored = passes - first  # all of the original was scored before the stop
    assert scored > 3
    assert run(tmp_path / "cache") == (expected, first, others - scored)


def test_a_damaged_cache_is_named_and_rebuilt(tmp_path: Path, data: Path) -> None:
    original, pruned = models()
    options = {**KEPT, "data": data, "cache_dir": tmp_path}
    expected = compared(original, pruned, **options)
    whole = {file: file.read_text() for file in tmp_path.iterdir()}
    damaged = min(whole)
    damaged.write_text(whole[damaged][:-30])
    with pytest.warns(PruningWarning, match="damaged: 1 of its lines") as caught:
        found = compared(original, pruned, **options)
    assert str(damaged) in str(caught[0].message)
    assert steady(found) == steady(expected)
    assert {f: sorted(f.read_text()) for f in whole} == {f: sorted(t) for f, t in whole.items()}


def test_a_cache_whose_last_line_has_no_end_goes_on(tmp_path: Path, data: Path) -> None:
    """The next batch must not be written behind it on the same line."""
    original, pruned = models()
    options = {**KEPT, "data": data, "cache_dir": tmp_path}
    compared(original, pruned, **{**options, "tasks": ["piqa"]})
    for file in tmp_path.iterdir():
        file.write_text(file.read_text().removesuffix("\n"))
    compared(original, pruned, **options)
    found = compared(original, pruned, **options)
    assert all(each["reused"] == 2 * 2 * each["items"] for each in found["tasks"])


def test_the_original_is_not_scored_again_with_another_pruned_model(
    tmp_path: Path, data: Path
) -> None:
    original, pruned = models()
    options = {**KEPT, "data": data, "cache_dir": tmp_path}
    with read(original) as first:
        one = compared(original, pruned, **options)
    other = deepcopy(pruned)
    other.lm_head.weight.data *= 1.5
    with read(original) as again:
        two = compared(original, other, **options)
    assert [each["reused"] for each in one["tasks"]] == [0, 0]
    assert [each["reused"] for each in two["tasks"]] == [2 * each["items"] for each in two["tasks"]]
    with read(original) as unkept:  # the text and the samples, which no cache holds
        compared(original, other, **{**options, "tasks": []})
    assert again == unkept
    assert len(first) > len(again)
    own = [[row["original"] for row in found["measures"]] for found in (one, two)]
    assert own[0] == own[1]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tasks": "piqa"}, ArgumentError, r"\['piqa'\]"),
    ({"tasks": ["pika"]}, ArgumentError, "Did you mean 'piqa'"),
    ({"tasks": ["piqa"]}, DataError, "task piqa cannot be measured: no data folder"),
    ({"data": "no/such"}, DataError, "'no/such' does not exist"),
    ({"data": ""}, DataError, "'' does not exist"),
    ({"data": __file__}, DataError, "is no folder"),
    ({"text": "no/such.txt"}, DataError, "Cannot read no/such.txt"),
    ({"limit": 0}, ArgumentError, "limit=0 is no whole number of 1 or more"),
    ({"limit": True}, ArgumentError, "limit=True"),
    ({"seed": -1}, ArgumentError, "seed=-1"),
    ({"seed": 1.5}, ArgumentError, r"seed=1\.5"),
    ({"preset": "fast"}, ArgumentError, "'fast'.*full, quick"),
    ({"context": 129}, ArgumentError, "128 positions"),
    ({"context": 8, "stride": 9}, ArgumentError, "stride from 1 to the context"),
    ({"batch_tokens": 0}, ArgumentError, "batch_tokens=0"),
]
REFUSED_OF_TWO: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompts": "one"}, ArgumentError, "must be a list of texts"),
    ({"prompts": []}, ArgumentError, "must be a list of texts"),
    ({"prompts": [""]}, ArgumentError, "not empty"),
    ({"num_runs": 0}, ArgumentError, "num_runs=0"),
    ({"max_new_tokens": 1}, ArgumentError, "max_new_tokens=1"),
    ({"max_new_tokens": 200}, ArgumentError, "max_new_tokens=104 or less"),
    ({"max_new_tokens": "9"}, ArgumentError, "max_new_tokens='9'"),
    ({"output_dir": __file__}, OutputError, "is a file"),
    ({"output_dir": ""}, OutputError, "empty name"),
]


@pytest.mark.parametrize(("options", "kind", "match"), REFUSED + REFUSED_OF_TWO)
def test_wrong_arguments_are_refused_before_a_model_runs(
    options: dict[str, Any], kind: type[Exception], match: str
) -> None:
    original, pruned = models()
    with read(original) as first, read(pruned) as second:
        with pytest.raises(kind, match=match):
            compare_models(original, pruned, byte_tokenizer(), **options)
        if (options, kind, match) in REFUSED:
            with pytest.raises(kind, match=match):
                evaluate_model(original, byte_tokenizer(), **options)
    assert first == second == []


def test_a_context_that_the_pruned_model_lacks_is_not_used() -> None:
    whole, short = tiny_model("gpt2"), tiny_model("gpt2", n_positions=96)
    for pair in ((whole, short), (short, whole)):
        found = compared(*pair, tasks=[], **QUICK)
        assert found["protocol"]["context"] == 96
        with pytest.raises(ArgumentError, match="context=97 is more than the 96 positions"):
            compare_models(*pair, byte_tokenizer(), tasks=[], context=97)


def test_models_that_cannot_be_asked_the_same_are_refused() -> None:
    original = models()[0]
    with pytest.raises(ArgumentError, match="vocabulary of 272 tokens and pruned of 300"):
        compare_models(original, tiny_model("llama", vocab_size=300), byte_tokenizer())
    with pytest.raises(ArgumentError, match="same object"):
        compare_models(original, original, byte_tokenizer())
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    small = [tiny_model("llama", vocab_size=100, seed=seed, **ids) for seed in range(2)]
    with pytest.raises(ArgumentError, match="259 tokens and the models have embeddings for 100"):
        compare_models(*small, byte_tokenizer())


@pytest.mark.parametrize("name", [*ROWS, *LINES])
def test_a_bad_row_is_named_with_its_line_and_what_was_expected(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    file = tmp_path / name
    bad = "\0" if name.startswith("wikitext2") else "{not a row"
    file.write_text(file.read_text(encoding="utf-8") + bad + "\n", encoding="utf-8")
    number = len(file.read_text(encoding="utf-8").splitlines())
    with pytest.raises(DataError) as caught:
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)
    message = str(caught.value)
    assert str(file) in message
    assert "wikitext2" in name or f"line {number}:" in message
    assert "xpected" in message or "must hold one object" in message or "UTF-8" in message


# Columns that no task reads.
IGNORED = {"labels", "answerKey", "stereo_antistereo"}
COLUMNS = [
    (name, column)
    for name, rows in ROWS.items()
    for column in rows[0]
    if column not in IGNORED and (Path(name).parts[0], column) != ("stereoset", "context")
]


@pytest.mark.parametrize(("name", "column"), COLUMNS)
def test_a_missing_column_is_named_with_the_file(tmp_path: Path, name: str, column: str) -> None:
    written(tmp_path, Path(name).parts[0])
    rows = [
        {key: value for key, value in row.items() if key != column or number == 0}
        for number, row in enumerate(ROWS[name])
    ]
    if not name.endswith("jsonl"):
        del rows[0][column]
    put(tmp_path / name, rows)
    line = 2 if name.endswith("jsonl") else 1
    with pytest.raises(DataError, match=rf"{name}, line {line}: .*\b{column}\b.* Expected"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)


@pytest.mark.parametrize("text", ["half a \\ud800 pair", "number\\x"])
def test_what_is_no_text_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, "piqa") / "piqa/piqa_shared.jsonl"
    file.write_text(file.read_text().replace("a shoe", text))
    with pytest.raises(DataError, match="line 2: no JSON"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)


def test_a_line_separator_in_a_text_ends_no_row(tmp_path: Path) -> None:
    file = written(tmp_path, "piqa") / "piqa/piqa_shared.jsonl"
    file.write_text(file.read_text().replace("a shoe", "a\u2028shoe\x85"), encoding="utf-8")
    found = evaluate_model(models()[0], byte_tokenizer(), data=tmp_path, tasks=["piqa"])
    assert found["tasks"][0]["items"] == 6


def test_no_items_after_what_is_left_out_is_refused_with_the_reason(tmp_path: Path) -> None:
    written(tmp_path, "winobias")
    for kind in (1, 2):
        file = tmp_path / f"winobias/anti_stereotyped_type{kind}.dev.txt"
        file.write_text(file.read_text().replace("[", "very [", 8))
    with pytest.raises(DataError, match=r"winobias: no item is left .* \(4 rows: .*differ in more"):
        evaluate_model(models()[0], byte_tokenizer(), data=tmp_path)


def test_an_evaluation_is_that_of_the_comparison(data: Path) -> None:
    """Both ask the same, so figures and intervals agree."""
    original, pruned = models()
    options: dict[str, Any] = {"data": data, "limit": 3, "seed": 2}
    both = compared(original, pruned, **options, **QUICK)
    for model, label in ((original, "original"), (pruned, "pruned")):
        found = evaluate_model(model, byte_tokenizer(), **options)
        json.dumps(found, allow_nan=False)
        own = {
            row["id"]: [row[key] for key in ("value", "low", "high")] for row in found["measures"]
        }
        expected = {
            row["id"]: [row[label][key] for key in ("value", "low", "high")]
            for row in both["measures"]
            if row["id"] not in ("text.kl", "text.agreement")
        }
        assert own == expected
        assert found["model"]["fingerprint"] == both["models"][label]["fingerprint"]


def test_layers_that_cannot_be_looked_into_are_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        raise UnsupportedModelError("No layers here.")

    monkeypatch.setattr(comparing, "describe", refuse)
    found = compared(*models(), tasks=[], **{**QUICK, "layers": True})
    assert found["layers"] is None
    assert {"section": "layer profile", "reason": "No layers here."}.items() <= found["left_out"][
        -1
    ].items()


def test_a_tokenizer_that_gives_more_than_models_take_is_served() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in tokenizer("x")
    compare_models(*models(), tokenizer, tasks=[], **QUICK)


@pytest.mark.slow
def test_two_processes_give_the_same_comparison(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("accelerate", reason="the extra `demo` is not installed")
    done = in_two_processes("support.comparing_processes", data, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = compared(*models(), data=data, **OPTIONS)
    alone = evaluate_model(models()[0], byte_tokenizer(), data=data, limit=3)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for found in ranks:
        assert steady(found["comparison"]) == json.loads(json.dumps(steady(expected)))
        assert found["evaluation"]["measures"] == json.loads(json.dumps(alone["measures"]))
        assert found["comparison"]["protocol"]["processes"] == 2
    first, second = ranks
    assert first["comparison"]["speed"] == second["comparison"]["speed"], "timed by one alone"
    assert [each["code"] for each in ranks] == [3, 3]
    assert "Failed: kl>=0" in first["output"]
    assert second["output"] == ""
    for folder in ("report", "command"):
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == [
            "comparison.json", "measures.csv", "report.html",
        ]  # fmt: skip
    assert json.loads((tmp_path / "report/comparison.json").read_text()) == first["comparison"]
