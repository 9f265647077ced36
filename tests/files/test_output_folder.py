"""Output folders: what is refused beforehand, and that they appear whole or not at all."""

from __future__ import annotations

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


@pytest.mark.parametrize("length", [256, 250])
def test_a_name_that_the_disk_cannot_hold_is_refused(tmp_path: Path, length: int) -> None:
    """250 bytes are a valid name, but not with what the temporary sibling adds."""
    with pytest.raises(OutputError, match=r"cannot be written|too long"):
        check_output(tmp_path / ("n" * length), None, False)


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
        assert folder.parent == target.parent
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
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "model") as folder:
        (folder.parent / "theirs").touch()
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["theirs"]
