"""Pruning and training in one run: what is pruned waits in a working folder to be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...distributed import world_size
from ...errors import ArgumentError
from ...files.working_folder import working_folder
from ...loading.tokenizers import load_tokenizer
from ...pruning.options.prune_options import PruneOptions
from ...recovery.asking import check_recovery, check_tokenizer
from ...recovery.recover_options import RecoverOptions
from ...recovery.recovery_result import Recovery
from ..arguments import Job
from .recover import recover_checkpoint

Say = Callable[[str], None] | None


@dataclass(frozen=True)
class Training:
    """What follows a pruning; without a folder nothing does."""

    asked: RecoverOptions
    job: Job
    folder: Path | None
    command: str | None
    say: Say
    overwrite: bool = False

    def before(self, job: Job) -> Job:
        """The pruning that comes first: it writes where the training reads."""
        return (
            job if self.folder is None or job.output is None else replace(job, output=self._pruned)
        )

    def done(self) -> Recovery | None:
        """Train what was pruned and write the output, if that is asked for."""
        if self.folder is None or self.job.output is None:
            return None
        return recover_checkpoint(
            self._pruned,
            self.job.output,
            self.job.source.given,
            options=replace(self.asked, work_dir=self.folder / "training"),
            overwrite=self.overwrite,
            trust_remote_code=self.job.options.trust_remote_code,
            command=self.command,
            say=self.say,
        ).recovery

    @property
    def _pruned(self) -> Path:
        assert self.folder is not None and self.job.output is not None
        return self.folder / "pruned" / self.job.output.name  # the folder itself is locked


@contextmanager
def then_recovered(
    job: Job, options: PruneOptions, command: str | None, say: Say, *, overwrite: bool
) -> Iterator[Training]:
    """Yield what follows a pruning, checked before it begins."""
    asked = RecoverOptions(
        tokens=options.recover_tokens,
        seed=options.seed,
        device=job.options.device,
        show_progress=job.options.show_progress,
    )
    if not options.recover or job.output is None:
        yield Training(asked, job, None, command, say)
        return
    check_recovery(asked)
    code = job.options.trust_remote_code
    check_tokenizer(load_tokenizer(job.source, trust_remote_code=code), asked.data)
    if world_size() > 1:
        raise ArgumentError(
            "Several processes prune and train in two commands: optipfair prune without recover "
            "(--recover), and then optipfair recover."
        )
    parent = next(each for each in job.output.absolute().parents if each.is_dir())
    busy = f"Another run is writing to {job.output}. Wait for it, or give another folder."
    with working_folder(parent, {"recovered": job.output.name}, busy=busy) as folder:
        yield Training(asked, job, folder, command, say, overwrite)
