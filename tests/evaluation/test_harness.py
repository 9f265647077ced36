"""Our figures against those of lm-eval on the same items, by its own task files."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from optipfair import ArgumentError, DataError, UnknownNameError, load_model, load_tokenizer
from optipfair.evaluation.harness import harness_tasks
from optipfair.evaluation.likelihoods.score import score
from optipfair.evaluation.one_figure import estimate
from optipfair.evaluation.tasks import TASKS
from optipfair.evaluation.tasks.task import Item, Query, Score
from optipfair.testing import byte_tokenizer, tiny_model

lm_eval = pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")


def original_arc(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "choices": {"text": row["choices"], "label": row["labels"]}}


def original_lambada(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": f"{row['context']} {row['continuation']}"}


def original_winogrande(row: dict[str, Any]) -> dict[str, Any]:
    first, second = row["context_options"]
    start = first[: next(n for n in range(len(first)) if first[n] != second[n : n + 1])]
    one, two = (context.removeprefix(start) for context in (first, second))
    return {
        "sentence": f"{start}_ {row['continuation']}",
        "option1": one,
        "option2": two,
        "answer": str(row["gold"] + 1),
    }


# Task → lm-eval's name and file of it, and how its rows look in the data set it was made for.
THEIRS: dict[str, tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "lambada": ("lambada_openai", "lambada/lambada_openai.yaml", original_lambada),
    "piqa": ("piqa", "piqa/piqa.yaml", dict),
    "arc_easy": ("arc_easy", "arc/arc_easy.yaml", original_arc),
    "winogrande": ("winogrande", "winogrande/default.yaml", original_winogrande),
}

ROWS: dict[str, list[dict[str, Any]]] = {
    "lambada": [
        {"id": n, "context": f"The {a} sat on the {b}, said the", "continuation": a}
        for n, (a, b) in enumerate([("cat", "mat"), ("dog", "log"), ("élan", "plan"), ("fox", "x")])
    ],
    "piqa": [
        {"id": n, "goal": f"Clean {what}.", "sol1": one, "sol2": two, "label": n % 2}
        for n, (what, one, two) in enumerate(
            [("cups", "soap ", "a very long walk in the sun"), ("a café", "crème brûlée", "water"),
             ("it", "no", "no"), ("windows", "paper", "ink and vinegar")]
        )
    ],
    "arc_easy": [
        {"id": f"q{n}", "question": f"What is {n}?", "choices": list(choices), "gold": n % 3,
         "labels": [*"ABCDE"][: len(choices)], "answerKey": "ABC"[n % 3]}
        for n, choices in enumerate(
            [("one", "two", "three", "a few"), ("1", "2", "3"), ("a", "b", "c", "d", "été"),
             ("rocks", "a star far away", "sand", "sun")]
        )
    ],
    "winogrande": [
        {"id": n, "context_options": [f"{a} met {b} since {x}" for x in (a, b)], "gold": n % 2,
         "continuation": "was late."}
        for n, (a, b) in enumerate([("Ann", "Bob"), ("Cy", "Dee"), ("Eve", "Flo"), ("Ada", "Al")])
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    # It asks the whole machine what it is, which takes seconds.
    monkeypatch.setattr("torch.utils.collect_env.get_pretty_env_info", str)


def scored(model: Any, tokenizer: Any, items: list[Item]) -> list[list[Score]]:
    queries = [query for item in items for query in item.queries]
    scores = iter(score(model, tokenizer, queries))
    return [[next(scores) for _ in item.queries] for item in items]


def theirs(
    model: Any,
    tokenizer: Any,
    name: str,
    rows: list[dict[str, Any]],
    folder: Path,
) -> dict[str, Any]:
    """The same rows, through lm-eval's own file of the task with another place of the data."""
    their_name, file, original = THEIRS[name]
    data = folder / f"{name}.original.jsonl"
    data.write_text("".join(json.dumps(original(row)) + "\n" for row in rows))
    source = Path(lm_eval.__file__).parent / "tasks" / file
    (folder / f"{name}.yaml").write_text(
        f"include: {source}\n"
        f"task: {their_name}_local\n"
        "tag: []\n"
        "dataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "training_split: null\nvalidation_split: null\ntest_split: test\n"
        + (ACC_BYTES if name in {"piqa", "arc_easy"} else "")
    )
    return harness_tasks(model, tokenizer, [f"{their_name}_local"], include_path=folder)


ACC_BYTES = "metric_list:\n" + "".join(
    f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n"
    for name in ("acc", "acc_norm", "acc_bytes")
)


def assert_equal_figures(
    name: str, items: list[Item], scores: list[list[Score]], found: dict[str, Any]
) -> None:
    task, (figures,) = TASKS[name], found["results"].values()
    columns = task.outcomes(items, scores)
    clusters = [item.cluster for item in items]
    own = {m.name: estimate(m, columns, clusters).value for m in task.measures}
    assert own == pytest.approx({key: figures[f"{key},none"] for key in own}, rel=1e-6)


def written(name: str, rows: list[dict[str, Any]], folder: Path) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", THEIRS)
def test_figures_are_those_of_lm_eval(name: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama"), byte_tokenizer()
    items = TASKS[name].read(written(name, ROWS[name], tmp_path)).items
    expected = theirs(model, tokenizer, name, ROWS[name], tmp_path)
    assert_equal_figures(name, items, scored(model, tokenizer, items), expected)


QUERIES = [
    *(Query(f"Where is {n}? ", f"there{n * 'x'}") for n in range(9)),
    *(Query("One of", letter) for letter in "abcd"),
    Query("", "A text alone"), Query("A line\n\n", "and more"), Query("é" * 30, "ü"),
    Query("", "<bos>begun"), Query("<bos>begun", " already"), Query("", " "),
]  # fmt: skip


def likelihoods(model: Any, tokenizer: Any, queries: list[Query]) -> list[tuple[float, bool]]:
    """Of lm-eval's own code, in batches of its making."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    live = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    return live.loglikelihood(
        [
            Instance("loglikelihood", {}, (query.context, query.continuation), n)
            for n, query in enumerate(queries)
        ],
        disable_tqdm=True,
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_log_likelihoods_are_those_of_lm_eval(family: str) -> None:
    """In float64, where the batches they are in do not round differently."""
    model = tiny_model(family).double()
    queries = QUERIES[:-1] if family == "gpt2" else QUERIES
    expected = likelihoods(model, byte_tokenizer(), queries)
    found = score(model, byte_tokenizer(), queries)
    assert [s.greedy for s in found] == [greedy for _, greedy in expected]
    assert [s.total for s in found] == pytest.approx([t for t, _ in expected], rel=1e-9)


def test_texts_longer_than_the_model_are_cut_as_lm_eval_cuts_them() -> None:
    model = tiny_model("gpt2").double()  # 128 positions
    queries = [Query("abc " * 50, "end"), Query("abc " * 31, "efgh"), Query("abc " * 31, "efghijk")]
    expected = likelihoods(model, byte_tokenizer(), queries)
    with pytest.warns(UserWarning, match="2 of 3"):
        found = score(model, byte_tokenizer(), queries)
    assert [s.total for s in found] == pytest.approx([t for t, _ in expected], rel=1e-9)


def test_what_lm_eval_says_of_itself_is_kept(tmp_path: Path) -> None:
    found = theirs(tiny_model("llama"), byte_tokenizer(), "piqa", ROWS["piqa"], tmp_path)
    assert found["lm_eval_version"] == lm_eval.__version__
    assert found["n-samples"] == {"piqa_local": {"original": 4, "effective": 4}}
    assert found["configs"]["piqa_local"]["num_fewshot"] == 0
    assert found["versions"] == {"piqa_local": 1.0}
    assert found["config"]["model_dtype"] == "torch.float32"
    assert json.loads(json.dumps(found)) == found


def test_measuring_leaves_the_model_as_it_was(
    tmp_path: Path,
    unchanged: Callable[[Any], AbstractContextManager[None]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    model, tokenizer = tiny_model("gpt2", resid_pdrop=0.5), byte_tokenizer()
    tokenizer.pad_token = None
    model.train()
    with unchanged(model):
        theirs(model, tokenizer, "winogrande", ROWS["winogrande"], tmp_path)
    assert tokenizer.pad_token is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_an_unknown_task_is_refused_with_close_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"no task 'piqua'. Close ones: .*piqa"):
        harness_tasks(tiny_model("llama"), byte_tokenizer(), ["piqua"])


def test_data_that_cannot_be_fetched_are_named(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").write_text(
        "task: gone\ndataset_path: json\noutput_type: loglikelihood\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'gone.jsonl'}}}}}\n"
        'doc_to_text: ""\ndoc_to_target: ""\n'
    )
    with pytest.raises(DataError, match="cannot fetch the data of gone"):
        harness_tasks(tiny_model("llama"), byte_tokenizer(), ["gone"], include_path=tmp_path)


@pytest.mark.parametrize(
    ("tasks", "options"),
    [("piqa", {}), ([], {}), (["piqa"], {"limit": 0})],
)
def test_arguments_that_cannot_be_are_refused(tasks: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"tasks|limit"):
        harness_tasks(tiny_model("llama"), byte_tokenizer(), tasks, **options)


def test_without_lm_eval_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ArgumentError, match=r"pip install optipfair\[eval\]"):
        harness_tasks(tiny_model("llama"), byte_tokenizer(), ["piqa"])


@pytest.fixture(scope="module")
def in_float64() -> tuple[Any, Any]:
    """The embedded model: in float32 the last digits depend on which queries share a batch."""
    return load_model("demo").double(), load_tokenizer("demo")


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_a_real_model_is_scored_as_lm_eval_scores_it(
    name: str,
    in_float64: tuple[Any, Any],
    shared_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval.models.huggingface import HFLM

    answers: list[tuple[float, bool]] = []
    original = HFLM.loglikelihood

    def recorded(*given: Any, **named: Any) -> Any:
        answers.extend(original(*given, **named))
        return answers

    monkeypatch.setattr(HFLM, "loglikelihood", recorded)
    model, tokenizer = in_float64
    lines = (shared_folder / "data" / TASKS[name].path).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:: len(lines) // 5][:5]]
    path = written(name, rows, tmp_path)
    expected = theirs(model, tokenizer, name, rows, tmp_path)
    items = TASKS[name].read(path).items
    scores = scored(model, tokenizer, items)
    flat = [each for own in scores for each in own]
    assert [s.greedy for s in flat] == [greedy for _, greedy in answers]
    # Norms are computed in float32 even here, and batches of other shapes round otherwise.
    assert [s.total for s in flat] == pytest.approx([t for t, _ in answers], rel=1e-7)
    assert_equal_figures(name, items, scores, expected)
