"""Ideas for choosing neurons and for making up for them, each against the library's own way.

The embedded model loses a fifth of its neurons, by 48 x 512 tokens of bundled text, and is judged
as in `quality.py` (`held_out.py`). Layers run in bfloat16 where a matrix is multiplied. Each row is
printed as soon as it is measured, beside the first, which is how the library does it.

    python benchmarks/trials.py --only "as it is" "by step-by-step elimination"
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from held_out import ITEMS, TEXTS, TOKENS, judged
from torch import Tensor, nn

from optipfair import calibration_loader, load_model, load_tokenizer
from optipfair.pruning.calibration import text_sources
from optipfair.pruning.calibration.moments import FIT, HELD_BACK, Moments, Tokens, token_roles
from optipfair.pruning.compensation.least_squares import SHRINKAGES, fit_kept
from optipfair.pruning.importance.criteria import hybrid, ppm
from optipfair.pruning.importance.selection import elimination_order, select_neurons

SAMPLES, LENGTH, BATCH = 48, 512, 8
REMOVED = 0.2
BY_LENGTH = {"prose": 28, "fiction": 13, "speech": 8, "math": 18, "code": 15, "multilingual": 19}


@dataclass(frozen=True)
class Trial:
    """What is done in another way than the library does it."""

    name: str
    shares: dict[str, int] | None = None  # of the domains of the bundled text
    elimination: bool = False  # neurons go step by step (OBS) in the place of the hybrid's scores
    gradients: bool = False  # outputs and tokens count by the loss's gradient, labels sampled
    aim: float = 0.0  # share of the earlier layers' error that is made up for too
    shrinkages: Sequence[float] = SHRINKAGES
    steps: int = 0  # of Adam for all three matrices of an MLP, after the fit


TRIALS = (
    Trial("as it is"),
    Trial("domains by length", BY_LENGTH),
    Trial("no code, no mathematics", {"prose": 1, "fiction": 1, "speech": 1}),
    Trial("by step-by-step elimination", elimination=True),
    Trial("gradients", gradients=True),
    Trial("by elimination, gradients", elimination=True, gradients=True),
    Trial("earlier errors too", aim=1.0),
    Trial("half of earlier errors", aim=0.5),
    Trial("shrunk to a hundredth", shrinkages=(1e-2,)),
    Trial("shrunk to a tenth", shrinkages=(1e-1,)),
    Trial("MLPs trained by layer", steps=300),
)


@dataclass(frozen=True)
class Gradients:
    """Of the loss by an MLP's outputs: second moments (H, H), and the norm for each token."""

    moments: Tensor
    norms: Tensor


def pruned(model: Any, ids: Tensor, trial: Trial) -> None:
    """Remove neurons layer by layer; the model changes in place."""
    base = model.model
    batches: list[Tensor] = list(torch.split(ids, BATCH))
    hidden = [base.embed_tokens(batch) for batch in batches]
    whole = list(hidden)  # of the model as it was
    gradients = gradients_of(model, batches) if trial.gradients else None
    mask = torch.ones(ids.shape, dtype=torch.bool)
    roles = token_roles(mask, 0).flatten()
    for number, layer in enumerate(base.layers):
        scales = torch.cat([Tokens.of(h, mask[: len(h)], 0).scales.flatten() for h in hidden])
        hidden, inputs = zip(*(attended(base, layer, h) for h in hidden), strict=True)
        aims = None
        if trial.aim:
            whole = [passed(base, layer, h) for h in whole]
            aims = torch.cat([
                (after - now).flatten(0, 1) for after, now in zip(whole, hidden, strict=True)
            ])  # fmt: skip
        own = None if gradients is None else gradients[number]
        narrow(layer.mlp, torch.cat(inputs), scales, roles, trial, own, aims)
        hidden = [h + layer.mlp(x).view_as(h) for h, x in zip(hidden, inputs, strict=True)]


def attended(base: Any, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states after a layer's attention (B, S, H), and what enters its MLP (T, H)."""
    position = base.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    x = layer.input_layernorm(hidden)
    out = layer.self_attn(x, position_embeddings=position, attention_mask=None)[0]
    after = hidden + out.float()
    return after, layer.post_attention_layernorm(after).flatten(0, 1).float()


def passed(base: Any, layer: Any, hidden: Tensor) -> Tensor:
    after, x = attended(base, layer, hidden)
    return after + layer.mlp(x).view_as(after).float()


def gradients_of(model: Any, batches: Sequence[Tensor]) -> list[Gradients]:
    """Gradients of the loss of labels that are sampled from the model, for each layer."""
    found: list[list[Tensor]] = [[] for _ in model.model.layers]

    def watch(number: int) -> Any:
        def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
            leaf = output if output.requires_grad else output.requires_grad_()
            leaf.register_hook(lambda grad: found[number].append(grad.flatten(0, 1).float()))
            return leaf

        return keep

    layers = enumerate(model.model.layers)
    hooks = [layer.mlp.register_forward_hook(watch(number)) for number, layer in layers]
    torch.manual_seed(0)
    for batch in batches:
        with torch.enable_grad():
            logits = model(batch).logits.float().flatten(0, 1)
            labels = torch.distributions.Categorical(logits=logits.detach()).sample()
            nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    joined = (torch.cat(each) for each in found)
    return [Gradients(each.T @ each, each.norm(dim=1)) for each in joined]


def narrow(
    mlp: Any,
    inputs: Tensor,
    scales: Tensor,
    roles: Tensor,
    trial: Trial,
    gradients: Gradients | None,
    aims: Tensor | None,
) -> None:
    """Choose the neurons of an MLP, fit its down projection, and train what is left if asked."""
    gate, up, down = (part.weight.detach() for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    kept = round(len(gate) * (1 - REMOVED) / 32) * 32
    if gradients is not None:
        scales = gradients.norms / gradients.norms.mean()
    outputs = mlp(inputs).float()
    targets = None if aims is None else outputs + trial.aim * (aims - outputs)
    neurons = (mlp.act_fn(inputs @ gate.T) * (inputs @ up.T)).float() * scales[:, None]
    parts = []
    for role in (FIT, HELD_BACK):
        x, wanted = neurons[roles == role], None
        if targets is not None:
            wanted = (targets * scales[:, None])[roles == role]
        parts.append(moments(x, wanted))
    total = (parts[0] + parts[1]).inputs
    weight = down if gradients is None else root(gradients.moments) @ down
    if trial.elimination:
        gone = elimination_order(weight, total, len(gate) - kept)
        left = torch.ones(len(gate)).index_fill(0, gone, 0)
        keep = select_neurons(left, kept)
    else:
        norms = total.diagonal().sqrt().float()
        keep = select_neurons(hybrid(ppm(gate), ppm(up), ppm(weight.T), norms), kept)
    fit = fit_kept(down, keep, *parts, trial.shrinkages)
    new = [nn.Parameter(each) for each in (gate[keep], up[keep], fit.weight.float())]
    if trial.steps:
        chosen = (roles == FIT).nonzero()[:, 0]
        train(new, inputs[chosen], outputs[chosen], scales[chosen], trial.steps)
    for part, weight in zip((mlp.gate_proj, mlp.up_proj, mlp.down_proj), new, strict=True):
        part.weight = weight.requires_grad_(requires_grad=False)


def moments(inputs: Tensor, targets: Tensor | None) -> Moments:
    with torch.autocast("cpu", enabled=False):
        if targets is None:
            return Moments((inputs.T @ inputs).double())
        power = float(targets.double().square().sum())
        return Moments((inputs.T @ inputs).double(), (targets.T @ inputs).double(), power)


def root(moments: Tensor) -> Tensor:
    """The symmetric square root of second moments, (H, H)."""
    values, vectors = torch.linalg.eigh(moments.double())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).float()


def train(
    weights: Sequence[nn.Parameter], inputs: Tensor, outputs: Tensor, scales: Tensor, steps: int
) -> None:
    """Adam on the squared error of an MLP's outputs; the rate of a matrix is relative to it."""
    rates = [
        {"params": [w], "lr": 5e-3 * float(w.detach().square().mean().sqrt())} for w in weights
    ]
    optimizer = torch.optim.Adam(rates, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(0, len(inputs), (512,), generator=generator)
        x = inputs[chosen]
        with torch.enable_grad():
            gate, up, down = weights
            made = (nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
            error = (made.float() - outputs[chosen]) * scales[chosen, None]
            loss = error.square().sum() / (outputs[chosen] * scales[chosen, None]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()


def drawn(tokenizer: Any, shares: dict[str, int] | None) -> Tensor:
    """Calibration sequences, the domains by other shares where these are given."""
    shares = shares or text_sources.BUILTIN_SHARES
    with mock.patch.object(text_sources, "BUILTIN_SHARES", shares):
        loader = calibration_loader("builtin", tokenizer, samples=SAMPLES, length=LENGTH)
    return torch.cat([batch["input_ids"] for batch in loader])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [trial.name for trial in TRIALS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="judged of each text")
    parser.add_argument("--items", type=int, default=ITEMS, help="judged of LAMBADA")
    options = parser.parse_args()
    tokenizer: Any = load_tokenizer("demo")
    limits = {"tokens": options.tokens, "items": options.items}
    dense = judged(load_model("demo", dtype="bfloat16"), tokenizer, **limits)
    print(f"  {'':30}" + "".join(f"{name:>10}" for name in (*TEXTS, "all", "LAMBADA", "seconds")))
    for trial in TRIALS:
        if trial.name not in options.only:
            continue
        model: Any = load_model("demo", dtype="float32").requires_grad_(requires_grad=False)
        started = time.perf_counter()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            pruned(model, drawn(tokenizer, trial.shares), trial)
        seconds = time.perf_counter() - started
        kept = judged(model.to(torch.bfloat16), tokenizer, **limits)
        ratios = kept.ratios(dense)
        assert all(map(math.isfinite, ratios.values()))
        cells = [f"{ratios[name]:10.3f}" for name in TEXTS]
        cells += [f"{kept.headline(dense):10.4f}", f"{kept.accuracies['lambada']:10.3f}"]
        print(f"  {trial.name:30}" + "".join(cells) + f"{seconds:10.0f}", flush=True)


if __name__ == "__main__":
    main()
