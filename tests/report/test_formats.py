"""Numbers as people read them."""

from __future__ import annotations

import pytest

from optipfair.report.formats import change, fixed, number, points, signed


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(-0.00001, like=0.5), "0.000"),
        (signed(-0.00001, like=0.5), "0.000"),
        (signed(0.00001, like=0.5), "0.000"),
        (points(-0.0004), "0.0"),
        (points(0.0), "0.0"),
        (fixed(-0.00004, 4), "0.0000"),
        (fixed(-0.5, 1), "-0.5"),
        (change(0.0, 1), "0.0 %"),
        (change(11.24, 1), "-11.2 %"),
        (change(-3.0, 2), "3.00 %"),
    ],
)
def test_nothing_has_no_sign(written: str, expected: str) -> None:
    assert written == expected
