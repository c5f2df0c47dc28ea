"""An endpoint that speaks OpenAI's API, asked in parallel: retries, a budget, exact counts, no key anywhere.

The official client talks to any server (OpenAI, vLLM, SGLang, Ollama, llama.cpp, `transformers serve`). What is
temporary is tried again, with growing pauses or after the time that the server names: status 408, 409, 429 and 5xx,
broken connections, time-outs, bodies that are cut off, answers that say nothing. What is not (a wrong key, model or
request) fails at once. Every attempt is counted under what became of it.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import json
import os
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from worldgymnast.ledger import Budget, Ledger, Price, Spent
from worldgymnast.types import InputError, Paused, in_range

Read = TypeVar("Read")
Message = Mapping[str, Any]
OPENAI = "https://api.openai.com/v1"
NO_CHAT = "no chat completion"
"""What a reply is counted under that is none: a web page, say, where the URL is wrong."""
_TEMPORARY = (408, 409, 429)
_FEW = 3
"""Attempts where somebody waits to hear whether there is a server at all."""
_AT_ONCE = 1e-3
"""Seconds to wait where nothing is overloaded."""


@dataclass(frozen=True)
class EndpointConfig:
    """Where to ask, and how patiently.

    Attributes:
        model: its name at the server.
        url: the server's address, up to and with /v1.
        key_variable: name of the environment variable that holds the key; servers of one's own mostly need none.
        concurrency: requests under way at a time.
        timeout: seconds until a request counts as lost.
        attempts: how often one request is sent at most.
        pause: seconds before the second attempt; doubled before every other.
        longest_pause: seconds at most; a server that asks for more is not waited for.
        budget: what may be spent.
        price: of the tokens.
        extra: further fields of every request, such as {"reasoning_effort": "low"}.
    """

    model: str
    url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout: float = 60.0
    attempts: int = 8
    pause: float = 0.5
    longest_pause: float = 60.0
    budget: Budget = Budget()
    price: Price = Price()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        in_range(self, 1, "concurrency", "attempts")
        in_range(self, 1e-3, "timeout")
        in_range(self, 0, "pause", "longest_pause")
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            raise InputError(f"field 'url': found '{self.url}', expected an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise InputError("field 'url': found a user, password or query in it, expected none; put the key into the "
                             f"environment variable {self.key_variable}")  # fmt: skip
        if not self.model:
            raise InputError("field 'model': found none, expected the model's name at the server")
        if not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):  # it may be the key itself, so it is not repeated
            raise InputError("field 'key_variable': found what is no variable's name, expected that of the environment "
                             "variable that holds the key, such as OPENAI_API_KEY")  # fmt: skip
        if self.budget.money is not None and not self.price.read + self.price.written:
            raise InputError("field 'budget.money': found a limit and no price, so that nothing would ever count; "
                             "expected price.read and price.written, for a million tokens")  # fmt: skip


def _has_port(parts: urllib.parse.SplitResult) -> bool:
    """Whether the port of an address, if it names one, is one."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


class BudgetSpent(Paused):
    """The budget has run out; what was answered before is in the ledger."""


class Unusable(ValueError):
    """An answer that says nothing, and may say something when it is asked for again.

    Attributes:
        kind: what it is counted under.
        final: whether there is no use in asking again, since the server answers always alike.
    """

    def __init__(self, kind: str, message: str = "", final: bool = False):
        super().__init__(message or kind)
        self.kind, self.final = kind, final


class RequestFailed(Exception):
    """A request that brought nothing, however often it was sent.

    Attributes:
        kind: what it is counted under.
        pause: seconds after which it may be sent again, 0 for as long as the client thinks, None for never.
    """

    def __init__(self, kind: str, message: str, pause: float | None):
        super().__init__(message)
        self.kind, self.pause = kind, pause


@dataclass(frozen=True)
class Asked(Generic[Read]):
    """What came of a question.

    Attributes:
        answers: what was read, at most as many as wanted.
        cost: in money.
        error: why there are no more of them, or None.
    """

    answers: list[Read]
    cost: float
    error: str | None = None


# ---------------------------------------------------------------- the client


class Endpoint:
    """Asks one model at one server.

    Args:
        config: where and how.
        ledger: counts what is spent; the budget is over all that it holds.

    Attributes:
        counts: how many requests ended how: "answered", or the fault by its name; together they are all that were sent.
    """

    def __init__(self, config: EndpointConfig, ledger: Ledger | None = None):
        self.config, self.ledger = config, ledger or Ledger()
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._busy = threading.Semaphore(config.concurrency)
        self._client: Any = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Sends nothing more, and waits for nothing more."""
        self._stopped.set()

    def ask(
        self, messages: Sequence[Message], read: Callable[[Any], Read], wanted: int = 1, **fields: Any
    ) -> Asked[Read]:
        """Asks until `wanted` choices could be read, or a request was sent `attempts` times and brought none.

        Args:
            messages: in OpenAI's form.
            read: what a choice of the reply says; raises `Unusable` where it says nothing.
            wanted: choices; asked for in one request, and in more where the server gives fewer.
            fields: of the request, such as temperature.

        Raises:
            BudgetSpent: nothing more may be sent.
        """
        answers: list[Read] = []
        bills: list[float] = []
        while (missing := wanted - len(answers)) > 0:
            many = {"n": missing} if missing > 1 else {}
            heard: set[str] = set()
            read_new = functools.partial(_readable, read=read, heard=heard)
            try:
                send = functools.partial(self._chat, messages, {**fields, **many})
                reply = self._patiently(functools.partial(self._send, send, bills, read_new))
            except RequestFailed as failed:
                return Asked(answers, sum(bills), str(failed))
            answers += reply[:missing]
        return Asked(answers, sum(bills))

    def reply(self, messages: Sequence[Message], **fields: Any) -> Any:
        """One whole reply with at least one choice; a server that does not answer is not waited for long.

        Raises:
            RequestFailed: there is none to be had.
            BudgetSpent: nothing more may be sent.
        """
        send = functools.partial(self._chat, messages, fields)
        return self._patiently(functools.partial(self._send, send, [], _whole), _FEW)

    def edited(self, picture: bytes, prompt: str, **fields: Any) -> bytes:
        """A picture (the content of a PNG file) changed as `prompt` says; the content of a picture's file.

        Raises:
            RequestFailed: there is none to be had.
            BudgetSpent: nothing more may be sent.
        """
        shown = ("frame.png", picture, "image/png")

        def send() -> Any:
            return self.client.images.edit(
                model=self.config.model, image=shown, prompt=prompt, extra_body=dict(self.config.extra), **fields
            )

        return self._patiently(functools.partial(self._send, send, [], _picture))

    def _chat(self, messages: Sequence[Message], fields: Mapping[str, Any]) -> Any:
        return self.client.chat.completions.create(
            model=self.config.model, messages=list(messages), extra_body=dict(self.config.extra), **fields
        )

    def _patiently(self, send: Callable[[], Any], most: int | None = None) -> Any:
        """What `send` returns, after as many attempts as it takes, `most` of them where that is said."""
        from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt

        retrying = Retrying(
            stop=stop_after_attempt(min(self.config.attempts, most or self.config.attempts)),
            wait=lambda state: self._pause(state.outcome.exception() if state.outcome else None, state.attempt_number),
            retry=retry_if_exception(lambda error: isinstance(error, RequestFailed) and error.pause is not None),
            sleep=sleep_using_event(self._stopped),
            reraise=True,
        )
        return retrying(send)

    def _pause(self, error: BaseException | None, attempt: int) -> float:
        """Seconds until the next attempt: what the server asks for, or twice as long each time."""
        named = error.pause if isinstance(error, RequestFailed) and error.pause else 0.0
        return named or min(self.config.pause * 2 ** (attempt - 1), self.config.longest_pause)

    def _send(self, send: Callable[[], Any], bills: list[float], read: Callable[[Any], Any]) -> Any:
        """One request: what `read` makes of the reply; what it costs is added to `bills`."""
        with self._busy:
            self._reserve()
            try:
                reply = send()
                bills.append(self._pay(getattr(reply, "usage", None)))
                found = read(reply)
            except Exception as error:  # noqa: BLE001 - whatever a server does is a fault to be counted
                failed = self._failed(error)
                self._count(failed.kind)
                raise failed from None  # the library's own message may hold the key
        self._count("answered")
        return found

    def _reserve(self) -> None:
        """Counts a request that is about to be sent, or refuses it."""
        if self._stopped.is_set():
            raise RequestFailed("stopped", "the run was stopped", None)
        with self._lock:
            if passed := self.config.budget.passed(self.ledger.spent()):
                raise BudgetSpent(f"the budget of {self.config.model} is spent: found {passed}; raise \"budget\" in "
                                  "the file that names it and run the same command again to go on")  # fmt: skip
            self.ledger.spend(Spent(requests=1))

    def _pay(self, usage: Any) -> float:
        read, written = (
            counted(usage, f"{chat}_tokens") or counted(usage, f"{images}_tokens")
            for chat, images in (("prompt", "input"), ("completion", "output"))
        )
        money = (read * self.config.price.read + written * self.config.price.written) / 1e6
        self.ledger.spend(Spent(tokens=read + written, money=money))
        return money

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    def _failed(self, error: Exception) -> RequestFailed:
        """What went wrong, and after how many seconds it may be tried again."""
        import openai

        message = self.clean(error)
        if isinstance(error, openai.APIStatusError):
            status, after = error.status_code, _retry_after(error.response.headers)
            lasting = status not in _TEMPORARY and status < 500
            if after is not None and after > self.config.longest_pause:
                return RequestFailed(str(status), f"{message}; the server asks to wait {after:.0f} seconds", None)
            return RequestFailed(str(status), message, None if lasting else after or 0.0)
        if isinstance(error, openai.APITimeoutError):
            return RequestFailed("timed out", f"no answer within {self.config.timeout:g} seconds", 0.0)
        if isinstance(error, openai.APIConnectionError):
            reason = self.clean(error.__cause__) if error.__cause__ else message
            return RequestFailed("connection", f"no connection: {reason}", 0.0)
        if isinstance(error, Unusable):
            return RequestFailed(error.kind, str(error), None if error.final else _AT_ONCE)
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | openai.APIResponseValidationError):
            return RequestFailed("cut off", "a reply that is no JSON", 0.0)
        raise error

    # ------------------------------------------------------------ key and client

    @property
    def client(self) -> Any:
        """The official client; made at first use.

        Raises:
            InputError: OpenAI itself is asked and there is no key.
        """
        with self._lock:
            if self._client is None:
                import openai

                key = self._key()
                if not key and self.config.url.startswith(OPENAI):
                    raise InputError(f"environment variable {self.config.key_variable}: found no key, expected one for "
                                     f"{self.config.url}; set it, or name another server")  # fmt: skip
                self._client = openai.OpenAI(
                    base_url=self.config.url, api_key=key or "none", timeout=self.config.timeout, max_retries=0
                )
            return self._client

    def _key(self) -> str:
        """The key, without the white space that files and shells leave around it; "" for none.

        Raises:
            InputError: it cannot be sent.
        """
        key = os.environ.get(self.config.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"environment variable {self.config.key_variable}: found a key with characters that "
                             "cannot be sent, expected printable ASCII; set it again")  # fmt: skip
        return key

    def clean(self, error: BaseException | str) -> str:
        """What an error says, on one line, shortened, the key blotted out."""
        body = getattr(error, "body", None)
        inner = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
        text = " ".join(str(inner or error or type(error).__name__).split())
        if key := self._key():
            text = text.replace(key, "***")
        return text if len(text) <= 300 else text[:300] + "..."

    def models(self) -> list[str]:
        """Names of the server's models; none where it does not tell."""
        try:
            return sorted(self.clean(str(model.id)) for model in self.client.models.list())
        except Exception:  # noqa: BLE001 - only used to say more in an error message
            return []


def _choices(reply: Any) -> list[Any]:
    """The choices of a reply that have a message.

    Raises:
        Unusable: it is no chat completion.
    """
    if not hasattr(reply, "choices") or not isinstance(reply.choices or [], list):
        raise Unusable(NO_CHAT, "a reply that is no chat completion; is the URL right?")
    return [choice for choice in reply.choices or [] if hasattr(choice, "message")]


def _picture(reply: Any) -> bytes:
    """The picture in a reply to an edit.

    Raises:
        Unusable: there is none.
    """
    for found in getattr(reply, "data", None) or []:
        if content := getattr(found, "b64_json", None):
            try:
                return base64.b64decode(content, validate=True)
            except ValueError:
                raise Unusable("cut off", "a picture that is cut off") from None
        if getattr(found, "url", None):
            raise Unusable("no picture", "a picture's address in the place of the picture; add "
                           '"extra": {"response_format": "b64_json"}', final=True)  # fmt: skip
    raise Unusable("no picture", "a reply without a picture; can the model edit pictures?", final=True)


def _whole(reply: Any) -> Any:
    """A reply that has a choice; raises `Unusable` for any other."""
    if not _choices(reply):
        raise Unusable(NO_CHAT, "a reply that is no chat completion: it has no choices", final=True)
    return reply


def counted(usage: Any, name: str) -> int:
    """A number of tokens in a reply; 0 where the server does not tell."""
    found = getattr(usage, name, None)
    return int(found) if isinstance(found, int | float) else 0


def _readable(reply: Any, read: Callable[[Any], Read], heard: set[str]) -> list[Read]:
    """What the choices of a reply say; those that say nothing are passed over where another says something.

    Raises:
        Unusable: none says anything; for good where it is word for word what was `heard` before.
    """
    found: list[Read] = []
    last = Unusable("no choices", "a reply without choices")
    for choice in _choices(reply):
        try:
            found.append(read(choice))
        except Unusable as error:
            text = str(getattr(getattr(choice, "message", None), "content", ""))
            last = Unusable(error.kind, str(error), final=bool(text) and text in heard)
            heard.add(text)
    if not found:
        raise last
    return found


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, in any of the ways it may say so."""
    for name, share in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "")
        try:
            return max(0.0, float(text) / share)
        except ValueError:
            if text and (date := email.utils.parsedate_tz(text)) is not None:
                return max(0.0, email.utils.mktime_tz(date) - time.time())
    return None
