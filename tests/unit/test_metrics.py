"""The table of metrics and the code agree; what runs write is compared in every test (conftest.documented_metrics)."""

import ast
import re
from collections.abc import Iterator

import pytest
from places import ROOT

from worldgymnast import metrics
from worldgymnast.metrics import BY_TASK, METRICS, UPDATES, find
from worldgymnast.report.collect import _CURVES

_PACKAGE = ROOT / "worldgymnast"
_READERS = ("metrics.py", "report/", "cli/")
"""They read metrics, and log none."""


def _patterns() -> Iterator[str]:
    """Every text in the code that can be a key, as a regular expression; a formatted value is `.+`."""
    for path in _PACKAGE.rglob("*.py"):
        if str(path.relative_to(_PACKAGE)).startswith(_READERS):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+", node.value):
                yield node.value
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(each.value) if isinstance(each, ast.Constant) else ".+" for each in node.values]
                if re.fullmatch(r"(\.\+)?\w{4,}|\w{3,}/?\.\+", "".join(parts)):
                    yield "".join(parts)


def test_every_documented_metric_is_in_the_code() -> None:
    patterns = sorted(set(_patterns()))
    written = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    assert [key for key in METRICS if not written.fullmatch(key)] == []
    assert [key for key in BY_TASK if not written.fullmatch(f"{key}/drawer-open")] == []
    assert not written.fullmatch("no_such_metric")


def test_every_metric_has_a_title_and_a_meaning() -> None:
    for key, metric in METRICS.items():
        assert metric.title[0].isupper(), key
        assert metric.meaning, key
        assert not metric.meaning.endswith("."), key
    assert set(METRICS) >= BY_TASK | UPDATES


def test_the_charts_of_the_report_have_titles() -> None:
    titles = [found.title for key in _CURVES if (found := find(key))]
    assert len(titles) == len(_CURVES)
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("key", ["gap/drawer-open", "last_ratio", "last_gradient_norm", "held", "wait", "pool/rate/12"])
def test_a_key_is_found(key: str) -> None:
    assert find(key)


@pytest.mark.parametrize("key", ["reward/drawer-open", "last_reward", "gapp", "", "last_", "/", "gap_x"])
def test_another_key_is_not(key: str) -> None:
    assert find(key) is None


def test_a_run_that_logs_an_unknown_metric_fails_its_test(tmp_path) -> None:
    from worldgymnast.run import Run

    with Run(tmp_path / "run", {}) as run:
        run.log(0, {"reward": 1.0, "gap/door-close": 0.1})
        with pytest.raises(AssertionError, match=r"not documented in worldgymnast/metrics.py: rewward"):
            run.log(1, {"rewward": 1.0})
    assert metrics.find("rewward") is None
