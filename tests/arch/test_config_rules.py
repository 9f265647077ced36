"""How a config follows when layers go: every kept layer stays what it was."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from optipfair.arch.config_rules import config_after_depth
from optipfair.testing import tiny_config

kept_layers = st.sets(st.integers(0, 7), min_size=1).map(sorted)


def test_layer_types_keep_the_entries_of_kept_layers() -> None:
    changes = config_after_depth(tiny_config("gemma2"), [0, 2, 3])
    assert changes["layer_types"] == ["sliding_attention", "sliding_attention", "full_attention"]
    assert changes["num_hidden_layers"] == 3


def test_max_window_layers_counts_the_kept_ones() -> None:
    assert config_after_depth(tiny_config("qwen3"), [0, 3])["max_window_layers"] == 1
    assert config_after_depth(tiny_config("qwen2"), [0, 1, 3])["max_window_layers"] == 2


def test_only_the_number_changes_where_nothing_depends_on_the_position() -> None:
    assert config_after_depth(tiny_config("llama"), [0, 2]) == {"num_hidden_layers": 2}


def is_dense(index: int, dense: list[int], step: int) -> bool:
    """As transformers decides it for Qwen-MoE."""
    return index in dense or (index + 1) % step != 0


@given(kept_layers, st.sets(st.integers(0, 7)), st.integers(1, 4))
def test_dense_layers_stay_dense_and_sparse_ones_sparse(
    keep: list[int], dense: set[int], step: int
) -> None:
    config = SimpleNamespace(mlp_only_layers=sorted(dense), decoder_sparse_step=step)
    changes = config_after_depth(config, keep)
    for new, old in enumerate(keep):
        after = is_dense(new, changes["mlp_only_layers"], changes["decoder_sparse_step"])
        assert after == is_dense(old, sorted(dense), step)


@given(kept_layers, st.integers(0, 8))
def test_leading_dense_layers_stay_the_leading_ones(keep: list[int], leading: int) -> None:
    changes = config_after_depth(SimpleNamespace(first_k_dense_replace=leading), keep)
    for new, old in enumerate(keep):
        assert (new < changes["first_k_dense_replace"]) == (old < leading)
