"""Findings of the dataset check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """A problem of a dataset.

    Attributes:
        severity: "error" if reading fails or data are wrong, "warning" if they may be.
        file: path, or the dataset's folder.
        field: the field or count.
        found: the actual value; the complete sentence if `expected` is empty.
        expected: the expected value.
        hint: the fix.

    >>> str(Finding("error", "set/meta/info.json", "fps", "0", "a positive number", "correct it"))
    'error: set/meta/info.json: fps: found 0, expected a positive number; correct it'
    """

    severity: Literal["error", "warning"]
    file: str
    field: str
    found: str
    expected: str = ""
    hint: str = ""

    def __str__(self) -> str:
        if not self.expected:
            return f"{self.severity}: {self.file}: {self.found}"
        return f"{self.severity}: {self.file}: {self.field}: found {self.found}, expected {self.expected}; {self.hint}"
