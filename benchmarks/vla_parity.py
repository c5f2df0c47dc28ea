"""Largest difference of each published policy from the answers of the original code, as the tests compare them.

Runs the parity tests of OpenVLA, SmolVLA, pi0 and pi0.5, and prints what each test allows and what it finds.

    python -m benchmarks.vla_parity
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

TESTS = Path(__file__).resolve().parents[1] / "tests" / "unit"
FILES = ("test_openvla_parity.py", "test_flow_vla_vectors.py")


class Differences:
    """pytest plugin: notes what `torch.equal` and `torch.testing.assert_close` compare in each test."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float, float]] = []
        self.failed: list[str] = []
        self._test = ""
        self._equal, self._close = torch.equal, torch.testing.assert_close

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Compare with notes."""
        self._test = item.name.removeprefix("test_").replace("_", " ")
        try:
            return (yield)
        finally:
            self._test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        if report.failed:
            self.failed.append(report.nodeid)

    def _note(self, found: Tensor, expected: Tensor, atol: float, rtol: float) -> None:
        if self._test:
            difference = (found.double() - expected.double()).abs().max().item() if found.numel() else 0.0
            self.rows.append((self._test, atol, rtol, difference))

    def equal(self, found: Tensor, expected: Tensor) -> bool:
        """Like `torch.equal`."""
        if found.shape == expected.shape:
            self._note(found, expected, 0.0, 0.0)
        return self._equal(found, expected)

    def close(self, found: Any, expected: Any, **options: Any) -> None:
        """Like `torch.testing.assert_close`."""
        if isinstance(found, Tensor) and found.shape == expected.shape:
            self._note(found, expected, options["atol"], options["rtol"])
        self._close(found, expected, **options)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the place of both functions."""
        torch.equal, torch.testing.assert_close = self.equal, self.close
        try:
            yield
        finally:
            torch.equal, torch.testing.assert_close = self._equal, self._close


def main() -> int:
    """Print the table; 1 where a test fails."""
    noted = Differences()
    output = io.StringIO()
    with contextlib.redirect_stdout(output), noted.listening():
        files = [str(TESTS / name) for name in FILES]
        code = pytest.main([*files, "-q", "-p", "no:cacheprovider", "-n", "0"], plugins=[noted])
    print("| test | values | allowed | reached |\n|---|---|---|---|")
    for test in dict.fromkeys(row[0] for row in noted.rows):
        for atol, rtol in sorted({row[1:3] for row in noted.rows if row[0] == test}):
            found = [row[3] for row in noted.rows if row[:3] == (test, atol, rtol)]
            allowed = f"{atol:g}" + (f" + {rtol:g} of the value" if rtol else "")
            print(f"| {test} | {len(found)} | {allowed} | {max(found):.1e} |")
    print(*noted.failed, output.getvalue().strip().splitlines()[-1], sep="\n", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
