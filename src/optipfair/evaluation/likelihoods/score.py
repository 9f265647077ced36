"""Log-likelihoods of many queries, in batches that depend on nothing but the queries.

The batches are planned from the whole list before anything is shared between processes or taken
from a cache, so a query always has the same neighbours, and its score the same bits.

Axes: `B` rows of a batch, `S` their length, `K` last positions that the head runs on, `V`
vocabulary, `T` scored tokens.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arch.limits import positions, vocabulary
from ...batches import Batch, model_inputs
from ...checking import check_count
from ...distributed import divided, is_first, together, world_size
from ...errors import DataError, ModelOutputError, warn
from ...hooks import evaluating
from ...progress import track
from ..tasks.task import Query, Score
from .query_tokens import Encoded, encode, fitted
from .score_cache import ScoreCache, Scored

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH_TOKENS = {"cpu": 512}  # more would only be padding
_MORE_BATCH_TOKENS = 16384  # on an accelerator
_LOGIT_BYTES = {"cpu": 2**28}
_MORE_LOGIT_BYTES = 2**30
_SOFTMAX_BYTES = {"cpu": 2**22}  # float32 logits that are normalised at once: what caches hold
_MORE_SOFTMAX_BYTES = 2**28
_SHORTER = 0.875  # a row shorter than this share of a batch's longest is too much padding


@dataclass(frozen=True, slots=True)
class Row:
    """What the model reads once, and the queries it answers: they differ in their last token."""

    inputs: tuple[int, ...]  # (S,) token ids
    queries: tuple[Encoded, ...]  # each ends one token after the inputs do

    @property
    def kept(self) -> int:
        """How many of the last positions are needed."""
        return len(self.inputs) + 1 - min(query.start for query in self.queries)


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    *,
    batch_tokens: int | None = None,
    label: str = "",
    show_progress: bool = False,
    done: ScoreCache | None = None,
) -> list[Score]:
    """Score continuations given their contexts, as lm-eval's `HFLM.loglikelihood` does.

    Equal queries are scored once, and those that differ in their last token alone share a row.
    Rows are sorted, longest first, and padded to the right. Logits become log-probabilities in
    float32 (float64 where the model works in it). Contexts longer than the model's positions lose
    tokens from the left, with a warning. Several processes share the batches.

    A batch has at most `batch_tokens` with its padding (a longer row is a batch of its own), and
    its logits a bound of their own. `done` holds scores of an earlier run; those of this one are
    added batch by batch.
    """
    check_batch_tokens(batch_tokens)
    encoded = _known(model, _fitting(model, encode(tokenizer, queries)))
    batches = planned(model, encoded, batch_tokens)
    scored: dict[Encoded, Scored] = {}
    pending = []
    for batch in batches:
        earlier = None if done is None else done.get(batch_key(batch))
        if earlier is None:
            pending.append(batch)
        else:
            scored |= zip(_asked(batch), earlier, strict=True)
    rounds = range(0, len(pending), world_size())  # a batch for each process
    with evaluating(model):
        for first in track(rounds, label, show_progress):
            now = pending[first : first + world_size()]
            answers = divided(lambda n, now=now: _run(model, now[n]), len(now))  # type: ignore[misc]
            with together():
                for batch, answer in zip(now, answers, strict=True):
                    scored |= zip(_asked(batch), answer, strict=True)
                    if done is not None:
                        done.add(batch_key(batch), answer)
    return [Score(each.wanted, tuple(scored[each][0]), scored[each][1]) for each in encoded]


def check_batch_tokens(batch_tokens: int | None) -> None:
    if batch_tokens is not None:
        check_count("batch_tokens", batch_tokens)


def planned(
    model: Any, encoded: Sequence[Encoded], batch_tokens: int | None = None
) -> list[list[Row]]:
    """Rows in batches: longest first, then by their tokens, up to both bounds, hardly padded."""
    device = model.get_input_embeddings().weight.device.type
    most = batch_tokens or _BATCH_TOKENS.get(device, _MORE_BATCH_TOKENS)
    logits = _LOGIT_BYTES.get(device, _MORE_LOGIT_BYTES) // (4 * _logits_of_a_token(model))
    partly = _keeps_some(model)
    batches: list[list[Row]] = []
    kept = 0
    for row in _rows(encoded):
        kept = max(kept, row.kept if partly else len(row.inputs))
        count = len(batches[-1]) + 1 if batches else 1
        width = len(batches[-1][0].inputs) if batches else 0
        full = count * width > most or count * kept > logits
        padded = count * width > most / 4 and len(row.inputs) < _SHORTER * width
        if not batches or full or padded:
            batches.append([])
            kept = row.kept if partly else len(row.inputs)
        batches[-1].append(row)
    return batches


def batch_key(batch: Sequence[Row]) -> str:
    """A hash of all that is read and asked in a batch, 32 hex digits."""
    digest = hashlib.sha256()
    for row in batch:
        starts = [query.start for query in row.queries]
        digest.update(repr((row.inputs, starts, [q.ids[-1] for q in row.queries])).encode())
    return digest.hexdigest()[:32]


def _fitting(model: Any, encoded: Sequence[Encoded]) -> list[Encoded]:
    limit = positions(model)
    fitting = [fitted(each, limit) for each in encoded]
    cut = sum(len(a.ids) < len(b.ids) for a, b in zip(fitting, encoded, strict=True))
    if cut and is_first():
        warn(
            f"{cut} of {len(fitting)} queries are longer than the model's {limit} positions; their "
            "contexts lose tokens from the left.",
            level=3,
        )
    return fitting


def _known(model: Any, encoded: list[Encoded]) -> list[Encoded]:
    known = vocabulary(model)
    largest = max((max(each.ids) for each in encoded), default=0)
    if largest >= known:
        raise DataError(
            f"A query holds token id {largest}; the model knows 0 to {known - 1}. Use the "
            "tokenizer that belongs to the model."
        )
    return encoded


def _rows(encoded: Sequence[Encoded]) -> list[Row]:
    together: dict[tuple[int, ...], set[Encoded]] = {}
    for each in encoded:
        together.setdefault(each.inputs, set()).add(each)
    return [
        Row(inputs, tuple(sorted(together[inputs], key=lambda each: (each.start, each.ids[-1]))))
        for inputs in sorted(together, key=lambda inputs: (-len(inputs), inputs))
    ]


def _asked(batch: Sequence[Row]) -> list[Encoded]:
    return [query for row in batch for query in row.queries]


def _logits_of_a_token(model: Any) -> int:
    rows = getattr(model.get_output_embeddings(), "weight", None)
    return vocabulary(model) if rows is None else int(rows.shape[0])


def _keeps_some(model: Any) -> bool:
    """Whether the model can run its head on the last positions only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _run(model: Any, rows: Sequence[Row]) -> list[Scored]:
    """One forward pass: the scores of all queries of a batch, in their order."""
    device = model.get_input_embeddings().weight.device
    longest = len(rows[0].inputs)
    lengths = torch.tensor([len(row.inputs) for row in rows])
    ids = torch.tensor([row.inputs + (0,) * (longest - len(row.inputs)) for row in rows])
    batch = Batch(ids, torch.arange(longest) < lengths[:, None])
    begins = [min(query.start for query in row.queries) - 1 for row in rows]
    some = {"logits_to_keep": longest - min(begins)} if _keeps_some(model) else {}
    logits: Tensor = model(**model_inputs(batch, device), use_cache=False, **some).logits
    places: list[int] = []
    for number, row in enumerate(rows):
        first = (number + 1) * logits.shape[1] - longest
        for query in row.queries:
            places += range(first + query.start - 1, first + len(row.inputs))
    asked = _asked(rows)
    targets = [token for query in asked for token in query.wanted]
    logprobs, best = _picked(logits.flatten(0, 1), torch.tensor(places), torch.tensor(targets))
    if not all(map(math.isfinite, logprobs)):
        name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        raise ModelOutputError(
            f"The model {name!r} gives probabilities that are not finite, so nothing can be scored "
            "with it. Look for NaN or infinite weights, or load it in a wider dtype (bfloat16, "
            "float32)."
        )
    scores = zip(logprobs, best, strict=True)
    own = ([*itertools.islice(scores, len(query.wanted))] for query in asked)
    return [([logprob for logprob, _ in each], all(top for _, top in each)) for each in own]


def _picked(logits: Tensor, places: Tensor, targets: Tensor) -> tuple[list[float], list[bool]]:
    """Log-probability of each target at its place, and whether it is the most likely token."""
    size = _SOFTMAX_BYTES.get(logits.device.type, _MORE_SOFTMAX_BYTES)
    step = max(1, size // (4 * logits.shape[1]))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logprobs, best = [], []
    for start in range(0, len(places), step):
        rows = places[start : start + step].to(logits.device)
        wanted = targets[start : start + step].to(logits.device)
        own = logits[rows].to(dtype).log_softmax(dim=-1)  # (step, V)
        picked = own.gather(1, wanted[:, None])[:, 0]
        largest = own.amax(dim=-1) == picked  # quicker than argmax, which decides between equals
        largest[largest.clone()] = own[largest].argmax(dim=-1) == wanted[largest]
        logprobs.append(picked)
        best.append(largest)
    return torch.cat(logprobs).tolist(), torch.cat(best).tolist()
