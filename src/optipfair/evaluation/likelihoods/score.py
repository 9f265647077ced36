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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arch.families import PAIR_MASKS
from ...arch.limits import attention_window, positions, vocabulary
from ...batches import Batch, model_inputs
from ...checking import check_count
from ...distributed import divided, is_first, together, world_size
from ...errors import DataError, ModelOutputError
from ...hooks import evaluating
from ...noted import warn
from ...progress import track
from ..tasks.task import Query, Score
from .branches import Row, plain_rows, tree_inputs, trees
from .query_tokens import Encoded, encode, fitted
from .score_cache import ScoreCache, Scored
from .score_dtype import multiplying

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH_TOKENS = {"cpu": 512}  # more would only be padding
_MORE_BATCH_TOKENS = 16384  # on an accelerator
_LOGIT_BYTES = {"cpu": 2**28}
_MORE_LOGIT_BYTES = 2**30
_SOFTMAX_BYTES = {"cpu": 2**22}  # float32 logits that are normalised at once: what caches hold
_MORE_SOFTMAX_BYTES = 2**28
_SHORTER = 0.875  # a row shorter than this share of a batch's longest is too much padding


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Query],
    *,
    batch_tokens: int | None = None,
    label: str = "",
    show_progress: bool = False,
    done: ScoreCache | None = None,
    products: torch.dtype | None = None,
) -> list[Score]:
    """Score continuations given their contexts, as lm-eval's `HFLM.loglikelihood` does.

    Equal queries are scored once, and those that begin alike share a row, as far as the model's
    family, its attention and its window allow. Rows are sorted, longest first, and padded to the
    right. Logits become log-probabilities in float32 (float64 where the model works in it).
    Contexts longer than the model's positions lose tokens from the left, with a warning. Several
    processes share the batches.

    A batch has at most `batch_tokens` with its padding (a longer row is a batch of its own), and
    its logits a bound of their own. `done` holds scores of an earlier run; those of this one are
    added batch by batch. `products` is what `scored_in` gives, else the dtype of the weights.
    """
    check_batch_tokens(batch_tokens)
    encoded = readable(model, tokenizer, queries)
    dtype: Any = products or model.get_input_embeddings().weight.dtype
    batches = {batch_key(each, dtype): each for each in planned(model, encoded, batch_tokens)}
    scored: dict[Encoded, Scored] = {}
    pending = []
    for key, batch in batches.items():
        earlier = None if done is None else done.get(key)
        if earlier is None:
            pending.append(key)
        else:
            scored |= zip(_asked(batch), earlier, strict=True)
    rounds = range(0, len(pending), world_size())  # a batch for each process
    with evaluating(model), multiplying(model, dtype):
        for first in track(rounds, label, show_progress):
            now = pending[first : first + world_size()]
            answers = divided(lambda n, now=now: answered(model, batches[now[n]]), len(now))  # type: ignore[misc]
            with together():
                for key, answer in zip(now, answers, strict=True):
                    scored |= zip(_asked(batches[key]), answer, strict=True)
                    if done is not None:
                        done.add(key, answer)
    return [Score(each.wanted, tuple(scored[each][0]), scored[each][1]) for each in encoded]


def check_batch_tokens(batch_tokens: int | None) -> None:
    if batch_tokens is not None:
        check_count("batch_tokens", batch_tokens)


def planned(
    model: Any, encoded: Sequence[Encoded], batch_tokens: int | None = None
) -> list[list[Row]]:
    """Rows in batches: longest first, then by their tokens, up to both bounds, hardly padded.

    Trees first, then rows of one text: all, or those that are too long for trees.
    """
    room, bounds = _room_for_trees(model), _bounds(model, batch_tokens)
    short = [each for each in encoded if len(each.inputs) <= room]
    long = [each for each in encoded if len(each.inputs) > room]
    rows = trees(short, min(room, *bounds)), plain_rows(long)
    return [batch for each in rows for batch in _batches(each, bounds, _keeps_some(model))]


def _bounds(model: Any, batch_tokens: int | None) -> tuple[int, int]:
    """The most tokens of a batch, and the most of them that go through the head."""
    device = model.get_input_embeddings().weight.device.type
    logits = _LOGIT_BYTES.get(device, _MORE_LOGIT_BYTES) // (4 * _logits_of_a_token(model))
    return batch_tokens or _BATCH_TOKENS.get(device, _MORE_BATCH_TOKENS), logits


def _room_for_trees(model: Any) -> float:
    """The most tokens of a tree; 0 where the model reads each text in a row of its own.

    Trees are for CPUs, where less to read is less to wait for. A window counts places, so that all
    of a tree must lie in it.
    """
    told = inspect.signature(model.forward).parameters
    served = (
        model.config.model_type in PAIR_MASKS
        and model.config._attn_implementation in ("eager", "sdpa")  # others have masks of their own
        and model.get_input_embeddings().weight.device.type == "cpu"
        and {"position_ids", "attention_mask"} <= set(told)
    )
    window = attention_window(model)
    return 0 if not served else math.inf if window is None else window


def _batches(rows: Sequence[Row], bounds: tuple[int, int], partly: bool) -> list[list[Row]]:
    most, logits = bounds
    batches: list[list[Row]] = []
    kept = 0
    for row in rows:
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


def batch_key(batch: Sequence[Row], dtype: torch.dtype) -> str:
    """A hash of what is read and asked in a batch, and of the products' dtype, 32 hex digits."""
    digest = hashlib.sha256(str(dtype).encode())
    for row in batch:
        read = (row.inputs, row.follows) if row.branched else row.inputs
        last = [query.ids[-1] for query in row.queries]
        asked = row.places if row.branched else [query.start for query in row.queries]
        digest.update(repr((read, asked, last)).encode())
    return digest.hexdigest()[:32]


def readable(
    model: Any, tokenizer: PreTrainedTokenizerBase, queries: Sequence[Query]
) -> list[Encoded]:
    """Queries as tokens that the model knows and has positions for."""
    return _known(model, _fitting(model, encode(tokenizer, queries)))


def _fitting(model: Any, encoded: Sequence[Encoded]) -> list[Encoded]:
    limit = positions(model)
    fitting = [fitted(each, limit) for each in encoded]
    cut = sum(len(a.ids) < len(b.ids) for a, b in zip(fitting, encoded, strict=True))
    if cut and is_first():
        warn(
            f"{cut} of {len(fitting)} queries are longer than the model's {limit} positions; their "
            "contexts lose tokens from the left.",
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


def _asked(batch: Sequence[Row]) -> list[Encoded]:
    return [query for row in batch for query in row.queries]


def _logits_of_a_token(model: Any) -> int:
    rows = getattr(model.get_output_embeddings(), "weight", None)
    return vocabulary(model) if rows is None else int(rows.shape[0])


def _keeps_some(model: Any) -> bool:
    """Whether the model can run its head on the last positions only."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def answered(model: Any, rows: Sequence[Row]) -> list[Scored]:
    """One forward pass: the scores of all queries of a batch, in their order."""
    longest = max(len(row.inputs) for row in rows)
    begin = min(len(row.inputs) - row.kept for row in rows)
    some = {"logits_to_keep": longest - begin} if _keeps_some(model) else {}
    logits: Tensor = model(**_inputs(model, rows), use_cache=False, **some).logits
    places: list[int] = []
    for number, row in enumerate(rows):
        first = (number + 1) * logits.shape[1] - longest
        places += [first + place for own in row.places for place in own]
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


def _inputs(model: Any, rows: Sequence[Row]) -> dict[str, Tensor]:
    """The keyword arguments of a forward."""
    weight = model.get_input_embeddings().weight
    if not any(row.branched for row in rows):
        longest = max(len(row.inputs) for row in rows)
        lengths = torch.tensor([len(row.inputs) for row in rows])
        ids = torch.tensor([row.inputs + (0,) * (longest - len(row.inputs)) for row in rows])
        return model_inputs(Batch(ids, torch.arange(longest) < lengths[:, None]), weight.device)
    inputs = tree_inputs(rows)
    if model.config._attn_implementation == "eager":  # it adds its mask
        seen = inputs["attention_mask"]
        hidden = torch.full((), torch.finfo(weight.dtype).min, dtype=weight.dtype)
        inputs["attention_mask"] = torch.where(seen, 0.0, hidden).to(weight.dtype)
    return {name: tensor.to(weight.device) for name, tensor in inputs.items()}


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
