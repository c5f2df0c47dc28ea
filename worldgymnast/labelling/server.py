"""Web server of the labelling page, for one person on this machine.

It answers on the loopback interface only, and only to requests with the secret of its URL. A web page of another site
cannot use it: the Host header must be a loopback name (against DNS rebinding), a POST must be JSON from the page's own
origin, and the page may load nothing from elsewhere.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from worldgymnast.errors import InputError
from worldgymnast.labelling.session import Session

_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_MAX_BODY = 4096
_TIMEOUT = 60
_FRAME = re.compile(r"frame/(\d{1,9})/(\d{1,9})\.jpg")


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class LabelServer:
    """Serves the page of a session.

    Use as a context manager, and `wait` until the person is done.

    Attributes:
        session: the episodes and labels.
        url: address of the page, with its secret.
    """

    def __init__(self, session: Session, port: int = 0):
        """Bind the port; 0 chooses a free one.

        Raises:
            InputError: the port is taken or not allowed.
        """
        self.session = session
        self._token = secrets.token_urlsafe(24)
        self._done = threading.Event()
        handler = type("Handler", (_Handler,), {"app": self})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise InputError(
                f"--port: cannot use {port} ({error.strerror}). Give another, or 0 for a free one"
            ) from error
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/{self._token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    def __enter__(self) -> LabelServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the person finishes on the page; returns whether that happened in time."""
        return self._done.wait(seconds)

    def answer(self, method: str, path: str, body: Any) -> tuple[str, bytes]:
        """Answer a checked request: content type and content.

        Raises:
            InputError: the body or the path names no episode or frame.
        """
        if (parts := _FRAME.fullmatch(path)) and method == "GET":
            return "image/jpeg", self.session.frame(int(parts[1]), int(parts[2]))
        match method, path:
            case "GET", "":
                return "text/html; charset=utf-8", _page()
            case "GET", "state":
                return _json(self.session.state())
            case "POST", "label":
                position, success, frame = _label_fields(body)
                return _json(self.session.label(position, success, frame))
            case "POST", "undo":
                return _json({"position": self.session.undo()})
            case "POST", "finish":
                self._done.set()
                return _json({})
        raise _Refused(HTTPStatus.NOT_FOUND, "no such page")

    def path_of(self, target: str) -> str:
        """Path behind the secret.

        Raises `_Refused` without the secret.
        """
        head, _, rest = urlsplit(target).path.removeprefix("/").partition("/")
        if not secrets.compare_digest(head.encode(), self._token.encode()):
            raise _Refused(HTTPStatus.NOT_FOUND, "no such page")
        return rest


def _label_fields(body: Any) -> tuple[int, bool, int | None]:
    """Fields of a label.

    Raises InputError unless each has its type.
    """
    if not isinstance(body, dict) or set(body) - {"position", "success", "frame"}:
        raise InputError("label: expected an object with position, success and frame")
    position, success, frame = (body.get(name) for name in ("position", "success", "frame"))
    if type(position) is not int or not isinstance(success, bool):
        raise InputError("label: expected a whole number as position, and true or false as success")
    if frame is not None and type(frame) is not int:
        raise InputError("label: expected a whole number or null as frame")
    return position, success, frame


def _json(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value, ensure_ascii=False).encode()


def _page() -> bytes:
    return (importlib.resources.files("worldgymnast.labelling") / "page.html").read_bytes()


class _Handler(BaseHTTPRequestHandler):
    """Checks requests, and sends the server's answers."""

    app: LabelServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "worldgymnast", ""
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Answer a GET request."""
        self._respond("GET")

    def do_POST(self) -> None:
        """Answer a POST request."""
        self._respond("POST")

    def _respond(self, method: str) -> None:
        nonce = secrets.token_urlsafe(16)
        try:
            self._check_host()
            path = self.app.path_of(self.path)
            kind, content = self.app.answer(method, path, self._body() if method == "POST" else None)
            if not path:
                content = content.replace(b"{{nonce}}", nonce.encode())
            self._send(HTTPStatus.OK, kind, content, nonce)
        except _Refused as refused:
            self.close_connection = True
            self._send(refused.status, *_json({"error": str(refused)}), nonce)
        except InputError as error:
            self._send(HTTPStatus.BAD_REQUEST, *_json({"error": str(error)}), nonce)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, *_json({"error": f"not saved: {error.strerror}"}), nonce)

    def _check_host(self) -> None:
        """Refuse names that another site could point to this machine."""
        if self._name(f"//{self.headers.get('Host', '')}") not in _HOSTS:
            raise _Refused(HTTPStatus.FORBIDDEN, "the Host header is not a loopback name")

    @staticmethod
    def _name(address: str) -> str | None:
        try:
            return urlsplit(address).hostname
        except ValueError:
            return None

    def _body(self) -> Any:
        """The JSON of a POST request from the page itself."""
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            raise _Refused(HTTPStatus.FORBIDDEN, "the request comes from another site")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected JSON")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,6}", length) or int(length) > _MAX_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {_MAX_BODY} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "expected JSON") from error

    def _send(
        self,
        status: HTTPStatus,
        kind: str,
        content: bytes,
        nonce: str,
    ) -> None:
        self.send_response(status)
        is_frame = kind.startswith("image/")
        policy = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self'; connect-src 'self'"
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "private, max-age=86400, immutable" if is_frame else "no-store",
            "Content-Security-Policy": f"default-src 'none'; {policy}; base-uri 'none'; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing, since a request line contains the secret."""
