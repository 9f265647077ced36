"""`recover`: train a pruned model to say what the original says, and keep the best of it.

check → rows of tokens → judge as it is → train → keep what judged best; it changes in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..arch.fingerprint import fingerprint
from ..devices import check_device
from ..distributed import in_first, start
from ..errors import ArgumentError
from ..noted import warn
from ..option_fields import checked_keywords, taking
from .asking import check_pair, check_recovery, check_tokenizer, token_count, with_length
from .mixing import OFTEN
from .recover_options import RecoverOptions
from .recovery_result import Recovery
from .teacher_cache import CachedTeacher, TeacherCache, fill
from .teachers import LiveTeacher, Teacher
from .training_rows import TrainingRows, rows_of_batches, rows_of_text
from .training_run import train
from .training_text import TrainingText

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_AT_ONCE = 8192  # tokens that the teacher answers at once


@taking(RecoverOptions)
def recover(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    data: str | Iterable[Any] = "builtin",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> Recovery:
    """Train a pruned model on the original's logits, in place, and keep the best that it was.

    The loss is the KL divergence of the model's next-token distribution from the original's, at
    temperature 1, over all tokens that are no padding. The gradient of the cross-entropy with the
    text's own next tokens is added, by `label_weight` times the divergence before training, and by
    1 at most.
    Documents with a twentieth of the text are held back; the same two are judged on them at the
    beginning and every so often. The run ends early when their sum stops getting better. Afterwards
    the model is what it was when it judged best, or a part of the way back to what came where that
    judges better; always with less divergence than before, or as it came if nothing helped. After
    an error it is as it came too.

    Training is done by transformers' `Trainer`, so `accelerate launch` works.

    Args:
        model: a causal language model in float32; its weights change.
        teacher: the original, of the same vocabulary, in any dtype; it is not changed.
        data: text, as the option `data` says, or batches `{"input_ids": (B, S), "attention_mask":
            (B, S)}`, of whose sequences one in twenty is held back.
        tokenizer: of both models; text needs it.
        say: is told in a sentence how long the run will take, before it begins.
        (the options)

    Returns:
        What was done: the divergence before and after, and how it fell.

    Raises:
        ArgumentError, DataError: refused before anything changed.
        ModelOutputError: the loss is not finite; the model is as it was.

    Example:
        >>> from optipfair.testing import byte_tokenizer, tiny_model
        >>> original, pruned = tiny_model("llama"), tiny_model("llama", seed=1)
        >>> options = {"tokens": 2048, "length": 32, "device": "cpu"}
        >>> found = recover(pruned, original, tokenizer=byte_tokenizer(), **options)
        >>> found.after <= found.before
        True
    """
    asked = RecoverOptions(**checked_keywords(recover, more))
    if isinstance(data, str):
        asked = replace(asked, data=data)
    check_recovery(asked)
    start(str(check_device(asked.device)))
    if model is teacher:
        raise ArgumentError(
            "model and teacher are the same object, so there is nothing to learn. Give the "
            "original as teacher, loaded by itself."
        )
    check_pair(model, teacher.config)
    asked = with_length(asked, model, teacher)
    rows = (
        read_text(asked, tokenizer, lambda: teacher)
        if isinstance(data, str)
        else rows_of_batches(data)
    )
    return train(asked, model, _teacher(asked, teacher, rows), rows, say)


def _teacher(asked: RecoverOptions, teacher: Any, rows: TrainingRows) -> Teacher:
    """The model itself, or what it answers."""
    if asked.cache_teacher is None:
        return LiveTeacher(teacher)
    vocabulary = int(teacher.config.get_text_config().vocab_size)
    named = fingerprint(teacher)

    def cache() -> TeacherCache:
        assert asked.cache_teacher is not None
        return TeacherCache.of(asked.cache_teacher, named, rows.everything, vocabulary)

    def answer() -> None:
        progress = asked.show_progress
        fill(cache(), teacher, rows.everything, at_once=_AT_ONCE, show_progress=progress)

    in_first(answer)
    return CachedTeacher(cache())


def read_text(asked: RecoverOptions, tokenizer: Any, teacher: Callable[[], Any]) -> TrainingRows:
    """The rows of the text that was asked for; `teacher` gives the model that may write some."""
    check_tokenizer(tokenizer, asked.data)
    assert asked.length is not None  # filled in from the models
    wanted = token_count(asked.tokens)
    drawn = TrainingText(asked.data, wanted, asked.length, asked.seed, asked.data_field).drawn(
        tokenizer, teacher
    )
    if drawn.repeats >= OFTEN:
        warn(
            f"The text is read {drawn.repeats:.0f} times to give {wanted:,} tokens. More text of "
            "other kinds gives more back than the same again."
        )
    return rows_of_text(drawn)
