"""Folders of another user, full disks and places where a disk is mounted: real ones.

What needs root to be set up is skipped without it, and the reason names what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from optipfair import OutputError
from optipfair.files.filled_folder import check_writable, filled_folder
from optipfair.files.output_folder import check_output, new_folder
from support.disks import small_disk
from support.nursery import Nursery

Untouched = Callable[[Path], AbstractContextManager[None]]
NOBODY = 65534
REFUSED, FAILED = 2, 1

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as two users")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_nobody(job: Callable[..., object], *arguments: Any) -> None:
    """Do a job as a user without rights; exit with 2 where it refuses, with 1 where it fails."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        job(*arguments)
    except OutputError as exc:
        raise SystemExit(REFUSED) from exc
    except OSError as exc:
        raise SystemExit(FAILED) from exc


def write_model(output: Path, text: str = "new") -> None:
    check_output(output, None, True)
    with new_folder(output) as folder:
        (folder / "config.json").write_text(text)
        (folder / "code").mkdir()
        (folder / "code" / "modeling.py").write_text(text)


def write_files(folder: Path) -> None:
    check_writable(folder)
    with filled_folder(folder, {"files": "test"}) as new:
        (new / "a").write_text("new")


@as_root
@pytest.mark.parametrize("job", [write_model, write_files])
def test_a_folder_of_another_user_is_refused(
    nursery: Nursery, open_folder: Path, untouched: Untouched, job: Callable[[Path], None]
) -> None:
    with untouched(open_folder):
        assert nursery.run(as_nobody, job, open_folder / "new" / "out") == REFUSED


@as_root
@pytest.mark.parametrize("mode", [0o777, 0o1777], ids=oct)
@pytest.mark.parametrize("locked", [".", "code"])
def test_another_users_model_is_refused_before_the_work(
    nursery: Nursery, open_folder: Path, untouched: Untouched, mode: int, locked: str
) -> None:
    """The folder around it may be written by everyone; it could not be moved or deleted."""
    output = open_folder / "out"
    write_model(output, "old")
    open_folder.chmod(mode)
    output.chmod(0o777)
    (output / "code").chmod(0o777)
    (output / locked).chmod(0o755)
    with untouched(open_folder):
        assert nursery.run(as_nobody, check_output, output, None, True) == REFUSED


@as_root
def test_a_shared_model_is_replaced_where_its_folder_may_be_moved(
    nursery: Nursery, open_folder: Path
) -> None:
    output = open_folder / "out"
    write_model(output, "old")
    for path in (open_folder, output, output / "code"):
        path.chmod(0o777)
    assert nursery.run(as_nobody, write_model, output) == 0
    assert (output / "config.json").read_text() == "new"
    assert [path.name for path in open_folder.iterdir()] == ["out"]


@as_root
def test_what_another_users_run_left_stays(nursery: Nursery, open_folder: Path) -> None:
    work = open_folder / ".optipfair-dead"
    work.mkdir()
    (work / "owner.json").write_text(json.dumps({"output": "out"}))
    for path in (open_folder, work):
        path.chmod(0o777)
    assert nursery.run(as_nobody, write_model, open_folder / "out") == 0
    assert (work / "owner.json").is_file()
    assert (open_folder / "out" / "config.json").read_text() == "new"


@as_root
def test_the_owner_of_a_replaced_model_stays_its_owner(open_folder: Path) -> None:
    output = open_folder / "out"
    write_model(output, "old")
    for path in (output, *output.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    write_model(output)
    assert {path.stat().st_uid for path in (output, *output.rglob("*"))} == {NOBODY}


@pytest.mark.slow
def test_where_a_disk_is_mounted_a_model_is_refused_and_files_are_not(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as mounted:
        with pytest.raises(OutputError, match="disk is mounted"):
            check_output(mounted, None, True)
        write_model(mounted / "out")
        write_files(mounted)
        assert sorted(each.name for each in mounted.iterdir()) == ["a", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_files_as_they_were(
    tmp_path: Path, untouched: Untouched, there: bool
) -> None:
    with small_disk(tmp_path / "disk", "1m") as mounted:
        folder = mounted / "deep" / "folder"
        if there:
            write_files(folder)
        with (
            untouched(mounted),
            pytest.raises(OSError, match="No space left"),
            filled_folder(folder, {"files": "test"}) as new,
        ):
            (new / "a").write_text("new")
            (new / "b").write_bytes(bytes(2_000_000))


@as_root
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no command setpriv here")
def test_all_of_this_room_holds_for_a_user_without_rights(open_folder: Path) -> None:
    """They may read everything, since the interpreter may lie in root's home, and write nothing."""
    here, own = Path(__file__).parent, open_folder / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    right = "-all,+dac_read_search"
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    become += [f"--inh-caps={right}", f"--ambient-caps={right}"]
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={own / 'tests'}"]
    names = ("output", "filled", "working", "other_users")
    files = [here / f"test_{name}{'' if '_' in name else '_folder'}.py" for name in names]
    done = subprocess.run(
        [*become, sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, "HOME": str(own), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=here.parents[1], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
