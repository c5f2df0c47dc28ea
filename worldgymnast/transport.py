"""HTTP exchanges with bounds: a deadline over the whole of each, a limit on its reply, the key for one host only.

Requests are made by the official client. Its replies are read here, in pieces, so that a server that sends a byte every
half second, or a kilobyte that unpacks to a gigabyte, costs no more than its time-out and a few megabytes.

An exchange is one attempt: the client's own retries are off (`max_retries=0`), and `endpoint` repeats. Handing them
over to the client (openai 3.54, tried with event hooks that count) would lose:

- `pause` and `longest_pause`, which judges' files hold. The client waits 0.5 to 8 seconds, constants of a private
  module, and follows a Retry-After of up to 120 seconds whatever the run allows.
- One limit on attempts. The client repeats connections and statuses; half a JSON, a web page or prose with status 200
  needs a second loop around it, and the two multiply.
- Exact counts from hooks. A reply that breaks off is heard as "200", a connection that fails not at all.
- Refusals that last: status 501 and "insufficient_quota" are sent again until the retries are used up.
- The stop, which ends a pause at once but not a request under way, since that is paid; a cancelled call ends both.

Only the check of the budget before each attempt would be as good in a hook. The client's jitter is in `endpoint`, too.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldgymnast.keys import Address

MAX_REPLY = 8 * 2**20
"""Bytes of a chat completion, unpacked."""
MAX_PICTURE = 64 * 2**20
"""Bytes of a reply with a picture, unpacked."""
_MAX_REFUSAL = 64 * 2**10
"""Bytes of a reply that is an error; what goes beyond is not read."""
_SENT = {"accept", "authorization", "content-type", "content-length", "transfer-encoding", "host", "connection"}
"""Headers that every server gets; what else the client knows of this machine, only the provider it was written for."""
_OWN = "api.openai.com"
_sent: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("sent")
"""Set once the request of this exchange is at the server in full."""


@dataclass(frozen=True)
class Received:
    """A reply of status 2xx.

    Attributes:
        content: its bytes, unpacked.
        is_json: whether the server calls it JSON.
    """

    content: bytes
    is_json: bool


class Refused(Exception):
    """A reply of another status than 2xx.

    Attributes:
        status: its number.
        headers: by name, in lower case.
        body: what could be read of it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: str):
        super().__init__(str(status))
        self.status, self.headers, self.body = status, headers, body


class Lost(Exception):
    """No reply, or one that cannot be read to its end.

    Attributes:
        kind: "timed out", "connection", "too large" or "cut off".
        was_sent: whether the server may have done what it was asked, which is paid for.
    """

    def __init__(self, kind: str, message: str, was_sent: bool = True):
        super().__init__(message)
        self.kind, self.was_sent = kind, was_sent


class Transport:
    """Send requests to one server.

    Args:
        url: its address, up to and with /v1.
        to: what the address names; no proxy is asked for this machine itself.
        key: sent to it; "" for none.
        deadline: seconds that an exchange may take in all.
    """

    def __init__(self, url: str, to: Address, key: str, deadline: float):
        import openai

        self.deadline, self._loop = deadline, _loop()
        http = _bounded_client()(to, deadline)
        weakref.finalize(self, _close, self._loop, http).atexit = False
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=key or "none", timeout=deadline, max_retries=0, http_client=http
        )
        self._chat = self._client.chat.completions.with_raw_response  # loads modules, before any deadline
        self._images, self._models = self._client.images.with_raw_response, self._client.models.with_raw_response

    def chat(self, model: str, messages: Sequence[Any], extra: Mapping[str, Any], **fields: Any) -> Received:
        """Ask for chat completions; raises `Refused` or `Lost`."""
        said, body = list(messages), dict(extra)
        return self._received(lambda: self._chat.create(model=model, messages=said, extra_body=body, **fields))

    def edit(self, model: str, picture: bytes, prompt: str, extra: Mapping[str, Any], **fields: Any) -> Received:
        """Ask for a picture (the content of a PNG file) to be edited; raises `Refused` or `Lost`."""
        shown, body = ("frame.png", picture, "image/png"), dict(extra)
        return self._received(
            lambda: self._images.edit(model=model, image=shown, prompt=prompt, extra_body=body, **fields)
        )

    def models(self) -> Received:
        """Ask which models there are; raises `Refused` or `Lost`."""
        return self._received(self._models.list)

    def _received(self, call: Callable[[], Awaitable[Any]]) -> Received:
        sent = threading.Event()

        async def exchange() -> Any:
            _sent.set(sent)
            async with asyncio.timeout(self.deadline):
                return await call()

        import openai

        try:
            raw = asyncio.run_coroutine_threadsafe(exchange(), self._loop).result()
        except openai.APIStatusError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            raise Refused(error.status_code, headers, error.response.text) from None
        except Exception as error:  # noqa: BLE001 - the errors of the client and its libraries have no common base
            raise self._lost(error, sent.is_set()) from None  # the client's own message may hold the key
        kind = raw.headers.get("content-type", "")
        return Received(raw.content, "json" in kind.lower())

    def _lost(self, error: BaseException, was_sent: bool) -> Lost:
        """What went wrong on the way, from the client's exception or what caused it."""
        import openai

        causes = [error, error.__cause__, error.__context__]
        if found := next((cause for cause in causes if isinstance(cause, Lost)), None):
            return found
        if any(isinstance(cause, TimeoutError | openai.APITimeoutError) for cause in causes):
            return Lost("timed out", f"no whole answer within {self.deadline:g} seconds", was_sent)
        reason = error.__cause__ or error
        if isinstance(error, openai.APIConnectionError | OSError):
            return Lost("connection", f"no connection: {reason}", was_sent)
        return Lost("cut off", f"a request that could not be made: {reason}", was_sent)


_loops: dict[int, asyncio.AbstractEventLoop] = {}
_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, in a thread of its own that ends with it."""
    with _starting:
        if os.getpid() not in _loops:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
        return _loops[os.getpid()]


def _close(loop: asyncio.AbstractEventLoop, http: Any) -> None:
    """Close the connections of a client that is no longer used."""
    asyncio.run_coroutine_threadsafe(http.aclose(), loop)


def _bounded_client() -> Any:
    """The client's own HTTP client, made to read a reply within bounds; a type, since loading it takes a second."""
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        """Follows no redirect, and asks the server `to` only."""

        def __init__(self, to: Address, deadline: float):
            super().__init__(timeout=deadline, follow_redirects=False, trust_env=not to.is_loopback)
            self._to = to

        async def send(self, request: Any, **options: Any) -> Any:
            if (request.url.scheme, request.url.host) != (self._to.scheme, self._to.host):
                raise Lost("connection", f"a request for another server than {self._to.origin}", False)
            own = request.headers.copy()  # among them what the client reads again when the reply is there
            for name in own:
                if name.lower() not in _SENT and self._to.host != _OWN:
                    del request.headers[name]
            request.headers.update({"Accept-Encoding": "gzip, deflate", "User-Agent": "worldgymnast"})
            request.extensions["trace"] = _note_sent
            response = await super().send(request, **{**options, "stream": True})
            try:
                content = await _content(response, MAX_PICTURE if "/images/" in request.url.path else MAX_REPLY)
            finally:
                await response.aclose()
            request.headers = own
            dropped = (b"content-encoding", b"content-length", b"transfer-encoding")
            headers = [(name, value) for name, value in response.headers.raw if name.lower() not in dropped]
            return type(response)(response.status_code, headers=headers, content=content, request=request)

    return Bounded


async def _note_sent(event: str, _: Any) -> None:
    if event.endswith("send_request_body.complete"):
        _sent.get().set()


async def _content(response: Any, limit: int) -> bytes:
    """The unpacked bytes of a reply; of one that is an error, the first.

    Raises:
        Lost: they are more than `limit`, or cannot be unpacked.
    """
    is_error = not 200 <= response.status_code < 300
    body = Body(response.headers.get("content-encoding", ""), _MAX_REFUSAL if is_error else limit)
    try:
        async for piece in response.aiter_raw():
            body.add(piece)
        return body.whole()
    except Lost:
        if not is_error:
            raise
        return bytes(body.content)


class Body:
    """The bytes of a reply, unpacked piece by piece.

    Args:
        encoding: how they are packed, as the header names it.
        limit: of the unpacked bytes.

    Attributes:
        content: what was unpacked so far, at most `limit` bytes.
    """

    def __init__(self, encoding: str, limit: int):
        self.content, self._limit, self._packed = bytearray(), limit, 0
        self._unpack = None
        if (kind := encoding.strip().lower()) not in ("", "identity"):
            if kind not in ("gzip", "x-gzip", "deflate"):
                raise Lost("cut off", "a reply that is packed in another way than was asked for")
            self._unpack = zlib.decompressobj(47)  # gzip or zlib, by its first bytes

    def add(self, piece: bytes) -> None:
        """Unpack a piece; raises `Lost` where the limit is passed or it cannot be."""
        room, self._packed = self._limit - len(self.content), self._packed + len(piece)
        try:
            more = self._unpacked(piece, room + 1)
        except zlib.error as error:
            raise Lost("cut off", "a packed reply that cannot be unpacked") from error
        self.content += more[:room]
        if len(more) > room or self._packed > self._limit + 2**16:  # packed bytes may unpack to nothing
            raise Lost("too large", f"a reply of more than {self._limit / 2**20:g} MiB")

    def _unpacked(self, piece: bytes, most: int) -> bytes:
        """At most so many bytes of a piece; gzip may be several members, one after the other."""
        if self._unpack is None:
            return piece
        more = b""
        while piece and len(more) < most:
            if self._unpack.eof:
                if piece[:1] != b"\x1f":
                    break
                self._unpack = zlib.decompressobj(47)
            more += self._unpack.decompress(piece, most - len(more))
            piece = self._unpack.unused_data
        return more

    def whole(self) -> bytes:
        """All of it; raises `Lost` where a packed reply does not come to its end."""
        if self._unpack and not self._unpack.eof:
            raise Lost("cut off", "a packed reply that is cut off")
        return bytes(self.content)
