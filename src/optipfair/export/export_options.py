"""`ExportOptions`: what can be asked of an export, one field an option."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ..option_fields import in_usual_case, option
from .targets import ENGINES

WHAT, RUNNING = "what", "running"
_what, _running = partial(option, section=WHAT), partial(option, section=RUNNING)


@dataclass(frozen=True)
class ExportOptions:
    """For which engine, and in which type; nothing is checked here."""

    to: str = _what("vllm", "The engine that is to run the model.", allowed=ENGINES.names)
    dtype: str = _what(
        "auto",
        "Type of the weights: auto for their own, float32, float16 or bfloat16; for llama.cpp also "
        "q8_0, or a type of its llama-quantize, such as q4_k_m, where that is installed.",
        metavar="TYPE",
    )
    verify_engine: bool = _running(
        False,
        "Run the result in the engine, and compare its tokens and their log-probabilities with "
        "PyTorch's. Where they differ nothing is written.",
    )
    engine_python: str | None = _running(
        None,
        "The Python that has the engine. By default OPTIPFAIR_ENGINES/ENGINE/bin/python where that "
        "variable is set, else this one.",
        metavar="FILE",
    )
    show_progress: bool = _running(False, "Whether to show a bar.", flag=None)

    def __post_init__(self) -> None:
        in_usual_case(self)
