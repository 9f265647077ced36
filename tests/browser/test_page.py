"""The report in a real Chromium: nothing to complain about, nothing sticks out, tables sort."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optipfair.report.report_files import write_comparison_report
from support.comparisons import bare, hostile, ordinary

pytestmark = pytest.mark.slow
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
PAGES = {"ordinary": ordinary, "hostile": hostile, "bare": bare}

# What sticks out of the window, containers that scroll and what is clipped aside.
STICKING_OUT = """
const width = document.documentElement.clientWidth;
const scrolls = (element) => {
  for (let at = element.parentElement; at; at = at.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true;
  return false;
};
return [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width && (box.right > width + 1 || box.left < -1) && !scrolls(element);
}).map((element) => element.outerHTML.slice(0, 120));
"""

# Elements with text of their own whose contrast with what lies behind is less than WCAG AA asks.
TOO_FAINT = """
const parse = (colour) => (colour.match(/[0-9.]+/g) || []).map(Number);
const light = (colour) => {
  const [r, g, b] = colour.map((c) => {
    c /= 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour.slice(0, 3);
  }
  return [255, 255, 255];
};
const found = [];
let count = 0;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || element.tagName === "SCRIPT") continue;
  count += 1;
  const style = getComputedStyle(element);
  const drawn = element instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [light(parse(drawn)), light(behind(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (!(contrast >= 4.5)) found.push([contrast, element.outerHTML.slice(0, 120)]);
}
return [count, found];
"""


def missing(package: str) -> None:
    """Skip, or fail where the browser was asked for."""
    said = f"{package} not found: install Debian's packages `chromium` and `chromium-driver`"
    if os.environ.get("OPTIPFAIR_BROWSER") == "required":
        pytest.fail(said)
    pytest.skip(said)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None:
        missing("`chromium`")
    if driver is None:
        missing("`chromedriver`")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    profile = tmp_path_factory.mktemp("profile")
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(str(driver)))
    yield running
    running.quit()


@pytest.fixture(scope="module")
def show(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, str], None]:
    """`show(name, width, scheme)`: one of the pages, all of it unfolded."""
    folder = tmp_path_factory.mktemp("pages")
    for name, made in PAGES.items():
        write_comparison_report(made(), folder / name)

    def show(name: str, width: int, scheme: str) -> None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(Path(folder / name / "report.html").as_uri())
        browser.execute_script(
            "for (const each of document.querySelectorAll('details')) each.open = true;"
        )

    return show


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out_nothing_is_faint_and_the_console_is_silent(
    name: str, width: int, scheme: str, browser: Any, show: Any
) -> None:
    show(name, width, scheme)
    inner, wide = browser.execute_script(
        "return [innerWidth, document.documentElement.scrollWidth]"
    )
    assert inner == width and wide <= inner
    assert browser.execute_script(STICKING_OUT) == []
    count, faint = browser.execute_script(TOO_FAINT)
    assert faint == [] and count > 30
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert browser.get_log("browser") == []


def test_the_checks_of_this_file_find_what_they_look_for(browser: Any, show: Any) -> None:
    show("bare", 360, "light")
    browser.execute_script(
        "const box = document.querySelector('main p');"
        "box.innerHTML = '<span id=wide>text</span>';"
        "document.querySelector('#wide').attributeStyleMap.set('color', 'rgb(200, 200, 200)');"
        "document.querySelector('#wide').attributeStyleMap.set('margin-left', '500px');"
    )
    assert any("wide" in each for each in browser.execute_script(STICKING_OUT))
    assert any("wide" in each for _, each in browser.execute_script(TOO_FAINT)[1])
    browser.execute_script("document.body.append(document.createElement('script'));")
    browser.execute_script("document.body.lastChild.text = 'alert(1)';")
    assert any("Content Security Policy" in each["message"] for each in browser.get_log("browser"))


@pytest.mark.parametrize(("column", "key"), [(2, "original"), (5, "harm")])
def test_tables_sort_both_ways_by_number_with_missing_ones_last(
    column: int, key: str, browser: Any, show: Any
) -> None:
    show("ordinary", 1400, "light")
    table = browser.find_element("css selector", "#scores table")
    headers = table.find_elements("css selector", "thead th")
    figures = [each[key]["value"] for each in ordinary()["measures"]]
    known = sorted(value for value in figures if value is not None)

    def click() -> tuple[list[str], list[str]]:
        headers[column].find_element("tag name", "button").click()
        cells = table.find_elements("css selector", f"tbody td:nth-child({column + 1})")
        values = [cell.get_attribute("data-value") for cell in cells]
        return values, [each.get_attribute("aria-sort") for each in headers]

    for order, state in ((known, "ascending"), (known[::-1], "descending"), (known, "ascending")):
        values, states = click()
        assert [float(value) for value in values[:-1]] == order
        assert values[-1] == ""
        assert states[column] == state and set(states) == {"none", state}


def test_texts_sort_by_their_letters(browser: Any, show: Any) -> None:
    show("ordinary", 1400, "light")
    table = browser.find_element("css selector", "#data table")
    for expected in (["crows_pairs", "lambada"], ["lambada", "crows_pairs"]):
        table.find_element("css selector", "thead th button").click()
        names = table.find_elements("css selector", "tbody th bdi")
        assert [name.text for name in names] == expected


def test_the_page_needs_no_script_to_be_read(browser: Any, show: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show("ordinary", 360, "light")
        assert "No detectable change" in browser.find_element("id", "verdicts").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("name", PAGES)
def test_pages_print(name: str, browser: Any, show: Any) -> None:
    show(name, 1400, "dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF-")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    # A sheet of A4 with Chromium's margins is about 720 pixels wide.
    size = {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script(STICKING_OUT) == []
