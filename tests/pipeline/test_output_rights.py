"""All files of a result have the rights that new files have, whoever wrote them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from optipfair import prune_checkpoint


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_weights_have_the_rights_of_the_files_beside_them(
    llama_folder: Path, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        prune_checkpoint(llama_folder, tmp_path / "out", pruning_percentage=20)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask
