"""`transformers serve` with one model, in a process of its own on this machine's loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from places import ROOT


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > deadline:
            what = "still starting" if process.poll() is None else f"exit code {process.returncode}"
            raise RuntimeError(f"{log}: the server does not answer ({what}); it said last:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


@contextmanager
def serve(folder: Path, log: Path, seconds: float = 120) -> Iterator[str]:
    """Serves the model in `folder`, named by that path; yields the base URL, and ends every process at the end.

    Args:
        folder: of a transformers model.
        log: what the server prints goes there; its hub cache, empty, is made beside it.
        seconds: until it must answer.
    """
    home = log.parent / "hub_home"
    (home / "hub").mkdir(parents=True, exist_ok=True)  # without it the list of models is an error 500
    port = _free_port()
    command = [sys.executable, str(ROOT / "tests/support/serve_vlm.py"), str(folder)]
    options = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    surroundings = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
                                 "PYTHONPATH": str(ROOT)}  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,  # the server ends where it closes, however this process ends
            stdout=out,
            stderr=out,
            env=surroundings,
            start_new_session=True,
        )
        try:
            _wait(process, port, log, seconds)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
