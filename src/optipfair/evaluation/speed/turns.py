"""Two models generating in turn, so that a machine that drifts does not decide between them.

Axes: `B` batch, `S` tokens of the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from ...checking import check_count
from ...progress import track
from .footprint import MemoryMeter
from .generation import Inputs, Run, generate_once, on_device, ready_to_generate, vocabulary

Pair = tuple[Run, Run]


@dataclass(frozen=True)
class Protocol:
    """How much is generated, and how often; as of `compare_models_inference`."""

    max_new_tokens: int
    num_runs: int
    warmup_runs: int
    show_progress: bool = False

    def __post_init__(self) -> None:
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("num_runs", self.num_runs)
        check_count("warmup_runs", self.warmup_runs, 0)


def take_turns(
    models: tuple[Any, Any],
    meters: tuple[MemoryMeter, MemoryMeter],
    prompts: Sequence[Inputs],
    protocol: Protocol,
) -> list[Pair]:
    """Pairs of runs (of the first model, of the second), round by round, then by prompt.

    The two runs of a pair follow each other. Which is first alternates from prompt to prompt, and
    for each prompt from round to round.
    """
    inputs = [[on_device(prompt, model) for model in models] for prompt in prompts]
    rounds = range(protocol.warmup_runs + protocol.num_runs)
    turns = list(itertools.product(rounds, range(len(prompts))))
    pairs: list[Pair] = []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(ready_to_generate(model))
        for number, prompt in track(turns, "timing", protocol.show_progress, unit="pair"):
            runs: dict[int, Run] = {}
            for which in (0, 1) if (number + prompt) % 2 == 0 else (1, 0):
                runs[which] = generate_once(
                    models[which], inputs[prompt][which], protocol.max_new_tokens, meters[which]
                )
            if number >= protocol.warmup_runs:
                pairs.append((runs[0], runs[1]))
    return pairs


def random_prompts(model: Any, tokenizer: Any, rows: int, length: int, seed: int) -> Inputs:
    """Ids (B, S) drawn from the vocabulary without its special tokens, and a mask of ones."""
    special = set(tokenizer.all_special_ids)
    known = [n for n in range(min(len(tokenizer), vocabulary(model))) if n not in special]
    draws = torch.Generator().manual_seed(seed)
    ids = torch.tensor(known)[torch.randint(len(known), (rows, length), generator=draws)]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
