"""The chat server of bad days (`fault_server.py`), started as a process of its own."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldgymnast.endpoint import EndpointConfig
from worldgymnast.types import Clip


def choice_of(content: Any = "Final Score: 1", finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    """One choice of a reply, as a server sends it."""
    return {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content, **message}}


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
def faulty(share: float = 0.0, seed: int = 0, without: Sequence[str] = ()) -> Iterator[Faulty]:
    """A server with faults in that share of its answers, none of them those of `without`."""
    script = Path(__file__).parent / "fault_server.py"
    command = [sys.executable, str(script), str(seed), str(share), *without]
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
    with answering(lambda _: body, status) as url:
        yield url


@contextmanager
def answering(reply: Callable[[str], str], status: int = 200) -> Iterator[str]:
    """The URL of a server that answers the body of a request with `reply` of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = reply(self.rfile.read(int(self.headers.get("content-length", 0))).decode("utf-8", "replace"))
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


@dataclass
class Editing:
    """A server of an image-editing model.

    Attributes:
        url: its address.
        body: the text of the last request.
        size: of the picture in it.
    """

    url: str
    body: str = ""
    size: tuple[int, int] = (0, 0)


@contextmanager
def editing(mode: str) -> Iterator[Editing]:
    """A server that edits pictures: it pastes a "square", after two failures ("late"), answers in another "size", with
    "text", with an "address", or with "nothing"."""
    seen = Editing("")
    failures = [2 if mode == "late" else 0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            seen.body = content.decode("latin-1")
            if failures[0]:
                failures[0] -= 1
                self._send(500, {"error": {"message": "not now"}})
                return
            with Image.open(io.BytesIO(content[content.index(b"\x89PNG") :])) as image:
                picture = np.array(image.convert("RGB"))
            seen.size = (picture.shape[0], picture.shape[1])
            side = len(picture) // 5
            picture[-side:, :side] = (0, 0, 255)
            made = io.BytesIO()
            Image.fromarray(picture).resize((64, 64) if mode == "size" else picture.shape[1::-1]).save(made, "PNG")
            text = base64.b64encode(b"no picture" if mode == "text" else made.getvalue()).decode()
            data = {"address": [{"url": "http://127.0.0.1/x.png"}], "nothing": []}.get(mode, [{"b64_json": text}])
            self._send(200, {"created": 1, "data": data})

        def _send(self, status: int, body: object) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
