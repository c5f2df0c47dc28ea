"""What was asked of paid services, what they answered, what that cost and may cost: one SQLite file, or memory.

An answer is kept under a key and its number as soon as it is there, so a run that is killed and goes on pays nothing
twice, and a service that answers differently each time is asked once. A question is held while it is asked, so that two
processes with one ledger pay once. SQLite's own journal makes every entry whole or absent.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from worldgymnast.configs import Between, checked
from worldgymnast.errors import InputError

FILE = "ledger.sqlite"
"""Its name in a run folder."""
_VERSION = 1
"""Of the file's layout; files without one are read, too."""
_LONGEST_CLAIM = 3600.0
"""Seconds after which a question counts as free, whoever held it."""
_POLL = 0.05
_MOST = 1e15


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


@checked
class Budget:
    """What may be spent at most, over all runs that share a ledger; None is no limit.

    Requests under way when tokens or money run out are finished, so these two may be passed by `concurrency` requests.

    Attributes:
        requests: sent, repeated ones included.
        tokens: read and written.
        money: in the currency of the prices.
    """

    requests: Annotated[int, Between(1, _MOST)] | None = None
    tokens: Annotated[int, Between(1, _MOST)] | None = None
    money: Annotated[float, Between(1e-6, _MOST)] | None = None

    def passed(self, spent: Spent) -> str | None:
        """What has run out, in words, or None."""
        for name in ("requests", "tokens", "money"):
            limit, used = getattr(self, name), getattr(spent, name)
            if limit is not None and used >= limit:
                return f"{used:g} of {limit:g} {name}"
        return None


@checked
class Price:
    """Money for a million tokens.

    Attributes:
        read: of the question, its pictures included.
        written: of the answer.
    """

    read: Annotated[float, Between(0, 1e9)] = 0.0
    written: Annotated[float, Between(0, 1e9)] = 0.0


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
        rows = self._do("SELECT number, answer FROM answers WHERE key = ?", key)
        return {n: text for n, text in rows if isinstance(n, int) and isinstance(text, str)}

    def keep(self, key: str, answers: Mapping[int, str]) -> None:
        """Keeps answers under `key`; the caller has looked that none is there that can be read."""
        for number, text in answers.items():
            self._do("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, number, text)

    def spend(self, spent: Spent) -> Spent:
        """Adds to what was spent, which never falls; returns the total."""
        amounts = [max(0.0, min(float(amount), _MOST)) for amount in (spent.requests, spent.tokens, spent.money)]
        if not all(map(math.isfinite, amounts)):
            raise ValueError(f"not a number in {spent}")
        self._do(
            "UPDATE spent SET requests = requests + ?, tokens = tokens + ?, money = money + ?",
            int(amounts[0]), int(amounts[1]), amounts[2],
        )  # fmt: skip
        return self.spent()

    def reserve(self, budget: Budget) -> str | None:
        """Counts a request that is about to be sent; where the budget has run out, counts nothing and says what has.

        One statement, so that several processes with one ledger together send no request too many.
        """
        limits = [(name, getattr(budget, name)) for name in ("requests", "tokens", "money")]
        open_limits = [(name, limit) for name, limit in limits if limit is not None]
        left = "".join(f" AND {name} < ?" for name, _ in open_limits)
        counted = self._changed(
            f"UPDATE spent SET requests = requests + 1 WHERE 1{left}", *(limit for _, limit in open_limits)
        )
        return None if counted else budget.passed(self.spent()) or "nothing left"

    def spent(self) -> Spent:
        """The total, over all processes that ever used this file."""
        rows = self._do("SELECT requests, tokens, money FROM spent")
        numbers = list(rows[0]) if len(rows) == 1 else []
        if not numbers or not all(isinstance(x, int | float) and 0 <= x <= 1e18 for x in numbers):
            raise self._unusable("its expenses are no numbers")
        return Spent(int(numbers[0]), int(numbers[1]), float(numbers[2]))

    # ------------------------------------------------------------ a question is asked once

    @contextlib.contextmanager
    def holding(self, key: str, stopped: threading.Event | None = None) -> Iterator[None]:
        """Hold a question while it is asked; wait while another thread or process does.

        What a process held that has ended is free at once.

        Args:
            key: of the question.
            stopped: once it is set, nothing is waited for.
        """
        owner = uuid.uuid4().hex
        while not self._claim(key, owner) and not (stopped and stopped.is_set()):
            time.sleep(_POLL)
        try:
            yield
        finally:
            self._do("DELETE FROM claims WHERE key = ? AND owner = ?", key, owner)

    def _claim(self, key: str, owner: str) -> bool:
        mine = (key, owner, os.getpid(), _began(os.getpid()), socket.gethostname(), time.time())
        if self._changed("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?, ?)", *mine):
            return True
        for other, pid, began, host, since in self._do(
            "SELECT owner, pid, began, host, since FROM claims WHERE key = ?", key
        ):
            is_gone = host == mine[4] and _began(pid) != began
            if is_gone or not 0 <= time.time() - since <= _LONGEST_CLAIM:
                self._do("DELETE FROM claims WHERE key = ? AND owner = ?", key, other)
        return False

    # ------------------------------------------------------------ the file

    def _do(self, statement: str, *values: str | float) -> list[tuple[Any, ...]]:
        """The rows that a statement gives."""
        return self._execute(statement, values)[0]

    def _changed(self, statement: str, *values: str | float) -> int:
        """How many rows a statement changed."""
        return self._execute(statement, values)[1]

    def _execute(self, statement: str, values: Sequence[str | float]) -> tuple[list[tuple[Any, ...]], int]:
        with self._lock:
            try:
                cursor = self._connection().execute(statement, values)
                return cursor.fetchall(), cursor.rowcount
            except sqlite3.OperationalError as error:
                if "unable to open" not in str(error) and "readonly" not in str(error):
                    raise self._unusable(error) from error
                raise InputError(
                    f"{self.path}: found no place to keep the judge's answers ({error}), expected a folder that can be "
                    "written to; copy the judge's file into one"
                ) from error
            except (sqlite3.DatabaseError, OSError, OverflowError, ValueError) as error:
                raise self._unusable(error) from error

    def _unusable(self, error: Exception | str) -> InputError:
        return InputError(
            f"{self.path}: found a ledger of answers that cannot be used ({error}), expected one to read and write; "
            "free some space, or remove it to ask everything again"
        )

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = _opened(":memory:") if self.path is None else self._file(self.path)
        return self._open

    def _file(self, path: Path) -> sqlite3.Connection:
        """The file, to read only where it cannot be written."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _opened(str(path))
        except (sqlite3.OperationalError, OSError) as error:
            said = str(error)
            if not path.is_file() or not any(word in said for word in ("readonly", "unable to open", "Read-only")):
                if isinstance(error, OSError):
                    raise sqlite3.OperationalError(f"unable to open database file: {error.strerror}") from error
                raise
            return _read_only(path)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
                self._open = None


def _read_only(path: Path) -> sqlite3.Connection:
    """A copy in memory of a file that cannot be written, with what a run that was killed left beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for end in ("", "-wal"):
            if Path(f"{path}{end}").is_file():
                shutil.copyfile(f"{path}{end}", Path(folder) / f"{FILE}{end}")
        source = sqlite3.connect(Path(folder) / FILE)
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with contextlib.closing(source):
            source.backup(copy)
    _check_version(copy)
    copy.execute("PRAGMA query_only = ON")
    return copy


def _check_version(opened: sqlite3.Connection) -> int:
    (version,) = opened.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        opened.close()
        raise sqlite3.DatabaseError(f"of version {version}, newer than this program's {_VERSION}")
    return version


def _opened(place: str) -> sqlite3.Connection:
    """A database that can be written, with the tables of a ledger in it."""
    opened = sqlite3.connect(place, timeout=30, isolation_level=None, check_same_thread=False)
    version = _check_version(opened)
    opened.execute("PRAGMA synchronous = NORMAL")
    opened.execute("PRAGMA journal_mode = WAL")
    opened.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT, number INTEGER, answer TEXT, "
                   "PRIMARY KEY (key, number)) WITHOUT ROWID")  # fmt: skip
    opened.execute("CREATE TABLE IF NOT EXISTS spent (requests INTEGER, tokens INTEGER, money REAL)")
    opened.execute("CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT, pid INTEGER, began TEXT, "
                   "host TEXT, since REAL) WITHOUT ROWID")  # fmt: skip
    opened.execute("INSERT INTO spent SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM spent)")
    if version < _VERSION:
        opened.execute(f"PRAGMA user_version = {_VERSION}")
    return opened


def _began(pid: int) -> str:
    """When a process of this machine began, so that a number that is used again is not taken for it; "" for none."""
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        try:
            state, *rest = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if state in "ZX" else rest[18]
    if os.name == "nt":  # where the call below would end the process
        return "alive"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:  # another user's
        pass
    return "alive"
