"""What was asked of paid services, what they answered, what that cost and may cost: one SQLite file, or memory.

An answer is kept under a key and its number as soon as it is there, so a run that is killed and goes on pays nothing
twice, and a service that answers differently each time is asked once. SQLite's own journal makes every entry whole or
absent.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from worldgymnast.types import InputError, in_range

FILE = "ledger.sqlite"
"""Its name in a run folder."""


@dataclass(frozen=True)
class Spent:
    """What has been used up.

    Attributes:
        requests: sent, repeated ones included.
        tokens: read and written.
        money: in the currency of the prices.
    """

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Budget:
    """What may be spent at most, over all runs that share a ledger; None is no limit.

    Requests under way when tokens or money run out are finished, so these two may be passed by `concurrency` requests.

    Attributes:
        requests: sent, repeated ones included.
        tokens: read and written.
        money: in the currency of the prices.
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("requests", 1), ("tokens", 1), ("money", 1e-6)):
            if getattr(self, name) is not None:
                in_range(self, least, name, high=1e15)

    def passed(self, spent: Spent) -> str | None:
        """What has run out, in words, or None."""
        for name in ("requests", "tokens", "money"):
            limit, used = getattr(self, name), getattr(spent, name)
            if limit is not None and used >= limit:
                return f"{used:g} of {limit:g} {name}"
        return None


@dataclass(frozen=True)
class Price:
    """Money for a million tokens.

    Attributes:
        read: of the question, its pictures included.
        written: of the answer.
    """

    read: float = 0.0
    written: float = 0.0

    def __post_init__(self) -> None:
        in_range(self, 0, "read", "written")


class Ledger:
    """Answers and expenses.

    Args:
        path: the file, made when something is first asked of it; None keeps everything in memory.

    Raises:
        InputError: the file is no ledger, or the disk is full.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._lock = threading.Lock()
        self._open: sqlite3.Connection | None = None

    def answers(self, key: str) -> dict[int, str]:
        """The answers kept under `key`, by their number."""
        return {int(n): str(text) for n, text in self._do("SELECT number, answer FROM answers WHERE key = ?", key)}

    def keep(self, key: str, answers: Mapping[int, str]) -> None:
        """Keeps answers under `key`; one that is there already stays."""
        for number, text in answers.items():
            self._do("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", key, number, text)

    def spend(self, spent: Spent) -> Spent:
        """Adds to what was spent; returns the total."""
        self._do(
            "UPDATE spent SET requests = requests + ?, tokens = tokens + ?, money = money + ?",
            spent.requests, spent.tokens, spent.money,
        )  # fmt: skip
        return self.spent()

    def spent(self) -> Spent:
        """The total, over all processes that ever used this file."""
        requests, tokens, money = self._do("SELECT requests, tokens, money FROM spent")[0]
        return Spent(int(requests), int(tokens), float(money))

    def _do(self, statement: str, *values: str | float) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection().execute(statement, values).fetchall()
            except sqlite3.OperationalError as error:
                if "unable to open" not in str(error) and "readonly" not in str(error):
                    raise self._unusable(error) from error
                raise InputError(
                    f"{self.path}: found no place to keep the judge's answers ({error}), expected a folder that can be "
                    "written to; copy the judge's file into one"
                ) from error
            except sqlite3.DatabaseError as error:
                raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> InputError:
        return InputError(
            f"{self.path}: found a ledger of answers that cannot be used ({error}), expected one to read and write; "
            "free some space, or remove it to ask everything again"
        )

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            place = ":memory:" if self.path is None else str(self.path)
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = sqlite3.connect(place, timeout=30, isolation_level=None, check_same_thread=False)
            opened.execute("PRAGMA synchronous = NORMAL")
            opened.execute("PRAGMA journal_mode = WAL")
            opened.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT, number INTEGER, answer TEXT, "
                           "PRIMARY KEY (key, number)) WITHOUT ROWID")  # fmt: skip
            opened.execute("CREATE TABLE IF NOT EXISTS spent (requests INTEGER, tokens INTEGER, money REAL)")
            opened.execute("INSERT INTO spent SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM spent)")
            self._open = opened
        return self._open

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None
