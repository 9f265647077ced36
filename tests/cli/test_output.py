"""What is printed acts on no terminal, and no terminal or reader ends a run."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from optipfair.cli import main
from optipfair.cli.output import print_json, print_table, say
from optipfair.cli.shared_options import command_line
from optipfair.testing import tiny_model

Run = Callable[..., tuple[int, str, str]]

_HOSTILE = "\x1b]0;owned\x07\x9b2J\u202egpj.exe"


def _optipfair(arguments: list[object], **how: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "optipfair", *map(os.fsencode, map(str, arguments))]
    return subprocess.run(command, check=False, capture_output="stdout" not in how, **how)  # type: ignore[call-overload, no-any-return]


def test_lines_and_tables_show_control_characters_instead_of_sending_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(_HOSTILE)
    print_table(_HOSTILE, ["", _HOSTILE], [[_HOSTILE, "1"]])
    say(_HOSTILE, err=True)
    out, err = capsys.readouterr()
    for character in "\x1b\x07\x9b\u202e":
        assert character not in out + err
    assert "⟨U+001B⟩]0;owned" in out
    assert "⟨U+202E⟩gpj.exe" in err


def test_json_comes_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": _HOSTILE + "\x7f"}
    print_json(value)
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == value


def test_a_hostile_model_type_is_shown_escaped(run: Run, llama_copy: Path) -> None:
    config = json.loads((llama_copy / "config.json").read_text())
    (llama_copy / "config.json").write_text(json.dumps({**config, "model_type": _HOSTILE}))
    code, out, err = run("analyze", "--model-path", llama_copy)
    assert code == 2
    assert "\x1b" not in out + err


def test_a_hostile_argument_is_refused_with_its_text_escaped(run: Run) -> None:
    code, out, err = run("analyze", "--model-path", "x", "\x1b[2J")
    assert code == 2
    assert "⟨U+001B⟩[2J" in err
    assert "\x1b" not in out + err


def test_an_ascii_terminal_gets_a_plain_table(llama_folder: Path) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = _optipfair(["analyze", "--model-path", llama_folder], env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"---" in done.stdout
    assert b"\\u" not in done.stdout
    missing = _optipfair(["analyze", "--model-path", "./ünd"], env=ascii_only)
    assert missing.returncode == 2
    assert b"\\xfcnd" in missing.stderr


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_ends_no_run(llama_folder: Path, tmp_path: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m optipfair prune --model-path "$1" --output-path "$2"'
    script = f"{command} --calibration none {closed}>&-"
    done = subprocess.run(
        ["sh", "-c", script, "sh", llama_folder, tmp_path / "out"],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").is_file()
    assert b"Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["families"], ["families", "--json"]])
def test_a_reader_that_has_gone_is_told_by_the_exit_code_alone(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = _optipfair([*arguments], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_disk_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    told = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", told)
    assert main(["families"]) == 1
    assert told.getvalue() == "Error: OSError: [Errno 28] No space left on device\n"


def test_names_that_are_not_in_utf8_are_refused_at_once(llama_folder: Path, tmp_path: Path) -> None:
    wrong = os.fsdecode(os.fsencode(tmp_path) + b"/model\xff")
    for paths in (["--model-path", wrong], ["--model-path", llama_folder, "--output-path", wrong]):
        done = _optipfair(["prune", *paths])
        assert done.returncode == 2
        assert done.stderr.startswith(b"Error: ")
        assert b"is not in UTF-8" in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_command_names_files_of_this_machine_without_their_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ["prune", "--model-path", "org/name", "--output-path", str(tmp_path / "out")]
    given += [f"--calibration={tmp_path}/x.txt", "--plan", "../plan.json", "--layer-indices", "1,2"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/optipfair", *given])
    assert command_line() == (
        "optipfair prune --model-path org/name --output-path out --calibration=x.txt "
        "--plan plan.json --layer-indices 1,2"
    )


def test_a_model_of_another_kind_is_refused_in_a_line(
    refuses: Callable[..., None], tmp_path: Path
) -> None:
    config = {"model_type": "t5", "d_model": 16, "num_layers": 2, "architectures": ["T5Model"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"shared.weight": torch.zeros(2, 16)}, tmp_path / "model.safetensors")
    refuses(
        "'t5' is an encoder-decoder.{0,99}prunes its decoder in memory.$",
        "analyze",
        "--model-path",
        tmp_path,
    )


def test_a_model_without_its_head_is_called_so(
    refuses: Callable[..., None], tmp_path: Path
) -> None:
    model: Any = tiny_model("llama", tie_word_embeddings=False)
    model.model.save_pretrained(tmp_path)
    refuses(
        "has no output head .lm_head.weight.*saved without", "analyze", "--model-path", tmp_path
    )
