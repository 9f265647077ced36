"""What a DataLoader may yield, and how it is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optipfair import DataError
from optipfair.batches import read_batch
from optipfair.testing import byte_tokenizer

IDS = torch.tensor([[5, 6, 7], [8, 9, 1]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
FORMS: dict[str, Any] = {
    "dict": {"input_ids": IDS, "attention_mask": MASK},
    "extra keys": {"input_ids": IDS, "attention_mask": MASK, "labels": IDS, "text": ["a", "b"]},
    "tuple": (IDS, MASK),
    "list": [IDS, MASK],
    "tuple with labels": (IDS, MASK, IDS),
    "boolean mask": (IDS, MASK.bool()),
    "lists of numbers": {"input_ids": IDS.tolist(), "attention_mask": MASK.tolist()},
    "int32": (IDS.int(), MASK.int()),
    "int8": (IDS.to(torch.int8), MASK.to(torch.int8)),
    "uint8": (IDS.to(torch.uint8), MASK.to(torch.uint8)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_every_form_of_a_batch_reads_alike(form: object) -> None:
    batch = read_batch(form)
    assert batch.input_ids.tolist() == IDS.tolist()
    assert batch.attention_mask.tolist() == MASK.bool().tolist()
    assert batch.padded
    assert batch.tokens == 5
    assert batch.input_ids.dtype == torch.int64  # which every embedding takes


@pytest.mark.parametrize("form", [IDS, (IDS,), [IDS], {"input_ids": IDS}], ids=repr)
def test_without_a_mask_every_token_is_real(form: object) -> None:
    batch = read_batch(form)
    assert batch.tokens == 6
    assert not batch.padded


def test_a_batch_encoding_is_read() -> None:
    encoding = byte_tokenizer()(["hi", "hello"], padding=True, return_tensors="pt")
    assert read_batch(encoding).tokens == 7


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
def test_real_tokens_keep_their_order_and_move_to_the_left(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    ids = torch.arange(mask.numel()).reshape(mask.shape)
    real = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True) if keep.any()]
    if not real:
        with pytest.raises(DataError, match="no real token"):
            read_batch((ids, mask))
        return
    batch = read_batch((ids, mask.long()))
    read = [row[keep] for row, keep in zip(batch.input_ids, batch.attention_mask, strict=True)]
    assert [row.tolist() for row in read] == real
    assert batch.input_ids.shape[1] == max(map(len, real))
    assert all(
        keep.tolist() == sorted(keep.tolist(), reverse=True) for keep in batch.attention_mask
    )


@pytest.mark.parametrize(
    ("item", "match"),
    [
        ("a text", "str.*Allowed"),
        (["a text", "another"], "list.*Allowed"),
        (7, "int.*Allowed"),
        (None, "NoneType.*Allowed"),
        ((), "Allowed"),
        ([], "Allowed"),
        ({}, "input_ids"),
        ({"ids": IDS}, r"no 'input_ids', only \['ids'\]"),
        ({"input_ids": ["a", "b"]}, "cannot be made into a tensor"),
        ({"input_ids": [[1, 2], [3]]}, "cannot be made into a tensor"),
        (IDS.float(), r"float32.*integers"),
        (IDS[0], r"\(3,\)"),
        (IDS[None], r"\(1, 2, 3\)"),
        (torch.empty(0, 3, dtype=torch.int64), r"\(0, 3\)"),
        ((IDS, MASK[:, :2]), "one mask value for each token"),
        ((IDS, IDS), "no attention mask"),
        ((IDS, -MASK), "no attention mask"),
        ((IDS, MASK.float()), "integers"),
        ((IDS, torch.zeros_like(IDS)), "no real token"),
        (IDS.bool(), r"bool.*integers"),
        (IDS.to(torch.complex64), r"complex64.*integers"),
        (IDS.to("meta"), "sparse or on 'meta'. Give a dense tensor"),
        (IDS.to_sparse(), "sparse or on 'meta'. Give a dense tensor"),
    ],
    ids=str,
)
def test_what_is_no_batch_is_refused(item: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_batch(item)


def test_reading_leaves_the_tensors_as_they_were() -> None:
    ids, mask = IDS.clone(), torch.tensor([[0, 1, 1], [0, 0, 1]])
    before: list[Tensor] = [ids.clone(), mask.clone()]
    read_batch((ids, mask))
    assert torch.equal(ids, before[0])
    assert torch.equal(mask, before[1])
