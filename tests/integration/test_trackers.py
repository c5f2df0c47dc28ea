"""Runs logged to Weights & Biases, offline, and read back from its own file."""

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worldgymnast.run import Run
from worldgymnast.trackers import use_trackers

pytestmark = [
    pytest.mark.server,  # wandb starts a process of its own
    pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb is not installed"),
]


def records(file: Path) -> list[Any]:
    """The records of an offline run: protocol buffers in the log format of LevelDB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts, found = file.read_bytes(), 7, b"", []
    assert content.startswith(b":W&B")
    while place + 7 <= len(content):
        if (left := 32_768 - place % 32_768) < 7:  # a record's header never crosses a block
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def logged(file: Path) -> list[dict[str, str]]:
    """Key and JSON value of what each step logged."""
    rows = [record.history for record in records(file) if record.WhichOneof("record_type") == "history"]
    return [{item.key or item.nested_key[0]: item.value_json for item in row.item} for row in rows]


def test_a_run_is_logged_and_resumes_as_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "drawers")
    folder = tmp_path / "run"
    with use_trackers(["wandb"]):
        with Run(folder, {"lr": 0.5}) as run:
            run.log(0, {"reward": 0.25, "gap": -0.5})
            run.log(1, {"reward": 0.5})
        with Run(folder, {"lr": 0.5}) as run:
            run.log(2, {"reward": 0.75})
    with Run(folder, {"lr": 0.5}) as run:
        run.log(3, {"reward": 1.0})  # without the flag
    first, second = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert first.name == second.name == f"run-{(folder / 'wandb/id.txt').read_text().strip()}.wandb"
    rows = logged(first)
    assert [(row["_step"], row["reward"]) for row in rows] == [("0", "0.25"), ("1", "0.5")]
    assert rows[0]["gap"] == "-0.5"
    assert [(row["_step"], row["reward"]) for row in logged(second)] == [("2", "0.75")]
    (started,) = [record.run for record in records(first) if record.WhichOneof("record_type") == "run"]
    assert (started.project, started.display_name) == ("drawers", "run")
    assert {item.key: item.value_json for item in started.config.update}["lr"] == "0.5"
    assert list((folder / "tensorboard").glob("events.*")), "TensorBoard stays"


def test_a_tracker_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from worldgymnast.run import Run\n"
        "from worldgymnast.trackers import use_trackers\n"
        "with use_trackers(['wandb']), Run(Path(sys.argv[1]), {}) as run: run.log(0, {'reward': 0.25})\n"
    )
    wrong = {"WANDB_MODE": "online", "WANDB_API_KEY": "short", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, env=os.environ | wrong, capture_output=True, text=True, check=False)
    assert "InputError: --tracker wandb: cannot be started (WANDB_API_KEY invalid" in done.stderr
    assert "Nothing was logged there. Run `wandb login`, set WANDB_MODE=offline, or omit the flag" in done.stderr
