"""Scores on disk, a line each as soon as it is known, so that a search goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import OutputError

NAME = "scores.jsonl"


class ScoreFile:
    """The scores of one model on one text; those of another are refused."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self.scores: dict[str, float] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        if text and not text.endswith("\n"):  # stopped in the middle of a line
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        lines = text.splitlines()
        entries = [entry for line in lines if (entry := _read(line)) is not None]
        if not entries:
            if folder.is_dir() and any(folder.iterdir()):
                raise OutputError(
                    f"The output folder {folder} is not empty and holds no {NAME}. Give another "
                    "folder."
                )
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(dict(about)) + "\n", encoding="utf-8")
            return
        first, *rest = entries
        if first != dict(about):
            differ = sorted(k for k in {*first, *about} if first.get(k) != about.get(k))
            raise OutputError(
                f"{self.path} holds scores of another search ({', '.join(differ)} differ). Give "
                "another folder, or ask as before."
            )
        self.scores = {entry["choice"]: float(entry["score"]) for entry in rest}

    def add(self, choice: str, score: float) -> None:
        """Keep a score."""
        self.scores[choice] = score
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"choice": choice, "score": score}) + "\n")


def _read(line: str) -> dict[str, Any] | None:
    """A line, None where a run was stopped in the middle of it."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
