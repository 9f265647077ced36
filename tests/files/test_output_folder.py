"""Output folders: what is refused beforehand, and that they appear whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from optipfair import OutputError
from optipfair.files.output_folder import check_output, new_folder

Untouched = Callable[[Path], AbstractContextManager[None]]


def a_model(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize("name", ["new", "empty", "a/b/c", "../sibling/new"])
def test_a_missing_or_empty_folder_is_fine(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / name, None, False)


def test_checking_writes_nothing(tmp_path: Path, untouched: Untouched) -> None:
    with untouched(tmp_path):
        check_output(tmp_path / "a" / "b", None, False)


def test_a_model_is_replaced_only_on_request(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model")
    with pytest.raises(OutputError, match=r"holds a model.*--overwrite"):
        check_output(model, None, False)
    check_output(model, None, True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"no config\.json.*never overwritten"):
        check_output(tmp_path, None, overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_the_output(tmp_path: Path, overwrite: bool) -> None:
    model = a_model(tmp_path / "models" / "llama")
    link = tmp_path / "link"
    link.symlink_to(model)
    for output in (model, link, model / ".." / "llama", model.parent, tmp_path):
        with pytest.raises(OutputError, match="is or holds the input"):
            check_output(output, model, overwrite)
        with pytest.raises(OutputError, match="is or holds the input"):
            check_output(output, link, overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_output_never_lies_inside_the_input(tmp_path: Path, overwrite: bool) -> None:
    model = a_model(tmp_path / "model")
    a_model(model / "old")
    link = tmp_path / "link"
    link.symlink_to(model)
    for output in (model / "new", model / "a" / "b", model / "old", link / "new"):
        for source in (model, link):
            with pytest.raises(OutputError, match="lies inside the input"):
                check_output(output, source, overwrite)


def test_the_output_may_lie_beside_an_input_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    check_output(tmp_path / "new", tmp_path / "model.gguf", False)


def test_the_folder_of_an_input_file_is_never_the_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is or holds the input"):
        check_output(tmp_path, tmp_path / "model.gguf", True)


def test_a_file_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "file", None, True)


def test_below_a_file_nothing_can_be_written_and_the_reason_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file"):
        check_output(tmp_path / "file" / "a" / "b", None, False)


def test_a_name_that_the_disk_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written|too long"):
        check_output(tmp_path / ("n" * 256), None, False)


def test_a_name_that_the_disk_just_holds_is_written(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 255)
    check_output(target, None, False)
    with new_folder(target) as folder:
        (folder / "x").touch()
    assert (target / "x").is_file()


def test_a_path_that_is_too_long_for_the_files_in_it_is_refused(tmp_path: Path) -> None:
    room = 4095 - len(str(tmp_path)) - 20  # 20 are fewer than the longest name of a result
    parts = ["n" * 200] * (room // 201)
    parts.append("n" * (room - 201 * len(parts)))
    with pytest.raises(OutputError, match="too long"):
        check_output(tmp_path.joinpath(*parts), None, False)


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError):
        check_output(tmp_path / "loop", None, False)


def test_a_place_where_nobody_can_write_is_refused() -> None:
    """/proc says even of root that it may write there."""
    if not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    with pytest.raises(OutputError, match="cannot be written"):
        check_output(Path("/proc/pruned"), None, False)


def test_the_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "model"
    with new_folder(target) as folder:
        (folder / "x").write_text("whole")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert (target / "x").read_text() == "whole"


def test_the_old_model_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = a_model(tmp_path / "model", "old")
    (target / "left-over").touch()
    with new_folder(target) as folder:
        (folder / "config.json").write_text("new")
        assert (target / "config.json").read_text() == "old"
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "model",
        "model/.optipfair.json",
        "model/config.json",
    ]
    assert (target / "config.json").read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("name", ["model", "a/b/model"])
def test_an_error_leaves_everything_as_it_was(
    tmp_path: Path, untouched: Untouched, error: type[BaseException], name: str
) -> None:
    a_model(tmp_path / "model")
    with untouched(tmp_path), pytest.raises(error), new_folder(tmp_path / name) as folder:
        (folder / "half").write_text("done")
        raise error


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    a_model(tmp_path / "model", "old")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    with new_folder(tmp_path / "link") as folder:
        (folder / "config.json").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "model" / "config.json").read_text() == "new"


def test_what_others_put_into_a_new_parent_stays_and_the_error_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "model"):
        (tmp_path / "a" / "theirs").touch()
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]


def test_what_a_user_put_beside_the_output_stays(tmp_path: Path) -> None:
    """Whatever its name: names prove nothing."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("mine")
    names = (".out.old", ".out.partial", ".out.probe", ".out.old.json", ".optipfair-abc123")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_text("mine")
    (tmp_path / ".optipfair-link").symlink_to(theirs)
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    check_output(tmp_path / "out", None, True)
    with new_folder(tmp_path / "out") as folder:
        (folder / "config.json").touch()
    assert {p: p.is_file() and p.read_text() for p in before} == before


@pytest.mark.parametrize("name", ["notes.txt", ".git/HEAD", "model.gguf", "sub/deeper/x.json"])
def test_a_model_with_something_of_the_users_is_never_replaced(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    with new_folder(model) as folder:
        a_model(folder / "sub")
        (folder / "config.json").touch()
    check_output(model, None, True)
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("mine")
    with pytest.raises(OutputError, match=f"no run has written.*{name}"):
        check_output(model, None, True)


def test_a_file_that_was_changed_since_is_never_replaced(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").touch()
        (folder / "README.md").write_text("card")
    (tmp_path / "model" / "README.md").write_text("my own card")
    with pytest.raises(OutputError, match=r"changed since: README\.md"):
        check_output(tmp_path / "model", None, True)


def test_a_model_without_a_list_is_replaced_if_it_holds_nothing_else(tmp_path: Path) -> None:
    model = a_model(tmp_path / "model")
    for name in ("model-00001-of-00002.safetensors", "tokenizer.json", "README.md"):
        (model / name).touch()
    check_output(model, None, True)
    (model / "chapter.md").touch()
    with pytest.raises(OutputError, match=r"chapter\.md"):
        check_output(model, None, True)


def test_an_output_that_the_input_links_into_is_refused(tmp_path: Path) -> None:
    output = a_model(tmp_path / "out")
    (output / "model.safetensors").write_text("weights")
    source = a_model(tmp_path / "source")
    (source / "model.safetensors").symlink_to(output / "model.safetensors")
    with pytest.raises(OutputError, match="is a link to"):
        check_output(output, source, True)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_appears_at_the_output_during_the_run_stays(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    with pytest.raises(OutputError, match="during the run"), new_folder(target) as folder:
        (folder / "config.json").touch()
        if kind == "folder":
            a_model(target, "theirs")
        elif kind == "file":
            target.write_text("theirs")
        else:
            a_model(tmp_path / "elsewhere", "theirs")
            target.symlink_to(tmp_path / "elsewhere")
    kept = target if kind == "file" else target / "config.json"
    assert kept.read_text() == "theirs"
    assert not list(tmp_path.glob(".optipfair-*"))


def test_an_old_model_that_changes_during_the_run_stays(tmp_path: Path) -> None:
    target = a_model(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="during the run"), new_folder(target) as folder:
        (folder / "config.json").touch()
        (target / "notes.txt").write_text("mine")
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "notes.txt"]


def test_an_empty_folder_made_during_the_run_is_taken(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "config.json").touch()
        (tmp_path / "out").mkdir()
    assert (tmp_path / "out" / "config.json").is_file()


def killed_between_the_renames(target: Path) -> Path:
    """What a run leaves that dies after the old model has gone aside."""
    work = target.with_name(".optipfair-dead")
    a_model(work / "old", "old")
    a_model(work / "new", "new")
    (work / "owner.json").write_text(json.dumps({"output": target.name}))
    return work


@pytest.mark.parametrize("emptied", [False, True])
def test_the_old_model_of_a_killed_run_is_put_back(tmp_path: Path, emptied: bool) -> None:
    target = tmp_path / "out"
    killed_between_the_renames(target)
    if emptied:
        target.mkdir()
    with pytest.raises(ZeroDivisionError), new_folder(target):
        raise ZeroDivisionError
    assert (target / "config.json").read_text() == "old"
    assert not list(tmp_path.glob(".optipfair-*"))


def test_the_old_model_of_a_killed_run_is_never_deleted(tmp_path: Path) -> None:
    target = a_model(tmp_path / "out", "another")
    work = killed_between_the_renames(target)
    with pytest.raises(OutputError, match="Move one of them away"), new_folder(target):
        pass
    assert (work / "old" / "config.json").read_text() == "old"
    assert (target / "config.json").read_text() == "another"


def test_permissions_are_those_of_the_folder_that_is_replaced(tmp_path: Path) -> None:
    target = a_model(tmp_path / "out")
    target.chmod(0o2770)
    with new_folder(target) as folder:
        (folder / "config.json").touch()
    assert stat.S_IMODE(target.stat().st_mode) == 0o2770


def test_a_file_keeps_the_permissions_of_the_one_that_it_replaces(tmp_path: Path) -> None:
    target = a_model(tmp_path / "out")
    (target / "config.json").chmod(0o600)
    with new_folder(target) as folder:
        (folder / "config.json").write_text("new")
        (folder / "README.md").touch()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()}
    assert modes["config.json"] == 0o600
    assert modes["README.md"] == 0o666 & ~umask()


def umask() -> int:
    found = os.umask(0o022)
    os.umask(found)
    return found


def test_two_runs_into_one_folder_are_told_apart(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / "config.json").write_text("first")
        with pytest.raises(OutputError, match="Another run"), new_folder(tmp_path / "out"):
            pass
        with new_folder(tmp_path / "other") as other:
            (other / "config.json").write_text("second")
    assert (tmp_path / "out" / "config.json").read_text() == "first"
    assert (tmp_path / "other" / "config.json").read_text() == "second"


def test_errors_name_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, new_folder(tmp_path / "out") as folder:
        raise OutputError(f"{folder / 'x'} is wrong.")
    assert str(caught.value) == f"{tmp_path / 'out' / 'x'} is wrong."
    with pytest.raises(FileNotFoundError) as missing, new_folder(tmp_path / "out") as folder:
        (folder / "none").read_text()
    assert str(missing.value).endswith(f"'{tmp_path / 'out' / 'none'}'")


def test_where_a_disk_is_mounted_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "mounted")
    with pytest.raises(OutputError, match="disk is mounted"):
        check_output(tmp_path / "mounted", None, True)
