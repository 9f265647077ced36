"""`recover`: never worse, resumable to the same bits, and nothing changes where it fails."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from optipfair import (
    ArgumentError,
    CheckpointError,
    DataError,
    ModelOutputError,
    UnknownNameError,
    UnsupportedModelError,
    prune_model,
    recover,
)
from optipfair.recovery import RecoverOptions, asking, trainer, training_run
from optipfair.recovery.trained_parts import trained
from optipfair.recovery.trainer import RecoveryTrainer, last_checkpoint
from optipfair.testing import byte_tokenizer, tiny_model

OPTIONS: dict[str, Any] = {
    "tokenizer": byte_tokenizer(),
    "tokens": 2048,
    "length": 32,
    "learning_rate": 1e-2,
    "device": "cpu",
    "checks": 4,
}


def pair(seed: int = 1) -> tuple[Any, Any]:
    """An original and another model of its shape, which differs by much."""
    original, student = tiny_model("llama"), tiny_model("llama", seed=seed)
    with torch.no_grad():
        for model in (original, student):
            for parameter in model.parameters():
                parameter.mul_(4)
    return original, student


def values(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_only_routers_move_where_only_they_are_trained() -> None:
    original = tiny_model("deepseek_v3", n_routed_experts=8, num_experts_per_tok=4)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(4)
    asked: dict[str, Any] = {"expert_selection_method": "RANDOM", "experts_to_keep": 4}
    student = prune_model(copy.deepcopy(original), "EXPERTS", **asked, show_progress=False)
    before = values(student)
    found = recover(student, original, train="routers", **OPTIONS)
    moved = {name for name, each in values(student).items() if not torch.equal(each, before[name])}
    routers = {f"model.layers.{layer}.mlp.gate.weight" for layer in range(1, 4)}
    assert found.helped and found.after < found.before
    assert moved and moved <= routers


def test_a_model_without_experts_has_no_routers_to_train() -> None:
    original, student = pair()
    with pytest.raises(UnsupportedModelError, match="it has no routed experts"):
        recover(student, original, train="routers", **OPTIONS)


def test_the_divergence_falls_and_the_figures_say_so() -> None:
    original, student = pair()
    before = values(original)
    found = recover(student, original, **OPTIONS)
    assert found.helped and found.after < 0.9 * found.before
    assert found.judged[0].loss == found.before and found.judged[0].tokens == 0
    assert found.perplexity_after < found.perplexity_before == found.judged[0].perplexity
    assert len(found.judged) >= 4 and found.training
    assert found.tokens == found.tokens_asked == 2048
    assert f"{found.before:.4f}" in found.in_words()
    assert same(values(original), before)


def test_the_model_afterwards_is_the_one_that_judged_best() -> None:
    original, student = pair()
    found = recover(student, original, **OPTIONS)
    again = recover(student, original, **{**OPTIONS, "learning_rate": 1e-12})
    assert again.before == pytest.approx(found.after, rel=1e-4)


@pytest.mark.parametrize(
    ("points", "way"),  # divergence and objective at the end of the way, at 3/4, 1/2 and 1/4
    [
        ([(0.5, 1.5), (0.6, 1.6), (0.7, 1.7), (0.8, 1.8)], 1.0),
        ([(0.5, 1.5), (0.4, 1.4), (0.3, 1.3), (0.35, 1.35)], 0.5),
        ([(0.6, 1.6), (0.5, 1.3), (0.4, 1.4), (0.3, 1.5)], 0.75),  # though others are nearer
        ([(0.6, 1.6), (0.6, 1.6), (0.55, 1.6), (0.45, 1.4)], 0.25),
        ([(1.5, 1.0), (1.1, 1.1), (0.9, 1.2), (0.8, 1.3)], 0.5),  # not further than before
        ([(1.5, 1.0), (1.2, 1.1), (1.1, 1.2), (1.05, 1.3)], 0.0),
    ],
)
def test_the_best_point_on_the_way_back_is_kept(
    points: list[tuple[float, float]], way: float, tmp_path: Path
) -> None:
    student = tiny_model("llama")
    came = values(student)
    found = [{"eval_loss": loss, "eval_objective": objective} for loss, objective in points]
    left = iter(found[1:])

    class Judge:
        @staticmethod
        def evaluate() -> dict[str, float]:
            return next(left)

    with trained(student, RecoverOptions(), tmp_path) as part, torch.no_grad():
        moved = [each for each in student.parameters() if each.requires_grad]
        for each in moved:
            each.add_(1)
        judge: Any = Judge
        after, kept = training_run.nearer(judge, part, {"eval_loss": 1.0}, found[0])
        if not kept:
            part.undo()
    by_share = dict(zip((1, 0.75, 0.5, 0.25), points, strict=True))
    assert kept == way and after["eval_loss"] == by_share.get(way, (1.0, None))[0]
    for name, each in student.named_parameters():
        shift = way if any(each is one for one in moved) else 0.0
        torch.testing.assert_close(each.detach(), came[name] + shift, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_go_a_part_of_the_way_back(dora: bool, tmp_path: Path) -> None:
    came, at = values(tiny_model("llama")), {}
    for kept in (1e-6, 0.25, 1.0):
        student = tiny_model("llama")
        with trained(student, RecoverOptions(lora=4, dora=dora), tmp_path) as part:
            torch.manual_seed(0)
            with torch.no_grad():
                for each in part.model.parameters():
                    if each.requires_grad:
                        each.add_(0.1 * torch.randn_like(each))
            part.go_back(0.5)
            part.go_back(kept / 0.5)
        at[kept] = values(student)
    for name, value in came.items():
        torch.testing.assert_close(at[1e-6][name], value, atol=1e-5, rtol=1e-4)
        if not dora:
            way = value + 0.25 * (at[1.0][name] - value)
            torch.testing.assert_close(at[0.25][name], way, atol=1e-5, rtol=1e-4)
    assert not same(at[0.25], came) and not same(at[0.25], at[1.0])


def test_embeddings_stay_unless_all_is_trained() -> None:
    for part, moved in (("layers", False), ("mlp", False), ("all", True)):
        original, student = pair()
        before = values(student)
        recover(student, original, train=part, **OPTIONS)
        table = "model.embed_tokens.weight"
        assert torch.equal(values(student)[table], before[table]) != moved
        norm = "model.norm.weight"
        assert torch.equal(values(student)[norm], before[norm]) == (part == "mlp")


def test_where_nothing_helps_the_model_is_as_it_came() -> None:
    original, _ = pair()
    student = copy.deepcopy(original)
    before = values(student)
    found = recover(student, original, **OPTIONS)
    assert not found.helped and found.after == found.before
    assert "did not help" in found.in_words()
    assert same(values(student), before)


def test_a_run_ends_early_when_it_stops_helping() -> None:
    original, student = pair()
    options = {**OPTIONS, "checks": 16, "learning_rate": 1e-12}
    found = recover(student, original, **options)
    assert found.tokens_asked == 2048
    assert found.tokens == 4 * 2048 // 16  # the first check, and three without gain


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_are_merged_and_leave_no_trace(dora: bool) -> None:
    pytest.importorskip("peft", reason="the extra `recover` is not installed")
    original, student = pair()
    names, before = [*values(student)], values(student)
    found = recover(student, original, lora=4, dora=dora, **OPTIONS)
    assert found.helped and [*values(student)] == names
    assert type(student.model.layers[0].mlp.down_proj) is torch.nn.Linear
    assert not same(values(student), before)
    assert found.parameters_trained < sum(each.numel() for each in student.parameters())


def test_adapters_that_do_not_help_are_taken_off() -> None:
    pytest.importorskip("peft", reason="the extra `recover` is not installed")
    original, _ = pair()
    student = copy.deepcopy(original)
    before = values(student)
    found = recover(student, original, lora=4, **OPTIONS)
    assert not found.helped and same(values(student), before)


def test_modes_gradients_and_random_states_are_as_before() -> None:
    original, student = pair()
    student.eval()
    student.model.layers[1].train()
    student.lm_head.weight.requires_grad_(False)
    modes = [module.training for module in student.modules()]
    needed = [each.requires_grad for each in student.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    recover(student, original, **OPTIONS)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in student.modules()] == modes
    assert [each.requires_grad for each in student.parameters()] == needed
    assert all(each.grad is None for each in student.parameters())
    assert not {"forward", "_original_forward"} & vars(student).keys()


def test_a_loss_that_is_not_finite_leaves_the_model_as_it_was() -> None:
    original, student = pair()
    with torch.no_grad():
        original.lm_head.weight[0, 0] = float("nan")
    before = values(student)
    with pytest.raises(ModelOutputError, match="The loss is nan"):
        recover(student, original, **OPTIONS)
    assert same(values(student), before)


def stopped_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training be interrupted after so many steps."""
    whole = RecoveryTrainer.compute_loss

    def compute_loss(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training and self.state.global_step >= steps:
            raise KeyboardInterrupt
        return whole(self, model, *args, **kwargs)

    monkeypatch.setattr(RecoveryTrainer, "compute_loss", compute_loss)


def test_an_interrupted_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, student = pair()
    came = values(student)
    whole = recover(student, original, **OPTIONS)
    expected = values(student)
    _, student = pair()
    with monkeypatch.context() as patch:
        stopped_after(9, patch)
        with pytest.raises(KeyboardInterrupt):
            recover(student, original, work_dir=tmp_path / "work", **OPTIONS)
    assert same(values(student), came)
    checkpoint = last_checkpoint(tmp_path / "work" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "checkpoint-8"
    resumed = recover(student, original, work_dir=tmp_path / "work", resume=True, **OPTIONS)
    assert same(values(student), expected)
    assert resumed.judged == whole.judged


DAMAGED = ("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt")


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_checkpoint_is_named_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, student = pair()
    came = values(student)
    with monkeypatch.context() as patch:
        stopped_after(9, patch)
        with pytest.raises(KeyboardInterrupt):
            recover(student, original, work_dir=tmp_path, **OPTIONS)
    checkpoint = last_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read") as found:
        recover(student, original, work_dir=tmp_path, resume=True, **OPTIONS)
    assert str(checkpoint) in str(found.value) and "Remove that folder" in str(found.value)
    assert same(values(student), came)


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((8, "{}"), (16, '{"global'), (24, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    found = last_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-8"
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_batches_are_taken_in_the_place_of_text_and_padding_does_not_count() -> None:
    original, student = pair()
    ids = torch.randint(0, 250, (44, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::2, 16:] = 0
    options = {name: value for name, value in OPTIONS.items() if name != "tokenizer"}
    other = copy.deepcopy(student)
    padded = [
        {"input_ids": i, "attention_mask": m}
        for i, m in zip(ids.split(4), mask.split(4), strict=True)
    ]
    garbage = ids.masked_fill(mask == 0, 7)
    changed = [
        {"input_ids": i, "attention_mask": m}
        for i, m in zip(garbage.split(4), mask.split(4), strict=True)
    ]
    first = recover(student, original, padded, **options)
    second = recover(other, original, changed, **options)
    assert first.judged == second.judged
    assert same(values(student), values(other))
    assert first.held_back_tokens == 24 + 24  # the 20th and the 40th sequence, which are not padded


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": 0}, "tokens=0 is no number of tokens"),
        ({"tokens": "lots"}, "200k or 2M"),
        ({"tokens": 16}, "less than one sequence"),
        ({"length": 1}, "length=1"),
        ({"dora": True}, "lora=16"),
        ({"dora": 1, "lora": 4}, "dora=1"),
        ({"resume": "no"}, "resume='no'"),
        ({"optimizer": "sgd"}, "muon"),
        ({"optimizer": "muon", "lora": 4}, "Adapters"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"label_weight": -1}, "label_weight=-1"),
        ({"label_weight": True}, "label_weight=True"),
        ({"label_weight": float("inf")}, "label_weight=inf"),
        ({"label_weight": "all"}, "0 or more"),
        ({"lora": 0}, "lora=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"accumulation_steps": 1.5}, "accumulation_steps=1.5"),
        ({"checks": 0}, "checks=0"),
        ({"seed": -1}, "seed"),
        ({"train": "heads"}, "Unknown part to train 'heads'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"data": "nowhere.txt"}, "no calibration file 'nowhere.txt'"),
        ({"device": "tpu"}, "'tpu' is not available"),
        ({"tokenizer": None}, "Give the model's tokenizer"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(
    options: dict[str, Any], words: str
) -> None:
    original, student = pair()
    before = values(student)
    data = options.pop("data", "builtin")
    with pytest.raises((ArgumentError, DataError, UnknownNameError)) as found:
        recover(student, original, data, **{**OPTIONS, **options})
    assert words in str(found.value)
    assert same(values(student), before)
    assert all(each.requires_grad for each in student.parameters())


def test_pairs_that_do_not_belong_together_are_refused() -> None:
    original, student = pair()
    with pytest.raises(ArgumentError, match="the same object"):
        recover(original, original, **OPTIONS)
    other = tiny_model("llama", vocab_size=300)
    with pytest.raises(ArgumentError, match=r"vocabulary of .* and its original of 300"):
        recover(student, other, **OPTIONS)
    with pytest.raises(ArgumentError, match='dtype="float32"'):
        recover(student.to(torch.bfloat16), original, **OPTIONS)


def test_an_unknown_keyword_is_refused_with_the_nearest_name() -> None:
    original, student = pair()
    with pytest.raises(TypeError, match="Did you mean 'tokens'"):
        recover(student, original, token=5)


def test_labels_count_by_the_divergence_before_and_what_is_shown_is_divergence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: set[float] = set()
    learning = training_run.learning

    @contextmanager
    def watched(model: Any, teacher: Any) -> Iterator[None]:
        with learning(model, teacher):
            forward = model.forward

            def noting(**inputs: Any) -> Any:
                if model.training:
                    given.add(inputs["pull"])
                return forward(**inputs)

            model.forward = noting
            yield
            model.forward = forward

    monkeypatch.setattr(training_run, "learning", watched)
    original, student = pair()
    found = recover(student, original, label_weight=0.5, **OPTIONS)
    assert given == {0.5 * found.before}
    given.clear()
    recover(*reversed(pair()), label_weight=50.0, **OPTIONS)
    assert given == {1.0}
    original, student = pair()
    assert recover(student, original, label_weight=0.0, **OPTIONS).before == found.before


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "opt"])
def test_other_families_recover_after_a_cut(family: str) -> None:
    original = tiny_model(family)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(3)
    student = prune_model(
        copy.deepcopy(original),
        pruning_percentage=None,
        expansion_rate=100,
        show_progress=False,
    )
    found = recover(student, original, **{**OPTIONS, "learning_rate": 1e-3})
    assert found.helped and found.after < found.before


def test_it_says_how_long_it_will_take() -> None:
    original, student = pair()
    said: list[str] = []
    recover(student, original, say=said.append, **OPTIONS)
    assert len(said) == 1 and "2,048 tokens will take about" in said[0]
    assert training_run._how_long(10**6, 10**5, 1e-3).startswith("Training on 1,000,000 tokens")


@pytest.mark.parametrize(("package", "options"), [("accelerate", {}), ("peft", {"lora": 4})])
def test_a_package_that_is_missing_is_named(
    package: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(ArgumentError, match=rf"needs the package {package}.*optipfair\[recover\]"):
        recover(*reversed(pair()), **OPTIONS, **options)


def test_deepspeed_that_cuts_weights_in_pieces_is_refused() -> None:
    from accelerate.utils import DeepSpeedPlugin

    trainer._check_engine(None)
    trainer._check_engine(DeepSpeedPlugin(zero_stage=2))
    with pytest.raises(ArgumentError, match="--fsdp_version 2"):
        trainer._check_engine(DeepSpeedPlugin(zero_stage=3))


def test_a_model_with_few_positions_is_trained_on_shorter_sequences() -> None:
    original, student = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    options = {name: value for name, value in OPTIONS.items() if name != "length"}
    found = recover(student, original, **{**options, "tokens": "20k", "checks": 1})
    most = original.config.n_positions
    assert most < 512 and found.tokens_asked % most == 0


def test_a_run_that_was_stopped_after_its_last_step_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, student = pair()
    whole = recover(student, original, **OPTIONS)
    expected = values(student)
    _, student = pair()

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "nearer", stop)
        with pytest.raises(KeyboardInterrupt):
            recover(student, original, work_dir=tmp_path, **OPTIONS)
    resumed = recover(student, original, work_dir=tmp_path, resume=True, **OPTIONS)
    assert same(values(student), expected)
    assert (resumed.judged, resumed.way) == (whole.judged, whole.way)
