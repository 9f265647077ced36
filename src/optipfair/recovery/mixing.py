"""How much of each domain of a text is read."""

from __future__ import annotations

from collections.abc import Mapping

from ..pruning.calibration.text_sources import BUILTIN_SHARES

OFTEN = 4  # times that a text is read; more of others gives more than the same again
_OTHERS = 6  # the share of a domain that the bundled text has not, of its 34


def mixed(wanted: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Of so many sequences, how many come from each domain, of these sizes in sequences.

    Domains are read by fixed shares, the same as in calibration, but none more often than four
    times while others are left. Together they are `wanted`.

    Example:
        >>> mixed(60, {"prose": 100, "fiction": 100})
        {'prose': 24, 'fiction': 36}
        >>> mixed(60, {"prose": 100, "fiction": 2})
        {'prose': 52, 'fiction': 8}
    """
    shares = {name: BUILTIN_SHARES.get(name, _OTHERS) for name in sizes}
    found = dict.fromkeys(sizes, 0)
    most = {name: OFTEN * size for name, size in sizes.items()}
    if sum(most.values()) < wanted:
        most = dict.fromkeys(sizes, wanted)
    left = wanted
    while left:
        open_ = [name for name in sizes if found[name] < most[name]]
        total = sum(shares[name] for name in open_)
        more = {name: left * shares[name] // total for name in open_}
        if not any(more.values()):
            more = {open_[0]: 1}
        for name, count in more.items():
            taken = min(count, most[name] - found[name])
            found[name] += taken
            left -= taken
    return found
