"""What a searched shape loses beside the best uniform one, on text that the search never saw.

    python benchmarks/searching.py --targets 121.06M 107.6M 94.2M --folder shapes

Both are found by `search_model`, made up for alike, and judged by `held_out.py`. The loss is the
mean of the logarithms of the ratios of perplexities over its texts, LAMBADA's last words among
them. Scores in the folder are used again.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

from held_out import ITEMS, TOKENS, judged

from optipfair import PruningPlan, apply_plan, load_model, load_tokenizer, search_model
from optipfair.search.search_result import Found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--targets", nargs="+", default=["121.06M", "107.6M", "94.2M"])
    parser.add_argument("--folder", type=Path, default=Path("shapes"))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="judged of each text")
    parser.add_argument("--items", type=int, default=ITEMS, help="of LAMBADA")
    asked = parser.parse_args()
    ask: dict[str, Any] = {"target_params": asked.targets, "calibration_samples": asked.samples}
    began = time.perf_counter()
    searched = search_model(asked.model, asked.folder, **ask)
    print(f"searched: {len(searched.scores)} scores, {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    uniform = search_model(asked.model, f"{asked.folder}-uniform", uniform=True, **ask)
    print(f"uniform: {time.perf_counter() - began:.0f} s")
    model: Any = load_model(asked.model, dtype="bfloat16")
    tokenizer: Any = load_tokenizer(asked.model)
    whole = judged(model, tokenizer, tokens=asked.tokens, items=asked.items)
    print(f"not pruned: {whole.perplexities}, LAMBADA {whole.accuracies['lambada']:.4f}")
    for pair in zip(searched.found, uniform.found, strict=True):
        losses = []
        for kind, found in zip(("searched", "best uniform"), pair, strict=True):
            pruned = apply_plan(copy.deepcopy(model), plan_of(found))
            kept = judged(pruned, tokenizer, tokens=asked.tokens, items=asked.items)
            ratio = kept.headline(whole)
            losses.append(math.log(ratio))
            print(
                f"{found.budget}, {kind} ({found.best.name}): {found.best.parameters:,} left, "
                f"all texts x {ratio:.4f}, LAMBADA {kept.accuracies['lambada']:.4f}, KL on the "
                f"search's own text {found.best.divergence:.4f}",
                flush=True,
            )
        print(f"    searched loses {100 * losses[0] / losses[1]:.1f} % of what the other does")


def plan_of(found: Found) -> PruningPlan:
    return PruningPlan.load(found.plan)


if __name__ == "__main__":
    main()
