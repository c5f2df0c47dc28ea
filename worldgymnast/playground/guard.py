"""Who may use the pages: a browser on this machine that knows the secret of the address.

A web page of another site cannot use them: the Host header must be a loopback name (against DNS rebinding), a WebSocket
must come from the page's own origin, every path begins with the secret, and the pages may load nothing from elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that a browser may use."""
_POLICY_VIOLATION = 1008


class Guard:
    """Middleware that checks requests, and adds the headers of a page that trusts only itself.

    Attributes:
        token: the secret, the first part of every path.
    """

    def __init__(self, app: ASGIApp, token: str | None = None):
        """Protect `app` with a secret, a new one by default."""
        self._app = app
        self.token = token or secrets.token_urlsafe(24)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, reason = self._refusal(scope)
        if status and scope["type"] == "websocket":
            await WebSocketClose(_POLICY_VIOLATION, reason)(scope, receive, send)
        elif status:
            await PlainTextResponse(reason, status)(scope, receive, send)
        else:
            inner = dict(scope) | {"path": scope["path"][len(self.token) + 1 :], "root_path": ""}
            await self._app(inner, receive, self._with_headers(scope, send))

    def _refusal(self, scope: Scope) -> tuple[int, str]:
        """Status and reason of a refusal; 0 for none."""
        headers = Headers(scope=scope)
        host = _host(f"//{headers.get('host', '')}")
        if host not in HOSTS:
            return 403, "The Host header is not a loopback name."
        origin = headers.get("origin")
        if origin is not None and urlsplit_or_none(origin) != headers.get("host"):
            return 403, "The request comes from another site."
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return 405, "Only GET is allowed."
        head, slash, _ = scope["path"].removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(head.encode(errors="replace"), self.token.encode()):
            return 404, "No such page."
        return 0, ""

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        host = Headers(scope=scope).get("host", "")
        added = page_headers(host)

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in added.items() if k.encode() not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        return sender


def page_headers(host: str) -> Mapping[str, str]:
    """Headers of every answer; `host` is the checked Host header."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' data:; "
        f"connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def urlsplit_or_none(address: str) -> str | None:
    """Host and port of an address; None if it is malformed."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None
