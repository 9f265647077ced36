"""Working folders: gone after the run, cleared after a kill, and never another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optipfair import OutputError
from optipfair.files.working_folder import check_free, working_folder

MARK = {"output": "out"}


def left_by_a_killed_run(parent: Path, mark: object = MARK) -> Path:
    work = parent / ".optipfair-dead"
    (work / "new").mkdir(parents=True)
    (work / "new" / "half").write_text("half")
    (work / "owner.json").write_text(json.dumps(mark))
    return work


@pytest.mark.parametrize("error", [None, OSError, KeyboardInterrupt])
def test_it_is_gone_after_the_block(tmp_path: Path, error: type[BaseException] | None) -> None:
    def work() -> None:
        with working_folder(tmp_path, MARK, busy="busy") as folder:
            (folder / "new").mkdir()
            (folder / "file").touch()
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("busy", ["busy", None])
def test_what_a_killed_run_left_is_rescued_and_cleared(tmp_path: Path, busy: str | None) -> None:
    left_by_a_killed_run(tmp_path)
    seen: list[str] = []

    def rescue(work: Path) -> None:
        seen.append((work / "new" / "half").read_text())

    with working_folder(tmp_path, MARK, busy=busy, rescue=rescue):
        pass
    assert seen == ["half"]
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_for_something_else_stays(tmp_path: Path) -> None:
    work = left_by_a_killed_run(tmp_path, {"output": "another"})
    with working_folder(tmp_path, MARK, busy="busy"):
        pass
    assert (work / "new" / "half").is_file()


@pytest.mark.parametrize("half", [None, "", '{"out'], ids=["no mark", "an empty one", "half"])
def test_what_died_before_its_mark_was_whole_is_cleared(tmp_path: Path, half: str | None) -> None:
    work = tmp_path / ".optipfair-dead"
    work.mkdir()
    if half is not None:
        (work / "owner.json.part").write_text(half)
    with working_folder(tmp_path, MARK, busy="busy"):
        pass
    assert not work.exists()


@pytest.mark.parametrize("mark", ["owner.json", "owner.json.part", "thesis.tex"])
def test_a_users_folder_stays_whatever_its_name(tmp_path: Path, mark: str) -> None:
    work = tmp_path / ".optipfair-mine"
    work.mkdir()
    (work / mark).write_text("mine")
    (work / "data").write_text("mine")
    with working_folder(tmp_path, MARK, busy="busy"):
        pass
    assert (work / mark).read_text() == (work / "data").read_text() == "mine"


def test_a_link_to_a_marked_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    theirs = left_by_a_killed_run(tmp_path / "elsewhere")
    (tmp_path / ".optipfair-link").symlink_to(theirs)
    with working_folder(tmp_path, MARK, busy="busy"):
        pass
    assert (theirs / "new" / "half").is_file()
    assert (tmp_path / ".optipfair-link").is_symlink()


def test_a_living_run_is_busy_or_works_beside_another(tmp_path: Path) -> None:
    with working_folder(tmp_path, MARK, busy="busy") as first:
        (first / "half").touch()
        with pytest.raises(OutputError, match="busy"):
            check_free(tmp_path, MARK, "busy")
        with pytest.raises(OutputError, match="busy"), working_folder(tmp_path, MARK, busy="busy"):
            pass
        with working_folder(tmp_path, MARK, busy=None) as second:
            assert second != first
        assert (first / "half").is_file()
    check_free(tmp_path, MARK, "busy")
