"""How often the bias study errs where nothing is to be found. Run with

    python benchmarks/bias_errors.py [--studies 400] [--tried]

No model: values are made up. A value is the sum of the effects of its two words, of its sentence
and of noise, or the distance of the two words' random vectors. Neutral controls are made in the
same way, so that nothing distinguishes pairs from their controls. For each design of swaps it
prints how many of the studies call the excess significant at 0.05, and how many intervals hold the
truth, 0:

- before: pairs clustered by their exact words; a permutation test of an excess above 0, and a
  bootstrap of clusters (the method until November 2026, kept here for this comparison alone);
- after: `optipfair.bias.swap_means`.

With --tried also other ways to count shared words, and half the mean width of the intervals, which
says what a way can find.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from optipfair.bias.swap_means import Swap, mean_of_swaps
from optipfair.uncertainty import bootstrap_bounds, student_quantile

Floats = NDArray[np.float64]
Edges = list[tuple[int, int]]  # the two words of each distinct swap

CONTROLS = 8
SENTENCES = 6
LEVEL = 0.05
DRAWS = 999  # of the old permutation test; more change nothing that is printed
POOL = 80  # neutral words that all swaps draw from, about as many as the shipped adjectives


def apart(count: int) -> Edges:
    return [(2 * i, 2 * i + 1) for i in range(count)]


def stars(sizes: Sequence[int]) -> Edges:
    """A reference word against several others, for each category."""
    edges, first = [], 0
    for size in sizes:
        edges += [(first, first + 1 + i) for i in range(size)]
        first += size + 1
    return edges


DESIGNS: dict[str, Edges] = {
    "2 swaps, apart": apart(2),
    "5 swaps, apart": apart(5),
    "10 swaps, apart": apart(10),
    "35 swaps, apart": apart(35),
    "5 swaps of one reference": stars([5]),
    "10 swaps of two references": stars([5, 5]),
    "35 swaps of seven references": stars([5] * 7),
    "28 swaps of seven, unequal": stars([5, 2, 5, 6, 2, 4, 4]),
    "10 swaps, all of five words": list(combinations(range(5), 2)),
    "35 swaps in a ring": [(i, (i + 1) % 35) for i in range(35)],
}


@dataclass(frozen=True)
class World:
    """How values come about."""

    name: str
    noise: float  # its standard deviation; that of a word's effect is 1
    vectors: bool = False  # values are distances of random vectors
    skewed: bool = False  # effects are lognormal
    pool: int | None = POOL  # neutral words for all swaps; None for words of their own


WORLDS = (
    World("words and as much noise", 1.0),
    World("words, little noise", 0.05),
    World("noise alone", 1e9),
    World("vectors", 0.2, vectors=True),
    World("controls of their own", 1.0, pool=None),
    World("skewed words (lognormal)", 0.3, skewed=True),
)


@dataclass(frozen=True)
class Drawn:
    """One study: each swap in every sentence."""

    own: Floats  # (G, S)
    controls: Floats  # (G, K, S)
    words: Edges
    neutral: NDArray[np.intp]  # (G, K, 2)

    @property
    def excess(self) -> Floats:
        """Pairs minus the mean of their controls, (G * S,), swap by swap."""
        return (self.own - self.controls.mean(axis=1)).ravel()


def draw(world: World, edges: Edges, rng: np.random.Generator) -> Drawn:
    """A study in which nothing distinguishes pairs from their controls."""
    swaps, used = len(edges), 1 + max(map(max, edges))
    if world.pool is None:
        neutral = used + np.arange(swaps * CONTROLS * 2).reshape(swaps, CONTROLS, 2)
    else:
        drawn = [rng.permutation(world.pool)[: 2 * CONTROLS] for _ in range(swaps)]
        neutral = used + np.stack(drawn).reshape(swaps, CONTROLS, 2)
    count = int(neutral.max()) + 1
    if world.vectors:
        vectors = rng.normal(size=(count, 16)) * (1 + 0.3 * rng.normal(size=(count, 1)))
    effects = rng.lognormal(size=count) if world.skewed else rng.normal(size=count)

    def values(pairs: NDArray[np.intp]) -> Floats:
        one, two = pairs[..., 0], pairs[..., 1]
        if world.vectors:
            known: Floats = np.linalg.norm(vectors[one] - vectors[two], axis=-1)
        else:
            known = effects[one] + effects[two]
        noise = world.noise * rng.normal(size=(*known.shape, SENTENCES))
        return known[..., None] + noise + sentences

    sentences = rng.normal(size=SENTENCES)
    return Drawn(values(np.array(edges)), values(neutral), edges, neutral)


Found = tuple[bool, bool, float] | None  # significant, holds 0, half the interval's width


def after(study: Drawn) -> Found:
    found = mean_of_swaps(study.excess[:, None], list(swaps_of(study)))
    if found.bounds is None or found.p_values is None:
        return None
    low, high = (float(end[0]) for end in found.bounds)
    return bool(found.p_values[0] <= LEVEL), low <= 0 <= high, (high - low) / 2


def swaps_of(study: Drawn) -> Iterator[Swap]:
    for edge, neutral in zip(study.words, study.neutral, strict=True):
        loads: dict[int, float] = dict.fromkeys(edge, 1.0)
        for word in neutral.ravel().tolist():
            loads[word] = loads.get(word, 0.0) - 1 / CONTROLS
        yield from [Swap(edge, loads)] * SENTENCES


def before(study: Drawn) -> Found:
    """Which value plays a swap is drawn, in all its sentences at once; swaps are resampled."""
    together = np.concatenate([study.own[:, None], study.controls], axis=1).mean(axis=2)
    excesses = (together * (CONTROLS + 1) - together.sum(axis=1, keepdims=True)) / CONTROLS
    rng = np.random.default_rng(0)
    players = rng.integers(CONTROLS + 1, size=(DRAWS, len(excesses)))
    drawn = excesses[np.arange(len(excesses)), players].sum(axis=1)
    p_value = (1 + np.count_nonzero(drawn >= excesses[:, 0].sum() - 1e-9)) / (1 + DRAWS)
    bounds = bootstrap_bounds(excesses[:, 0])
    assert bounds is not None
    low, high = map(float, bounds)
    return p_value <= LEVEL, low <= 0 <= high, (high - low) / 2


def by_student(mean: float, error: float, freedom: float) -> Found:
    half = error * student_quantile(1 - LEVEL / 2, freedom)
    return abs(mean) > half, abs(mean) <= half, half


def swap_values(study: Drawn) -> Floats:
    return study.excess.reshape(len(study.words), -1).mean(axis=1)


def exact_words(study: Drawn) -> Found:
    """Student over distinct swaps, as if they shared nothing."""
    values = swap_values(study)
    return by_student(values.mean(), values.std(ddof=1) / math.sqrt(len(values)), len(values) - 1)


def components(study: Drawn) -> Found:
    """Student over groups of swaps that are joined by shared words."""
    values = swap_values(study)
    group = list(range(1 + max(map(max, study.words))))
    for one, two in study.words:
        old, new = group[one], group[two]
        group = [new if each == old else each for each in group]
    sums: dict[int, float] = {}
    for (one, _), value in zip(study.words, values - values.mean(), strict=True):
        sums[group[one]] = sums.get(group[one], 0.0) + value
    count = len(sums)
    if count < 5:
        return None
    squares = sum(each**2 for each in sums.values())
    return by_student(
        values.mean(), math.sqrt(squares * count / (count - 1)) / len(values), count - 1
    )


def dyadic(study: Drawn) -> Found:
    """The dyadic cluster-robust variance (Aronow, Samii & Assenova 2015), freedom: words less 2."""
    values = swap_values(study)
    share = np.array([[bool({*a} & {*b}) for b in study.words] for a in study.words])
    apart = values - values.mean()
    error = math.sqrt(max(float(apart @ share @ apart), 0.0)) / len(values)
    return by_student(values.mean(), error, len({w for edge in study.words for w in edge}) - 2)


def jackknife(study: Drawn) -> Found:
    """Leave out one word and all its swaps at a time."""
    values = swap_values(study)
    words = sorted({word for edge in study.words for word in edge})
    kept = [[i for i, edge in enumerate(study.words) if word not in edge] for word in words]
    if not all(kept):
        return None
    squares = sum((values[each].mean() - values.mean()) ** 2 for each in kept)
    error = math.sqrt((len(words) - 1) / len(words) * squares)
    return by_student(values.mean(), error, len(words) - 1)


def told(
    method: Callable[[Drawn], Found], world: World, edges: Edges, studies: int
) -> tuple[float, float, float] | None:
    """The shares that are significant and that hold 0, and the mean half width; None if refused."""
    rng = np.random.default_rng(1)
    found = [each for _ in range(studies) if (each := method(draw(world, edges, rng))) is not None]
    if not found:
        return None
    wrong, held, width = np.array(found, dtype=float).mean(axis=0)
    return float(wrong), float(held), float(width)


def line(told_of: tuple[float, float, float] | None, unit: float, width: bool) -> str:
    if told_of is None:
        return "refused".rjust(23 if width else 14)
    wrong, held, half = told_of
    return f"{wrong:6.1%} {held:6.1%}" + f"  +-{half / unit:5.2f}" * width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--tried", action="store_true", help="other ways too")
    arguments = parser.parse_args()
    methods = {"before": before, "after": after}
    if arguments.tried:
        others = (exact_words, components, dyadic, jackknife)
        methods |= {each.__name__: each for each in others}
    print(f"{datetime.now(UTC):%Y-%m-%d}  numpy {np.__version__}; {arguments.studies} studies each")
    print(f"{CONTROLS} controls a swap, each swap in {SENTENCES} sentences; nothing to be found.")
    print("Significant at 0.05, and intervals that hold the truth; wanted: 5 % and 95 %.")
    for world in WORLDS:
        print(f"\n{world.name}")
        width = 23 if arguments.tried else 14
        print(f"  {'':30}" + "".join(f"{name:>{width}}" for name in methods))
        for name, edges in DESIGNS.items():
            rows = [told(each, world, edges, arguments.studies) for each in methods.values()]
            unit = max(1.0, world.noise)
            print(
                f"  {name:30}" + "".join(line(r, unit, arguments.tried) for r in rows), flush=True
            )


if __name__ == "__main__":
    main()
