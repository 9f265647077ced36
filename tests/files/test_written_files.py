"""The list of what a run has written: edits are noticed, copies of the folder are not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from optipfair import OutputError
from optipfair.files.output_folder import check_output, new_folder
from optipfair.files.written_files import FILES

LARGE = 1_000_001


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with new_folder(tmp_path / "model") as folder:
        (folder / "config.json").write_text('{"a": 1}')
        (folder / "README.md").write_text("card")
        (folder / "code").mkdir()
        (folder / "code" / "modeling.py").write_text("x = 1")
        (folder / "model.safetensors").write_bytes(bytes(LARGE))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("name", "text"),
    [("README.md", "mine"), ("config.json", '{"a": 2}'), ("code/modeling.py", "x = 2")],
)
def test_an_edit_that_keeps_the_size_is_noticed(written: Path, name: str, text: str) -> None:
    size = (written / name).stat().st_size
    (written / name).write_text(text)
    assert (written / name).stat().st_size == size
    with pytest.raises(OutputError, match=rf"changed since: {name}"):
        check_output(written, None, True)


def test_a_large_file_is_known_by_its_size(written: Path) -> None:
    (written / "model.safetensors").write_bytes(bytes(LARGE + 1))
    with pytest.raises(OutputError, match=r"changed since: model\.safetensors"):
        check_output(written, None, True)
    listed = json.loads((written / FILES).read_text())["files"]
    assert listed["model.safetensors"] == LARGE


def test_a_link_in_a_files_place_is_noticed(written: Path, tmp_path: Path) -> None:
    (written / "README.md").rename(tmp_path / "card")
    (written / "README.md").symlink_to(tmp_path / "card")
    with pytest.raises(OutputError, match=r"changed since: README\.md"):
        check_output(written, None, True)


@pytest.mark.parametrize("how", ["copied", "moved", "touched", "other modes"])
def test_what_leaves_the_files_as_they_are_is_no_change(
    written: Path, tmp_path: Path, how: str
) -> None:
    there = written
    if how == "copied":
        there = Path(shutil.copytree(written, tmp_path / "copy", copy_function=shutil.copyfile))
    elif how == "moved":
        there = written.rename(tmp_path / "moved")
    else:
        for path in written.rglob("*.json"):
            os.utime(path, (0, 0)) if how == "touched" else path.chmod(0o600)
    check_output(there, None, True)


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', "[" * 100_000])
def test_a_list_that_cannot_be_read_proves_nothing(written: Path, text: str) -> None:
    (written / FILES).write_text(text)
    with pytest.raises(OutputError, match="code/modeling"):
        check_output(written, None, True)
