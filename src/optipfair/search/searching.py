"""`search_model`: the best shape of a model under a budget, as a plan that `prune` carries out."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..arch.fingerprint import fingerprint
from ..arch.view import ModelView, describe
from ..batches import Batch
from ..errors import ArgumentError, CheckpointError, OutputError
from ..loading.models import load_model
from ..loading.tokenizers import load_tokenizer
from ..noted import unheard
from ..option_fields import checked_keywords, taking
from ..progress import duration
from ..pruning.calibration.calibration_texts import CalibrationText, digest
from ..pruning.calibration.text_cost import cost_of, final_states
from ..pruning.cut.checks import seen_by
from ..pruning.cut.plan import PruningPlan
from ..pruning.cut.surgery import apply_plan
from ..pruning.decision import decide, decide_counts
from ..pruning.options.prune_options import PruneOptions
from ..pruning.request.budget import Budget, read_budget
from ..pruning.request.pruning_request import PruningRequest, check_request
from .choices import Choice, choices_of, counts_of, uniform_choices
from .exact_choice import least_score
from .score_file import ScoreFile
from .scoring import score_choices
from .search_options import SearchOptions
from .search_result import Found, SearchResult, Shape

SEARCHED, WIDTHS = "searched", "widths by layer"
UNIFORM, LAYERS = "uniform width", "fewer layers"
_TIMED = 4  # scores, by which the time of all is told


@taking(SearchOptions)
def search_model(
    model_path: str | Path,
    output_path: str | Path,
    *,
    options: SearchOptions | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
    **more: Any,
) -> SearchResult:
    """Search the shape of a model that loses least under each of some budgets.

    Each part of each layer is scored alone: its MLP at several widths and gone, its attention gone,
    always made up for, by the divergence on held-back text. Of the choices that save enough, those
    of the least sum are found exactly. Since sums mislead, that shape is pruned and judged beside
    others on text that no score saw; the best becomes a plan.

    Args:
        model_path: a folder, a `.gguf` file, a hub id, or `demo` for the embedded model.
        output_path: a folder for scores and plans. One that holds the scores of the same search is
            gone on with, so a stopped search goes on, and a new budget needs no new scores.
        options: all that is asked for as one value; keywords given beside it replace its fields.
        device: where to work.
        trust_remote_code: whether code from the model's folder may run.
        say: is told what is being done, and how long it may take.
        (the options)

    Raises:
        ArgumentError: a budget that no shape reaches, or none is given.
        OutputError: the folder holds something else.
    """
    started = time.perf_counter()
    asked = replace(options or SearchOptions(), **checked_keywords(search_model, more))
    budgets = _budgets(asked)
    folder = _folder(output_path)
    code: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(model_path, **code)
    if tokenizer is None:
        raise CheckpointError(f"{str(model_path)!r} has no tokenizer, and the search reads text.")
    model: Any = load_model(model_path, device=device, **code)
    text = CalibrationText(
        asked.calibration, asked.calibration_samples, asked.calibration_length, asked.seed
    )
    text.check()
    drawn = text.draw(tokenizer, lambda: model)
    scored_on, judged_on = _halves(drawn.held_back)
    about = {"model": fingerprint(model), "text": digest(drawn.batches)}
    search = _Search(
        model, drawn.batches, scored_on, judged_on, ScoreFile(folder, about), asked, say
    )
    for budget in budgets.values():
        search.check_reachable(budget)
    if not asked.uniform:
        search.score()
    found = [search.under(budget, folder / f"plan-{name}.json") for name, budget in budgets.items()]
    return SearchResult(
        str(output_path),
        search.parameters,
        tuple(found),
        search.file.scores,
        time.perf_counter() - started,
    )


def _budgets(asked: SearchOptions) -> dict[str, Budget]:
    """Each budget by what it was given as, as far as that can be a part of a file's name."""
    given = [
        *((str(each), read_budget(each, None)) for each in asked.target_params or ()),
        *((str(each), read_budget(None, each)) for each in asked.target_size or ()),
    ]
    found = {re.sub(r"[^\w.]+", "-", name): budget for name, budget in given if budget is not None}
    if not found:
        raise ArgumentError(
            "No budget is given. Say how much may be left, by target_params (--target-params) or "
            "target_size (--target-size)."
        )
    return found


def _folder(output_path: str | Path) -> Path:
    folder = Path(output_path)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output {folder} is a file. Give the name of a folder.")
    return folder


def _halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Held-back text in two: one half to score by, one to judge by."""
    halves: tuple[list[Batch], list[Batch]] = ([], [])
    for batch in batches:
        for place in (0, 1):
            if len(rows := batch.input_ids[place::2]):
                halves[place].append(Batch(rows, batch.attention_mask[place::2]))
    return halves


@dataclass
class _Search:
    """A search: the model, its text, the scores so far, and its steps."""

    model: Any
    batches: Sequence[Batch]
    scored_on: Sequence[Batch]
    judged_on: Sequence[Batch]
    file: ScoreFile
    asked: SearchOptions
    say: Callable[[str], None] | None

    def __post_init__(self) -> None:
        self.view: ModelView = seen_by(describe(self.model), {"neuron", "attention"})
        self.choices: list[Choice] = choices_of(self.view)
        parameters = list(self.model.parameters())
        self.parameters: int = sum(each.numel() for each in parameters)
        self.item: int = parameters[0].element_size()
        self.request: PruningRequest = check_request(
            PruneOptions(neuron_selection_method="AUTO", pruning_percentage=10), self.batches
        )
        self.before: Any = None

    def saving(self, budget: Budget) -> int:
        """How many parameters must go."""
        limit = budget.limit if budget.parameters is not None else budget.limit // self.item
        return max(self.parameters - limit, 0)

    def check_reachable(self, budget: Budget) -> None:
        """Refuse a budget that is none, or that no shape reaches, before the long work."""
        need, parts = self.saving(budget), {choice.block for choice in self.choices}
        most = sum(max(c.saved for c in self.choices if c.block == part) for part in parts)
        if need == 0:
            raise ArgumentError(
                f"The model has {self.parameters:,} parameters, which fit into {budget} as they "
                "are. Give a smaller budget."
            )
        if need > most:
            raise ArgumentError(
                f"A budget of {budget} cannot be reached: without any attention and MLP "
                f"{self.parameters - most:,} parameters would be left. Give a larger one."
            )

    def score(self) -> None:
        """Score what is not scored yet; how long that takes is told after the first few."""
        todo = [choice for choice in self.choices if choice.name not in self.file.scores]
        began, done = 0.0, 0

        def told(choice: Choice, score: float) -> None:
            nonlocal done, began
            self.file.add(choice.name, score)
            began, done = (
                began or time.perf_counter(),
                done + 1,
            )  # from the first: it waits for fits
            if done == _TIMED + 1 and self.say is not None:
                each = (time.perf_counter() - began) / _TIMED
                self.say(
                    f"{len(todo)} scores are to be found, which takes about "
                    f"{duration(each * len(todo))}. A search that is stopped goes on with "
                    "those that it has."
                )

        if todo:
            score_choices(
                self.view,
                todo,
                self.request,
                self.batches,
                self.scored_on,
                told,
                show_progress=self.asked.show_progress,
            )

    def under(self, budget: Budget, file: Path) -> Found:
        """The best shape under a budget, and its plan in a file."""
        judged = [
            (self._judged(name, expected, plan), plan)
            for name, expected, plan in self._candidates(budget)
        ]
        judged.sort(key=lambda pair: pair[0].divergence)
        (best, plan), others = judged[0], judged[1:]
        plan = replace(plan, request={**plan.request, "search": best.name, "budget": str(budget)})
        plan.save(file)
        return Found(str(budget), best, tuple(shape for shape, _ in others), str(file))

    def _candidates(self, budget: Budget) -> Iterator[tuple[str, float | None, PruningPlan]]:
        """Shapes that keep to a budget: name, sum of scores, and the plan, all made up for."""
        need, scores = self.saving(budget), self.file.scores
        widths_alone = [choice for choice in self.choices if choice.kept]
        if not self.asked.uniform:
            seen = []
            for name, allowed in ((SEARCHED, self.choices), (WIDTHS, widths_alone)):
                chosen = least_score(allowed, scores, need)
                if chosen is None or chosen in seen:
                    continue
                seen.append(chosen)
                expected = sum(max(scores[choice.name], 0.0) for choice in chosen)
                yield name, expected, self._made(chosen)
        uniform = uniform_choices(self.choices, need)
        if uniform is not None:
            yield UNIFORM, None, self._made(uniform)
        if self.asked.uniform:
            yield from self._fewer_layers(budget)

    def _fewer_layers(self, budget: Budget) -> Iterator[tuple[str, None, PruningPlan]]:
        limit = self.parameters - self.saving(budget)
        options = PruneOptions(
            "DEPTH", target_params=limit, layer_selection_method="auto", compensate=True
        )
        with unheard():
            request = check_request(options, self.batches)
            plan, _ = decide(describe(self.model), request, self.batches)
        yield LAYERS, None, plan

    def _made(self, chosen: Sequence[Choice]) -> PruningPlan:
        counts = counts_of(self.view, chosen)
        with unheard():
            plan, _ = decide_counts(
                describe(self.model),
                counts,
                self.request,
                self.batches,
                show_progress=self.asked.show_progress,
            )
        return replace(plan, request={**plan.request, "compensate": True})

    def _judged(self, name: str, expected: float | None, plan: PruningPlan) -> Shape:
        """Prune a copy, and judge it on text that no score saw."""
        if self.before is None:
            self.before = final_states(self.model, self.judged_on)
        pruned = apply_plan(copy.deepcopy(self.model), plan)
        after = final_states(pruned, self.judged_on)
        cost = cost_of(pruned, self.judged_on, self.before, after)
        assert cost is not None  # there are sequences of two tokens
        widths, attention = _layers(self.view, plan)
        left = sum(each.numel() for each in pruned.parameters())
        return Shape(
            name, left, expected, cost.kl_divergence, cost.ratio, tuple(widths), tuple(attention)
        )


def _layers(view: ModelView, plan: PruningPlan) -> tuple[list[int], list[bool]]:
    """Of each layer that stays how wide its MLP is, and whether it attends."""
    cuts: Mapping[tuple[int, str], int] = {cut.key: cut.kept for cut in plan.width_cuts}
    widths, attention = [], []
    for index in plan.keep_layers:
        mlps = view.layers[index].mlps
        widths.append(sum(cuts.get(m.key, m.width) for m in mlps if m.spec.name != "attention"))
        attention.append(cuts.get((index, "attention"), 1) > 0)
    return widths, attention
