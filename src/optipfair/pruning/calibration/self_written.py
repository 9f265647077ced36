"""Text that a model writes itself, to calibrate on: it needs no licence and no network.

What a model writes is near what it was trained on, which is what counts in calibration text
(arXiv 2410.17711, 2410.17170). Each sequence begins with an opening of one domain, and the rest is
sampled. Where a tokenizer has a chat template, every second opening is a question in it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...arch.fingerprint import fingerprint
from ...arch.limits import check_sequences, positions
from ...batches import Batch
from ...errors import UnsupportedModelError
from ...hooks import ready_to_generate
from ...loading.sources import usual_cache
from ...noted import warn
from ...progress import track
from ...tokenized import tokenized

_BATCH = 32  # sequences that are written at once
_TIMED = (4, 16)  # tokens that are written to see how long the rest takes
_VERSION = 1  # of the recipe; another one gives other text
OPENINGS = (
    "The", "In", "It was", "When", "He said", "She looked", "There are", "According to",
    "Once upon a time", "Chapter 1\n", "Dear", "My name is", "I think", "We", "You can",
    "The history of", "The first", "In the year", "The city of", "Scientists have", "A study",
    "Abstract\n", "1. Introduction\n", "The government", "Mr. Speaker,", "The company",
    "def ", "import ", "#include <", "class ", "public static ", "function ", "SELECT ", "<html>\n",
    "Question:", "Let x", "If a", "How many", "Proof.", "Theorem 1.",
    "Ingredients:\n", "Breaking news:", "Review:", "Step 1:", "Q:", "- ",
    "Le", "Der", "El", "La",
)  # fmt: skip
QUESTIONS = (
    "Write a short story about a journey.", "Explain how plants grow.",
    "Summarize the history of a country of your choice.", "Write a Python function and explain it.",
    "Solve a word problem about apples step by step.", "Give me advice on learning a language.",
    "What are the causes of climate change?", "Write a letter to an old friend.",
    "Describe a scene at a railway station.", "Compare two ways to travel.",
    "List the steps to bake bread.", "Who was a famous scientist, and why?",
    "Translate a proverb and say what it means.", "Write a dialogue between two neighbours.",
    "How does a computer add two numbers?", "Write a poem about rain.",
)  # fmt: skip


@dataclass(frozen=True)
class SelfWritten:
    """Sequences that a model writes, the same for the same seed; kept on disk, batch by batch.

    A run that is killed goes on with the batch that it was writing.
    """

    model: Any
    tokenizer: Any
    length: int  # tokens of a sequence, its opening included
    seed: int = 0
    cache: Path | None = None  # the usual place unless it is given
    show_progress: bool = False

    def sequences(self, count: int) -> Tensor:
        """So many sequences, (count, length)."""
        folder = self._folder()
        numbers = range(-(-count // _BATCH))
        bar = track(numbers, "writing calibration text", self.show_progress, unit="batch")
        with ready_to_generate(self.model):
            return torch.cat([self._batch(number, folder) for number in bar])[:count]

    def seconds(self, count: int) -> float:
        """About how long that will take: a batch's openings are read, and a few tokens written."""
        folder = self._folder()
        missing = [n for n in range(-(-count // _BATCH)) if self._known(folder, n) is None]
        if not missing:
            return 0.0
        openings = [self._opening(_BATCH * missing[0] + place) for place in range(_BATCH)]
        taken = []
        with ready_to_generate(self.model):
            for tokens in (_TIMED[0], *_TIMED):  # the first is slow
                started = time.perf_counter()
                self._following(missing[0], openings, tokens)
                taken.append(time.perf_counter() - started)
        each = max(taken[2] - taken[1], 0.0) / (_TIMED[1] - _TIMED[0])
        return len(missing) * (taken[1] + each * self._tokens(openings))

    def _folder(self) -> Path:
        """Where this text is kept: another model, length or seed has another place."""
        about = (_VERSION, fingerprint(self.model), self.length, self.seed, _BATCH)
        name = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
        return (self.cache or usual_cache()) / "self-written" / name

    def _batch(self, number: int, folder: Path) -> Tensor:
        known = self._known(folder, number)
        if known is not None:
            return known
        file = self._file(folder, number)
        rows = self._written(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            torch.save(rows, part)
            part.replace(file)
        except OSError as exc:
            warn(f"The text that the model writes is not kept in {folder}: {exc.strerror}.")
        return rows

    def _file(self, folder: Path, number: int) -> Path:
        return folder / f"{number:05d}.pt"

    def _known(self, folder: Path, number: int) -> Tensor | None:
        """A batch that was written before; None where it is not there, or damaged."""
        with suppress(Exception):
            known: Tensor = torch.load(self._file(folder, number), weights_only=True)
            if known.shape == (_BATCH, self.length):
                return known
        return None

    def _written(self, number: int) -> Tensor:
        """One batch, (sequences, length): the openings and what follows them."""
        openings = [self._opening(_BATCH * number + place) for place in range(_BATCH)]
        made = self._following(number, openings, self._tokens(openings))
        texts = [[*each, *new.tolist()] for each, new in zip(openings, made, strict=True)]
        # Where a model has no positions for the longest opening and the rest, a text is followed
        # by the next ones.
        rows = [islice(chain(*texts[row:], *texts[:row]), self.length) for row in range(_BATCH)]
        return torch.tensor([list(row) for row in rows])

    def _tokens(self, openings: Sequence[Sequence[int]]) -> int:
        """How many tokens follow each opening, so that the model has positions for all of them."""
        lengths = [len(opening) for opening in openings]
        wanted, most = self.length - min(lengths), positions(self.model)
        return wanted if most is None else max(min(wanted, most - max(lengths)), 1)

    def _following(self, number: int, openings: Sequence[Sequence[int]], tokens: int) -> Tensor:
        """So many tokens after each opening, (sequences, tokens); these are padded on the left."""
        longest = max(map(len, openings))
        device = self.model.get_input_embeddings().weight.device
        ids = torch.zeros(_BATCH, longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, opening in enumerate(openings):
            ids[row, longest - len(opening) :] = torch.tensor(opening)
            mask[row, longest - len(opening) :] = 1
        check_sequences(self.model, [Batch(ids, mask.bool())])
        # A seed of its own for each batch; the global state is as before.
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((self.seed + 1_000_003 * number) % 2**63)
            return self._sampled(ids.to(device), mask.to(device), tokens).cpu()[:, longest:]

    def _sampled(self, ids: Tensor, mask: Tensor, tokens: int) -> Tensor:
        """Sample from the model's own distribution; a text may end, and another begins."""
        from transformers import GenerationConfig

        if not hasattr(self.model, "generate"):
            raise UnsupportedModelError(
                f"{type(self.model).__name__} does not generate, so it cannot write calibration "
                "text. Give other text, for example builtin."
            )
        settings: Any = GenerationConfig
        plain = settings(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
        written: Tensor = self.model.generate(ids, attention_mask=mask, generation_config=plain)
        return written

    def _opening(self, number: int) -> list[int]:
        """The tokens that a sequence begins with, at most half of it."""
        asked, template = number % 2 == 1, getattr(self.tokenizer, "chat_template", None)
        text = OPENINGS[number // (2 if template else 1) % len(OPENINGS)]
        if template and asked:
            with suppress(Exception):  # a template is a program of others
                question = [{"role": "user", "content": QUESTIONS[number // 2 % len(QUESTIONS)]}]
                text = str(
                    self.tokenizer.apply_chat_template(
                        question, tokenize=False, add_generation_prompt=True
                    )
                )
                found = tokenized(self.tokenizer, text, add_special_tokens=False)
                return [*found["input_ids"]][: max(self.length // 2, 1)]
        return [*tokenized(self.tokenizer, text)["input_ids"]][: max(self.length // 2, 1)]
