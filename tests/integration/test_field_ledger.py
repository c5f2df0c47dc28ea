"""A ledger shared by several runs pays once, and is readable in any state."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from raw_server import chat, http, raw, sending
from servers import brightening

from worldgymnast.endpoint import EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Budget, Ledger, Spending

ANSWERING = sending(http(json.dumps(chat())))


@pytest.mark.server
def test_two_runs_with_one_ledger_ask_every_question_once(tmp_path: Path) -> None:
    clips = brightening(30)[0] * 2  # and every clip comes twice in each run

    def answer(connection: Any, head: bytes, body: bytes) -> None:
        time.sleep(0.02)
        connection.sendall(http(json.dumps(chat())))

    with raw(answer) as server:
        config = VLMConfig(EndpointConfig("m", server.url, concurrency=8), pixels=8)
        judges = [VLMJudge(config, Ledger(tmp_path / "ledger.sqlite")) for _ in range(2)]
        found: dict[int, list[float | None]] = {}
        runs = [threading.Thread(target=lambda i=i: found.update({i: [v.score for v in judges[i].score(clips)]}))
                for i in range(2)]  # fmt: skip
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert found == {0: [1.0] * 60, 1: [1.0] * 60}
        assert len(server.heads) == 30
    assert judges[0].ledger.total() == Spending(30, 30 * 110, 0.0)


HOLDS = """
import sys
from pathlib import Path
from worldgymnast.ledger import Ledger
with Ledger(Path(sys.argv[1])).claim("k"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_a_question_of_a_process_that_is_gone_is_free(end: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        got = threading.Event()

        def wait() -> None:
            with Ledger(path).claim("k"):
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        with Ledger(path).claim("another"):
            assert not got.wait(0.3)
        os.kill(other.pid, signal.SIGKILL) if end == "kill" else other.communicate("")
        assert got.wait(5)
        waiting.join()


def test_a_question_is_not_waited_for_by_a_run_that_stops(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with Ledger(tmp_path / "l.sqlite").claim("k"), Ledger(tmp_path / "l.sqlite").claim("k", stopped):
        pass


def broken(path: Path, *statements: str) -> Path:
    """A ledger to which something was done."""
    Ledger(path).spend(Spending(1, 1, 1.0))
    with sqlite3.connect(path) as file:
        for statement in statements:
            file.execute(statement)
    file.close()
    return path


@pytest.mark.server
@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE spent SET tokens = 'many'"], ["UPDATE spent SET money = NULL"], ["UPDATE spent SET requests = -5"],
        ["INSERT INTO spent VALUES (1, 1, 1)"], ["DROP TABLE spent", "CREATE TABLE spent (x)"],
        ["PRAGMA user_version = 9"], ["UPDATE spent SET money = 9e999"],
        ["DROP TABLE answers", "CREATE VIEW answers AS SELECT 1"],
    ],
)  # fmt: skip
def test_a_ledger_whose_numbers_are_none_is_one_line(statements: list[str], tmp_path: Path) -> None:
    path = broken(tmp_path / "ledger.sqlite", *statements)
    with raw(ANSWERING) as server:
        config = VLMConfig(EndpointConfig("m", server.url, budget=Budget(tokens=10**6)), pixels=8)
        with pytest.raises(InputError, match=r"ledger\.sqlite: the ledger of answers is unusable"):
            _judges_and_sums(VLMJudge(config, Ledger(path)))


def _judges_and_sums(judge: VLMJudge) -> None:
    judge.score(brightening(1)[0])
    judge.ledger.total()


@pytest.mark.server
@pytest.mark.parametrize(
    "text",
    ["", "{", "[[1.0", "null", "[[1.0, 7.0]]", "[[0.5, 1.0]]", "[[1.0, NaN]]", "[1]", "\x00", "[" * 5000, "x" * 99],
)
def test_an_answer_that_cannot_be_read_is_asked_for_again(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with raw(ANSWERING) as server:
        config = VLMConfig(EndpointConfig("m", server.url), pixels=8)
        VLMJudge(config, Ledger(path)).score(brightening(1)[0])
        with sqlite3.connect(path) as file:
            file.execute("UPDATE answers SET answer = ?", [text])
        for _ in range(2):
            (verdict,) = VLMJudge(config, Ledger(path)).score(brightening(1)[0])
            assert verdict.score == 1
        assert len(server.heads) == 2, "once at first, once for the broken one"


@pytest.mark.parametrize("content", [b"", b"\x00" * 8192, b"SQLite format 3\x00" + b"\x00" * 5000, b'{"key": 1}\n{"ke'])
def test_a_file_that_is_no_ledger_is_empty_or_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(InputError, match="the ledger of answers is unusable"):
            Ledger(path).total()
    else:
        assert Ledger(path).total() == Spending()


@pytest.mark.parametrize("was_killed", [False, True])
def test_a_ledger_that_cannot_be_written_can_be_read(
    was_killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.store("k", {0: "[[1.0, 1.0]]"})
    ledger.spend(Spending(3, 30, 0.5))
    if not was_killed:
        ledger.close()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert (f"{path.name}-wal" in before) == was_killed
    connect = sqlite3.connect

    def on_a_read_only_disk(place: Any, **settings: Any) -> sqlite3.Connection:
        if str(place) == str(path):
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return connect(place, **settings)

    monkeypatch.setattr(sqlite3, "connect", on_a_read_only_disk)
    kept = Ledger(path)
    assert kept.answers("k") == {0: "[[1.0, 1.0]]"}
    assert kept.total() == Spending(3, 30, 0.5)
    with pytest.raises(InputError, match="the judge's answers cannot be stored"):
        kept.store("k", {1: "[]"})
    with pytest.raises(InputError, match="the judge's answers cannot be stored"):
        kept.reserve(Budget())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
