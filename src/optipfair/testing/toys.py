"""Toy models and a toy tokenizer for tests: offline, seeded, of every family of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..arch.families import FAMILIES, TINY_TOKENS
from ..errors import UnknownNameError, UnsupportedModelError
from ..registry import unknown_name
from . import toy_configs as tiny
from .toy_configs import UNBUILDABLE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TINY_FAMILIES = tuple(FAMILIES)


def tiny_config(name: str, **overrides: Any) -> Any:
    """The config of the toy model of a family; `overrides` replace its fields."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if name in FAMILIES:
        return AutoConfig.for_model(name, **{**FAMILIES[name].tiny, **TINY_TOKENS, **overrides})
    if name in UNBUILDABLE:
        raise UnsupportedModelError(f"There is no toy model of {name!r}: {UNBUILDABLE[name]}.")
    if name not in KNOWN:
        raise UnknownNameError(unknown_name("model family", name, sorted(KNOWN)))
    return tiny.tiny_config(name, **overrides)


def tiny_model(name: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Build the toy model of a family, with seeded random weights, in eval mode.

    Args:
        name: any `model_type` of `AutoModelForCausalLM`.
        seed: of the weights; the global random state is left as it was.
        **overrides: config fields to change.

    Returns:
        A causal language model with a few layers of width 16 to 40, float32, on CPU.

    Raises:
        UnknownNameError: no such family.
        UnsupportedModelError: a family that transformers cannot build by itself.

    Example:
        >>> tiny_model("qwen3").config.num_hidden_layers
        4
    """
    from transformers import AutoModelForCausalLM

    config = tiny_config(name, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        model: Any = auto.from_config(config)
        # Zero biases and unit norms would hide mistakes that move them.
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.eval()
    built: PreTrainedModel = model
    return built


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte and three special ones (259 ids), made in memory.

    Example:
        >>> byte_tokenizer()("hi")["input_ids"]
        [71, 72]
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<bos>", "<eos>", "<pad>"]
    vocabulary = {token: number for number, token in enumerate([*alphabet, *special])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = fast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    return tokenizer
