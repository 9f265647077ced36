"""What a small mixture of experts loses with some of its experts, by what chooses them.

A Qwen3-MoE of about 15 million parameters (16 experts in each layer, 2 for a token) is trained on
`text_mix/train.jsonl` without what `held_out.py` holds back, with a tokenizer of its own, so that
its experts have something to be good at. Then experts go, and the model is judged on what was held
back of each domain: the geometric mean of the perplexity ratios to the model as it was. Random
experts are taken with five seeds. Beside them stand as many parameters less by width and by depth.

    python benchmarks/experts.py --model FOLDER             trains it there, unless it is there
    python benchmarks/experts.py --model FOLDER --recover   trains each result's routers too
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from held_out import DATA, DOMAINS, held_back_rows
from torch import Tensor

from optipfair import calibration_loader, prune_model, recover
from optipfair.arch.units.experts import by_experts
from optipfair.arch.view import describe
from optipfair.loading.models import load_model
from optipfair.loading.tokenizers import load_tokenizer
from optipfair.noted import unheard
from optipfair.pruning.calibration.routing import routing_of_model

VOCABULARY, CONTEXT, BATCH = 4096, 256, 16
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 240,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.02,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1024,
}
JUDGED = 16384  # tokens of each domain
# At the rate of all else, routers settle in the first steps and half of the experts stay idle.
RATE, ROUTER_RATE = 3e-3, 1e-4


def training_texts() -> list[str]:
    """Documents of `train.jsonl` that are not held back."""
    held = {row["text"] for row in held_back_rows()}
    lines = (DATA / "text_mix" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    rows = map(json.loads, filter(None, lines))
    return [row["text"] for row in rows if row["text"] not in held]


def made_tokenizer(texts: list[str], folder: Path) -> Any:
    """A byte-level BPE tokenizer of these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<end>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", pad_token="<end>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def trained(folder: Path, minutes: float) -> None:
    """Train the model for so long, and save it."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    texts = training_texts()
    tokenizer = made_tokenizer(texts, folder)
    ids = [tokenizer(text, verbose=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    flat = torch.tensor([token for own in ids for token in own])
    rows = flat[: len(flat) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=0, bos_token_id=0, **SIZES
    )
    model = Qwen3MoeForCausalLM(config).train()
    model.set_experts_implementation("grouped_mm")  # twice as fast here as one after the other
    size = sum(each.numel() for each in model.parameters())
    print(f"{size:,} parameters, {flat.numel():,} tokens of text, {minutes:g} minutes", flush=True)
    routers = [each for name, each in model.named_parameters() if "mlp.gate." in name]
    others = [each for name, each in model.named_parameters() if "mlp.gate." not in name]
    groups = [
        {"params": others, "highest": RATE},
        {"params": routers, "highest": ROUTER_RATE, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1, betas=(0.9, 0.95))
    started, done, losses = time.perf_counter(), 0.0, list[float]()
    order, step = iter(batches(rows)), 0
    while done < 1:
        share = min(1, step / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * share
        batch = next(order)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        losses.append(float(loss.detach()))
        done = (time.perf_counter() - started) / (60 * minutes)
        if step % 200 == 0:
            mean = sum(losses[-100:]) / 100
            print(f"  {done:4.0%}: {step * batch.numel():,} tokens, loss {mean:.3f}", flush=True)
    model.eval().save_pretrained(folder)


def batches(rows: Tensor) -> Iterator[Tensor]:
    """Batches of rows in a seeded order, again and again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for some in torch.randperm(len(rows), generator=generator).split(BATCH):
            if len(some) == BATCH:
                yield rows[some]


def held_back(tokenizer: Any) -> dict[str, Tensor]:
    """Domain → tokens of its held-back documents, in rows (n, CONTEXT)."""
    texts: dict[str, list[int]] = {domain: [] for domain in DOMAINS}
    for row in held_back_rows():
        if row["domain"] in texts:
            texts[row["domain"]] += tokenizer(row["text"], verbose=False)["input_ids"]
    found = {}
    for domain, ids in texts.items():
        count = min(len(ids), JUDGED) // CONTEXT * CONTEXT
        found[domain] = torch.tensor(ids[:count]).view(-1, CONTEXT)
    return found


def perplexities(model: Any, texts: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each domain, in windows side by side."""
    found = {}
    for domain, rows in texts.items():
        losses = []
        for some in rows.split(BATCH):
            with torch.no_grad():
                logits = model(input_ids=some, output_router_logits=False).logits[:, :-1].float()
            losses.append(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), some[:, 1:].flatten(), reduction="none"
                )
            )
        found[domain] = math.exp(float(torch.cat(losses).mean()))
    return found


def spread(model: Any, data: Any) -> str:
    """How evenly a model's routers use its experts."""
    with unheard():
        found = routing_of_model(by_experts(describe(model)), data)
    shares = torch.stack([each.tokens / each.tokens.sum() for each in found.values()])
    listed = [" ".join(f"{100 * each:.1f}" for each in own.sort().values) for own in shares]
    return "\n".join(f"layer {n}, % of tokens: {own}" for n, own in enumerate(listed))


def ratio(found: Mapping[str, float], dense: Mapping[str, float]) -> float:
    """The geometric mean of the ratios."""
    return math.exp(sum(math.log(found[name] / dense[name]) for name in dense) / len(dense))


def ways(kept: int, total: int) -> dict[str, dict[str, Any]]:
    """What chooses → keywords of `prune_model`."""
    asked: dict[str, dict[str, Any]] = {}
    for method in ("REAP", "ADDED", "FREQUENCY", "GATE_SUM", "NORM"):
        asked[method] = {"expert_selection_method": method}
    for seed in range(5):
        asked[f"RANDOM, seed {seed}"] = {"expert_selection_method": "RANDOM", "seed": seed}
    for each in asked.values():
        each |= {"pruning_type": "EXPERTS", "experts_to_keep": kept}
    share = 100 * (1 - kept / total)
    asked["neurons of experts, MAW"] = {"pruning_type": "MLP_GLU", "pruning_percentage": share}
    asked["neurons of experts, AUTO"] = {
        **asked["neurons of experts, MAW"],
        "neuron_selection_method": "AUTO",
    }
    layers = SIZES["num_hidden_layers"] * (total - kept) // total
    asked["layers, auto"] = {
        "pruning_type": "DEPTH",
        "num_layers_to_remove": layers,
        "layer_selection_method": "auto",
    }
    return asked


READS = ("REAP", "ADDED", "FREQUENCY", "GATE_SUM", "AUTO", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="its folder, made where missing")
    parser.add_argument("--minutes", type=float, default=20, help="of training")
    parser.add_argument("--recover", action="store_true", help="train each result's routers too")
    parser.add_argument("--tokens", default="200k", help="to train routers on")
    parser.add_argument("--rate", type=float, help="to train them at")
    parser.add_argument("--calibration", default="builtin", help="text to score on")
    parser.add_argument("--only", nargs="+", help="rows, by what their names begin with")
    asked = parser.parse_args()
    if not (asked.model / "config.json").exists():
        trained(asked.model, asked.minutes)
    compare(asked)


def compare(asked: argparse.Namespace) -> None:
    tokenizer: Any = load_tokenizer(asked.model)
    model: Any = load_model(asked.model, dtype="float32")
    texts = held_back(tokenizer)
    dense = perplexities(model, texts)
    data = list(
        calibration_loader(asked.calibration, tokenizer, samples=256, length=CONTEXT, seed=0)
    )
    total = int(model.config.num_experts)
    size = sum(each.numel() for each in model.parameters())
    print(spread(model, data))
    print(f"{size:,} parameters; {torch.get_num_threads()} threads; scored on {asked.calibration}")
    columns = (*DOMAINS, "all", "loss", "routers")
    print(f"  {'':28}{'parameters':>12}" + "".join(f"{name:>9}" for name in columns))
    print(f"  {'as it is':28}{size:12,}" + "".join(f"{dense[name]:9.2f}" for name in DOMAINS))
    for kept in (total * 3 // 4, total // 2):
        print(f"\n{kept} of {total} experts")
        rows = ways(kept, total)
        experts = dict.fromkeys(rows)
        for name in experts:
            if asked.only and not name.startswith(tuple(asked.only)):
                continue
            row(asked, name, rows[name], model, tokenizer, texts, dense, data)


def row(
    asked: argparse.Namespace,
    name: str,
    options: Mapping[str, Any],
    model: Any,
    tokenizer: Any,
    texts: Mapping[str, Tensor],
    dense: Mapping[str, float],
    data: Any,
) -> None:
    """Prune a copy, judge it, and print what came out."""
    victim = copy.deepcopy(model)
    more = {"dataloader": data} if any(each in name for each in READS) else {}
    with unheard():
        prune_model(victim, **options, **more, show_progress=False)
    found = perplexities(victim, texts)
    worse = ratio(found, dense)
    size = sum(each.numel() for each in victim.parameters())
    after = ""
    if asked.recover and options["pruning_type"] == "EXPERTS":
        victim.config.output_router_logits = False
        with unheard():
            recover(
                victim,
                model,
                "builtin",
                tokenizer=tokenizer,
                train="routers",
                tokens=asked.tokens,
                learning_rate=asked.rate,
                length=CONTEXT,
                device="cpu",
            )
        after = f"{math.log(ratio(perplexities(victim.eval(), texts), dense)):9.4f}"
    cells = "".join(f"{found[domain] / dense[domain]:9.3f}" for domain in DOMAINS)
    print(f"  {name:28}{size:12,}{cells}{worse:9.4f}{math.log(worse):9.4f}{after}", flush=True)


if __name__ == "__main__":
    main()
