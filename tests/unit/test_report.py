"""The report says what it is given, marks what is wrong, and needs nothing from outside."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from matplotlib.figure import Figure

from worldgymnast.evaluation.agreement import success_gap
from worldgymnast.evaluation.success import EpisodeResult, Rate, success_table
from worldgymnast.report import tables
from worldgymnast.report.answers import TITLES, answers
from worldgymnast.report.charts import DARK, LIGHT, Bars, dot_plot, draw_bars, draw_curve
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import Curve, GapRow, Pair, Report, Series, render, write
from worldgymnast.report.world import Sheet

MINUS = "\N{MINUS SIGN}"


def results(task: str, successes: int, count: int = 20) -> list[EpisodeResult]:
    return [EpisodeResult(task, layout, 0, layout < successes, 30) for layout in range(count)]


def clip(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def full_report() -> Report:
    real, imagined = [True] * 10 + [False] * 10, [True] * 18 + [False] * 2
    return Report(
        title="Drawers & <doors>",
        command="worldgymnast rl metaworld --rl.group-size 4",
        date="2026-02-14",
        versions={"torch": "2.13.0"},
        table=success_table(
            results("open", 4) + results("close", 16) + results("turn", 10),
            results("open", 16) + results("close", 2) + results("turn", 10),
        ),
        gap=[GapRow("step 20", Rate.of(imagined), Rate.of(real), success_gap(imagined, real))],
        curves=[
            Curve("Reward", [Series("a", [0, 1], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5]), Series("b", [0, 1], [0.3, 0.1])]),
            Curve("Loss with a gap", [Series("loss", [0, 1, 2], [1.0, float("nan"), 0.5])], percent=True),
        ],
        gallery=[
            Pair("open the drawer", clip(0), clip(1), 10.0, True, 0.93, False, note="layout 7"),
            Pair("close the drawer", clip(2), None, 10.0, None, None, True),
        ],
        budget={"demonstrations": 15, "labelled rollouts": 225},
        stages={"world model": 3 * 3600 + 300, "report": 12},
        notes=["The door was <stuck>."],
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render(full_report())


def words(page: str) -> str:
    """The text that a reader sees, charts and code left out, spaces collapsed."""
    body = re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


class _Balance(HTMLParser):
    empty = frozenset({"meta", "br", "source", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.empty:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.empty:
            assert self.open.pop() == tag


def test_the_numbers_as_markdown() -> None:
    kinds = [f"{a}_true_{b}" for a in ("real", "imagined") for b in ("positive", "negative")]
    gate = dict.fromkeys([*kinds, *(f"{kind}/open" for kind in kinds)], 0.5)
    fidelity = {name: [30.0, 20.0] for name in ("horizon", "psnr", "psnr_low", "psnr_high", "copy", "shuffled")}
    table = full_report().table
    assert table is not None
    seeds = {"rl-0": table.difference, "rl-1": table.difference}
    page = markdown(replace(full_report(), gate=gate | {"fidelity": fidelity}, seeds=seeds))
    assert "| open | 20 % [8, 42] (4/20) | 80 % [58, 92] (16/20) | +60 points [+40, +80]" in page
    assert "| step 20 | 90 % [70, 97] (18/20) | 50 % [30, 70] (10/20) | +40 points" in page
    assert "| imagined, open | 50 % | 50 % |" in page
    assert "| imagined | 30.0 [30.0, 30.0] |" in page
    assert "| rl-1 | " in page
    assert "| world model | 3 h 05 min |" in page
    assert "- The door was <stuck>." in page
    assert "nan" not in page


def charts(page: str) -> list[tuple[str, str, str]]:
    """Of every chart what a reader hears, and the SVG files for a light and a dark page."""
    found = re.findall(
        r'<img class="chart light" alt="([^"]*)" width="\d+" height="\d+" src="data:image/svg\+xml;base64,([^"]*)">\s*'
        r'<img class="chart dark" alt="\1" width="\d+" height="\d+" src="data:image/svg\+xml;base64,([^"]*)">',
        page,
    )
    return [(name, *(base64.b64decode(svg).decode() for svg in (light, dark))) for name, light, dark in found]


def test_every_element_is_closed(page: str) -> None:
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []


def test_nothing_comes_from_outside(page: str) -> None:
    for text in (page, *(svg for _, *svgs in charts(page) for svg in svgs)):
        addresses = re.findall(r"""(?:src|srcset|href)\s*=\s*["']([^"']*)""", text)
        addresses += re.findall(r"url\(([^)]*)\)", text)
        assert all(a.startswith(("data:video/mp4;base64,", "data:image/svg+xml;base64,", "#")) for a in addresses)
        assert "@import" not in text
        assert text is page or "<script" not in text
    assert page.count("data:video/mp4") == 3


def test_the_videos_play_in_a_browser_and_are_the_frames(page: str) -> None:
    first = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", page)[0]
    with av.open(io.BytesIO(base64.b64decode(first)), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert len(list(container.decode(stream))) == 4


def test_the_headline_is_the_mean_over_tasks(page: str) -> None:
    text = words(page)
    assert "50 % → 47 %" in text  # (4 + 16 + 10) / 60 and (16 + 2 + 10) / 60
    assert "No clear change: real success was 50 % before and 47 % after, on average over 3 tasks." in text
    assert "By task: 1 (open) better, 1 (close) worse, 1 (turn) without clear change." in text
    assert re.search(rf"Inconclusive: {MINUS}3 points \[{MINUS}\d+, \+?\d+\] in 60 real paired episodes", text)


def test_the_table_flags_the_worse_task_only(page: str) -> None:
    rows = re.findall(r'<tr><th scope="row">(open|close|turn)</th>(.*?)</tr>', page, flags=re.DOTALL)
    flags = {name: words(cells).split()[-1] for name, cells in rows}
    assert flags["open"] == "better"
    assert flags["close"] == "worse"
    assert flags["turn"] == "20"
    assert "20 % [8, 42] 4/20" in words(dict(rows)["open"]).replace("  ", " ")


def test_the_gap_and_a_wrong_verdict_are_marked(page: str) -> None:
    text = words(page)
    assert "90 %" in text
    assert re.search(r'class="flag">\+40 ', page)
    assert page.count('class="pair wrong"') == 1
    assert text.count("wrong verdict") == 1
    assert "1 of 2 verdicts is wrong" in text
    assert "Judge: success (0.93) · Real: failure" in text
    assert "Judge: no answer · Real: success" in text


def test_text_is_escaped_and_times_and_sums_are_readable(page: str) -> None:
    text = words(page)
    assert "Drawers &amp; &lt;doors&gt;" in text
    assert "The door was &lt;stuck&gt;." in text
    assert "3 h 05 min" in text
    assert re.search(r"total 240\b", text)
    assert "worldgymnast rl metaworld --rl.group-size 4" in text


def test_charts_have_the_pages_colors_by_day_and_by_night_and_a_name(page: str) -> None:
    found = charts(page)
    assert [name for name, *_ in found] == [
        *["Success before and after, by task"] * 2,
        "Reward: a 0.2 at step 0, 0.4 at 1; b 0.3 at step 0, 0.1 at 1",
        "Loss with a gap: 100 % at step 0, 50 % at 2",
    ]
    assert page.count('<img class="chart') == 2 * len(found)
    for name, light, dark in found:
        for svg, own, other in ((light, LIGHT, DARK), (dark, DARK, LIGHT)):
            assert own["series-0"] in svg
            assert not any(color in svg for color in other.values())
            assert f"<title>{name.partition(': ')[0]}</title>" in svg
            assert "<text" in svg
    for theme in (LIGHT, DARK):
        assert all(f"--{name}: {color};" in page for name, color in theme.items())
    assert render(full_report()) == page  # the same data, the same bytes


NAMES = [
    "open",
    "抽屉を開ける",
    "افتح الدرج",
    "открой ящик",
    "ड्रॉअर खोलें",
    "서랍 열기",
    "🤖 go",
    r"$\frac{$ & <b>",
    "a\x00b\nc",
]


@pytest.mark.filterwarnings("error")
def test_names_in_any_script_are_text_in_a_chart() -> None:
    """A reader's font has glyphs that matplotlib's lacks, which would draw boxes."""
    found = [result for name in NAMES for result in results(name, 4)]
    drawn = [
        dot_plot(success_table(found, found), 860),
        draw_bars(Bars("Lost", ("a",), dict.fromkeys(NAMES, (1,)), "x"), 860),
    ]
    for chart in drawn:
        for svg in (chart.light, chart.dark):
            tree = ElementTree.fromstring(svg)
            shown = {"".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")}
            assert {*NAMES[:-1], "ab c"} <= shown


@pytest.mark.parametrize("values", [[3e-5, 1e-6], [-2.4e-3, 0.0], [1e9, 5e9], [-9999.0, 1234.5], [1e-300, 1e99]])
@pytest.mark.parametrize("steps", [[0, 100_000], [0, 1], [999_999, 1_000_000]])
def test_no_number_of_a_curve_is_cut_off(values: list[float], steps: list[int], monkeypatch) -> None:
    boxes = []

    def measured(figure: Figure, *args: Any, **more: Any) -> Any:
        boxes.append(figure.get_tightbbox())
        return save(figure, *args, **more)

    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", measured)
    chart = draw_curve(Curve("Loss", [Series("a", steps, values)]))
    for box in boxes:
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= chart.width / 72
        assert box.y1 <= chart.height / 72


def test_four_questions_in_their_order_each_with_its_answer(page: str) -> None:
    sections = re.findall(r'<section id="(\w+)">\s*<h2>(.*?)</h2>\s*<p class="answer">(.*?)</p>', page)
    assert [(name, title) for name, title, _ in sections] == list(TITLES.items())
    assert [sentence.split()[0] for *_, sentence in sections] == ["No", "Inconclusive:", "Unknown:", "240"]
    assert re.findall(r'<a href="#(\w+)">', page) == list(TITLES)
    written = markdown(full_report())
    assert re.findall(r"^## (.*)$", written, flags=re.MULTILINE) == list(TITLES.values())
    assert "240 real episodes and 3 h 05 min of computing." in written


@pytest.mark.parametrize(
    ("before", "after", "changed", "real"),
    [
        (4, 16, "Real success rose from 20 % to 80 %", "Yes: +60 points"),
        (16, 4, "Real success fell from 80 % to 20 %", f"Yes, the loss is real: {MINUS}60 points"),
        (10, 10, "No clear change: real success was 50 % before", "Inconclusive: 0 points"),
    ],
)
def test_the_answers_follow_the_interval(before: int, after: int, changed: str, real: str) -> None:
    found = answers(Report("t", "c", table=success_table(results("Open", before), results("Open", after))))
    assert found["changed"].sentence.startswith(changed)
    assert found["changed"].sentence.endswith(", on the task Open.")
    assert found["real"].sentence.startswith(real)


@pytest.mark.parametrize(
    ("both", "neither", "low", "answer"),
    [(50, 45, 0.8, "Yes:"), (40, 30, 0.2, "Partly:"), (30, 22, -0.1, "No:"), (60, 0, None, "Unknown:")],
)
def test_trust_is_agreement_beyond_chance(both: int, neither: int, low: float | None, answer: str) -> None:
    agreement = {"both": both, "neither": neither, "count": 100, "phi": {"low": low}}
    found = answers(Report("t", "c", agreement=agreement, warnings=["Possible reward hacking."]))["trust"]
    assert found.sentence.startswith(answer)
    assert f"agree in {both + neither} of 100" in found.sentence
    assert list(found.more) == ["Possible reward hacking."]


@pytest.mark.parametrize(("positive", "answer"), [(0.93, "Yes, by the check before RL:"), (0.8, "Not fully:")])
def test_trust_before_rl_is_the_gate(positive: float, answer: str) -> None:
    kinds = [f"{a}_true_{b}" for a in ("real", "imagined") for b in ("positive", "negative")]
    gate = dict.fromkeys(kinds, 0.95) | {"imagined_true_positive": positive}
    found = answers(Report("t", "c", gate=gate))
    assert list(found) == ["trust"], "a gate alone says nothing of a change"
    assert found["trust"].sentence.startswith(answer)
    assert "World model and judge on held-out rollouts" in render(Report("t", "c", gate=gate))


def test_optimism_is_said_in_words() -> None:
    (row,) = full_report().gap
    scored = answers(Report("t", "c", gap=[row]))
    assert scored["changed"].sentence == "Real success on the starts that were scored: 50 % at step 20."
    assert scored["real"].sentence.startswith("Only the starts that were scored during training")
    assert scored["real"].more[0].startswith("The world model and its judge are too optimistic (step 20): 90 % of")


def test_without_scripts_the_browser_has_its_own_controls(page: str) -> None:
    assert page.count("<video controls") == 3
    assert '<th scope="col">difference</th>' in page


def test_an_empty_report_has_only_its_command() -> None:
    page = render(Report("Nothing yet", "worldgymnast sft metaworld"))
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Command and versions"]
    assert "<img" not in page


def test_too_many_lines_in_a_chart_are_refused() -> None:
    line = Series("x", [0], [1.0])
    with pytest.raises(ValueError, match="at most 4"):
        render(Report("t", "c", curves=[Curve("crowd", [line] * 5)]))


def test_write_leaves_one_whole_file(tmp_path: Path) -> None:
    write(tmp_path / "a" / "report.html", Report("t", "c"))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["report.html"]
    assert (tmp_path / "a" / "report.html").read_text().endswith("</html>\n")


def test_a_narrow_terminal_cuts_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cell = "+28 points [+24, +32] (900 pairs, p = 3e-29)"
    tables.show(tables.sheet(Sheet("Methods", ["", *"abcd"], [["RL in the world model", *[cell] * 4]], "")))
    printed = capsys.readouterr().out
    assert "…" not in printed
    words = printed.split()
    assert {word: words.count(word) for word in cell.split()} == dict.fromkeys(cell.split(), 4)
