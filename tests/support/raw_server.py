"""A server on loopback that answers with any bytes at any pace, for replies that no library would send."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[socket.socket, bytes, bytes], None]
"""Answers a request on its connection: given the head and the body."""


@dataclass
class Raw:
    """A running server.

    Attributes:
        url: its address.
        heads: of the requests so far.
        bodies: theirs.
    """

    url: str
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def fields(self) -> list[dict[str, Any]]:
        """The fields of every request so far."""
        return [json.loads(body) for body in self.bodies]


@contextmanager
def raw(answer: Answer) -> Iterator[Raw]:
    """A server that answers every request so, one a connection."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    listening.settimeout(0.05)
    server, stopped = Raw(f"http://127.0.0.1:{listening.getsockname()[1]}/v1"), threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(10)
                head, body = _request(connection)
                server.heads.append(head)
                server.bodies.append(body)
                answer(connection, head, body)
            except OSError:
                pass

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stopped.set()
        thread.join()
        listening.close()


def _request(connection: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


def http(body: bytes | str, status: str = "200 OK", kind: str = "application/json", *headers: str) -> bytes:
    """A whole reply."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(content)}", "connection: close"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + content


def sending(*pieces: bytes) -> Answer:
    """Answers with these bytes and closes."""

    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return answer


def chat(content: Any = "Final Score: 1", finish: Any = "stop", usage: Any = None, **more: Any) -> dict[str, Any]:
    """A chat completion as JSON, which a test then spoils."""
    message = {"role": "assistant", "content": content}
    told = {"prompt_tokens": 100, "completion_tokens": 10} if usage is None else usage
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message, **more}], "usage": told}
