"""What a pruning cost, against the models' own answers."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from optipfair import prune_model
from optipfair.batches import read_batch
from optipfair.pruning.calibration.text_cost import cost_of, final_states
from optipfair.testing import tiny_model

# Caps and scales of logits come after the head: gemma2 has a cap, granite a scale, gpt2 neither.
FAMILIES = ("llama", "gemma2", "granite", "gpt2", "mixtral")


def batches(vocabulary: int) -> list:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (3, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return [read_batch((ids, mask)), read_batch(ids[:, :9])]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_is_what_both_models_answer(family: str) -> None:
    before = tiny_model(family).eval()
    after = prune_model(copy.deepcopy(before), pruning_percentage=60, show_progress=False)
    data = batches(before.config.vocab_size)
    found = cost_of(after, data, final_states(before, data), final_states(after, data))
    losses, divergence, tokens = [0.0, 0.0], 0.0, 0
    with torch.no_grad():
        for batch in data:
            for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
                row = ids[mask][None]
                old, new = (m(row).logits[0, :-1].float().log_softmax(-1) for m in (before, after))
                for place, answer in enumerate((old, new)):
                    losses[place] -= float(answer.gather(1, row[0, 1:, None]).sum())
                divergence += float((old.exp() * (old - new)).sum())
                tokens += row.shape[1] - 1
    assert found.tokens == tokens
    assert found.perplexity_before == pytest.approx(math.exp(losses[0] / tokens), rel=1e-4)
    assert found.perplexity_after == pytest.approx(math.exp(losses[1] / tokens), rel=1e-4)
    assert found.kl_divergence == pytest.approx(divergence / tokens, rel=1e-3, abs=1e-7)
    assert found.kl_divergence > 0


def test_nothing_pruned_costs_nothing_and_the_model_is_as_it_was() -> None:
    model = tiny_model("llama").train()
    data = batches(model.config.vocab_size)
    states = final_states(model, data)
    found = cost_of(model, data, states, states)
    assert (found.kl_divergence, found.ratio) == (0, 1)
    assert model.training and "forward" not in vars(model.base_model)


def test_what_is_not_finite_is_null_in_json() -> None:
    model = tiny_model("llama")
    data = batches(model.config.vocab_size)
    states = final_states(model, data)
    worse = [state * 1e30 for state in states]
    found = cost_of(model, data, states, worse)
    assert found is not None and found.perplexity_after == math.inf
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["perplexity_after"] is None
