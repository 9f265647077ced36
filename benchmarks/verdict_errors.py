"""How often tests find a change where there is none, and intervals hold the truth.

Two made-up models answer the same items with yes or no. An answer follows a sum of normal effects
of the item and of what it shares with others, half of the shared ones the same for both models, so
that the share of yes is known and the models do not differ on average. Seeds are fixed:

    OMP_NUM_THREADS=1 python benchmarks/verdict_errors.py [--draws 400]
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from optipfair.evaluation.changes import compare
from optipfair.evaluation.measures import Measure, mean_of, share_preferred
from optipfair.evaluation.turned_answers import answers_turned

SHARE = share_preferred("share", "", "x")
GAP = Measure("gap", "", **mean_of("x"), better=0.0)
ITEMS = 8  # of a cluster
KINDS = ("independent", "clusters", "two words")
LARGEST_FALSE, SMALLEST_HELD = 0.07, 0.92


@dataclass(frozen=True)
class Found:
    """Of so many draws, how many had each, and how many went wrong."""

    tests: int
    false: int  # a change in either direction found, where there is none
    away: int  # a change away from the best value, or to it, found where there is none
    flips: int  # McNemar's test found more in one direction
    intervals: int
    share: int  # intervals that hold the share
    change: int
    harm: int


def labels_of(kind: str, count: int, rng: np.random.Generator) -> list[Any]:
    """Of each item what it shares with others."""
    if kind == "independent":
        return list(range(count))
    if kind == "clusters":
        return [n // ITEMS for n in range(count * ITEMS)]
    words = rng.integers(count, size=(ITEMS * count, 2))
    return [frozenset({f"first {a}", f"second {b}"}) for a, b in words]


def effects(labels: list[Any], rng: np.random.Generator) -> np.ndarray:
    """(N,) standard normal, alike where items share something."""
    own: dict[Any, float] = {}
    sets = [each if isinstance(each, frozenset) else {each} for each in labels]
    return np.array(
        [
            sum(own.setdefault(x, float(rng.normal())) for x in sorted(each, key=str))
            / len(each) ** 0.5
            for each in sets
        ]
    )


def scores_of_both(labels: list[Any], shared: float, rng: np.random.Generator) -> list[np.ndarray]:
    """(N,) standard normal of each model; `shared` is the part of the variance that items share."""
    common = (shared / 2) ** 0.5 * effects(labels, rng)
    item = ((1 - shared) / 2) ** 0.5 * rng.normal(size=len(labels))
    return [
        common
        + (shared / 2) ** 0.5 * effects(labels, rng)
        + item
        + ((1 - shared) / 2) ** 0.5 * rng.normal(size=len(labels))
        for _ in range(2)
    ]


def simulated(kind: str, count: int, shares: tuple[float, float], draws: int, seed: int) -> Found:
    """Compare two models so often."""
    rng = np.random.default_rng([seed, count, KINDS.index(kind), int(100 * shares[0])])
    wrong = dict.fromkeys(Found.__dataclass_fields__, 0)
    truth = {"share": shares[0], "change": shares[1] - shares[0]}
    truth["harm"] = abs(shares[1] - 0.5) - abs(shares[0] - 0.5)
    cuts = [NormalDist().inv_cdf(share) for share in shares]
    for draw in range(draws):
        labels = labels_of(kind, count, rng)
        both = scores_of_both(labels, 0.5, rng)
        before, after = ({"x": (x < cut).astype(float)} for x, cut in zip(both, cuts, strict=True))
        found = compare(SHARE, before, after, labels, seed=draw)
        if found.p is not None and found.p_change is not None:
            wrong["tests"] += 1
            wrong["false"] += found.p_change < 0.05
            wrong["away"] += found.p < 0.05
        if found.original.low is not None:
            wrong["intervals"] += 1
            held = {"share": found.original, "change": found.change, "harm": found.harm}
            for name, each in held.items():
                wrong[name] += (each.low or 0) - 1e-12 <= truth[name] <= (each.high or 0) + 1e-12
        turned = answers_turned(before, after, "x", labels)
        wrong["flips"] += turned["p"] is not None and turned["p"] < 0.05
    return Found(**wrong)


def cases() -> Iterator[tuple[str, int, tuple[float, float]]]:
    """Kind of dependence, number of clusters, shares of both models."""
    for kind in KINDS:
        for count in (5, 10, 35):
            for shares in ((0.5, 0.5), (0.95, 0.95), (0.65, 0.35), (0.95, 0.8)):
                yield kind, count, shares


def _line(kind: str, count: int, shares: tuple[float, float], found: Found, draws: int) -> str:
    tests, intervals = max(1, found.tests), max(1, found.intervals)
    none = shares[0] == shares[1]
    # The distance from a half is the same at .65 and .35, so "further away" is then false too.
    level = abs(abs(shares[0] - 0.5) - abs(shares[1] - 0.5)) < 1e-9
    rates = [
        f"{found.false / tests:.1%}" if none and found.tests else "-",
        f"{found.away / tests:.1%}" if level and found.tests else "-",
        f"{found.flips / draws:.1%}" if none else "-",
        *(
            f"{held / intervals:.1%}" if found.intervals else "none"
            for held in (found.share, found.change, found.harm)
        ),
    ]
    missed = [
        *(r for r in rates[:3] if r != "-" and float(r[:-1]) > 100 * LARGEST_FALSE),
        *(r for r in rates[3:] if r != "none" and float(r[:-1]) < 100 * SMALLEST_HELD),
    ]
    about = f"{kind:12} {count:4}  {shares[0]:.2f} -> {shares[1]:.2f} "
    about += f"{found.tests:5} {found.intervals:5} "
    return about + " ".join(f"{rate:>8}" for rate in rates) + (" MISSED" if missed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {given.draws} draws each")
    print(f"Wanted: false finds at most {LARGEST_FALSE:.0%}, intervals hold {SMALLEST_HELD:.0%}.")
    print(
        "kind      clusters      shares     tests  with  any change  away  McNemar   share  change"
        "    harm"
    )
    for kind, count, shares in cases():
        found = simulated(kind, count, shares, given.draws, given.seed)
        print(_line(kind, count, shares, found, given.draws), flush=True)


if __name__ == "__main__":
    main()
