"""`optipfair recover`: from a pruned folder to one that holds it trained again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from optipfair import presets, prune_checkpoint
from optipfair.pipeline.healing import originals
from optipfair.pipeline.healing.unfinished import folder_beside
from optipfair.recovery.trainer import RecoveryTrainer
from optipfair.testing import byte_tokenizer, tiny_model
from support.disks import largest_file

SHORT = ("--tokens", "2048", "--length", "32", "--learning-rate", "1e-3", "--device", "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an original and two models that were pruned from it."""
    folder = tmp_path_factory.mktemp("models")
    original = tiny_model("llama")
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(4)
    original.to(torch.bfloat16).save_pretrained(folder / "original")
    byte_tokenizer().save_pretrained(folder / "original")
    prune_checkpoint(folder / "original", folder / "pruned", pruning_percentage=60)
    prune_checkpoint(
        folder / "original", folder / "shallow", pruning_type="DEPTH", num_layers_to_remove=2
    )
    return folder


class Ran(NamedTuple):
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


@pytest.fixture
def run(run_as_given: Callable[..., Any]) -> Callable[..., Ran]:
    return lambda *arguments: Ran(*run_as_given(*arguments))


def recovered(run: Callable[..., Ran], models: Path, out: Path, *more: str) -> Ran:
    return run(
        "recover", "--model-path", str(models / "pruned"), "--output-path", str(out), *SHORT, *more
    )


def test_a_pruned_folder_is_trained_and_keeps_what_belongs_to_it(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    result = recovered(run, models, tmp_path / "healed")
    assert result.exit_code == 0, result.output
    assert "Recovered" in result.output and "nats a token" in result.output
    source, healed = models / "pruned", tmp_path / "healed"
    assert {each.name for each in healed.iterdir()} == {
        *(each.name for each in source.iterdir()),
        "recovery.json",
        "recovery.svg",
    }
    for name in ("config.json", "pruning_plan.json", "recipe.yaml", "tokenizer.json"):
        assert (healed / name).read_bytes() == (source / name).read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in (source, healed))
    assert {name: (t.dtype, t.shape) for name, t in before.items()} == {
        name: (t.dtype, t.shape) for name, t in after.items()
    }
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.embed_tokens.weight" not in moved
    assert "model.layers.0.mlp.down_proj.weight" in moved
    model = AutoModelForCausalLM.from_pretrained(healed)
    assert bool(model(torch.arange(5)[None]).logits.isfinite().all())
    assert not folder_beside(healed).exists()


def test_the_card_and_the_record_say_what_was_given_back(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    result = recovered(run, models, tmp_path / "healed", "--json")
    found = json.loads(result.stdout)["recovery"]
    card = (tmp_path / "healed" / "README.md").read_text(encoding="utf-8")
    assert (models / "pruned" / "README.md").read_text(encoding="utf-8").rstrip() in card
    assert "## Recovered" in card and f"{found['after']:.4f}" in card
    assert "The text was builtin" in card
    assert (f"after it {found['way']:.0%} is kept" in card) == (0 < found["way"] < 1)
    record = json.loads((tmp_path / "healed" / "recovery.json").read_text(encoding="utf-8"))
    assert record["found"] == found
    assert record["asked"]["tokens"] == "2048"


def test_layers_that_were_removed_are_trained_around(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healed"
    result = run(
        "recover",
        "--model-path",
        str(models / "shallow"),
        "--output-path",
        str(out),
        *SHORT,
        "--json",
    )
    found = json.loads(result.stdout)["recovery"]
    assert found["after"] < found["before"]
    assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 2


def test_where_nothing_helps_the_folder_holds_the_model_as_it_came(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "same"
    result = run(
        *("recover", "--model-path", str(models / "original"), "--output-path", str(out)),
        *("--original", str(models / "original"), *SHORT),
    )
    assert result.exit_code == 0, result.output
    assert "did not help" in result.output
    before, after = (
        load_file(folder / "model.safetensors") for folder in (models / "original", out)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture
def interrupted(
    run: Callable[..., Ran], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The output of a run that was interrupted in its tenth step."""
    compute_loss = RecoveryTrainer.compute_loss

    def stopping(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training and self.state.global_step == 9:
            raise KeyboardInterrupt
        return compute_loss(self, model, *args, **kwargs)

    out = tmp_path / "healed"
    with monkeypatch.context() as patch:
        patch.setattr(RecoveryTrainer, "compute_loss", stopping)
        assert recovered(run, models, out).exit_code != 0
    assert not out.exists() and folder_beside(out).is_dir()
    return out


def test_an_interrupted_run_goes_on(
    run: Callable[..., Ran], models: Path, tmp_path: Path, interrupted: Path
) -> None:
    out = interrupted
    whole = recovered(run, models, tmp_path / "whole", "--json")

    again = recovered(run, models, out)
    assert again.exit_code == 2
    assert "Go on with it (--resume" in again.output
    other = recovered(run, models, out, "--resume", "--seed", "1")
    assert other.exit_code == 2
    assert "was asked for seed=0, this one for seed=1" in other.output

    resumed = recovered(run, models, out, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert not folder_beside(out).exists()
    assert (
        json.loads(resumed.stdout)["recovery"]["judged"]
        == json.loads(whole.stdout)["recovery"]["judged"]
    )
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_without_it(
    run: Callable[..., Ran], models: Path, interrupted: Path
) -> None:
    (checkpoint,) = folder_beside(interrupted).rglob("checkpoint-*")
    (checkpoint / "model.safetensors").write_bytes(b"{}")
    damaged = recovered(run, models, interrupted, "--resume")
    assert damaged.exit_code == 2
    assert f"The checkpoint {checkpoint} of the interrupted training cannot" in damaged.output
    assert "Traceback" not in damaged.output and not interrupted.exists()
    shutil.rmtree(checkpoint)
    resumed = recovered(run, models, interrupted, "--resume")
    assert resumed.exit_code == 0, resumed.output


@pytest.mark.parametrize(
    "nbytes", [20_000, 50_000, 70_000], ids=["as it came", "weights", "optimizer"]
)
def test_a_run_whose_disk_was_full_goes_on(
    run: Callable[..., Ran], models: Path, tmp_path: Path, nbytes: int
) -> None:
    """What is trained has 29 kB, the weights of a checkpoint 64 kB, its optimizer 81 kB."""
    out = tmp_path / "healed"
    with largest_file(nbytes):
        result = recovered(run, models, out)
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1].startswith("Error: OSError") and result.stdout == ""
    assert "Traceback" not in result.stderr
    assert f"lies in {folder_beside(out)}: make room on the disk" in result.output
    assert not out.exists()
    whole = recovered(run, models, tmp_path / "whole")
    resumed = recovered(run, models, out, "--resume")
    assert (whole.exit_code, resumed.exit_code) == (0, 0), resumed.output
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert not folder_beside(out).exists()


def test_too_little_room_is_said_before_the_training(
    run: Callable[..., Ran], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    result = recovered(run, models, tmp_path / "healed")
    assert result.exit_code == 2
    assert "and its disk has 0.0002 GB free. Make room" in result.output
    assert not [*tmp_path.iterdir()]
    adapters = recovered(run, models, tmp_path / "healed", "--lora", "4")
    assert adapters.exit_code == 0, adapters.output


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--resume",), "There is nothing to go on with"),
        (("--original", "nowhere/at/all"), "There is no model at 'nowhere/at/all'"),
        (("--data", "nowhere.txt"), "no calibration file 'nowhere.txt'"),
        (("--tokens", "many"), "200k or 2M"),
        (("--train", "heads"), "Unknown part to train"),
        (("--lora", "0"), "lora=0"),
        (("--device", "tpu"), "'tpu' is not available"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    run: Callable[..., Ran], models: Path, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    result = recovered(run, models, tmp_path / "healed", *more)
    assert result.exit_code == 2
    assert words in result.output
    assert not [*tmp_path.iterdir()]


def test_an_original_of_another_vocabulary_is_refused(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    tiny_model("llama", vocab_size=300).save_pretrained(tmp_path / "other")
    result = recovered(run, models, tmp_path / "healed", "--original", str(tmp_path / "other"))
    assert result.exit_code == 2
    assert "Give the model that it was pruned from" in result.output
    assert {each.name for each in tmp_path.iterdir()} == {"other"}


def test_a_folder_that_does_not_say_its_original_asks_for_it(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "plain")
    result = run(
        *("recover", "--model-path", str(tmp_path / "plain")),
        *("--output-path", str(tmp_path / "healed"), *SHORT),
    )
    assert result.exit_code == 2
    assert "--original MODEL" in result.output


def test_a_folder_in_the_way_that_no_run_made_is_never_touched(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healed"
    folder_beside(out).mkdir()
    (folder_beside(out) / "diary.txt").write_text("mine")
    (folder_beside(out) / "request.json").write_text('{"of": "another tool"}')
    result = recovered(run, models, out, "--overwrite")
    assert result.exit_code == 2
    assert "was made by no run" in result.output
    assert (folder_beside(out) / "diary.txt").read_text() == "mine"


def test_what_a_run_leaves_that_was_killed_as_it_began_is_in_nobodys_way(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healed"
    folder_beside(out).mkdir()
    (folder_beside(out) / "request.json.part").write_text('{"made')
    result = recovered(run, models, out)
    assert result.exit_code == 0, result.output
    assert {each.name for each in tmp_path.iterdir()} == {"healed"}


@pytest.mark.parametrize("from_disk", [False, True])
def test_the_originals_answers_are_kept_and_it_is_not_loaded_again(
    run: Callable[..., Ran],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    from_disk: bool,
) -> None:
    answers = tmp_path / "answers"
    if from_disk:
        monkeypatch.setattr(originals, "free_bytes", lambda _: 1000)
        monkeypatch.setattr(originals.Original, "model", None)  # would load it whole
    first = recovered(run, models, tmp_path / "first", "--cache-teacher", str(answers), "--json")
    assert first.exit_code == 0, first.output
    assert ("come from disk one at a time" in first.output) == from_disk
    monkeypatch.setattr(originals.Original, "model", None)
    again = recovered(run, models, tmp_path / "again", "--cache-teacher", str(answers), "--json")
    assert again.exit_code == 0, again.output
    found = [json.loads(each.stdout)["recovery"] for each in (first, again)]
    assert found[0]["helped"] and found[0]["judged"] == found[1]["judged"]


def test_one_command_prunes_and_trains(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healed"
    more = ("--pruning-percentage", "60", "--calibration", "none", "--recover", "--json")
    result = run(
        *("prune", "--model-path", str(models / "original"), "--output-path", str(out), *more),
        *("--recover-tokens", "4096"),
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["output_path"] == str(out)
    assert found["recovery"]["tokens"] == 4096
    assert {each.name for each in tmp_path.iterdir()} == {"healed"}
    assert "## Recovered" in (out / "README.md").read_text(encoding="utf-8")
    assert "recover: true" in (out / "recipe.yaml").read_text(encoding="utf-8")
    assert AutoModelForCausalLM.from_pretrained(out).config.intermediate_size == 16

    again = run("prune", "--recipe", str(out / "recipe.yaml"), "--output-path", str(tmp_path / "b"))
    assert again.exit_code == 0, again.output
    weights = "model.safetensors"
    assert (tmp_path / "b" / weights).read_bytes() == (out / weights).read_bytes()


def test_what_cannot_be_trained_is_refused_before_anything_is_pruned(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healed"
    result = run(
        *("prune", "--model-path", str(models / "original"), "--output-path", str(out)),
        *("--recover", "--recover-tokens", "lots"),
    )
    assert result.exit_code == 2 and "200k or 2M" in result.output
    assert not [*tmp_path.iterdir()]


def test_the_preset_with_recovery_is_quality_and_trains() -> None:
    for kind in ("MLP_GLU", "DEPTH", "BOTH", "ATTENTION"):
        both = presets.quality_and_recovery.options(kind)
        assert both == dataclasses.replace(presets.quality.options(kind), recover=True)


def test_without_a_tokenizer_nothing_is_pruned(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(models / "original" / name, source / name)
    arguments = ("--output-path", str(tmp_path / "healed"), "--recover", "--calibration", "none")
    result = run("prune", "--model-path", str(source), *arguments)
    assert result.exit_code == 2 and "which a tokenizer must read" in result.output
    assert {each.name for each in tmp_path.iterdir()} == {"source"}


def test_the_card_does_not_say_where_the_text_lay(
    run: Callable[..., Ran], models: Path, tmp_path: Path
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("\n\n".join(f"{n} foxes jump over {n * n} dogs." for n in range(400)))
    result = recovered(run, models, tmp_path / "healed", "--data", f"{text},builtin")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "healed" / "README.md").read_text(encoding="utf-8")
    recovery = card.split("## Recovered")[1]
    assert "The text was mine.txt,builtin" in recovery and str(tmp_path) not in recovery
