"""One pruning of a checkpoint, decided but not yet written: from its files, or loaded.

Both ways give a `Run`: what will stay, the figures, and how to write and verify it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .arch.heterogeneous import overrides
from .arch.view import describe
from .batches import Batch
from .checkpoint.deciding import decide_stored
from .checkpoint.disk import StoredModel
from .checkpoint.layers import StoredLayers
from .checkpoint.reader import open_checkpoint
from .checkpoint.surgery import (
    check_all_weights,
    check_cut_weights,
    prepare,
    summarize_stored,
    verify_checkpoint,
    write_checkpoint,
)
from .distributed import is_first, together
from .errors import DataError, VerificationError
from .evaluation.cost import Cost, cost_of, final_states
from .hooks import evaluating
from .loading import (
    check_device,
    check_readable,
    has_tokenizer,
    load_config,
    load_model,
    load_tokenizer,
    quiet_transformers,
)
from .pruning.decision import Decision, decide
from .pruning.holding import Holding, Replacements
from .pruning.plan import PruningPlan
from .pruning.request import PruningRequest
from .pruning.scoring import is_finite, not_finite
from .pruning.statistics import get_pruning_statistics, summarize
from .pruning.surgery import apply_plan
from .pruning.texts import CalibrationText, Drawn, digest
from .sources import Source, find_source

LOGITS_TOLERANCE = 1e-5
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


@dataclass(frozen=True)
class Options:
    """How to work, whatever is pruned."""

    device: str = "cpu"
    dtype: str = "auto"
    trust_remote_code: bool = False
    show_progress: bool = False
    max_shard_bytes: int = 5 * 10**9
    check_weights: bool = False
    evaluate: bool = True
    holding: Holding = field(default_factory=Holding)


@dataclass(frozen=True)
class Run:
    """A pruning that is decided and proved.

    Attributes:
        plan: what stays.
        statistics: of `get_pruning_statistics`, with bytes on disk.
        streamed: whether it works on the files, without the model in memory.
        layers_differ: whether the layers of the result differ in width.
        has_tokenizer: whether there is a tokenizer to carry over.
        write: writes model and tokenizer into an existing folder.
        verify: checks that folder; gives the largest difference of logits, None where the model
            was not loaded.
        replacements: tensors that take the place of cut ones.
        cost: what the folder's model lost on held-back text; None where there is none.
    """

    plan: PruningPlan
    statistics: dict[str, Any]
    streamed: bool
    layers_differ: bool
    has_tokenizer: bool
    write: Callable[[Path], None]
    verify: Callable[[Path], float | None]
    replacements: Replacements = field(default_factory=dict)
    cost: Callable[[Path], Cost | None] = lambda _folder: None


def stored_run(
    source: Source,
    folder: Path,
    request: PruningRequest | Decision,
    options: Options,
    dataloader: Iterable[Any] | None = None,
    calibration: CalibrationText | None = None,
) -> Run:
    """Prune the files of a checkpoint.

    Args:
        source: what the user named.
        folder: its files.
        request: what to remove, or what was decided before.
        options: how to work.
        dataloader: calibration data.
        calibration: text to draw calibration data from, instead.

    Raises:
        NamesUnknownError: its tensors are named in a way that only loading understands.
        NotByLayersError: its layers cannot be run one at a time.
        Other errors of this library: refused, nothing was written.
    """
    code, show = options.trust_remote_code, options.show_progress
    asked = request.plan if isinstance(request, Decision) else request
    has_data = dataloader is not None or calibration is not None
    with together() if has_data else nullcontext():  # without data the first process is alone
        stored = StoredModel(folder, load_config(source, trust_remote_code=code))
        stored.seen_by(asked.attention_unit)
        drawn = None
        if calibration is not None:
            drawn = _draw(calibration, load_tokenizer(source, trust_remote_code=code))
        if options.check_weights:
            check_all_weights(stored, show)
    given = isinstance(request, Decision)
    if isinstance(request, Decision):
        decision = request
    else:
        decision = decide_stored(
            stored,
            request,
            options.dtype,
            options.max_shard_bytes,
            dataloader=dataloader if drawn is None else drawn.batches,
            device=check_device(options.device),
            holding=options.holding,
            show_progress=show,
        )
    if calibration is not None and drawn is not None:
        decision = _with_record(decision, calibration, drawn.batches)
    plan = decision.plan
    new = prepare(stored, plan, options.dtype, options.max_shard_bytes, decision.replacements)
    if given and not options.check_weights:
        check_cut_weights(stored, plan, show)
    before = summarize_stored(stored, stored.view.model, stored.checkpoint.nbytes)
    after = summarize_stored(stored, new.twin, sum(tensor.nbytes for tensor in new.tensors))
    statistics = get_pruning_statistics(before, after) | {
        "original_expansion_rate": before.expansion_rate,
        "original_file_bytes": stored.checkpoint.file_bytes,
        "pruned_file_bytes": new.nbytes,
    }

    def write(target: Path) -> None:
        write_checkpoint(stored, new, target, show_progress=show)

    def verify(target: Path) -> None:
        verify_checkpoint(stored, plan, new, target)

    def cost(target: Path) -> Cost | None:
        if not held_back:
            return None
        device = check_device(options.device)
        written = StoredModel(target, load_config(find_source(target), trust_remote_code=code))
        layers = [StoredLayers(each, device, options.dtype) for each in (stored, written)]
        return stored_cost(layers[0], layers[1], held_back)

    held_back = drawn.held_back if drawn is not None and options.evaluate else []
    differ = bool(overrides(new.twin.config.get_text_config()))
    return Run(
        *(plan, statistics, True, differ, has_tokenizer(folder), write, verify),
        replacements=decision.replacements,
        cost=cost,
    )


def stored_cost(
    before: StoredLayers, after: StoredLayers, held_back: Sequence[Batch]
) -> Cost | None:
    """What a checkpoint lost against another, each read one layer at a time."""
    states = []
    for layers in (before, after):
        with layers.running() as model:
            states.append(final_states(model, held_back))
    before.read_head()
    return cost_of(before.view.model, held_back, *states)


def loaded_run(
    source: Source,
    request: PruningRequest | Decision,
    options: Options,
    dataloader: Iterable[Any] | None = None,
    calibration: CalibrationText | None = None,
) -> Run:
    """Load a model and prune it in memory: where its files alone do not do.

    Calibration text is read before the model is loaded, which takes longer.
    """
    code, show = options.trust_remote_code, options.show_progress
    has_data = dataloader is not None or calibration is not None
    with together() if has_data else nullcontext():  # without data the first process is alone
        check_readable(source)
        tokenizer = load_tokenizer(source, trust_remote_code=code)
        drawn = None if calibration is None else _draw(calibration, tokenizer)
        model = load_model(
            source,
            device=options.device,
            dtype=options.dtype,
            trust_remote_code=code,
            show_progress=show and is_first(),
        )
        if options.check_weights:
            _check_live_weights(model)
        before = summarize(model)
    if isinstance(request, Decision):
        decision = request
    else:
        data = dataloader if drawn is None else drawn.batches
        decision = decide(
            describe(model), request, data, holding=options.holding, show_progress=show
        )
    if calibration is not None and drawn is not None:
        decision = _with_record(decision, calibration, drawn.batches)
    plan = decision.plan
    held_back = drawn.held_back if drawn is not None and options.evaluate and is_first() else []
    unpruned = final_states(model, held_back)
    apply_plan(model, plan, decision.replacements, show_progress=show)
    statistics = get_pruning_statistics(before, model) | {
        "original_expansion_rate": before.expansion_rate,
        "original_file_bytes": _file_bytes(source),
    }

    def write(target: Path) -> None:
        _save(model, tokenizer, target, options.max_shard_bytes)
        statistics["pruned_file_bytes"] = open_checkpoint(target).file_bytes
        _copy_licence(source, target)

    def verify(target: Path) -> float:
        return reloaded_difference(model, target, trust_remote_code=code)

    def cost(_target: Path) -> Cost | None:
        if not held_back:
            return None
        return cost_of(model, held_back, unpruned, final_states(model, held_back))

    differ = bool(overrides(model.config.get_text_config()))
    return Run(
        *(plan, statistics, False, differ, tokenizer is not None, write, verify),
        replacements=decision.replacements,
        cost=cost,
    )


def _draw(calibration: CalibrationText, tokenizer: Any) -> Drawn:
    """Draw sequences from the calibration text."""
    if tokenizer is None:
        raise DataError("The model has no tokenizer, so calibration text cannot be read.")
    return calibration.draw(tokenizer)


def _with_record(
    decision: Decision, calibration: CalibrationText, batches: list[Batch]
) -> Decision:
    """Let the plan say which text it was calibrated on."""
    record = asdict(calibration) | {
        "source": Path(calibration.source).name,
        "sha256": digest(batches),
    }
    plan = replace(decision.plan, request={**decision.plan.request, "calibration": record})
    return replace(decision, plan=plan)


def reloaded_difference(
    model: Any, folder: str | Path, *, trust_remote_code: bool = False
) -> float:
    """Largest absolute difference of logits between a model and its saved form.

    Raises:
        VerificationError: it is above 1e-5 of the largest logit (at least 1e-5).
    """
    reloaded: Any = load_model(
        folder, device=str(model.device), trust_remote_code=trust_remote_code
    )
    return logits_difference(model, reloaded)


def logits_difference(model: Any, reloaded: Any) -> float:
    """Largest absolute difference of two models' logits on random tokens.

    Raises:
        VerificationError: it is above 1e-5 of the largest logit (at least 1e-5).
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (2, 16), generator=generator).to(model.device)
    with evaluating(model), evaluating(reloaded):
        expected = model(input_ids=ids).logits.float()
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


def verify_by_loading(source: Source, run: Run, folder: Path, options: Options) -> float:
    """Load the result, compare it with a live cut of the original, and let it generate.

    Raises:
        VerificationError: they answer differently, or the result does not generate.
    """
    code = options.trust_remote_code
    live: Any = load_model(
        source, device=options.device, dtype=options.dtype, trust_remote_code=code
    )
    apply_plan(live, run.plan, run.replacements)
    reloaded: Any = load_model(folder, device=options.device, trust_remote_code=code)
    difference = logits_difference(live, reloaded)
    del live
    ids = torch.tensor([[0, 1, 2]], device=reloaded.device)
    with evaluating(reloaded), quiet_transformers():
        tokens = reloaded.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, min_new_tokens=4
        )
    if tokens.shape[-1] != 7:
        raise VerificationError("The written model loads but does not generate; nothing was kept.")
    return difference


def _check_live_weights(model: Any) -> None:
    from .errors import UnsupportedModelError

    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not is_finite(parameter.detach()):
            raise UnsupportedModelError(not_finite(name))


def _save(model: Any, tokenizer: Any, folder: Path, max_shard_bytes: int) -> None:
    from safetensors import SafetensorError

    with quiet_transformers():
        try:
            _save_model(model, folder, max_shard_bytes)
        except SafetensorError as exc:  # its name for a full disk
            raise OSError(str(exc)) from exc
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))


def _save_model(model: Any, folder: Path, max_shard_bytes: int) -> None:
    """Save the model, with its generation settings as they were read.

    Before 5.23, transformers refuses to write settings that contradict each other, which many
    published models have, so they are written here.
    """
    settings: Any = getattr(model, "generation_config", None)
    model.generation_config = type(settings)()
    try:
        model.save_pretrained(folder, max_shard_size=max_shard_bytes)
    finally:
        model.generation_config = settings
    file = folder / "generation_config.json"
    if settings is not None and file.is_file():  # not every model generates
        settings.to_json_file(file, keys_to_pop=["compile_config"])


def _copy_licence(source: Source, folder: Path) -> None:
    if source.kind == "folder":
        for pattern in _LICENCES:
            for file in Path(source.location).glob(pattern):
                copy = shutil.copytree if file.is_dir() else shutil.copy
                copy(file, folder / file.name)


def _file_bytes(source: Source) -> int | None:
    if source.kind == "folder":
        return open_checkpoint(Path(source.location)).file_bytes
    return source.path.stat().st_size if source.path else None
