"""How a config follows when layers go: every kept layer stays what it was."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from optipfair.arch.config_rules import config_after_depth
from optipfair.testing import tiny_config

TOTAL = 8


class Fields(SimpleNamespace):
    """A config of just these fields."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


kept_layers = st.sets(st.integers(0, 7), min_size=1).map(sorted)


def test_layer_types_keep_the_entries_of_kept_layers() -> None:
    changes = config_after_depth(tiny_config("gemma2"), [0, 2, 3], 4)
    assert changes["layer_types"] == ["sliding_attention", "sliding_attention", "full_attention"]
    assert changes["num_hidden_layers"] == 3


def test_max_window_layers_counts_the_kept_ones() -> None:
    assert config_after_depth(tiny_config("qwen3"), [0, 3], 4)["max_window_layers"] == 1
    assert config_after_depth(tiny_config("qwen2"), [0, 1, 3], 4)["max_window_layers"] == 2


def test_only_the_number_changes_where_nothing_depends_on_the_position() -> None:
    assert config_after_depth(tiny_config("llama"), [0, 2], 4) == {"num_hidden_layers": 2}


def is_dense(index: int, dense: list[int], step: int) -> bool:
    """As transformers decides it for Qwen-MoE."""
    return index in dense or (index + 1) % step != 0


@given(kept_layers, st.sets(st.integers(0, 7)), st.integers(1, 4))
def test_dense_layers_stay_dense_and_sparse_ones_sparse(
    keep: list[int], dense: set[int], step: int
) -> None:
    config = Fields(mlp_only_layers=sorted(dense), decoder_sparse_step=step)
    changes = config_after_depth(config, keep, TOTAL)
    for new, old in enumerate(keep):
        after = is_dense(new, changes["mlp_only_layers"], changes["decoder_sparse_step"])
        assert after == is_dense(old, sorted(dense), step)


@given(kept_layers, st.integers(0, 8))
def test_leading_dense_layers_stay_the_leading_ones(keep: list[int], leading: int) -> None:
    changes = config_after_depth(Fields(first_k_dense_replace=leading), keep, TOTAL)
    for new, old in enumerate(keep):
        assert (new < changes["first_k_dense_replace"]) == (old < leading)


@given(kept_layers, st.sets(st.integers(0, 7)))
def test_listed_layers_are_renumbered(keep: list[int], special: set[int]) -> None:
    changes = config_after_depth(Fields(moe_layers=sorted(special)), keep, TOTAL)
    assert [keep[new] for new in changes["moe_layers"]] == [i for i in keep if i in special]


@given(kept_layers, st.integers(1, 8))
def test_trailing_layers_stay_the_trailing_ones(keep: list[int], trailing: int) -> None:
    config = Fields(num_kv_shared_layers=trailing, num_hidden_layers=TOTAL)
    kept = config_after_depth(config, keep, TOTAL)["num_kv_shared_layers"]
    for new, old in enumerate(keep):
        assert (new >= len(keep) - kept) == (old >= TOTAL - trailing)


@given(kept_layers)
def test_any_list_with_an_entry_for_each_layer_keeps_those_of_the_kept_layers(
    keep: list[int],
) -> None:
    changes = config_after_depth(Fields(kinds=list("abcdefgh")), keep, TOTAL)
    assert changes["kinds"] == ["abcdefgh"[i] for i in keep]


def test_lists_of_tokens_are_left_alone() -> None:
    assert "eos_token_id" not in config_after_depth(Fields(eos_token_id=[1, 2]), [0], 2)


def test_overrides_by_layer_number_follow_their_layers() -> None:
    config = Fields(per_layer_config={1: {"head_dim": 16}, 3: {"head_dim": 8}})
    changes = config_after_depth(config, [0, 3], 4)
    assert changes["per_layer_config"] == {1: {"head_dim": 8}}
