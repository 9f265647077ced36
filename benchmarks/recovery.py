"""What training gives back, by what is trained, on what, how fast, and towards what.

The embedded model is pruned by the command line's own choices, trained in one of several ways on
`text_mix/train.jsonl` without what `held_out.py` holds back, and judged on texts that neither
calibration nor training saw. "left" is the share of the loss that remains: the logarithm of the
geometric mean of perplexity ratios to the model that was not pruned, over the same before training.
Each row is printed as soon as it is measured; all rows of one run begin with the same pruned model.

    python benchmarks/recovery.py --pruned "width 20" --only "as it is" --tokens 200k --keep FOLDER
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from held_out import DATA, ITEMS, TEXTS, TOKENS, Kept, held_back_rows, judged
from torch import Tensor

from optipfair import distill_model, load_model, load_tokenizer, prune_checkpoint
from optipfair.pruning.options.presets import chosen_by_data
from optipfair.pruning.options.prune_options import PruneOptions
from optipfair.recovery import RecoverOptions
from optipfair.recovery.objectives import bucketed_kl, cross_entropy, forward_kl
from optipfair.recovery.recovering import read_text
from optipfair.recovery.recovery_result import Recovery
from optipfair.recovery.teachers import Distance, LiveTeacher
from optipfair.recovery.training_run import train

PRUNED: dict[str, dict[str, Any]] = {
    "width 20": {"pruning_percentage": 20},
    "width 20, not reconstructed": {"pruning_percentage": 20, "reconstruct": False},
    "width 40": {"pruning_percentage": 40},
    "4 layers": {"pruning_type": "DEPTH", "num_layers_to_remove": 4},
    "8 layers": {"pruning_type": "DEPTH", "num_layers_to_remove": 8},
}


MIXED, UNMIXED = "train.jsonl", "as-it-comes.jsonl"  # files that `training_file` writes


class Labels:
    """Cross-entropy with the next token of the text in the place of a teacher."""

    def distance(self, input_ids: Tensor, real: Tensor, row: Tensor | None) -> Distance:
        del row
        labels = input_ids.roll(-1, dims=1)[real]
        counted = torch.ones_like(input_ids, dtype=torch.float32)
        counted[:, -1] = 0  # what follows is another text
        weights = counted[real]
        return lambda logits, place: cross_entropy(logits, labels[place]) * weights[place]


class TailWeighted(LiveTeacher):
    """The divergence over the likeliest tokens and one bucket, and that among the others in full.

    In the whole divergence the second has the teacher's mass of these others as its weight; here it
    has 1 (after Dasgupta et al. 2026, arXiv 2602.20816).
    """

    def distance(self, input_ids: Tensor, real: Tensor, row: Tensor | None) -> Distance:
        del row
        with torch.no_grad():
            states = self._parted.states(input_ids=input_ids)[real]

        def distance(logits: Tensor, place: slice) -> Tensor:
            with torch.no_grad():
                wanted = self._parted.logits(states[place])
                logs, tokens = wanted.float().log_softmax(dim=-1).topk(10, dim=-1)
            without = [each.float().scatter(-1, tokens, -1e9) for each in (logits, wanted)]
            return bucketed_kl(logits, tokens, logs) + forward_kl(*without)

        return distance


@dataclass(frozen=True)
class Row:
    """One way to train; with `distilling` by `distill_model` with these arguments."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    teacher: Callable[[Any], Any] = LiveTeacher
    distilling: dict[str, Any] | None = None

    def trained(
        self, options: dict[str, Any], folder: Path, original: Any, tokenizer: Any
    ) -> tuple[Any, int, Recovery | None]:
        """The model, the tokens that it was trained on, and what `recover` says of it."""
        asked = RecoverOptions(**options)
        rows = read_text(asked, tokenizer, lambda: original)
        if self.distilling is None:
            model: Any = load_model(folder, dtype="float32")
            found = train(asked, model, self.teacher(original), rows)
            return model, found.tokens, found
        model = load_model(folder, dtype="bfloat16")  # it trains a copy in float32
        ids = torch.stack([row["input_ids"] for row in rows.train[: len(rows.train) // _EPOCHS]])
        data = [{"input_ids": each} for each in ids.split(_BATCH)]
        distill_model(model, original, data, epochs=_EPOCHS, show_progress=False, **self.distilling)
        return model, _EPOCHS * ids.numel(), None


_EPOCHS, _BATCH = 3, 2  # of `distill_model`; the first is its default

ROWS = (
    Row("as it is"),
    Row("learning rate 5e-5", {"learning_rate": 5e-5}),
    Row("learning rate 1e-4", {"learning_rate": 1e-4}),
    Row("learning rate 2e-4", {"learning_rate": 2e-4}),
    Row("learning rate 4e-4", {"learning_rate": 4e-4}),
    Row("Muon 2e-4", {"optimizer": "muon", "learning_rate": 2e-4}),
    Row("Muon 5e-4", {"optimizer": "muon", "learning_rate": 5e-4}),
    Row("Muon 1e-3", {"optimizer": "muon", "learning_rate": 1e-3}),
    Row("linear schedule", {"schedule": "linear"}),
    Row("constant rate", {"schedule": "constant"}),
    Row("1 sequence a step", {"batch_size": 1}),
    Row("4 sequences a step", {"batch_size": 4}),
    Row("8 sequences a step", {"batch_size": 8}),
    Row("embeddings too", {"train": "all"}),
    Row("MLPs alone", {"train": "mlp"}),
    Row("LoRA 16", {"lora": 16}),
    Row("LoRA 64", {"lora": 64}),
    Row("text as it comes", {"data": UNMIXED}),
    Row("bundled text", {"data": "builtin"}),
    Row("self-written text", {"data": "self"}),
    Row("half self-written", {"data": f"{MIXED},self"}),
    Row("cross-entropy", {"label_weight": 0.0}, lambda _: Labels()),
    Row("no labels", {"label_weight": 0.0}),
    Row("labels by 1", {"label_weight": 1.0}),
    Row("labels by 2", {"label_weight": 2.0}),
    Row("labels by 4", {"label_weight": 4.0}),
    Row("tail in full", {"label_weight": 0.0}, TailWeighted),
    Row("distill_model", distilling={}),
    Row("distill_model, dead", distilling={"beta": 0.0}),  # its teacher's term without gradient
    Row("distill_model, 2e-4", distilling={"learning_rate": 2e-4}),
    Row("hidden states too", distilling={"learning_rate": 2e-4, "gamma": 1.0}),
)


def training_file(folder: Path) -> Path:
    """`train.jsonl` without the documents that are held back; `UNMIXED` has no domain beside it."""
    held = {row["text"] for row in held_back_rows()}
    lines = (DATA / "text_mix" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    kept = [row for row in map(json.loads, filter(None, lines)) if row["text"] not in held]
    file = folder / MIXED
    file.write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    texts = [json.dumps({"text": row["text"]}) for row in kept]
    file.with_name(UNMIXED).write_text("\n".join(texts), encoding="utf-8")
    return file


def pruned_folder(name: str, keep: Path) -> Path:
    """The embedded model pruned as the command line does, made once."""
    folder = keep / name.replace(" ", "-")
    if not folder.exists():
        prune_checkpoint("demo", folder, options=PruneOptions(**chosen_by_data(PRUNED[name])))
    return folder


def remaining(now: Kept, before: Kept, dense: Kept) -> float:
    """The share of the loss that is left, in per cent."""
    return 100 * math.log(now.headline(dense)) / math.log(before.headline(dense))


def cells(kept: Kept, dense: Kept) -> str:
    ratios = kept.ratios(dense)
    shown = "".join(f"{ratios[name]:9.3f}" for name in TEXTS)
    return f"{shown}{kept.headline(dense):9.4f}{kept.accuracies['lambada']:9.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--pruned", choices=PRUNED, default="width 20")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--tokens", default="200k", help="to train on")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence to train on")
    parser.add_argument("--judged", type=int, default=TOKENS, help="tokens judged of each text")
    parser.add_argument("--items", type=int, default=ITEMS, help="judged of LAMBADA")
    parser.add_argument("--keep", type=Path, help="folder for pruned models")
    asked = parser.parse_args()
    with TemporaryDirectory() as temporary:
        run(asked, asked.keep or Path(temporary), training_file(Path(temporary)))


def run(asked: argparse.Namespace, keep: Path, text: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = load_tokenizer("demo")
    limits = {"tokens": asked.judged, "items": asked.items}
    original: Any = load_model("demo", dtype="bfloat16")
    dense = judged(original, tokenizer, **limits)
    folder = pruned_folder(asked.pruned, keep)
    before = judged(load_model(folder, dtype="bfloat16"), tokenizer, **limits)
    columns = (*TEXTS, "all", "LAMBADA", "left %", "KL", "way", "tokens", "seconds", "GB")
    print(f"{asked.pruned}, {asked.tokens} tokens; {torch.get_num_threads()} threads\n")
    print(f"  {'':22}" + "".join(f"{name:>9}" for name in columns))
    print(f"  {'before':22}{cells(before, dense)}{100:9.1f}", flush=True)
    for row in ROWS:
        if row.name not in asked.only:
            continue
        options = {"data": MIXED, "tokens": asked.tokens, "device": "cpu"}
        options |= {"length": asked.length, "batch_size": max(1024 // asked.length, 1)}
        options |= row.options
        for name in (MIXED, UNMIXED):
            options["data"] = options["data"].replace(name, str(text.with_name(name)))
        started = time.perf_counter()
        model, tokens, found = row.trained(options, folder, original, tokenizer)
        seconds = time.perf_counter() - started
        kept = judged(model.to(torch.bfloat16), tokenizer, **limits)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"  {row.name:22}{cells(kept, dense)}{remaining(kept, before, dense):9.1f}"
            f"{'' if found is None else f'{found.after:9.4f}{found.way:9.2f}':18}"
            f"{tokens:9,}{seconds:9.0f}{memory:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
