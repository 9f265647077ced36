"""The picture of a training's loss."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from optipfair.report.loss_curve import loss_curve

SVG = "{http://www.w3.org/2000/svg}"
JUDGED = [(0.0, 0.3), (100_000.0, 0.2), (200_000.0, 0.15)]


def drawn(**curves: list[tuple[float, float]]) -> ElementTree.Element:
    return ElementTree.fromstring(loss_curve(curves))


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    pairs = [each.split(",") for each in line.attrib["points"].split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_a_curve_falls_on_the_page_where_the_loss_falls() -> None:
    (line,) = drawn(judged=JUDGED).iter(f"{SVG}polyline")
    (x0, y0), (x1, y1), (x2, y2) = points(line)
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 < y1 < y2 and y1 - y0 == pytest.approx(2 * (y2 - y1), abs=0.2)  # .1, then .05


def test_the_last_curves_points_are_marked_and_say_their_numbers() -> None:
    picture = drawn(training=[(2048.0, 0.4), (4096.0, 0.2)], judged=JUDGED)
    said = [each.text for each in picture.iter(f"{SVG}title")]
    assert said == ["0 tokens: 0.3000", "100,000 tokens: 0.2000", "200,000 tokens: 0.1500"]
    assert (
        "training from 0.4000 to 0.2000, judged from 0.3000 to 0.1500"
        in picture.attrib["aria-label"]
    )
    texts = [each.text for each in picture.iter(f"{SVG}text")]
    assert {"training", "judged", "50k", "200k"} <= {*texts}


def test_a_single_judgement_has_a_place() -> None:
    (mark,) = drawn(judged=[(0.0, 0.3)]).iter(f"{SVG}circle")
    assert 0 < float(mark.attrib["cy"]) < 320
