"""The chat server of bad days (`fault_server.py`), started as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from worldgymnast.endpoint import EndpointConfig
from worldgymnast.types import Clip


@dataclass(frozen=True)
class Faulty:
    """A running server.

    Attributes:
        url: its address.
    """

    url: str

    def counts(self) -> dict[str, int]:
        """What it sent so far, by name; "requests" are all."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/counts") as reply:
            return json.loads(reply.read())

    def endpoint(self, model: str = "m", **more: object) -> EndpointConfig:
        """How to ask it, without long waits."""
        return EndpointConfig(model, self.url, **{"pause": 0.02, "timeout": 3.0, **more})  # type: ignore[arg-type]


@contextmanager
def faulty(share: float = 0.0, seed: int = 0) -> Iterator[Faulty]:
    """A server with faults in that share of its answers."""
    script = Path(__file__).parent / "fault_server.py"
    command = [sys.executable, str(script), str(seed), str(share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield Faulty(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
        finally:
            process.stdin.close()
            process.wait(30)


@contextmanager
def saying(body: str, status: int = 200) -> Iterator[str]:
    """The URL of a server that answers the same to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            kind = "text/html" if body.startswith("<") else "application/json"
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def brightening(count: int, doomed: int = 0, seed: int = 0) -> tuple[list[Clip], list[float]]:
    """Small clips that the server is asked about, and its right answers: 1 where the last frame is brighter.

    Every `doomed`-th never gets one.
    """
    rng, clips, truth = np.random.default_rng(seed), [], []
    for i in range(count):
        brighter = bool(rng.integers(2))
        frames = np.full((2, 8, 8, 3), 100, np.uint8)
        frames[1] = 150 if brighter else 50
        fate = " doomed" if doomed and i % doomed == doomed - 1 else ""
        clips.append(Clip(frames, f"question {i}{fate}", "t"))
        truth.append(float(brighter))
    return clips, truth
