"""HTTP requests with a deadline, a size limit and one allowed host.

The official openai client sends the requests. Responses are read here in chunks. A server that sends one byte every
half second, or a kilobyte that decompresses to a gigabyte, costs at most the timeout and a few megabytes.

Each request is one attempt: the client's own retries are off (`max_retries=0`) and `endpoint` retries. Retries by the
client (openai 3.54, tested with counting event hooks) would lose:

- `pause` and `longest_pause`, which are set in judges' files. The client waits 0.5 to 8 seconds (constants of a private
  module) and follows a Retry-After of up to 120 seconds regardless of the run's limit.
- A single limit on attempts. The client retries connection errors and statuses only. Truncated JSON, a web page or
  prose with status 200 needs a second loop around it, and the two limits multiply.
- Exact counts. Hooks report a truncated response as "200" and a failed connection not at all.
- Permanent failures. The client retries status 501 and "insufficient_quota".
- The stop, which ends a pause but not a request in flight, since that is paid for. Cancelling the call ends both.

Only the budget check before each attempt would work in a hook. The client's jitter is replicated in `endpoint`.
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
"""Maximum size of a chat completion in bytes, decompressed."""
MAX_PICTURE = 64 * 2**20
"""Maximum size of an image response in bytes, decompressed."""
_MAX_ERROR = 64 * 2**10
"""Bytes that are read of an error response."""
_PUBLIC_HEADERS = {
    "accept",
    "authorization",
    "content-type",
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
}
"""Headers sent to every server. The client's other headers describe this machine and go to OpenAI only."""
_OPENAI_HOST = "api.openai.com"
_is_sent: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("is_sent")
"""Event that is set once the request has been sent in full."""


@dataclass(frozen=True)
class Response:
    """A response with status 2xx.

    Attributes:
        content: decompressed bytes.
        is_json: whether the content type is JSON.
    """

    content: bytes
    is_json: bool


class StatusError(Exception):
    """A response with a status other than 2xx.

    Attributes:
        status: the status code.
        headers: by name, in lower case.
        body: the body, as far as it could be read.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: str):
        super().__init__(str(status))
        self.status, self.headers, self.body = status, headers, body


class TransportError(Exception):
    """No response, or a truncated one.

    Attributes:
        kind: "timed out", "connection", "too large" or "cut off".
        was_sent: whether the server may have processed the request, which then costs money.
    """

    def __init__(self, kind: str, message: str, was_sent: bool = True):
        super().__init__(message)
        self.kind, self.was_sent = kind, was_sent


class Transport:
    """HTTP connection to one server.

    Args:
        url: the server's base URL, including /v1.
        address: the parsed URL; requests to this machine bypass proxies.
        key: the API key; "" for none.
        deadline: seconds that a request may take in total.
    """

    def __init__(self, url: str, address: Address, key: str, deadline: float):
        import openai

        self.deadline, self._loop = deadline, _loop()
        http = _bounded_client()(address, deadline)
        weakref.finalize(self, _close, self._loop, http).atexit = False
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=key or "none", timeout=deadline, max_retries=0, http_client=http
        )
        self._chat = self._client.chat.completions.with_raw_response  # imports modules before any deadline starts
        self._images, self._models = self._client.images.with_raw_response, self._client.models.with_raw_response

    def chat(self, model: str, messages: Sequence[Any], extra: Mapping[str, Any], **fields: Any) -> Response:
        """Request chat completions; raises `StatusError` or `TransportError`."""
        sent, body = list(messages), dict(extra)
        return self._send(lambda: self._chat.create(model=model, messages=sent, extra_body=body, **fields))

    def edit(self, model: str, picture: bytes, prompt: str, extra: Mapping[str, Any], **fields: Any) -> Response:
        """Request an edit of a PNG file's content; raises `StatusError` or `TransportError`."""
        image, body = ("frame.png", picture, "image/png"), dict(extra)
        return self._send(lambda: self._images.edit(model=model, image=image, prompt=prompt, extra_body=body, **fields))

    def models(self) -> Response:
        """Request the list of models; raises `StatusError` or `TransportError`."""
        return self._send(self._models.list)

    def _send(self, call: Callable[[], Awaitable[Any]]) -> Response:
        sent = threading.Event()

        async def exchange() -> Any:
            _is_sent.set(sent)
            async with asyncio.timeout(self.deadline):
                return await call()

        import openai

        try:
            raw = asyncio.run_coroutine_threadsafe(exchange(), self._loop).result()
        except openai.APIStatusError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            raise StatusError(error.status_code, headers, error.response.text) from None
        except Exception as error:  # noqa: BLE001 - errors of the client and its libraries have no common base
            raise self._error(error, sent.is_set()) from None  # the client's message may contain the key
        content_type = raw.headers.get("content-type", "")
        return Response(raw.content, "json" in content_type.lower())

    def _error(self, error: BaseException, was_sent: bool) -> TransportError:
        """Classify an exception of the client by its cause."""
        import openai

        causes = [error, error.__cause__, error.__context__]
        if own := next((cause for cause in causes if isinstance(cause, TransportError)), None):
            return own
        if any(isinstance(cause, TimeoutError | openai.APITimeoutError) for cause in causes):
            return TransportError("timed out", f"no complete reply within {self.deadline:g} seconds", was_sent)
        reason = error.__cause__ or error
        if isinstance(error, openai.APIConnectionError | OSError):
            return TransportError("connection", f"no connection: {reason}", was_sent)
        return TransportError("cut off", f"request failed: {reason}", was_sent)


_loops: dict[int, asyncio.AbstractEventLoop] = {}
_start_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process, running in a daemon thread."""
    with _start_lock:
        if os.getpid() not in _loops:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="requests", daemon=True).start()
        return _loops[os.getpid()]


def _close(loop: asyncio.AbstractEventLoop, http: Any) -> None:
    """Close the connections of an unused client."""
    asyncio.run_coroutine_threadsafe(http.aclose(), loop)


def _bounded_client() -> Any:
    """The HTTP client class with bounded reads.

    Defined lazily because importing openai takes a second.
    """
    import openai

    class BoundedClient(openai.DefaultAsyncHttpxClient):
        """HTTP client that follows no redirects and connects to one address only."""

        def __init__(self, address: Address, deadline: float):
            super().__init__(timeout=deadline, follow_redirects=False, trust_env=not address.is_loopback)
            self._address = address

        async def send(self, request: Any, **options: Any) -> Any:
            address = self._address
            if (request.url.scheme, request.url.host) != (address.scheme, address.host):
                raise TransportError("connection", f"refused a request to a server other than {address.origin}", False)
            original = request.headers.copy()  # restored below: the client reads some of them after the response
            for name in original:
                if name.lower() not in _PUBLIC_HEADERS and address.host != _OPENAI_HOST:
                    del request.headers[name]
            request.headers.update({"Accept-Encoding": "gzip, deflate", "User-Agent": "worldgymnast"})
            request.extensions["trace"] = _note_sent
            response = await super().send(request, **{**options, "stream": True})
            try:
                content = await _content(response, MAX_PICTURE if "/images/" in request.url.path else MAX_REPLY)
            finally:
                await response.aclose()
            request.headers = original
            dropped = (b"content-encoding", b"content-length", b"transfer-encoding")
            headers = [(name, value) for name, value in response.headers.raw if name.lower() not in dropped]
            return type(response)(response.status_code, headers=headers, content=content, request=request)

    return BoundedClient


async def _note_sent(event: str, _: Any) -> None:
    if event.endswith("send_request_body.complete"):
        _is_sent.get().set()


async def _content(response: Any, limit: int) -> bytes:
    """The decompressed body of a response; the beginning only for an error response.

    Raises:
        TransportError: the body exceeds `limit`, or cannot be decompressed.
    """
    is_error = not 200 <= response.status_code < 300
    body = Body(response.headers.get("content-encoding", ""), _MAX_ERROR if is_error else limit)
    try:
        async for chunk in response.aiter_raw():
            body.add(chunk)
        return body.finish()
    except TransportError:
        if not is_error:
            raise
        return bytes(body.content)


class Body:
    """Bounded response body, decompressed chunk by chunk.

    Args:
        encoding: value of the content-encoding header.
        limit: maximum decompressed size in bytes.

    Attributes:
        content: decompressed bytes so far, at most `limit`.

    >>> body = Body("identity", 10)
    >>> body.add(b"hello")
    >>> body.finish()
    b'hello'
    """

    def __init__(self, encoding: str, limit: int):
        self.content, self._limit, self._received = bytearray(), limit, 0
        self._decompressor = None
        if (kind := encoding.strip().lower()) not in ("", "identity"):
            if kind not in ("gzip", "x-gzip", "deflate"):
                raise TransportError("cut off", "the reply has a content encoding that was not requested")
            self._decompressor = zlib.decompressobj(47)  # gzip or zlib, detected from the header

    def add(self, chunk: bytes) -> None:
        """Decompress a chunk; raises `TransportError` if that fails or exceeds the limit."""
        room, self._received = self._limit - len(self.content), self._received + len(chunk)
        try:
            data = self._decompress(chunk, room + 1)
        except zlib.error as error:
            raise TransportError("cut off", "the reply cannot be decompressed") from error
        self.content += data[:room]
        if len(data) > room or self._received > self._limit + 2**16:  # compressed bytes may expand to nothing
            raise TransportError("too large", f"the reply has more than {self._limit / 2**20:g} MiB")

    def _decompress(self, chunk: bytes, limit: int) -> bytes:
        """At most `limit` decompressed bytes of a chunk.

        Gzip may have several members.
        """
        if self._decompressor is None:
            return chunk
        data = b""
        while chunk and len(data) < limit:
            if self._decompressor.eof:
                if chunk[:1] != b"\x1f":
                    break
                self._decompressor = zlib.decompressobj(47)
            data += self._decompressor.decompress(chunk, limit - len(data))
            chunk = self._decompressor.unused_data
        return data

    def finish(self) -> bytes:
        """The complete body; raises `TransportError` if it is truncated."""
        if self._decompressor and not self._decompressor.eof:
            raise TransportError("cut off", "the compressed reply is truncated")
        return bytes(self.content)
