"""What follows a pruning in the same run, each step reading what the one before it wrote.

What is pruned waits in a working folder; the last step writes the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..distributed import world_size
from ..errors import ArgumentError
from ..files.working_folder import working_folder
from ..loading.tokenizers import load_tokenizer
from ..neutralising.neutralisation import Neutralisation
from ..neutralising.neutralise_options import NeutraliseOptions
from ..neutralising.neutralising import check_request
from ..pruning.options.prune_options import PruneOptions
from ..recovery.asking import check_recovery, check_tokenizer
from ..recovery.recover_options import RecoverOptions
from ..recovery.recovery_result import Recovery
from .arguments import Job
from .healing.recover import recover_checkpoint
from .neutralise import neutralise_checkpoint

Say = Callable[[str], None] | None
Step = Callable[[Path, Path, Path], Any]  # what it reads, what it writes, where it may work


@dataclass(frozen=True)
class Afterwards:
    """The steps that follow a pruning, by the field of `PruneResult` that takes what they found."""

    job: Job
    steps: Mapping[str, Step]
    folder: Path | None = None  # to work in; None without steps

    def before(self, job: Job) -> Job:
        """The pruning that comes first: it writes where the first step reads."""
        return job if self.folder is None else replace(job, output=self._place("pruned"))

    def done(self) -> dict[str, Any]:
        """Carry the steps out; the last one writes the output."""
        if self.folder is None:
            return {}
        found, source = {}, self._place("pruned")
        for name, step in self.steps.items():
            last = name == list(self.steps)[-1]
            target = self.job.output if last and self.job.output else self._place(name)
            found[name] = step(source, target, self.folder / "work")
            source = target
        return found

    def _place(self, name: str) -> Path:
        assert self.folder is not None and self.job.output is not None
        return self.folder / name / self.job.output.name  # the folder itself is locked


@contextmanager
def afterwards(
    job: Job, options: PruneOptions, command: str | None, say: Say, *, overwrite: bool
) -> Iterator[Afterwards]:
    """Yield what follows a pruning, checked before it begins."""
    steps: dict[str, Step] = {}
    if options.recover:
        asked = _recovering(job, options)
        more: dict[str, Any] = {"overwrite": overwrite, "command": command, "say": say}
        steps["recovery"] = partial(_recover, job, asked, more)
    if options.neutralise:
        wanted = _neutralising(job, options)
        steps["neutralisation"] = partial(_neutralise, job, wanted, overwrite, command)
    if not steps or job.output is None:
        yield Afterwards(job, {})
        return
    if world_size() > 1:
        raise ArgumentError(
            "Several processes prune, train and neutralise in commands of their own: optipfair "
            "prune without recover and neutralise, and then optipfair recover."
        )
    parent = next(each for each in job.output.absolute().parents if each.is_dir())
    busy = f"Another run is writing to {job.output}. Wait for it, or give another folder."
    with working_folder(parent, {"recovered": job.output.name}, busy=busy) as folder:
        yield Afterwards(job, steps, folder)


def _recovering(job: Job, options: PruneOptions) -> RecoverOptions:
    asked = RecoverOptions(
        tokens=options.recover_tokens,
        seed=options.seed,
        device=job.options.device,
        show_progress=job.options.show_progress,
    )
    check_recovery(asked)
    check_tokenizer(_tokenizer(job), asked.data)
    return asked


def _neutralising(job: Job, options: PruneOptions) -> NeutraliseOptions:
    asked = NeutraliseOptions(
        contrast=tuple(options.neutralise or ()),
        seed=options.seed,
        show_progress=job.options.show_progress,
    )
    check_request(asked)
    if _tokenizer(job) is None:
        raise ArgumentError(
            f"{job.source.given!r} has no tokenizer, and contrasts are made of words. Leave out "
            "neutralise (--neutralise), or put its tokenizer.json into the folder."
        )
    return asked


def _tokenizer(job: Job) -> Any:
    return load_tokenizer(job.source, trust_remote_code=job.options.trust_remote_code)


def _recover(
    job: Job,
    asked: RecoverOptions,
    more: Mapping[str, Any],
    source: Path,
    target: Path,
    work: Path,
) -> Recovery:
    found = recover_checkpoint(
        source,
        target,
        job.source.given,
        options=replace(asked, work_dir=work),
        trust_remote_code=job.options.trust_remote_code,
        **more,
    )
    return found.recovery


def _neutralise(
    job: Job,
    asked: NeutraliseOptions,
    overwrite: bool,
    command: str | None,
    source: Path,
    target: Path,
    _work: Path,
) -> Neutralisation:
    found = neutralise_checkpoint(
        source,
        target,
        options=asked,
        device=job.options.device,
        overwrite=overwrite,
        trust_remote_code=job.options.trust_remote_code,
        command=command,
    )
    return found.neutralisation
