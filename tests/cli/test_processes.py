"""The command line as real processes: fresh interpreters, exit codes, limits, signals, pipes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from optipfair import __version__

Untouched = Callable[[Path], AbstractContextManager[None]]
HEAVY = {"torch", "transformers", "matplotlib", "numpy", "safetensors", "rich"}
COMMAND = (sys.executable, "-m", "optipfair")
PRUNE = (*COMMAND, "prune", "--calibration", "none")


def process(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **options.pop("env", {})}
    parts = [str(part) for part in command]
    return subprocess.run(
        parts, capture_output=True, text=True, timeout=120, env=environment, check=False, **options
    )


def modules_after(code: str) -> set[str]:
    """Top-level modules of a fresh interpreter that has run the code."""
    result = process(sys.executable, "-c", f"{code}\nimport sys; print('\\n', *sys.modules)")
    assert result.returncode == 0, result.stderr
    return {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import optipfair",
        "import optipfair; dir(optipfair)",
        "import optipfair.files.safetensors_reader",
        "import optipfair.loading.sources",
        "from optipfair.cli import main; main(['--help'])",
        "from optipfair.cli import main; main(['prune', '--help'])",
        "from optipfair.cli import main; main(['bias', '--help'])",
        "from optipfair.cli import main; main(['--version'])",
        "from optipfair.cli import main; main(['prune', '--percentage', '3'])",
    ],
)
def test_heavy_packages_are_not_imported_before_they_are_needed(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_the_module_and_the_script_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("optipfair")
    for command in (COMMAND, (script,)):
        result = process(*command, "--version")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"optipfair, version {__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    result = process(*COMMAND)
    assert result.returncode == 2
    assert "Usage: optipfair" in result.stdout + result.stderr


@pytest.mark.slow
def test_quiet_prints_nothing_at_all_on_success(llama_folder: Path, tmp_path: Path) -> None:
    paths = ("--model-path", llama_folder, "--output-path", tmp_path / "out")
    result = process(*PRUNE, *paths, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_standard_output_is_json_and_nothing_else(llama_folder: Path, tmp_path: Path) -> None:
    paths = ("--model-path", llama_folder, "--output-path", tmp_path / "out")
    result = process(*PRUNE, *paths, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["output_path"] == str(tmp_path / "out")


def test_a_refusal_is_one_line_and_exit_code_2(llama_folder: Path, tmp_path: Path) -> None:
    paths = ("--model-path", llama_folder, "--output-path", tmp_path / "out")
    result = process(*PRUNE, *paths, "--pruning-percentage", "120")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: pruning_percentage=120")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_nothing_and_no_traceback(
    llama_copy: Path, untouched: Untouched
) -> None:
    """A limit on the size of files stands for the disk: large enough for the config only."""
    output = llama_copy.parent / "new" / "out"

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    paths = ("--model-path", llama_copy, "--output-path", output)
    with untouched(llama_copy.parent):
        result = process(*PRUNE, *paths, preexec_fn=limit_files)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "File too large" in result.stderr


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path: Path, untouched: Untouched) -> None:
    paths = ("--model-path", "no-such/model", "--output-path", tmp_path / "out")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    with untouched(tmp_path):
        result = process(*PRUNE, *paths, env=environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: Cannot read the model 'no-such/model'.")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_model_in_the_hubs_cache_is_pruned_without_network(
    llama_folder: Path, tmp_path: Path
) -> None:
    """It has no tokenizer, as repositories may have none."""
    repository = tmp_path / "hub" / "models--some--llama"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes((llama_folder / name).read_bytes())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    result = process(
        *PRUNE, "--model-path", "some/llama", "--output-path", tmp_path / "out",
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert "no tokenizer" in result.stdout
    assert "base_model: some/llama" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_reader_that_goes_away_gives_no_traceback(llama_folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(
            [*COMMAND, "analyze", "--model-path", str(llama_folder)],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert "Traceback" not in result.stderr
    assert result.returncode == 1
