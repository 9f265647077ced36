"""`prune_checkpoint`: from a model's name to a folder that holds the pruned model, verified."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arch.heterogeneous import overrides
from .arch.view import describe
from .checkpoint.folder import check_output, new_folder
from .checkpoint.reader import open_checkpoint
from .errors import VerificationError
from .loading import (
    DEMO,
    DEMO_BASE,
    DEMO_LICENSE,
    DEMO_NAME,
    Source,
    check_device,
    find_source,
    load_model,
    load_tokenizer,
    quiet_transformers,
)
from .pruning.api import PruningRequest, check_request, make_plan
from .pruning.plan import PruningPlan
from .pruning.statistics import get_pruning_statistics, summarize
from .pruning.surgery import apply_plan
from .pruning.targets import DEFAULT_PERCENTAGE
from .report.card import Base, base_of_folder, model_card

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PLAN_FILE = "pruning_plan.json"
LOGITS_TOLERANCE = 1e-5
_CARRIED_OVER = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class PruneResult:
    """What `prune_checkpoint` did.

    Attributes:
        output_path: the folder it wrote.
        plan: what was decided.
        statistics: of `get_pruning_statistics`, with bytes on disk.
        logits_difference: largest difference between the model in memory and reloaded; None
            where it was not verified.
        has_tokenizer: whether there was a tokenizer to carry over.
        seconds: wall time.
    """

    output_path: Path
    plan: PruningPlan
    statistics: dict[str, Any]
    logits_difference: float | None
    has_tokenizer: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; the plan itself lies in the output folder."""
        return {
            "output_path": str(self.output_path),
            "plan": {
                "file": str(self.output_path / PLAN_FILE),
                "digest": self.plan.digest,
                "request": dict(self.plan.request),
                "layers_removed": list(self.plan.drop_layers),
            },
            "statistics": self.statistics,
            "logits_difference": self.logits_difference,
            "has_tokenizer": self.has_tokenizer,
            "seconds": round(self.seconds, 3),
        }


def prune_checkpoint(
    model_path: str | Path,
    output_path: str | Path,
    pruning_type: str = "MLP_GLU",
    neuron_selection_method: str = "MAW",
    pruning_percentage: float | None = None,
    *,
    expansion_rate: float | None = None,
    expansion_divisor: int | None = None,
    dataloader: Iterable[Any] | None = None,
    num_layers_to_remove: int | None = None,
    layer_indices: Sequence[int] | None = None,
    layer_selection_method: str = "last",
    device: str = "cpu",
    dtype: str = "auto",
    overwrite: bool = False,
    verify: bool = True,
    trust_remote_code: bool = False,
    show_progress: bool = False,
    command: str | None = None,
) -> PruneResult:
    """Load a model, prune it, and write it with tokenizer, plan and card to a new folder.

    Args:
        model_path: a folder, a `.gguf` file, a hub id, or `demo` for the embedded model.
        output_path: the folder to write; it appears only when complete.
        pruning_type, neuron_selection_method, expansion_rate, expansion_divisor, dataloader,
            num_layers_to_remove, layer_indices, layer_selection_method: as in `prune_model`.
        pruning_percentage: share of neurons, or of layers with `"DEPTH"`. Width pruning without
            any target removes 10 %.
        device: where to work, `auto` for an accelerator if there is one.
        dtype: `auto` keeps the checkpoint's dtype.
        overwrite: whether to replace a model that is in `output_path`.
        verify: whether to reload the result and compare logits.
        trust_remote_code: whether code from the model's repository may run.
        show_progress: whether to show bars.
        command: the command to name in the model card.

    Raises:
        ValueError: (one of this library's) refused before anything was written.
        VerificationError: the result does not reload as itself; nothing was written.
    """
    started = time.perf_counter()
    no_target = pruning_percentage is None and expansion_rate is None
    request = check_request(
        pruning_type,
        neuron_selection_method,
        DEFAULT_PERCENTAGE if no_target and pruning_type == "MLP_GLU" else pruning_percentage,
        expansion_rate,
        expansion_divisor=expansion_divisor,
        dataloader=dataloader,
        num_layers_to_remove=num_layers_to_remove,
        layer_indices=layer_indices,
        layer_selection_method=layer_selection_method,
    )
    check_device(device)
    source = find_source(model_path)
    output = Path(output_path)
    check_output(output, source.path, overwrite)
    model = load_model(
        source,
        device=device,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        show_progress=show_progress,
    )
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    plan, statistics = _prune(model, request, dataloader, show_progress)
    statistics["original_file_bytes"] = _bytes_on_disk(source)
    command = command or _as_call(model_path, output_path, plan)
    with new_folder(output) as folder:
        _write(model, tokenizer, plan, folder)
        statistics["pruned_file_bytes"] = open_checkpoint(folder).nbytes
        _copy_licence(source, folder)
        differ = bool(overrides(model.config.get_text_config()))
        card = model_card(
            _base(source), plan, statistics, output.name, command, layers_differ=differ
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        difference = _verify(model, folder, trust_remote_code) if verify else None
    seconds = time.perf_counter() - started
    return PruneResult(output, plan, statistics, difference, tokenizer is not None, seconds)


def reloaded_difference(
    model: PreTrainedModel, folder: str | Path, *, trust_remote_code: bool = False
) -> float:
    """Largest absolute difference of logits between a model and its saved form.

    Raises:
        VerificationError: it is above 1e-5 of the largest logit (at least 1e-5).
    """
    import torch

    from .hooks import evaluating

    live: Any = model
    reloaded: Any = load_model(
        folder,
        device=str(model.device),
        trust_remote_code=trust_remote_code,
    )
    vocabulary = int(live.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (2, 16), generator=generator).to(model.device)
    with evaluating(live), evaluating(reloaded):
        expected = live(input_ids=ids).logits.float()
        found = reloaded(input_ids=ids).logits.float()
    difference = float((expected - found).abs().nan_to_num(nan=0.0).max())
    limit = LOGITS_TOLERANCE * max(1.0, float(expected.abs().nan_to_num().max()))
    if difference > limit or bool((expected.isnan() != found.isnan()).any()):
        raise VerificationError(
            f"The saved model does not answer like the one in memory: logits differ by "
            f"{difference:.3g} (allowed {limit:.1g}). Nothing was written. Please report this "
            "with the model's name."
        )
    return difference


def _prune(
    model: PreTrainedModel,
    request: PruningRequest,
    dataloader: Iterable[Any] | None,
    show_progress: bool,
) -> tuple[PruningPlan, dict[str, Any]]:
    before = summarize(model)
    plan = make_plan(describe(model), request, dataloader, show_progress=show_progress)
    apply_plan(model, plan, show_progress=show_progress)
    statistics = get_pruning_statistics(before, model)
    return plan, statistics | {"original_expansion_rate": before.expansion_rate}


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    plan: PruningPlan,
    folder: Path,
) -> None:
    from safetensors import SafetensorError

    with quiet_transformers():
        try:
            model.save_pretrained(folder)
        except SafetensorError as exc:  # its name for a full disk
            raise OSError(str(exc)) from exc
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
    plan.save(folder / PLAN_FILE)


def _verify(model: PreTrainedModel, folder: Path, trust_remote_code: bool) -> float:
    return reloaded_difference(model, folder, trust_remote_code=trust_remote_code)


def _copy_licence(source: Source, folder: Path) -> None:
    if source.kind == "folder":
        for pattern in _CARRIED_OVER:
            for file in Path(source.location).glob(pattern):
                copy = shutil.copytree if file.is_dir() else shutil.copy
                copy(file, folder / file.name)


def _bytes_on_disk(source: Source) -> int | None:
    if source.kind == "folder":
        return open_checkpoint(Path(source.location)).nbytes
    return source.path.stat().st_size if source.path else None


def _base(source: Source) -> Base:
    if source.given == DEMO:
        return Base(DEMO_NAME, DEMO_BASE, DEMO_LICENSE)
    if source.kind == "folder":
        return base_of_folder(Path(source.location))
    if source.kind == "hub":
        return Base(source.location, source.location)
    return Base(str(source.file))


def _as_call(model_path: str | Path, output_path: str | Path, plan: PruningPlan) -> str:
    request = plan.request.get("pruning_type", "")
    names = shlex.join([Path(model_path).name, Path(output_path).name])
    return f"optipfair.prune_checkpoint ({request}): {names}"
