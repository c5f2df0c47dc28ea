"""What is found wrong with a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a data set.

    Attributes:
        severity: "error" where reading fails or data are wrong; "warning" where they may be.
        file: path, or the data set's folder.
        field: which field or count.
        found: what is there; the whole sentence where `expected` is empty.
        expected: what should be.
        hint: what to do.
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
