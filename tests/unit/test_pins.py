"""The pinned versions of constraints.txt."""

from __future__ import annotations

import importlib.metadata
import tomllib

from packaging.specifiers import SpecifierSet
from places import ROOT


def test_every_pin_takes_the_oldest_python() -> None:
    """A pin that needs a later patch release makes the installation fail where Debian's Python is older."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    installed = {d.metadata["Name"]: d for d in importlib.metadata.distributions()}
    found = [installed[name] for name in pins if name in installed]
    assert len(found) > 50
    late = {d.metadata["Name"]: needs for d in found if (needs := d.metadata.get("Requires-Python"))}
    assert not {name: needs for name, needs in late.items() if f"{oldest}.0" not in SpecifierSet(needs)}
