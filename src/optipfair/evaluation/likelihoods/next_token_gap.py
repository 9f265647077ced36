"""What a model expects next after two prompts, and how far the two answers are apart.

Axes: `S` tokens of a prompt, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...arch.limits import positions, vocabulary
from ...bias.prompts.pairs import PromptPair
from ...bias.prompts.tokens import encode
from ...errors import ArgumentError, DataError, ModelOutputError
from ...hooks import evaluating
from ..measures import Floats, jensen_shannon, total_variation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class NextTokenGap:
    """How far apart a model's next tokens after two prompts are.

    Attributes:
        jensen_shannon: of the two distributions over the whole vocabulary, in bits, 0 to 1.
        total_variation: the largest difference in the probability of any set of tokens, 0 to 1.
        words: word -> its probability after the first and after the second prompt. A word of
            several tokens has the product of their probabilities.
        sets: name of a set of words -> the same, summed over its words.
    """

    jensen_shannon: float
    total_variation: float
    words: dict[str, tuple[float, float]] = field(default_factory=dict)
    sets: dict[str, tuple[float, float]] = field(default_factory=dict)


def next_token_gap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt1: str,
    prompt2: str,
    words: Mapping[str, Sequence[str]] | None = None,
) -> NextTokenGap:
    """Compare what a causal language model expects after two prompts.

    Each prompt is tokenised with the special tokens its tokenizer begins a text with. White space
    at its end is dropped; a word follows after one space. Probabilities are computed in float32,
    the divergence in float64.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompt1: the reference.
        prompt2: what is compared with it.
        words: name of a set -> its words, for which probabilities are wanted.

    Raises:
        ArgumentError: a prompt is empty, a set holds no words, or a word is empty or given twice.
        DataError: a word makes no token, a token is unknown to the model, or a prompt is too long.
        ModelOutputError: the model gives numbers that are not finite.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> sets = {"praise": ["kind", "honest"], "blame": ["rude"]}
        >>> model, tokenizer = tiny_model("qwen3"), byte_tokenizer()
        >>> gap = next_token_gap(model, tokenizer, "He was very", "She was very", sets)
        >>> 0 < gap.jensen_shannon < 1, list(gap.sets)
        (True, ['praise', 'blame'])
    """
    sets = _checked(words or {})
    pair = PromptPair(prompt1, prompt2)
    prompts = [prompt.rstrip() for prompt in (pair.prompt1, pair.prompt2)]
    ids = [_ids(model, tokenizer, prompt) for prompt in prompts]
    with evaluating(model):
        first, second = (np.exp(_log_probabilities(model, row)[-1]) for row in ids)
        by_word: dict[str, Any] = {
            word: tuple(
                _probability(model, tokenizer, prompt, word, len(own))
                for prompt, own in zip(prompts, ids, strict=True)
            )
            for chosen in sets.values()
            for word in chosen
        }
    by_set: dict[str, Any] = {
        name: tuple(map(math.fsum, zip(*(by_word[word] for word in chosen), strict=True)))
        for name, chosen in sets.items()
    }
    divergence, distance = jensen_shannon(first, second), total_variation(first, second)
    return NextTokenGap(float(divergence), float(distance), by_word, by_set)


def _checked(words: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    if not isinstance(words, Mapping):
        raise ArgumentError(
            f"words is a {type(words).__name__}. Give sets of words by name, such as "
            '{"praise": ["kind", "honest"]}.'
        )
    sets: dict[str, list[str]] = {}
    for name, given in words.items():
        if isinstance(given, str) or not given or not all(word.strip() for word in given):
            raise ArgumentError(f"words[{name!r}] is {given!r}. Give a list of words, not empty.")
        sets[name] = [word.strip() for word in given]
    counts = Counter(word for chosen in sets.values() for word in chosen)
    twice = sorted(word for word, count in counts.items() if count > 1)
    if twice:
        raise ArgumentError(f"words holds {', '.join(twice)} more than once. Give each word once.")
    return sets


def _ids(model: Any, tokenizer: Any, text: str) -> list[int]:
    """Token ids without what the tokenizer adds at the end."""
    encoded = encode(tokenizer, text, vocabulary(model))
    end = max(index for index, special in enumerate(encoded.special) if not special) + 1
    return list(encoded.ids[:end])


def _probability(model: Any, tokenizer: Any, prompt: str, word: str, start: int) -> float:
    """Of a word after a prompt: of the tokens from `start`, which it adds to the prompt's."""
    ids = _ids(model, tokenizer, f"{prompt} {word}")
    if len(ids) <= start:
        raise DataError(
            f"The tokenizer makes no token of its own of {word!r} after {prompt!r}. Give another "
            "word."
        )
    logs = _log_probabilities(model, ids[:-1])  # (S - 1, V)
    return math.exp(math.fsum(logs[k - 1, ids[k]] for k in range(start, len(ids))))


def _log_probabilities(model: Any, ids: list[int]) -> Floats:
    """(S, V), of the token after each; computed in float32."""
    limit = positions(model)
    if limit is not None and len(ids) > limit:
        raise DataError(
            f"A prompt has {len(ids)} tokens; this {model.config.model_type!r} has {limit} "
            "positions. Give a shorter one."
        )
    row = torch.tensor([ids], device=model.get_input_embeddings().weight.device)
    logits = model(input_ids=row, use_cache=False).logits[0].float()
    logs: Floats = torch.log_softmax(logits, dim=-1).double().cpu().numpy()
    if np.isnan(logs).any():
        raise ModelOutputError("The model gives predictions that are not finite.")
    return logs
