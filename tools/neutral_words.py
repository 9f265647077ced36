"""Write the frequencies in `src/optipfair/bias/prompts/neutral_words.json`.

    python -m venv words && words/bin/pip install wordfreq==3.1.1
    words/bin/python tools/neutral_words.py

The words are edited in the JSON file itself (any number does for a new one); this looks all of them
up, rounds to half a unit, and writes each class from frequent to rare.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from wordfreq import zipf_frequency

PATH = Path(__file__).parents[1] / "src" / "optipfair" / "bias" / "prompts" / "neutral_words.json"


def half_units(word: str) -> float:
    """Zipf frequency (log10 of uses in a billion words), to the nearest half."""
    return round(2 * zipf_frequency(word, "en")) / 2


def with_frequencies(words: list[str]) -> dict[str, float]:
    frequencies = {word: half_units(word) for word in words}
    return dict(sorted(frequencies.items(), key=lambda item: (-item[1], item[0].lower())))


def main() -> None:
    content = json.loads(PATH.read_text(encoding="utf-8"))
    for part in ("neutral", "group"):
        for kind, words in content[part].items():
            content[part][kind] = with_frequencies(list(words))
    content["measured_with"] = f"wordfreq {importlib.metadata.version('wordfreq')}"
    PATH.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
