"""What a pruning of a checkpoint calibrates on: batches, or text that its tokenizer reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..arch.limits import check_sequences, positions
from ..checking import BUILTIN_TEXT, SELF_WRITTEN
from ..checkpoint.stored_model import StoredModel
from ..devices import check_device
from ..distributed import together
from ..errors import CheckpointError, DataError
from ..loading.tokenizers import load_tokenizer
from ..noted import warn
from ..progress import duration
from ..pruning.calibration.calibration_texts import CalibrationText, Drawn, digest
from ..pruning.calibration.self_written import SelfWritten
from ..pruning.cut.plan import PruningPlan
from ..pruning.decision import Reread
from ..pruning.planning import TRAINED_WIDTH, widest

_WITHOUT_TEXT = (
    "Put the tokenizer that belongs to the model beside it, or let weights alone choose "
    "(--calibration none, without --preset and with a static --method such as MAW)."
)
_ONE_TOKEN = 0.5  # of the bundled text, by a tokenizer that does not know its words


Say = Callable[[str], None] | None


@dataclass(frozen=True)
class Data:
    """What to calibrate on: batches, or text to draw them from; without either there is none."""

    batches: Iterable[Any] | None = None
    text: CalibrationText | None = None

    def __bool__(self) -> bool:
        return self.batches is not None or self.text is not None

    def kept(self) -> Data:
        """The same, which can be read again."""
        return self if self.batches is None else replace(self, batches=Reread(self.batches))

    def settled(self, stored: StoredModel, device: str) -> Data:
        """The same with the numbers of sequences and tokens that suit a model and a device."""
        if self.text is None:
            return self
        accelerated = check_device(device).type != "cpu"
        most = positions(stored.view.model)
        return replace(self, text=self.text.settled(most, accelerated=accelerated))

    def reading(self) -> AbstractContextManager[None]:
        """What all processes do together; without data the first one is alone."""
        return together() if self else nullcontext()

    def drawn(
        self, stored: StoredModel, model: Callable[[], Any], say: Say, *, trust_remote_code: bool
    ) -> Drawn | None:
        """Sequences of the text that the model can take, if there is text.

        `model` loads the model where it writes some of the text, and `say` is told how long that
        takes.
        """
        if self.text is None:
            return None
        tokenizer = _tokenizer(stored.checkpoint.folder, trust_remote_code)
        drawn = self.text.draw(tokenizer, partial(_writer, self.text, tokenizer, model, say))
        _warn_about_one_text(self.text, widest(stored.view.mlps))
        check_sequences(stored.view.model, [*drawn.batches, *drawn.held_back])
        if self.text.source == BUILTIN_TEXT:
            _check_known(drawn)
        return drawn

    def recorded(self, plan: PruningPlan, drawn: Drawn | None) -> PruningPlan:
        """Let the plan say which text it was calibrated on."""
        if self.text is None or drawn is None:
            return plan
        record = asdict(self.text) | {
            "source": Path(self.text.source).name,
            "sha256": digest(drawn.batches),
            "text_sha256": drawn.sha256,
        }
        del record["batch_size"]  # it decides nothing
        if self.text.field is None:
            del record["field"]
        return replace(plan, request={**plan.request, "calibration": record})


def _writer(text: CalibrationText, tokenizer: Any, model: Callable[[], Any], say: Say) -> Any:
    """The model that is to write text; how long it will take is said before it does."""
    loaded = model()
    count = dict(text.by_source())[SELF_WRITTEN]
    length = text.length or 0
    if say is not None:
        seconds = SelfWritten(loaded, tokenizer, length, text.seed).seconds(count)
        if seconds:
            say(
                f"First the model writes {count * length:,} tokens of text, which takes about "
                f"{duration(seconds)}. They are kept for other runs."
            )
    return loaded


def _warn_about_one_text(text: CalibrationText, width: int) -> None:
    """Figures: `docs/criteria.md`."""
    named = {name for name, _ in text.by_source()}
    if width < TRAINED_WIDTH or named & {BUILTIN_TEXT, SELF_WRITTEN}:
        return
    warn(
        "A model that is calibrated on text of one kind loses more on other kinds: SmolLM2-135M "
        "without a fifth of its neurons, calibrated on prose, fiction and speeches, had 1.9 times "
        "its perplexity on code, and 1.2 times where code was among them. Add the text that ships "
        f"with OptiPFair: --calibration {BUILTIN_TEXT},{text.source}."
    )


def _check_known(drawn: Drawn) -> None:
    """The bundled text says many things; a tokenizer that knows none of them has one token."""
    counts = torch.cat([batch.input_ids.flatten() for batch in drawn.batches]).bincount()
    share = float(counts.max() / counts.sum())
    if share > _ONE_TOKEN:
        raise DataError(
            f"The tokenizer makes token id {int(counts.argmax())} of {100 * share:.0f} % of the "
            f"bundled text, so it cannot read it. Give text that it knows. {_WITHOUT_TEXT}"
        )


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """The tokenizer of a checkpoint."""
    try:
        found = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    except CheckpointError as exc:
        raise DataError(f"The tokenizer cannot be read. {exc} {_WITHOUT_TEXT}") from exc
    if found is None:
        raise DataError(
            f"The model has no tokenizer, so calibration text cannot be read. {_WITHOUT_TEXT}"
        )
    return found
