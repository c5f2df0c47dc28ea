"""The report in a real browser: tables sort, pairs of videos play in step, and it fits phone and paper."""

import base64
import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, FAINT, UNNAMED, Tab, open_tab

from worldgymnast.evaluation.success import EpisodeResult, success_table
from worldgymnast.report.charts import DARK, LIGHT
from worldgymnast.report.report import Curve, Pair, Report, Series, write

pytestmark = [pytest.mark.server, pytest.mark.skipif(not CHROMIUM, reason="no Chromium")]
FPS = 10.0
ERRORS = """
window.found = [];
addEventListener("error", event => found.push(String(event.message)));
addEventListener("unhandledrejection", event => found.push(String(event.reason)));
console.error = console.warn = (...words) => found.push(words.join(" "));
"""
TASKS = "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[0].textContent)"
SORTED = "[...document.querySelector('table.sortable').tHead.rows[0].cells].map(cell => cell.getAttribute('aria-sort'))"
TIMES = "[...document.querySelectorAll('.pair video')].map(video => video.currentTime)"
READY = "[...document.querySelectorAll('video')].every(video => video.readyState >= 3)"


def results(task: str, successes: int) -> list[EpisodeResult]:
    return [EpisodeResult(task, layout, 0, layout < successes, 30) for layout in range(20)]


def clip(seed: int, frames: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def report() -> Report:
    pair = Pair("open the drawer", clip(0, 30), clip(1, 22), FPS, True, 0.93, False)
    before = results("open", 4) + results("close", 16) + results("turn", 10)
    after = results("open", 16) + results("close", 2) + results("turn", 11)
    curves = [Curve(f"curve {i}", [Series("a", [0, 1], [0.2, 0.4]), Series("b", [0, 1], [0.2, 0.4])]) for i in range(5)]
    versions = {"platform": "Linux-6.18.44-with-a-name-that-does-not-end-x86_64-with-glibc2.36-and-more-of-it"}
    return Report(
        "A run",
        "worldgymnast quickstart",
        table=success_table(before, after),
        curves=curves,
        gallery=[pair, replace(pair, real_success=True)],
        budget={"labelled policy rollouts, to scale the judge (starter components)": 3},
        stages={"reinforcement learning": 5.0},
        versions=versions,
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tab, Path]]:
    folder = tmp_path_factory.mktemp("page")
    write(folder / "report.html", report())
    with open_tab(folder / "profile") as opened:
        opened.call("Page.enable")
        opened.call("Page.addScriptToEvaluateOnNewDocument", source=ERRORS)
        yield opened, folder / "report.html"


@pytest.fixture
def tab(browser: tuple[Tab, Path]) -> Iterator[Tab]:
    """The report, newly loaded."""
    opened, file = browser
    opened.call("Page.navigate", url=file.as_uri())
    opened.until(f"document.readyState === 'complete' && {READY}")
    yield opened
    assert opened.run("found") == []


def test_a_table_sorts_by_click_and_by_keyboard(tab: Tab) -> None:
    assert tab.run(TASKS) == ["open", "close", "turn"]
    assert tab.run(SORTED) == [None] * 6
    press = "document.querySelectorAll('thead button')[{}].click()"
    tab.run(press.format(3))  # the difference
    assert tab.run(TASKS) == ["open", "turn", "close"]
    assert tab.run(SORTED) == [None, None, None, "descending", None, None]
    tab.run("document.querySelectorAll('thead button')[3].focus()")
    tab.press("Enter", "\r")
    assert tab.run(TASKS) == ["close", "turn", "open"]
    assert tab.run(SORTED)[3] == "ascending"
    tab.run(press.format(0))
    assert tab.run(TASKS) == ["close", "open", "turn"]
    assert tab.run(SORTED) == ["ascending", None, None, None, None, None]
    tab.run(press.format(5))
    assert tab.run(TASKS)[-1] == "turn", "what has no result is last"


def test_a_pair_of_videos_plays_in_step(tab: Tab) -> None:
    tab.run("document.querySelector('.player button').click()")
    tab.until("document.querySelector('.player button').textContent === 'Pause'")
    gaps = []
    while not gaps or tab.run("document.querySelector('video').currentTime") < 1.5:
        imagined, real = tab.run(TIMES)[:2]
        gaps.append(abs(imagined - real))
        assert len(gaps) < 5_000
    assert np.median(gaps) < 1 / FPS, "within a frame"
    tab.run("document.querySelector('.player button').click()")
    tab.until("document.querySelector('.player button').textContent === 'Play'")
    imagined, real, *others = tab.run(TIMES)
    assert imagined == real >= 1.5
    assert others == [0, 0]
    tab.run("document.querySelector('.player button').click()")
    tab.until("document.querySelector('video').ended")
    tab.until("document.querySelector('.player button').textContent === 'Play'")
    assert 2.1 < tab.run(TIMES)[1] <= 2.2, "the shorter video stays at its end"


def test_the_slider_moves_both_videos_by_keyboard(tab: Tab) -> None:
    tab.run("document.querySelectorAll('.player input')[1].focus()")
    for _ in range(3):
        tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", windowsVirtualKeyCode=39)
        tab.call("Input.dispatchKeyEvent", type="keyUp", key="ArrowRight", windowsVirtualKeyCode=39)
    tab.until(f"{TIMES}.slice(2).every(time => Math.abs(time - 0.3) < 1e-6)")
    assert tab.run("document.querySelectorAll('.player output')[1].textContent") == "0.3 s"


def test_it_is_readable_at_every_width_by_day_and_by_night(tab: Tab) -> None:
    for width in (390, 1280):
        for theme in ("light", "dark"):
            check_readable(tab, width, theme)


def check_readable(tab: Tab, width: int, theme: str) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(FAINT) == []
    assert tab.run(UNNAMED) == []
    other = {"light": "dark", "dark": "light"}[theme]
    shown = (
        "[...document.querySelectorAll('img.chart')].filter(each => each.checkVisibility()).map(each => each.className)"
    )
    assert set(tab.run(shown)) == {f"chart {theme}"}
    assert tab.run(f"document.querySelectorAll('img.{other}').length") > 0
    if width == 390:
        assert tab.run("[...document.querySelectorAll('.scroll')].every(each => each.scrollWidth <= each.clientWidth)")


def test_a_table_that_does_not_fit_scrolls_by_keyboard(tab: Tab) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=260, height=800, deviceScaleFactor=1, mobile=True)
    assert tab.run("document.documentElement.scrollWidth") <= 260
    scroller = "[...document.querySelectorAll('.scroll')].find(each => each.scrollWidth > each.clientWidth)"
    tab.until(f"{scroller}.tabIndex === 0 && {scroller}.getAttribute('aria-label') === 'Success by task'")
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_paper_is_light_and_has_everything(tab: Tab) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    printed: dict[str, Any] = tab.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
    content = drawn(base64.b64decode(printed["data"]))
    assert operator(LIGHT["series-0"]) in content
    assert operator(DARK["series-0"]) not in content
    assert tab.run("document.querySelector('details').open") is False, "it is closed again after printing"


def drawn(pdf: bytes) -> str:
    """The drawing operators of all pages."""
    found, place = [], 0
    while (start := pdf.find(b"stream\n", place)) >= 0:
        end = pdf.index(b"endstream", start)
        with contextlib.suppress(zlib.error):  # a font or a picture
            found.append(zlib.decompress(pdf[start + 7 : end]).decode("latin-1"))
        place = end + 9
    return "\n".join(found)


def operator(color: str) -> str:
    """The operator that sets the color of a line, as Chromium writes it."""
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return " ".join(f"{part:.4f}".lstrip("0").rstrip("0") for part in parts) + " RG"
