"""Ledger of paid requests: answers, spending and budgets.

- Each answer is stored under its question's key and its number as soon as it arrives. A resumed run pays for nothing
  twice, and a nondeterministic service is asked once.
- A question is locked while it is asked, so two processes that share a ledger pay once.
- SQLite's journal makes every entry atomic.
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
"""Name of the file in a run folder."""
_VERSION = 1
"""Version of the file's schema; files without a version are accepted."""
_MAX_CLAIM = 3600.0
"""Seconds after which a lock on a question expires."""
_POLL = 0.05
_MAX_AMOUNT = 1e15


@dataclass(frozen=True)
class Spending:
    """Amounts spent.

    Attributes:
        requests: requests sent, including retries.
        tokens: prompt and completion tokens.
        money: in the currency of the prices.

    >>> Spending(requests=1, tokens=100) + Spending(requests=2)
    Spending(requests=3, tokens=100, money=0.0)
    """

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@checked
class Budget:
    """Spending limits over all runs that share a ledger.

    None means no limit.

    Requests in flight are completed. Tokens and money may therefore exceed their limits by up to `concurrency`
    requests.

    Attributes:
        requests: requests sent, including retries.
        tokens: prompt and completion tokens.
        money: in the currency of the prices.
    """

    requests: Annotated[int, Between(1, _MAX_AMOUNT)] | None = None
    tokens: Annotated[int, Between(1, _MAX_AMOUNT)] | None = None
    money: Annotated[float, Between(1e-6, _MAX_AMOUNT)] | None = None

    def exceeded_limit(self, spending: Spending) -> str | None:
        """The first limit that is reached, in words, or None.

        >>> Budget(requests=10).exceeded_limit(Spending(requests=12))
        '12 of 10 requests'
        """
        for name in ("requests", "tokens", "money"):
            limit, used = getattr(self, name), getattr(spending, name)
            if limit is not None and used >= limit:
                return f"{used:g} of {limit:g} {name}"
        return None


@checked
class Price:
    """Price per million tokens.

    Attributes:
        read: prompt tokens, including images.
        written: completion tokens.
    """

    read: Annotated[float, Between(0, 1e9)] = 0.0
    written: Annotated[float, Between(0, 1e9)] = 0.0


class Ledger:
    """Store of answers and spending.

    Args:
        path: the SQLite file, created at first use; None keeps everything in memory.

    Raises:
        InputError: the file is not a ledger, or the disk is full.

    >>> ledger = Ledger()
    >>> ledger.store("question", {0: "yes"})
    >>> ledger.answers("question")
    {0: 'yes'}
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def __getstate__(self) -> dict[str, Any]:
        """State for another process: the path, and no connection. In memory, the other process begins an empty one."""
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"])

    def answers(self, key: str) -> dict[int, str]:
        """The answers stored under `key`, by number."""
        rows = self._query("SELECT number, answer FROM answers WHERE key = ?", key)
        return {n: text for n, text in rows if isinstance(n, int) and isinstance(text, str)}

    def store(self, key: str, answers: Mapping[int, str]) -> None:
        """Store answers under `key`; existing ones with the same number are replaced."""
        for number, text in answers.items():
            self._query("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, number, text)

    def spend(self, amount: Spending) -> Spending:
        """Add to the total spending and return it.

        Negative amounts count as 0.
        """
        values = [max(0.0, min(float(value), _MAX_AMOUNT)) for value in (amount.requests, amount.tokens, amount.money)]
        if not all(map(math.isfinite, values)):
            raise ValueError(f"not a number in {amount}")
        requests, tokens, money = int(values[0]), int(values[1]), values[2]
        self._query(
            "UPDATE spent SET requests = requests + ?, tokens = tokens + ?, money = money + ?", requests, tokens, money
        )
        return self.total()

    def reserve(self, budget: Budget) -> str | None:
        """Record a request before it is sent, unless the budget is exhausted.

        A single SQL statement, so processes that share a ledger never exceed the limit together.

        Returns:
            None if recorded, otherwise the limit that is reached, in words.
        """
        limits = [(name, getattr(budget, name)) for name in ("requests", "tokens", "money")]
        set_limits = [(name, limit) for name, limit in limits if limit is not None]
        condition = "".join(f" AND {name} < ?" for name, _ in set_limits)
        count = self._update(
            f"UPDATE spent SET requests = requests + 1 WHERE 1{condition}", *(limit for _, limit in set_limits)
        )
        return None if count else budget.exceeded_limit(self.total()) or "nothing left"

    def total(self) -> Spending:
        """Total spending over all processes that have used this file."""
        rows = self._query("SELECT requests, tokens, money FROM spent")
        numbers = list(rows[0]) if len(rows) == 1 else []
        if not numbers or not all(isinstance(x, int | float) and 0 <= x <= 1e18 for x in numbers):
            raise self._error("its spending is not numeric")
        return Spending(int(numbers[0]), int(numbers[1]), float(numbers[2]))

    # ------------------------------------------------------------ locks on questions

    @contextlib.contextmanager
    def claim(self, key: str, stopped: threading.Event | None = None) -> Iterator[None]:
        """Lock a question while it is asked.

        Waits for other threads and processes.

        The lock of a process that has ended is released at once.

        Args:
            key: key of the question.
            stopped: once set, locks are no longer waited for.
        """
        owner = uuid.uuid4().hex
        while not self._try_claim(key, owner) and not (stopped and stopped.is_set()):
            time.sleep(_POLL)
        try:
            yield
        finally:
            self._query("DELETE FROM claims WHERE key = ? AND owner = ?", key, owner)

    def _try_claim(self, key: str, owner: str) -> bool:
        host = socket.gethostname()
        row = (key, owner, os.getpid(), _start_time(os.getpid()), host, time.time())
        if self._update("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?, ?)", *row):
            return True
        for other, pid, began, other_host, since in self._query(
            "SELECT owner, pid, began, host, since FROM claims WHERE key = ?", key
        ):
            has_ended = other_host == host and _start_time(pid) != began
            if has_ended or not 0 <= time.time() - since <= _MAX_CLAIM:
                self._query("DELETE FROM claims WHERE key = ? AND owner = ?", key, other)
        return False

    # ------------------------------------------------------------ the file

    def _query(self, statement: str, *values: str | float) -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""
        return self._execute(statement, values)[0]

    def _update(self, statement: str, *values: str | float) -> int:
        """Execute a statement and return the number of changed rows."""
        return self._execute(statement, values)[1]

    def _execute(self, statement: str, values: Sequence[str | float]) -> tuple[list[tuple[Any, ...]], int]:
        with self._lock:
            try:
                cursor = self._connection().execute(statement, values)
                return cursor.fetchall(), cursor.rowcount
            except sqlite3.OperationalError as error:
                if "unable to open" not in str(error) and "readonly" not in str(error):
                    raise self._error(error) from error
                raise InputError(
                    f"{self.path}: the judge's answers cannot be stored ({error}). "
                    "Copy the judge's file into a writable folder."
                ) from error
            except (sqlite3.DatabaseError, OSError, OverflowError, ValueError) as error:
                raise self._error(error) from error

    def _error(self, error: Exception | str) -> InputError:
        return InputError(
            f"{self.path}: the ledger of answers is unusable ({error}). "
            "Free some disk space, or remove the file to ask (and pay for) everything again."
        )

    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = _connect(":memory:") if self.path is None else self._open_file(self.path)
        return self._database

    def _open_file(self, path: Path) -> sqlite3.Connection:
        """Open the file, read-only if it is not writable."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(str(path))
        except (sqlite3.OperationalError, OSError) as error:
            text = str(error)
            if not path.is_file() or not any(word in text for word in ("readonly", "unable to open", "Read-only")):
                if isinstance(error, OSError):
                    raise sqlite3.OperationalError(f"unable to open database file: {error.strerror}") from error
                raise
            return _connect_read_only(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """An in-memory copy of a read-only file and its journal."""
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


def _check_version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        database.close()
        raise sqlite3.DatabaseError(f"version {version} is newer than this program's {_VERSION}")
    return version


def _connect(path: str) -> sqlite3.Connection:
    """Open a writable database and create the ledger's tables."""
    database = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    version = _check_version(database)
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS answers "
        "(key TEXT, number INTEGER, answer TEXT, PRIMARY KEY (key, number)) WITHOUT ROWID"
    )
    database.execute("CREATE TABLE IF NOT EXISTS spent (requests INTEGER, tokens INTEGER, money REAL)")
    database.execute(
        "CREATE TABLE IF NOT EXISTS claims "
        "(key TEXT PRIMARY KEY, owner TEXT, pid INTEGER, began TEXT, host TEXT, since REAL) WITHOUT ROWID"
    )
    database.execute("INSERT INTO spent SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM spent)")
    if version < _VERSION:
        database.execute(f"PRAGMA user_version = {_VERSION}")
    return database


def _start_time(pid: int) -> str:
    """Start time of a local process, which distinguishes reused PIDs.

    "" if it has ended.
    """
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        try:
            state, *rest = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if state in "ZX" else rest[18]
    if os.name == "nt":  # os.kill would end the process there
        return "alive"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:  # another user's
        pass
    return "alive"
