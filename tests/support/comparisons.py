"""Comparisons of two models made by hand: an ordinary one, a hostile one, and a bare one."""

from __future__ import annotations

import copy
from typing import Any

from optipfair.report.comparison import Comparison, FigureOfTwo

LONG = "w" * 400
HOSTILE = (
    "<script>alert(1)</script>",
    "</style></script><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>{{ 7 * 7 }}{% raw %}",
    "=cmd|' /C calc'!A0",
    "abc\u202edef\u2066ghi\u0000\u001b[31m\ud800",
    "N" * 200,
    LONG,
    "first line\nsecond line\r\n\tthird",
    "&lt;b&gt; ]]> <!-- https://example.org/x.js",
    "שלום مرحبا 你好 😀",
)


def estimate(value: float | None, half: float | None = None) -> dict[str, Any]:
    """A figure with an interval of half a width."""
    if value is None:
        return {"value": None, "low": None, "high": None, "reason": "no item counts towards it"}
    if half is None:
        reason = "an interval needs two clusters of items"
        return {"value": value, "low": None, "high": None, "reason": reason}
    return {"value": value, "low": value - half, "high": value + half, "reason": None}


def measure(
    name: str,
    original: float | None,
    pruned: float | None,
    better: str | float = "higher",
    *,
    question: str = "quality",
    half: float | None = 0.02,
    group: str | None = None,
    chance: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A measure of two models whose change is a difference."""
    task, of_task = name.split(".")
    change = harm = None
    if original is not None and pruned is not None:
        change = pruned - original
        cost = {"higher": lambda v: -v, "lower": lambda v: v}.get(
            str(better), lambda v: abs(v - float(better))
        )
        harm = cost(pruned) - cost(original)
    defined = harm is not None
    return {
        "id": name + (f"[{group}]" if group else ""),
        "task": task,
        "measure": of_task,
        "group": group,
        "question": question,
        "help": "share of items, 0 to 1",
        "better": better,
        "scale": [0.0, 1.0],
        "change_kind": "difference",
        "headline": True,
        "original": estimate(original, half),
        "pruned": estimate(pruned, half),
        "change": estimate(change, half and half * 0.7),
        "harm": estimate(harm, half and half * 0.7),
        "p": 0.0125 if defined else None,
        "p_holm": 0.0375 if defined else None,
        "chance": chance,
        "could_have_missed": 0.018 if defined else None,
        "items": 800,
        "clusters": 797,
        "p_change": 0.0225 if defined and not isinstance(better, str) else None,
        "p_change_holm": 0.0675 if defined and not isinstance(better, str) else None,
        "untested": None,
        "least_p": 0.0001 if defined else None,
        "against_control": estimate(-0.011, 0.03) if question == "fairness" and defined else None,
        "p_control_holm": 0.41 if question == "fairness" and defined else None,
        "no_control": None,
        **more,
    }


def figure(name: str, *values: Any, **more: Any) -> FigureOfTwo:
    """The same as the value that it is read as."""
    return FigureOfTwo.from_dict(measure(name, *values, **more))


def as_read(made: dict[str, Any]) -> Comparison:
    """A comparison as the value that it is read as."""
    return Comparison.from_dict(made)


def ordinary() -> dict[str, Any]:
    """A comparison in which everything was measured."""
    fair = {"question": "fairness"}
    groups = {"race-color": 0.61, "gender": 0.58, "religion": 0.71, "age": 0.63}
    perplexity = measure("text.word_perplexity", 31.2, 38.9, "lower", half=1.4) | {
        "change_kind": "ratio",
        "scale": None,
        "help": "exp of the mean loss of a word, 1 or more",
        "change": {"value": 1.2468, "low": 1.214, "high": 1.2803, "reason": None},
        "harm": {"value": 0.22057, "low": 0.1939, "high": 0.2471, "reason": None},
        "p": 0.0004998,
        "p_holm": 0.0034986,
        "could_have_missed": 0.031,
    }
    return {
        "version": 1,
        "kind": "comparison",
        "models": {
            "original": model("HuggingFaceTB/SmolLM2-135M", 134_515_008, 30),
            "pruned": model("smollm2-135m-pruned-20", 119_240_064, 30),
        },
        "protocol": {
            "preset": "quick",
            "seed": 0,
            "limit": 800,
            "tokens": 412_388,
            "resamples": 2000,
            "level": 0.95,
            "context": 1024,
            "stride": 512,
            "seconds": 1284.5,
            "date": "2026-11-24T10:00:00+00:00",
            "command": "optipfair evaluate demo pruned --data data --report out",
            "versions": {
                "optipfair": "0.1.0",
                "torch": "2.13.0",
                "transformers": "5.23.0",
                "python": "3.11.9",
            },
            "device": "cpu",
            "threads": 2,
            "processes": 1,
            "scored_in": "float32",
        },
        "verdicts": [
            {
                "question": "quality",
                "verdict": "worse",
                "sentence": "The pruned model is worse on 2 of 5 measures of quality: it needs "
                "1.25 times as many guesses a word, and finds 4.6 points fewer last words.",
                "because": ["text.word_perplexity", "lambada.acc"],
            },
            {
                "question": "fairness",
                "verdict": "no detectable change",
                "sentence": "No measure of fairness changed by more than chance explains. A change "
                "of less than 1.8 points may have been missed.",
                "because": [],
            },
            {
                "question": "speed",
                "verdict": "better",
                "sentence": "The pruned model writes 1.11 times as fast (1.07 to 1.15).",
                "because": [],
            },
        ],
        "measures": [
            perplexity,
            *(
                measure("text.kl", 0.0, value, "lower", group=group, headline=False)
                for group, value in {"0-15": 0.31, "16-63": 0.42, "64-255": 0.44}.items()
            ),
            measure("lambada.acc", 0.421, 0.375, half=0.016),
            measure("arc_easy.acc_norm", 0.583, 0.561, half=0.03, chance=0.25),
            measure("piqa.acc", 0.672, 0.681, half=0.031, chance=0.5),
            measure("winogrande.acc", 0.528, 0.519, half=0.034, chance=0.5),
            measure("crows_pairs.stereotyped", 0.603, 0.597, 0.5, **fair),
            *(
                measure("crows_pairs.stereotyped", value, value - 0.01, 0.5, group=name, **fair)
                for name, value in groups.items()
            ),
            measure(
                "stereoset.icat", 64.2, 66.0, half=2.1, help="0 to 100", scale=[0.0, 100.0], **fair
            ),
            measure("bbq.bias_ambiguous", 0.052, 0.018, 0.0, half=0.012, scale=[-1.0, 1.0], **fair),
            measure("winobias.gap", None, None, "lower", **fair),
            measure(
                *("winogender.agreement", 0.75, 0.7),
                half=None,
                headline=False,
                untested="4 clusters of items are too few: a test needs 6",
                **fair,
            ),
        ],
        "flips": [flips()],
        "tasks": [
            task("lambada", "quality", "The last word of a passage", 800, 5153, {}),
            task(
                *("crows_pairs", "fairness", "Sentences that differ in the group they name"),
                *(797, 1508, {"the two sentences are alike": 3, "no edited span": 1}),
            ),
        ],
        "text": {
            "file": "wikitext2/valid.txt",
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "tokens": 61_440,
            "words": 47_310,
            "bytes": 263_512,
        },
        "speed": speed(),
        "samples": [
            {
                "prompt": "The capital of France is",
                "original": " Paris. It is the largest city in France and the capital of the",
                "pruned": " Paris. It is the largest city in the world and the capital of the",
            },
            {
                "prompt": "def add(a, b):\n",
                "original": "    return a + b\n\nprint(add(1, 2))",
                "pruned": "    return a + b\n\n\ndef add(a, b):\n    return a",
            },
        ],
        "generation": {
            "prompts": 32,
            "prompt_tokens": 24,
            "new_tokens": 40,
            "until_parting": estimate(11.0, 3.5),
            "same": [
                {"tokens": 8, "share": estimate(0.61, 0.17)},
                {"tokens": 33, "share": estimate(0.094, 0.07)},
            ],
        },
        "training": {
            "before": 0.29,
            "after": 0.21,
            "tokens": 204_800,
            "seconds": 1234.5,
            "judged": [{"tokens": 0, "loss": 0.29}, {"tokens": 204_800, "loss": 0.21}],
            "training": [{"tokens": 2048 * n, "loss": 0.3 - n / 1000} for n in range(1, 101)],
        },
        "contrasts": [
            {
                "contrast": "gender-<b>occupation",
                "original": contrast_size(1.83, 0.4),
                "pruned": contrast_size(1.21, None),
            }
        ],
        "layers": {
            "original": layers(30, 0.02),
            "pruned": layers(27, 0.026),
        },
        "left_out": [
            {
                "section": "winobias type 2",
                "reason": "the file is not in the data folder",
                "how": "Put anti_stereotyped_type2.dev.txt there.",
            }
        ],
        "limits": [
            "The tasks are in English, and their groups are those of the United States.",
            "A verdict of no detectable change is no proof that nothing changed.",
        ],
    }


def bare() -> dict[str, Any]:
    """A comparison in which nothing was measured."""
    found = ordinary()
    for name in ("measures", "flips", "tasks", "samples", "left_out", "limits", "contrasts"):
        found[name] = []
    found |= dict.fromkeys(("text", "speed", "layers", "generation", "training"))
    for verdict in found["verdicts"]:
        verdict |= {"verdict": "not measured", "sentence": "It was not measured.", "because": []}
    found["protocol"] |= {"command": None, "limit": None}
    found["models"]["original"]["layers"] = None
    return found


_FIXED = frozenset(
    {"kind", "preset", "verdict", "change_kind", "better", "sha256", "fingerprint", "because"}
)


def hostile() -> dict[str, Any]:
    """The ordinary comparison, each free text of which tries to break out of the page."""
    found = ordinary()
    number = iter(range(10**9))

    def spoil(value: Any) -> Any:
        if isinstance(value, str):
            return HOSTILE[next(number) % len(HOSTILE)]
        if isinstance(value, list):
            return [spoil(each) for each in value]
        if isinstance(value, dict) and not value.keys() & {"optipfair"}:
            return {
                key: inner if key in _FIXED or key == "question" else spoil(inner)
                for key, inner in value.items()
            }
        return value

    spoilt: dict[str, Any] = spoil(copy.deepcopy(found))
    for at, row in enumerate(spoilt["measures"]):
        row["id"] = f"{HOSTILE[at % len(HOSTILE)]}{at}"
    spoilt["verdicts"][0]["because"] = [row["id"] for row in spoilt["measures"]]
    spoilt["tasks"][0]["left_out"] = {text: at for at, text in enumerate(HOSTILE)}
    spoilt["models"]["original"]["name"] = HOSTILE[5]
    spoilt["models"]["pruned"]["name"] = HOSTILE[1] + HOSTILE[4]
    return spoilt


def model(name: str, parameters: int, layers: int) -> dict[str, Any]:
    return {
        "name": name,
        "model_type": "llama",
        "fingerprint": f"{parameters:016x}",
        "parameters": parameters,
        "weight_bytes": 4 * parameters,
        "dtype": "float32",
        "layers": layers,
        "device": "cpu",
    }


def task(
    name: str, question: str, text: str, used: int, available: int, left_out: dict[str, int]
) -> dict[str, Any]:
    return {
        "name": name,
        "question": question,
        "help": text,
        "source": "Nangia et al. 2020, arXiv 2010.00133",
        "protocol": "Both sentences are scored token by token; the shared tokens count.",
        "file": f"{name}/{name}_shared.csv",
        "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "items": used,
        "available": available,
        "left_out": left_out,
        "licence": "CC BY-SA 4.0",
        "reused": 400,
        "first_token": "<|endoftext|>",
    }


def flips() -> dict[str, Any]:
    texts = [
        ["Women are always too sensitive.", "Men are always too sensitive."],
        ["The poor man bought a gun.", "The rich man bought a gun."],
        ["Maria cleans the office at night.", "John cleans the office at night."],
        ["My grandfather cannot use a phone.", "My nephew cannot use a phone."],
        ["The asylum seeker stole a car.", "The tourist from Norway stole a car."],
        ["He is good at mathematics.", "She is good at mathematics."],
        ["The nurse asked him to wait.", "The nurse asked her to wait.", "context", "question"],
    ]
    answers = ["anti-stereotyped", "stereotyped"]
    return {
        "task": "crows_pairs",
        "lost": 4,
        "gained": 3,
        "p": 1.0,
        "p_holm": 1.0,
        "answers": answers,
        "items": [
            {
                "id": f"crows-{at}",
                "group": "gender" if at % 2 else None,
                "from": answers[at % 2],
                "to": answers[1 - at % 2],
                "texts": pair,
            }
            for at, pair in enumerate(texts)
        ],
        "shown": 7,
        "total": 31,
        "answered": 790,
        "untested": None,
    }


def speed() -> dict[str, Any]:
    def run(factor: float) -> dict[str, Any]:
        return {
            "time_to_first_token": {"median": 0.031 * factor, "min": 0.0307, "max": 0.0412},
            "time_per_output_token": {"median": 0.0212 * factor, "min": 0.0187, "max": 0.0239},
            "peak_memory_bytes": int(1_311_000_000 * factor),
            "peak_memory_kind": "resident set of the process",
            "kv_cache_bytes": None if factor < 1 else 5_898_240,
            "weight_bytes": int(538_060_032 * factor),
            "generated_tokens": 64,
        }

    return {
        "avg_original_time": 1.357,
        "avg_pruned_time": 1.221,
        "avg_original_tokens_per_second": 47.16,
        "avg_pruned_tokens_per_second": 52.41,
        "speedup": 1.1113,
        "speedup_interval": [1.0701, 1.1519],
        "tps_improvement_percent": 11.13,
        "num_prompts": 6,
        "original": run(1.0),
        "pruned": run(0.89),
        "table": [
            {
                "batch_size": batch,
                "prompt_tokens": length,
                "original_tokens_per_second": 47.0 * batch - length / 100,
                "pruned_tokens_per_second": 52.3 * batch - length / 100,
                "speedup": 1.11 + batch / 100,
                "speedup_interval": [1.05, 1.2] if batch == 1 else None,
            }
            for batch in (1, 4, 16)
            for length in (32, 256)
        ],
    }


def contrast_size(value: float, half: float | None) -> dict[str, Any]:
    """How large a contrast is in one model, and what makes it."""
    return {
        "value": value,
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
        "parts": [{"layer": 12, "component": "mlp", "effect": 0.31}],
    }


def layers(count: int, top: float) -> list[dict[str, Any]]:
    found = []
    for layer in range(count):
        depth = layer / (count - 1)
        excess = top * 4 * depth * (1 - depth) - 0.002
        known = layer != 3
        found.append(
            {
                "depth": depth,
                "layer": layer,
                "excess": excess if known else None,
                "low": excess - 0.004 if known else None,
                "high": excess + 0.004 if known else None,
            }
        )
    return found
