"""The JSON Schemas that ship with the package, made from the classes of results.

`python tools/schemas.py` writes them; a test compares each with its class.
"""

from __future__ import annotations

import json
from pathlib import Path

from optipfair.bias.study_comparison import StudyComparison
from optipfair.bias.study_results import BiasMetrics
from optipfair.report.comparison import Comparison
from optipfair.results import Result, schema_of

SOURCE = Path(__file__).parents[1] / "src" / "optipfair"
SCHEMAS: dict[str, type[Result]] = {
    "report/comparison.schema.json": Comparison,
    "bias/bias_metrics.schema.json": BiasMetrics,
    "bias/bias_comparison.schema.json": StudyComparison,
}


def text_of(name: str) -> str:
    """What the schema of this name must hold."""
    schema = schema_of(SCHEMAS[name], Path(name).name.replace(".schema", ""))
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for name in SCHEMAS:
        (SOURCE / name).write_text(text_of(name), encoding="utf-8")
