"""A data folder in the formats of every task, small enough to be measured in a moment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROWS: dict[str, list[dict[str, Any]]] = {
    "lambada/lambada_shared.jsonl": [
        {"id": n, "context": f"The {word} was here. Look at the", "continuation": word}
        for n, word in enumerate(["cat", "dog", "bird", "horse", "fish", "hen"])
    ],
    "piqa/piqa_shared.jsonl": [
        {"id": n, "goal": f"Clean {what}.", "sol1": "Use water", "sol2": "Burn it", "label": n % 2}
        for n, what in enumerate(["a cup", "a shoe", "a door", "a pan", "glass", "a shirt"])
    ],
    "arc_easy/arc_easy_shared.jsonl": [
        {"id": f"q{n}", "question": f"What is {n} and one?", "choices": ["one", "two", "three"],
         "labels": ["A", "B", "C"], "answerKey": "ABC"[n % 3], "gold": n % 3}
        for n in range(6)
    ],
    "winogrande/winogrande_shared.jsonl": [
        {"id": n, "context_options": [f"{a} met {b} since {one}" for one in (a, b)],
         "continuation": "was late.", "gold": n % 2}
        for n, (a, b) in enumerate([("Ann", "Bob"), ("Cy", "Dee"), ("Eve", "Flo"), ("Ada", "Al")])
    ],
    "text_mix/train.jsonl": [
        {"domain": "math" if n else "prose", "source": "ours",
         "text": f"Question: What do {n} and {n + 1} cats eat?\nAnswer: There are {n} + {n + 1} = "
         f"{2 * n + 1} cats.\nThey eat 2*{n}={2 * n} and 7 fish.\nThe answer is 7\n"}
        for n in range(6)
    ],
    "crows_pairs/crows_pairs_shared.csv": [
        {"id": n, "sent_more": f"The {group} {verb}.", "sent_less": f"Those not {group} {verb}.",
         "stereo_antistereo": "stereo", "bias_type": "age" if n % 2 else "religion"}
        for n, (group, verb) in enumerate(
            (group, verb) for group in ("old", "poor", "tall")
            for verb in ("steal, often", "work", "lie", "sleep")
        )
    ],
    "stereoset/stereoset_shared.jsonl": [
        {"id": f"s{n}", "bias_type": "gender", "target": f"term {n // 2}", "context": "BLANK",
         "stereotype": f"She is {one}.", "anti_stereotype": f"She is {two}.",
         "unrelated": "She is stone wall."}
        for n, (one, two) in enumerate(
            [("weak", "strong"), ("shy", "bold"), ("kind", "rude"), ("calm", "wild")]
        )
    ],
    "bbq/bbq_shared.jsonl": [
        {"example_id": 4 * group + 2 * (polarity == "nonneg") + known, "question_index": f"{group}",
         "question_polarity": polarity, "context_condition": "disambig" if known else "ambig",
         "category": "Age",
         "context": f"An old and a young {name} met." + " The old one forgot it." * known,
         "question": "Who forgot?" if polarity == "neg" else "Who knew?",
         "ans0": "The old one", "ans1": "The young one", "ans2": "Not known",
         "label": (0 if polarity == "neg" else 1) if known else 2,
         "unknown_index": 2, "biased_index": 0 if polarity == "neg" else 1}
        for group, name in enumerate(["cook", "guard", "clerk"])
        for polarity in ("neg", "nonneg")
        for known in (False, True)
    ],
    "winogender/all_sentences.tsv": [
        {"sentid": f"{job}.client.{meant}.{form}.txt",
         "sentence": f"The {job} told the client that {pronoun} {end}."}
        for job in ("clerk", "nurse", "pilot", "baker")
        for meant, end in enumerate(["was done", "could pay"])
        for form, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))
    ],
    "winogender/occupations-stats.tsv": [
        {"occupation": job, "bls_pct_female": women}
        for job, women in [("clerk", 60), ("nurse", 90), ("pilot", 5), ("baker", 50)]
    ],
}  # fmt: skip

_WINOBIAS = [
    ("1 [The cook] thanked the guard because [{}] was tired.", "she", "he"),
    ("2 The cook paid [the guard] since [{}] work was good.", "his", "her"),
    ("3 [The clerk] saw the pilot when [{}] came home.", "she", "he"),
    ("4 The nurse called [the pilot] and met [{}] there.", "him", "her"),
]
LINES: dict[str, list[str]] = {
    "wikitext2/valid.txt": [f"The number {n} is @-@ as known , even or odd .\n" for n in range(60)]
}
LINES |= {
    f"winobias/{side}_stereotyped_type{kind}.dev.txt": [
        f"{sentence.format(words[side == 'anti'])}\n" for sentence, *words in _WINOBIAS
    ]
    for side in ("pro", "anti")
    for kind in (1, 2)
}


def written(folder: Path, *names: str) -> Path:
    """Write the files whose names begin with one of these, all of them without any."""
    for name in [*ROWS, *LINES]:
        if not names or name.startswith(names):
            put(folder / name, ROWS.get(name) or LINES[name])
    return folder


def put(file: Path, content: Iterable[dict[str, Any]] | Iterable[str]) -> None:
    """Write rows as the file's ending says, or lines as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [each for each in content if isinstance(each, str)]
    rows = [each for each in content if isinstance(each, dict)]
    if file.suffix == ".jsonl":
        lines += [json.dumps(row) + "\n" for row in rows]
    elif rows:
        mark = "\t" if file.suffix == ".tsv" else ","
        cells = [list(rows[0]), *([f"{value}" for value in row.values()] for row in rows)]
        quoted = [[f'"{cell}"' if mark in cell else cell for cell in row] for row in cells]
        lines += [mark.join(row) + "\n" for row in quoted]
    file.write_text("".join(lines), encoding="utf-8")
