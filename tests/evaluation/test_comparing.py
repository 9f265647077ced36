"""`compare_models` and `evaluate_model` as a whole: what they find and leave as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import (
    ArgumentError,
    Contrast,
    ModelOutputError,
    UnknownNameError,
    UnsupportedModelError,
    attribute_bias,
    compare_models,
    evaluate_model,
)
from optipfair.evaluation import comparing
from optipfair.evaluation.contrast_sizes import contrast_sizes
from optipfair.evaluation.tasks import TASKS
from optipfair.testing import byte_tokenizer, tiny_model
from optipfair.uncertainty import Estimate
from support.compared import QUICK, WHOLE, compared, read, verdict
from support.comparing_processes import OPTIONS, models, steady
from support.launching import in_two_processes

Unchanged = Callable[[Any], AbstractContextManager[None]]


def test_all_tasks_are_measured_on_the_same_items_of_both(data: Path) -> None:
    original, pruned = models()
    with read(original) as first, read(pruned) as second:
        found = compared(original, pruned, data=data, **QUICK | {"limit": 3})
    assert first == second
    names = [each["name"] for each in found["tasks"]]
    assert names == [name for name in TASKS if TASKS[name].default and not TASKS[name].writes]
    assert {row["task"] for row in found["measures"]} == {"text", *names}
    assert found["text"]["file"].startswith("wikitext2/valid.txt")
    assert {each["section"]: each["how"] for each in found["left_out"]} == {
        "arithmetic": "Leave out --no-generation.",
        "generation": "Leave out --no-generation.",
        "speed": "Leave out --no-speed.",
        "layer profile": "Leave out --no-layers.",
    }


def test_without_data_the_text_and_the_rest_are_measured_and_what_is_missing_is_named() -> None:
    found = compared(*models(), **WHOLE)
    assert [each["name"] for each in found["tasks"]] == ["next_token"]
    assert found["text"]["file"] == "the text that ships with the demo"
    assert verdict(found, "speed") != "not measured"
    assert len(found["layers"]["original"]) == 2
    assert found["generation"]["prompts"] == 32
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
        if harm["low"] is not None:
            assert harm["low"] < 0 < harm["high"], row["id"]
            assert row["could_have_missed"] == harm["high"], row["id"]
        elif harm["value"] is not None:
            assert "are alike" in harm["reason"] or "clusters" in harm["reason"], row["id"]
        assert row["p"] in (1, None), row["id"]
        assert row["original"] == row["pruned"], row["id"]
    assert all(flips["total"] == 0 for flips in found["flips"])
    assert len(found["flips"]) >= 8
    parting = found["generation"]["until_parting"]
    reason = "resamples of the prompts all give this figure"
    assert parting == Estimate(32.0, None, None, reason)
    assert [each["share"]["value"] for each in found["generation"]["same"]] == [1.0, 1.0]
    assert {row["task"] for row in found["measures"]} == {"text", *TASKS} - {"bbq_letters"}
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


def test_an_evaluation_is_that_of_the_comparison(data: Path) -> None:
    """Both ask the same, so figures and intervals agree."""
    original, pruned = models()
    options: dict[str, Any] = {"data": data, "limit": 3, "seed": 2}
    both = compared(original, pruned, **options, **QUICK | {"generation": True})
    for model, label in ((original, "original"), (pruned, "pruned")):
        found = evaluate_model(model, byte_tokenizer(), **options)
        json.dumps(found, allow_nan=False)
        own = {
            row["id"]: [row[key] for key in ("value", "low", "high")] for row in found["measures"]
        }
        expected = {
            row["id"]: [row[label][key] for key in ("value", "low", "high")]
            for row in both["measures"]
            if not row["id"].startswith(("text.kl", "text.agreement"))
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


def test_models_that_cannot_write_so_much_are_compared_without_it(data: Path) -> None:
    """24 positions: room for the calculations, not for a beginning and what is written after it."""
    pair = tiny_model("gpt2", n_positions=24), tiny_model("gpt2", n_positions=24, seed=1)
    options = QUICK | {"generation": True, "prompts": ["Go"], "tasks": []}
    found = compared(*pair, data=data, **options)
    assert found["generation"] is None
    (told,) = [each for each in found["left_out"] if each["section"] == "generation"]
    assert "64 tokens are to be read and written, and GPT2LMHeadModel has 24" in told["reason"]
    assert told["how"].startswith("Nothing: this is a limit of the model")


def test_a_task_that_is_named_is_measured_without_the_rest_of_generation(data: Path) -> None:
    found = compared(*models(), data=data, tasks=["arithmetic"], **QUICK)
    assert [each["name"] for each in found["tasks"]] == ["arithmetic"]
    (exact,) = [row for row in found["measures"] if row["task"] == "arithmetic"]
    assert (exact["id"], exact["headline"]) == ("arithmetic.exact", True)
    assert found["generation"] is None


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


def test_contrasts_are_compared_where_they_are_asked_for() -> None:
    words = (("nurse", "maid", "nun"), ("pilot", "miner", "king"))
    contrast = Contrast("mine", ("The {word} said",), words, ((" she",), (" he",)))
    pair = [tiny_model("llama", seed=seed) for seed in (0, 1)]
    (found,) = contrast_sizes(pair, byte_tokenizer(), [contrast])
    alone = [attribute_bias(each, byte_tokenizer(), contrast)[0] for each in pair]
    sizes = [each.behaviour.value for each in alone]
    assert [found.original.value, found.pruned.value] == sizes
    assert found.original.low is not None and len(found.pruned.parts) == 5


def test_a_contrast_that_is_not_known_is_refused_before_anything_is_scored() -> None:
    pair = [tiny_model("llama", seed=seed) for seed in (0, 1)]
    with pytest.raises(UnknownNameError, match="Did you mean 'race-blame'"):
        compare_models(*pair, byte_tokenizer(), contrasts=["race-blam"])
