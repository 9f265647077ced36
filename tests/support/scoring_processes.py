"""What each of two processes does for `evaluation/test_likelihoods.py`; a launcher runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from evaluation.test_likelihoods import some_queries
from optipfair.distributed import launched, rank
from optipfair.evaluation.likelihoods.query_tokens import encode
from optipfair.evaluation.likelihoods.score import planned, score
from optipfair.evaluation.likelihoods.score_cache import ScoreCache
from optipfair.testing import byte_tokenizer, tiny_model


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    model, tokenizer, passes = tiny_model("llama"), byte_tokenizer(), []
    model.register_forward_hook(lambda *_: passes.append(None))
    found = {"batches": len(planned(model, encode(tokenizer, some_queries()), 60))}
    for name in ("", " again"):
        passes.clear()
        with ScoreCache(folder, model) as done:
            scores = score(model, tokenizer, some_queries(), batch_tokens=60, done=done)
        found[name.strip() or "scores"] = [each.logprobs for each in scores]
        found[f"passes{name}"] = len(passes)
    (folder / f"{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with launched("cpu"):
        main(Path(sys.argv[1]))
