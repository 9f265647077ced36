"""Run by the Python of another environment, which holds transformers 4.57 and not this library.

python transformers4.py make FOLDER        toys, saved as hubs hold them: its own spelling
python transformers4.py read FOLDER ...    logits of the models in these folders, beside them
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 16}
SLIDING = ["sliding_attention", "full_attention"] * 2
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.5, 5.0, 9.0],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MAMBA = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}

# Fields as the published models have them: scaled positions, a base that is not the default.
TOYS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3.1": (
        "llama",
        {**GROUPED, "rope_theta": 500000.0, "rope_scaling": LLAMA3, "max_position_embeddings": 512},
    ),
    "qwen3": ("qwen3", {**HEADS, "rope_theta": 1000000.0, "max_window_layers": 3}),
    "qwen3-yarn": ("qwen3", {**HEADS, "rope_theta": 1000000.0, "rope_scaling": YARN}),
    "phi-3-longrope": (
        "phi3",
        {
            **GROUPED,
            "rope_theta": 50000.0,
            "rope_scaling": LONGROPE,
            "original_max_position_embeddings": 16,
            "max_position_embeddings": 64,
        },
    ),
    "pythia": ("gpt_neox", {**SIZES, "rotary_pct": 0.5, "rotary_emb_base": 20000}),
    "falcon-h1": ("falcon_h1", {**HEADS, **MAMBA, "rope_theta": 100000000000.0}),
    "mamba-2": (
        "mamba2",
        {
            "vocab_size": 272,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "expand": 2,
            "num_heads": 4,
            "head_dim": 16,
            "n_groups": 1,
            "state_size": 8,
            "chunk_size": 8,
        },
    ),
    "gemma-3": (
        "gemma3_text",
        {
            **HEADS,
            "rope_theta": 500000.0,
            "rope_local_base_freq": 20000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window": 8,
            "layer_types": SLIDING,
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma-2": (
        "gemma2",
        {**HEADS, "rope_theta": 20000.0, "sliding_window": 8, "query_pre_attn_scalar": 16},
    ),
    "mistral": ("mistral", {**HEADS, "rope_theta": 1000000.0, "sliding_window": 8}),
    "qwen2": ("qwen2", {**GROUPED, "rope_theta": 1000000.0}),
    "qwen3-moe": (
        "qwen3_moe",
        {
            **HEADS,
            "rope_theta": 1000000.0,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 48,
        },
    ),
    "mixtral": (
        "mixtral",
        {**GROUPED, "rope_theta": 1000000.0, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "gpt-oss": (
        "gpt_oss",
        {
            **HEADS,
            "rope_theta": 150000.0,
            "rope_scaling": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
            "sliding_window": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "deepseek-v3": (
        "deepseek_v3",
        {
            **SIZES,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 48,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "q_lora_rank": 24,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        },
    ),
}


def make(folder: Path) -> None:
    for name, (model_type, fields) in TOYS.items():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **fields)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # else zero biases and unit norms hide mistakes
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        path = folder / name / "config.json"  # most were published before this field was renamed
        path.write_text(path.read_text().replace('"dtype":', '"torch_dtype":'))


def read(folder: Path) -> None:
    """Write the logits of the tokens in the file beside the folder."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if wrong:
        raise SystemExit(f"{folder.name}: {wrong}")
    ids = torch.from_numpy(np.load(folder.parent / "ids.npy"))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits
    np.save(folder.parent / f"{folder.name}.npy", logits.float().numpy())


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    what, *folders = sys.argv[1:]
    for each in map(Path, folders):
        make(each) if what == "make" else read(each)
