"""Files put into a folder that holds others: all or none, and a kill is made up for."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from optipfair import OutputError
from optipfair.files.filled_folder import check_writable, filled_folder
from support.nursery import Nursery

Untouched = Callable[[Path], AbstractContextManager[None]]
MARK = {"files": "test"}
NAMES = ("a", "b", "c")


def fill(folder: Path, text: str) -> None:
    with filled_folder(folder, MARK) as new:
        for name in NAMES:
            (new / name).write_text(text)


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in NAMES]


def test_all_appear_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    fill(folder, "old")
    (folder / "mine").write_text("mine")
    fill(folder, "new")
    assert texts(folder) == ["new"] * 3
    assert sorted(each.name for each in folder.iterdir()) == [*NAMES, "mine"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("there", [True, False])
def test_an_error_in_the_block_leaves_everything_as_it_was(
    tmp_path: Path, untouched: Untouched, error: type[BaseException], there: bool
) -> None:
    folder = tmp_path / "deep" / "folder"
    if there:
        fill(folder, "old")
    with untouched(tmp_path), pytest.raises(error), filled_folder(folder, MARK) as new:
        (new / "a").write_text("new")
        raise error


@pytest.mark.parametrize("failing", NAMES)
@pytest.mark.parametrize("links", [True, False])
def test_an_error_between_two_places_leaves_everything_as_it_was(
    tmp_path: Path,
    untouched: Untouched,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    links: bool,
) -> None:
    fill(tmp_path, "old")
    (tmp_path / "b").unlink()
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name == failing and path.parent.name == "ready":
            raise PermissionError(1, "not yours")
        return replace(path, target)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "this disk knows no links")

    monkeypatch.setattr(Path, "replace", fail)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with untouched(tmp_path), pytest.raises(PermissionError):
        fill(tmp_path, "new")


def die_at(folder: Path, name: str) -> None:
    """Fill a folder, and be killed before one file is in its place."""
    replace = Path.replace

    def dying(path: Path, target: Path) -> Path:
        if path.name == name and path.parent.name == "ready":
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = dying  # type: ignore[method-assign,assignment]
    fill(folder, "new")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_killed_run_began_to_put_in_place_is_finished(
    nursery: Nursery, tmp_path: Path, name: str
) -> None:
    fill(tmp_path, "old")
    assert nursery.run(die_at, tmp_path, name) == -signal.SIGKILL
    with pytest.raises(ZeroDivisionError), filled_folder(tmp_path, MARK):
        raise ZeroDivisionError  # even if the next run fails
    assert texts(tmp_path) == ["new"] * 3
    assert sorted(each.name for each in tmp_path.iterdir()) == [*NAMES]


def test_links_in_the_places_are_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "thesis")
    fill(folder, "new")
    assert (tmp_path / "thesis").read_text() == "mine"
    assert not (folder / "a").is_symlink()


def test_a_file_keeps_the_permissions_of_the_one_that_it_replaces(tmp_path: Path) -> None:
    fill(tmp_path, "old")
    (tmp_path / "a").chmod(0o640)
    fill(tmp_path, "new")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_is_refused_just_before_stays(tmp_path: Path, untouched: Untouched) -> None:
    (tmp_path / "b").write_text("mine")

    def check(place: Path) -> None:
        if place.exists():
            raise OutputError(f"{place.name} is there.")

    with (
        untouched(tmp_path),
        pytest.raises(OutputError, match="b is there"),
        filled_folder(tmp_path, MARK, check=check) as new,
    ):
        for name in NAMES:
            (new / name).write_text("new")


def test_two_runs_fill_a_folder_at_once(tmp_path: Path) -> None:
    with filled_folder(tmp_path, MARK) as one:
        (one / "a").write_text("one")
        with filled_folder(tmp_path, MARK) as two:
            (two / "b").write_text("two")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_a_copy_is_kept_where_the_disk_has_no_second_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "old")
    copied: list[Path] = []
    copy = shutil.copy2

    def seen(source: Path, target: Path, **options: bool) -> object:
        copied.append(Path(source))
        return copy(source, target, **options)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "this disk knows no links")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", seen)
    fill(tmp_path, "new")
    assert [each.name for each in copied] == [*NAMES]
    assert texts(tmp_path) == ["new"] * 3


def test_checking_leaves_nothing(tmp_path: Path, untouched: Untouched) -> None:
    with untouched(tmp_path):
        check_writable(tmp_path / "a" / "b")
