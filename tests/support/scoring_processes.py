"""What each of two processes does for `evaluation/test_likelihoods.py`; a launcher runs it."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch

from optipfair.distributed import launched, rank
from optipfair.evaluation.likelihoods.query_tokens import encode
from optipfair.evaluation.likelihoods.score import planned, score
from optipfair.evaluation.likelihoods.score_cache import ScoreCache
from optipfair.evaluation.tasks.task import Query
from optipfair.testing import byte_tokenizer, tiny_model


def some_queries(count: int = 40, seed: int = 0) -> list[Query]:
    """Of many lengths; some share contexts, some have none, some are equal."""
    rng = random.Random(seed)
    word = lambda: "".join(rng.choices("abcdé ", k=rng.randint(1, 12)))  # noqa: E731
    contexts = [
        "",
        "Where? ",
        "A long beginning of a sentence",
        *(f"It {word()}" for _ in range(8)),
    ]
    queries = [Query(rng.choice(contexts), f" {word()}.") for _ in range(count)]
    queries += [Query("One of", letter) for letter in "abcd"]  # these share one row
    return [*queries, queries[0]]


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
