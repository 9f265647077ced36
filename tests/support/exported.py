"""Models to export, whose layers differ in every way that an engine may trip over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from optipfair import PruningPlan, apply_plan, load_tokenizer, prune_model
from optipfair.loading.quiet import quiet_transformers
from optipfair.pruning.cut.plan import WidthCut
from optipfair.testing import byte_tokenizer, tiny_model

# Name → widths as shares of the whole, layer by layer in turns, and the blocks that go.
SHAPES: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "uniform": ((1.0,), ()),
    "non-uniform": ((1.0, 0.833, 0.667), ()),
    "odd widths": ((0.977, 0.836, 0.723), ()),
    "first without attention": ((0.977, 0.836), ("attention.0",)),
    "first without MLP": ((0.977, 0.836), ("mlp.0",)),
    "middle without attention": ((1.0,), ("attention.1",)),
    "middle without MLP": ((1.0,), ("mlp.1",)),
    "middle without both": ((0.836,), ("attention.1", "mlp.1")),
    "last without attention": ((1.0,), ("attention.L",)),
    "last without MLP": ((1.0,), ("mlp.L",)),
}
SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the least that vLLM runs on a CPU
    "max_position_embeddings": 512,
    "vocab_size": 272,
}
# Toys attend to 16 tokens in some layers otherwise, which no engine's form for others says.
ALL_TOKENS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
}


def shaped(model: Any, shape: str) -> Any:
    """A model of Llama's form in one of the `SHAPES`."""
    shares, blocks = SHAPES[shape]
    layers = model.model.layers
    total, whole = len(layers), layers[0].mlp.gate_proj.out_features
    widths = [int(shares[index % len(shares)] * whole) for index in range(total)]
    cuts = tuple(
        WidthCut(index, "mlp", whole, (tuple(range(width)),))
        for index, width in enumerate(widths)
        if width < whole
    )
    kept = tuple(range(total))
    apply_plan(model, PruningPlan(model.config.model_type, total, kept, cuts))
    if blocks:
        named = [block.replace("L", str(total - 1)) for block in blocks]
        prune_model(model, "BLOCKS", blocks=named, show_progress=False)
    return model


def toy_folder(folder: Path, shape: str, family: str = "llama", **fields: Any) -> Path:
    """A toy in one of the `SHAPES` with its tokenizer, as a folder."""
    model = tiny_model(family, **{**SMALL, **ALL_TOKENS.get(family, {}), **fields})
    return saved(shaped(model, shape), merging_tokenizer(), folder)


def merging_tokenizer() -> Any:
    """The toys' tokenizer of bytes, with one merge: llama.cpp reads none without."""
    tokenizer: Any = byte_tokenizer()
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    fields["model"]["vocab"]["ab"] = len(tokenizer)
    fields["model"]["merges"] = [["a", "b"]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(fields))
    return tokenizer


def demo_folder(folder: Path, shape: str, model: Any) -> Path:
    """The embedded model in one of the `SHAPES`, as a folder."""
    return saved(shaped(model, shape), load_tokenizer("demo"), folder)


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder
