"""A module imports only from lower levels, as `docs/architecture.md` draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "optipfair"

# Module (or package, which then covers what is not named) → level. A module may import from a
# lower level, and from its own level inside one package.
LEVELS = {
    "errors": 0,
    "_version": 0,
    "distributed": 1,
    "progress": 2,
    "registry": 1,
    "sources": 1,
    "batches": 1,
    "hooks": 1,
    "memory": 1,
    "spill": 1,
    "uncertainty": 1,
    "arch.spec": 1,
    "arch.config_rules": 1,
    "arch.heterogeneous": 1,
    "arch.buffers": 1,
    "arch.layouts": 2,
    "arch.stored": 2,
    "arch.sizes": 2,
    "arch.tiny": 2,
    "arch.discover": 3,
    "arch.families": 3,
    "arch.slots": 2,
    "arch.twin": 2,
    "arch.view": 4,
    "loading": 4,
    "testing": 5,
    "arch.saved": 5,
    "arch.attention": 5,
    "checkpoint.reader": 3,
    "checkpoint.folder": 3,
    "checkpoint.config_kinds": 3,
    "checkpoint.stored_config": 4,
    "checkpoint.structure": 4,
    "checkpoint.writer": 4,
    "checkpoint.disk": 6,
    "checkpoint.scoring": 7,
    "checkpoint.layers": 8,
    "checkpoint.plan_files": 8,
    "checkpoint.replaced": 8,
    "checkpoint.rewrite": 8,
    "checkpoint.surgery": 9,
    "pruning.allocation": 5,
    "checkpoint.deciding": 9,
    "pruning.elimination": 5,
    "pruning.compensation": 5,
    "pruning.importance": 5,
    "pruning.neuron_scores": 5,
    "pruning.layer_scores": 8,
    "pruning.selection": 5,
    "pruning.targets": 5,
    "pruning.widths": 5,
    "pruning.scoring": 5,
    "pruning.calibration": 5,
    "pruning.sequences": 5,
    "pruning.statistics": 5,
    "pruning.budget": 5,
    "pruning.request": 6,
    "pruning.solving": 7,
    "pruning.plan": 6,
    "pruning.checks": 7,
    "pruning.guard": 7,
    "pruning.planning": 7,
    "pruning.surgery": 7,
    "pruning.collecting": 5,
    "pruning.texts": 7,
    "pruning.influence": 5,
    "pruning.angles": 5,
    "pruning.additive": 7,
    "pruning.anchors": 7,
    "pruning.removal": 7,
    "pruning.ranking": 8,
    "pruning.recipes": 8,
    "pruning.by_loss": 8,
    "pruning.replacement": 8,
    "pruning.layer_losses": 8,
    "pruning.holding": 5,
    "pruning.stream": 6,
    "pruning.passes": 7,
    "pruning.calibrated": 8,
    "pruning.decision": 8,
    "pruning.neurons": 8,
    "pruning.api": 8,
    "bias.words": 1,
    "bias.prompts": 2,
    "bias.edits": 2,
    "bias.controls": 2,
    "bias.layer_keys": 2,
    "bias.tokens": 2,
    "bias.alignment": 3,
    "bias.components": 5,
    "bias.capture": 6,
    "bias.metrics": 7,
    "bias.study": 8,
    "bias.labels": 1,
    "bias.plots": 2,
    "bias.tables": 2,
    "bias.comparing": 9,
    "bias.drawing": 9,
    "bias.visualize": 10,
    "bias.fairness": 10,
    "bias.runs": 11,
    "evaluation.divergence": 1,
    "evaluation.items": 1,
    "evaluation.reading": 1,
    "evaluation.measures": 2,
    "evaluation.task": 3,
    "evaluation.tasks": 4,
    "evaluation.choosing": 4,
    "evaluation.rows": 4,
    "evaluation.verdicts": 9,
    "evaluation.thresholds": 4,
    "evaluation.wikitext": 1,
    "evaluation.agenda": 7,
    "evaluation.answers": 7,
    "evaluation.layers": 10,
    "evaluation.describing": 8,
    "evaluation.evaluating": 9,
    "evaluation.comparing": 11,
    "evaluation.runs": 12,
    "evaluation.harness": 7,
    "evaluation": 6,
    "report": 8,
    "analysis": 8,
    "runs": 10,
    "pipeline": 11,
    "demo": 13,
    "cli": 14,
}

MODULES = sorted(
    path
    for path in SOURCE.rglob("*.py")
    if path.relative_to(SOURCE).parts not in (("__init__.py",), ("__main__.py",))
)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level_of(module: str) -> int | None:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in LEVELS:
            return LEVELS[".".join(parts[:end])]
    return None


def imported(path: Path) -> set[str]:
    """Names below `optipfair` that a module imports anywhere, types aside."""
    package = list(path.relative_to(SOURCE).with_suffix("").parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only or not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1]
        target = [*base, *(node.module.split(".") if node.module else [])]
        for alias in node.names:
            whole = ".".join([*target, alias.name])
            is_module = (SOURCE / Path(*target) / f"{alias.name}.py").exists()
            found.add(whole if is_module else ".".join(target))
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_has_a_level_and_imports_from_below(path: Path) -> None:
    name = module_name(path)
    if path.name == "__init__.py" and name not in LEVELS:
        assert imported(path) == set(), "a package's __init__ only lists its names"
        return
    level = level_of(name)
    assert level is not None, f"{name} has no level: add it to LEVELS and docs/architecture.md"
    for target in imported(path):
        below = level_of(target)
        assert below is not None, f"{name} imports {target}, which has no level"
        same_package = name.split(".")[0] == target.split(".")[0]
        assert below < level or (below == level and same_package), f"{name} imports {target}"
