"""Client of an OpenAI-compatible endpoint: parallel requests, retries, a budget, exact counts.

Works with OpenAI, vLLM, SGLang, Ollama, llama.cpp and `transformers serve`.

- Retries transient failures with exponential backoff, or after the delay that the server asks for: status 408, 409,
  429 and 5xx, connection errors, timeouts, truncated replies and empty answers.
- Fails fast on permanent failures: a wrong key, model or request, or an exhausted quota.
- Omits a field that the server rejects from all later requests.
- Counts every attempt by outcome. A malformed reply never raises anything but `RequestFailed`.

The retry loop is tenacity's; `transport` explains why it is not the client's own.
"""

from __future__ import annotations

import functools
import json
import os
import random
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from worldgymnast import keys
from worldgymnast.completions import (
    NO_CHAT,
    Reply,
    UnusableReply,
    Usage,
    error_message,
    extract_picture,
    is_out_of_quota,
    parse_choices,
    read_reply,
    require_choice,
    retry_after,
    token_count,
)
from worldgymnast.configs import Between, checked
from worldgymnast.errors import FieldError, InputError, Paused
from worldgymnast.ledger import Budget, Ledger, Price, Spending
from worldgymnast.parameters import TOKENS_A_PICTURE, TOKENS_UNSEEN, check_extra, culprit, estimate, without
from worldgymnast.transport import Response, StatusError, Transport, TransportError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["NO_CHAT", "Endpoint", "EndpointConfig", "RequestFailed", "UnusableReply", "token_count"]

Parsed = TypeVar("Parsed")
Message = Mapping[str, Any]
OPENAI = "https://api.openai.com/v1"
_TRANSIENT = (408, 409, 429)
_PROBE_ATTEMPTS = 3
"""Attempts of a request that checks whether the server is reachable."""
_MIN_PAUSE = 1e-3
"""Seconds before a retry that is not caused by load."""
_RETRY_TEMPERATURE = 0.7
"""Temperature of a retry after an unusable answer at temperature 0, which would otherwise repeat."""
_JITTER = 0.25
"""Largest random reduction of a pause, as a share; keeps parallel retries from coinciding."""
_MAX_SHOWN = 200


@checked
class EndpointConfig:
    """Endpoint URL, retries and limits.

    Attributes:
        model: the model's name on the server.
        url: the server's base URL, including /v1.
        key_variable: name of the environment variable that holds the key; self-hosted servers rarely need one.
        concurrency: parallel requests.
        timeout: seconds until a request times out, including its whole reply.
        attempts: attempts per request.
        pause: seconds before the second attempt; doubled before each further one, with up to 25% jitter.
        longest_pause: maximum pause in seconds; a server that asks for a longer one is not retried.
        budget: spending limits.
        price: token prices.
        extra: additional fields of every request, such as {"reasoning_effort": "low"}.
    """

    model: str
    url: str = OPENAI
    key_variable: str = "OPENAI_API_KEY"
    concurrency: Annotated[int, Between(1, 1000)] = 16
    timeout: Annotated[float, Between(1e-3, 86400)] = 60.0
    attempts: Annotated[int, Between(1, 1000)] = 8
    pause: Annotated[float, Between(0, 86400)] = 0.5
    longest_pause: Annotated[float, Between(0, 86400)] = 60.0
    budget: Budget = Budget()
    price: Price = Price()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys.check_variable(self.key_variable)
        keys.parse_address(self.url)
        if not self.model:
            raise FieldError("model", "found none, expected the model's name on the server")
        if not self.model.isprintable():
            raise FieldError("model", "found unprintable characters, expected the model's name on the server")
        if self.budget.money is not None and not self.price.read + self.price.written:
            raise FieldError(
                "budget.money",
                "found a limit without a price, expected price.read and price.written per million tokens",
            )
        check_extra(self.extra)


class BudgetSpent(Paused):
    """The budget is exhausted; answers received before are in the ledger."""


class RequestFailed(Exception):
    """A request that failed.

    Attributes:
        kind: failure kind under which the attempt is counted.
        pause: seconds to wait before a retry; 0 for the client's own backoff, None if permanent.
        body: full body of the error response.
    """

    def __init__(self, kind: str, message: str, pause: float | None, body: str = ""):
        super().__init__(message)
        self.kind, self.pause, self.body = kind, pause, body


@dataclass(frozen=True)
class AskResult(Generic[Parsed]):
    """The result of `Endpoint.ask`.

    Attributes:
        answers: parsed answers, at most as many as requested.
        cost: in the currency of the prices.
        error: why there are fewer answers than requested, or None.
    """

    answers: list[Parsed]
    cost: float
    error: str | None = None


class Endpoint:
    """Client of one model on one server.

    Args:
        config: URL, retries and limits.
        ledger: records spending; the budget covers everything recorded in it.

    Attributes:
        counts: attempts by outcome: "answered", or the failure kind; their sum is the number of requests sent.

    Raises:
        InputError: the key may not be sent to this server, see `worldgymnast.keys`.
    """

    def __init__(self, config: EndpointConfig, ledger: Ledger | None = None):
        self.config, self.ledger = config, ledger or Ledger()
        self.counts: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._withheld = keys.withhold_reason(config.key_variable, config.url)
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(config.concurrency)
        self._client: Transport | None = None
        self._omitted: set[str] = set()
        self._jitter = random.Random()

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild in another process, without counts and connections; the key comes from its environment."""
        return type(self), (self.config, self.ledger)

    def stop(self) -> None:
        """Send no further requests and end all pauses."""
        self.stopped.set()

    def ask(
        self, messages: Sequence[Message], parse: Callable[[Any], Parsed], count: int = 1, **fields: Any
    ) -> AskResult[Parsed]:
        """Request answers until `count` of them are parsed or a request fails.

        Args:
            messages: messages in OpenAI's format.
            parse: turns a `completions.Choice` into a value, or raises `UnusableReply`.
            count: number of answers; requested at once, then one by one if the server returns fewer.
            fields: further fields of the request, such as temperature.

        Raises:
            BudgetSpent: the budget is exhausted.
        """
        answers: list[Parsed] = []
        costs: list[float] = []
        while (missing := count - len(answers)) > 0:
            n = {"n": missing} if missing > 1 and "n" not in self._omitted else {}
            seen_texts: set[str] = set()
            parse_new = functools.partial(parse_choices, parse=parse, seen_texts=seen_texts)
            try:
                parsed = self._chat(messages, {**fields, **n}, parse_new, costs, seen_texts)
            except RequestFailed as failed:
                return AskResult(answers, sum(costs), str(failed))
            answers += parsed[:missing]
        return AskResult(answers, sum(costs))

    def reply(self, messages: Sequence[Message], **fields: Any) -> Reply:
        """Request one reply with at least one choice, with few retries.

        Raises:
            RequestFailed: no usable reply.
            BudgetSpent: the budget is exhausted.
        """
        return self._chat(messages, fields, require_choice, [], set(), _PROBE_ATTEMPTS)

    def edit(self, picture: bytes, prompt: str, **fields: Any) -> bytes:
        """Edit an image as `prompt` describes.

        Args:
            picture: content of a PNG file.
            prompt: the edit, in words.
            fields: further fields of the request, such as size.

        Returns:
            Content of an image file.

        Raises:
            RequestFailed: no usable reply.
            BudgetSpent: the budget is exhausted.
        """
        config = self.config
        limit = Usage(len(prompt.encode("utf-8", "replace")) + TOKENS_A_PICTURE, 4 * TOKENS_A_PICTURE)

        def send() -> Response:
            return self.client.edit(config.model, picture, prompt, config.extra, **fields)

        return self._retry(lambda: self._attempt(send, limit, [], extract_picture))

    # ------------------------------------------------------------ requests

    def _chat(
        self,
        messages: Sequence[Message],
        fields: Mapping[str, Any],
        parse: Callable[[Reply], Any],
        costs: list[float],
        seen_texts: set[str],
        attempts: int | None = None,
    ) -> Any:
        """Send a chat request and parse the reply; omit fields that the server rejects."""
        omitted_here: set[str] = set()
        while True:
            omitted = self._omitted | omitted_here

            def attempt(omitted: set[str] = omitted) -> Any:
                sent = without(fields, omitted)
                if seen_texts and sent.get("temperature") == 0:
                    sent["temperature"] = _RETRY_TEMPERATURE
                return self._attempt(lambda: self._request(messages, sent), estimate(messages, sent), costs, parse)

            try:
                parsed = self._retry(attempt, attempts)
            except RequestFailed as failed:
                name = culprit(failed.kind, failed.body, without(fields, omitted))
                if name is None:
                    raise
                omitted_here.add(name)
                continue
            self._omit(omitted_here)
            return parsed

    def _request(self, messages: Sequence[Message], sent: Mapping[str, Any]) -> Response:
        return self.client.chat(self.config.model, messages, self.config.extra, **sent)

    def _omit(self, names: set[str]) -> None:
        """Omit fields from all later requests; prints each once."""
        with self._lock:
            new = sorted(names - self._omitted)
            self._omitted |= names
        for name in new:
            print(f"{self.config.url}: rejects the field '{name}'; omitted from now on")

    def _retry(self, send: Callable[[], Any], attempts: int | None = None) -> Any:
        """Call `send` until it succeeds, fails permanently, or attempts run out."""
        from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt

        retrying = Retrying(
            stop=stop_after_attempt(min(self.config.attempts, attempts or self.config.attempts)),
            wait=self._pause,
            retry=retry_if_exception(lambda error: isinstance(error, RequestFailed) and error.pause is not None),
            sleep=sleep_using_event(self.stopped),
            reraise=True,
        )
        return retrying(send)

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: the server's delay, or jittered backoff."""
        from tenacity import wait_exponential

        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RequestFailed) and error.pause:
            return error.pause
        backoff = wait_exponential(multiplier=self.config.pause, max=self.config.longest_pause)(state)
        return backoff * (1 - _JITTER * self._jitter.random())

    def _attempt(
        self, send: Callable[[], Response], limit: Usage, costs: list[float], parse: Callable[[Reply], Any]
    ) -> Any:
        """Send one request and parse its reply; appends its cost to `costs`."""
        with self._slots:
            self._reserve()
            try:
                response = self._receive(send, limit, costs)
                parsed = parse(self._read_and_pay(response, limit, costs))
            except (StatusError, TransportError, UnusableReply) as error:
                failed = self._failure(error)
                self._count(failed.kind)
                raise failed from None
        self._count("answered")
        return parsed

    def _reserve(self) -> None:
        """Record a request before it is sent, or raise."""
        if self.stopped.is_set():
            raise RequestFailed("stopped", "the run was stopped", None)
        self.client  # noqa: B018 - raises for a missing key before anything is recorded
        if exceeded := self.ledger.reserve(self.config.budget):
            raise BudgetSpent(
                f"Budget of {self.config.model} is spent ({exceeded}). Answers so far are kept. "
                'Raise "budget" in the file that sets it, then rerun the same command to resume.'
            )

    def _receive(self, send: Callable[[], Response], limit: Usage, costs: list[float]) -> Response:
        """The response to a request.

        A response lost after the request was sent is paid for as well.
        """
        try:
            return send()
        except TransportError as error:
            if error.was_sent:
                self._pay(limit.prompt_tokens or 0, limit.completion_tokens or TOKENS_UNSEEN, costs)
            raise

    def _read_and_pay(self, response: Response, limit: Usage, costs: list[float]) -> Reply:
        """Parse a response and record its tokens.

        Unreported counts are replaced by upper bounds.

        Raises:
            UnusableReply: the response cannot be parsed.
        """
        usage, has_content = Usage(), True
        try:
            usage = (reply := read_reply(response.content, response.is_json)).usage
            has_content = bool(reply.data) or any(any(vars(choice.message).values()) for choice in reply.choices)
        finally:
            read, written = usage.prompt_tokens, usage.completion_tokens
            if written is None or (written == 0 and has_content):
                written = len(response.content) if limit.completion_tokens is None else limit.completion_tokens
            self._pay((limit.prompt_tokens if read is None else read) or 0, written, costs)
        return reply

    def _pay(self, read: int, written: int, costs: list[float]) -> None:
        """Record tokens and their cost."""
        money = (read * self.config.price.read + written * self.config.price.written) / 1e6
        self.ledger.spend(Spending(tokens=read + written, money=money))
        costs.append(money)

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    def _failure(self, error: StatusError | TransportError | UnusableReply) -> RequestFailed:
        """Classify an error as transient or permanent."""
        if isinstance(error, UnusableReply):
            return RequestFailed(error.kind, self.clean(str(error)), None if error.final else _MIN_PAUSE)
        if isinstance(error, TransportError):
            return RequestFailed(error.kind, self.clean(str(error)), None if error.kind == "too large" else 0.0)
        status, delay, message = error.status, retry_after(error.headers), self.clean(error_message(error.body))
        if 300 <= status < 400:
            message = f"redirects to '{self.clean(error.headers.get('location', ''))}', which is not followed"
        message = message or f"status {status} without a message"
        if status in (401, 403) and self._withheld:
            message = f"{message}; {self._withheld}"
        if delay is not None and delay > self.config.longest_pause:
            return RequestFailed(str(status), f"{message}; the server asks to wait {delay:.0f} seconds", None)
        is_permanent = (status not in _TRANSIENT and status < 500) or status == 501
        if is_permanent or (status == 429 and is_out_of_quota(error.body)):
            return RequestFailed(str(status), message, None, error.body)
        return RequestFailed(str(status), message, delay or 0.0, error.body)

    # ------------------------------------------------------------ key and transport

    @property
    def client(self) -> Transport:
        """The transport, created at first use.

        Raises:
            InputError: the server is OpenAI's and there is no key.
        """
        with self._lock:
            if self._client is None:
                config, key = self.config, self._key()
                if not key and config.url.startswith(OPENAI):
                    raise InputError(
                        f"environment variable {config.key_variable}: found no key, expected one for {config.url}; "
                        "set it, or name another server"
                    )
                address = keys.parse_address(config.url)
                if key:
                    keys.announce(self._withheld or f"{config.key_variable} goes to {address.origin}")
                self._client = Transport(config.url, address, "" if self._withheld else key, config.timeout)
            return self._client

    def _key(self) -> str:
        """The key without surrounding whitespace; "" if there is none.

        Raises:
            InputError: the key has characters that cannot be sent.
        """
        key = os.environ.get(self.config.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise InputError(
                f"environment variable {self.config.key_variable}: found characters that cannot be sent, "
                "expected a key of printable ASCII; set it again"
            )
        return key

    def clean(self, text: str) -> str:
        """Server text on one line, shortened and with the key masked."""
        if key := self._key():
            for form in {key, json.dumps(key)[1:-1], urllib.parse.quote(key, safe="")}:
                text = text.replace(form, "***")
        printable = "".join(c if c.isprintable() else " " for c in text[:10_000])
        line = " ".join(printable.split())
        return line if len(line) <= _MAX_SHOWN else line[:_MAX_SHOWN] + "..."

    def models(self) -> list[str]:
        """Names of the server's models.

        Empty if the server does not list them.
        """
        try:
            reply = read_reply((response := self.client.models()).content, response.is_json)
        except (StatusError, TransportError, UnusableReply):
            return []
        return sorted(self.clean(entry["id"]) for entry in reply.data if isinstance(entry.get("id"), str))
