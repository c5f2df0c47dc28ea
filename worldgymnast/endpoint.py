"""An endpoint that speaks OpenAI's API, asked in parallel: retries, a budget, exact counts, no key anywhere.

Any server is talked to (OpenAI, vLLM, SGLang, Ollama, llama.cpp, `transformers serve`). What is temporary is tried
again, with growing pauses or after the time that the server names: status 408, 409, 429 and 5xx, broken connections,
time-outs, replies that are cut off, answers that say nothing. What is not (a wrong key, model or request, no money
left) fails at once. A field that a server refuses is left out from then on. Every attempt is counted under what became
of it, and no reply, whatever is in it, ends in another exception than `RequestFailed`. The loop of
attempts is tenacity's; `transport` says why it is not the client's own.
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
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from worldgymnast import keys
from worldgymnast.completions import (
    NO_CHAT,
    Reply,
    Unusable,
    Usage,
    counted,
    is_out_of_quota,
    picture_in,
    read_reply,
    readable,
    refusal,
    retry_after,
    whole,
)
from worldgymnast.errors import InputError, Paused, in_range
from worldgymnast.ledger import Budget, Ledger, Price, Spent
from worldgymnast.parameters import TOKENS_A_PICTURE, TOKENS_UNSEEN, check_extra, culprit, estimate, without
from worldgymnast.transport import Lost, Received, Refused, Transport

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["NO_CHAT", "Endpoint", "EndpointConfig", "RequestFailed", "Unusable", "counted"]

Read = TypeVar("Read")
Message = Mapping[str, Any]
OPENAI = "https://api.openai.com/v1"
_TEMPORARY = (408, 409, 429)
_FEW = 3
"""Attempts where somebody waits to hear whether there is a server at all."""
_AT_ONCE = 1e-3
"""Seconds to wait where nothing is overloaded."""
_WARM = 0.7
"""Temperature of the next try after an answer at temperature 0 that says nothing, which would only be repeated."""
_JITTER = 0.25
"""Share of a pause that chance may take away, so that requests refused together do not return together."""
_SHOWN = 200


@dataclass(frozen=True)
class EndpointConfig:
    """Where to ask, and how patiently.

    Attributes:
        model: its name at the server.
        url: the server's address, up to and with /v1.
        key_variable: name of the environment variable that holds the key; servers of one's own mostly need none.
        concurrency: requests under way at a time.
        timeout: seconds until a request counts as lost, its whole reply included.
        attempts: how often one request is sent at most.
        pause: seconds before the second attempt; doubled before every other, and up to a quarter shorter by chance.
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
        in_range(self, 1, "concurrency", "attempts", high=1000)
        in_range(self, 1e-3, "timeout", high=86400)
        in_range(self, 0, "pause", "longest_pause", high=86400)
        keys.check_variable(self.key_variable)
        keys.address(self.url)
        if not self.model:
            raise InputError("field 'model': found none, expected the model's name at the server")
        if not self.model.isprintable():
            raise InputError("field 'model': found a name with characters that cannot be shown, expected the model's "
                             "name at the server")  # fmt: skip
        if self.budget.money is not None and not self.price.read + self.price.written:
            raise InputError("field 'budget.money': found a limit and no price, so that nothing would ever count; "
                             "expected price.read and price.written, for a million tokens")  # fmt: skip
        check_extra(self.extra)


class BudgetSpent(Paused):
    """The budget has run out; what was answered before is in the ledger."""


class RequestFailed(Exception):
    """A request that brought nothing, however often it was sent.

    Attributes:
        kind: what it is counted under.
        pause: seconds after which it may be sent again, 0 for as long as the client thinks, None for never.
        body: what a refusal said, in full.
    """

    def __init__(self, kind: str, message: str, pause: float | None, body: str = ""):
        super().__init__(message)
        self.kind, self.pause, self.body = kind, pause, body


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

    Raises:
        InputError: the config would send a key where it may not go, see `worldgymnast.keys`.
    """

    def __init__(self, config: EndpointConfig, ledger: Ledger | None = None):
        self.config, self.ledger = config, ledger or Ledger()
        self.counts: Counter[str] = Counter()
        self.stopped = threading.Event()
        self._withheld = keys.withheld(config.key_variable, config.url)
        self._lock = threading.Lock()
        self._busy = threading.Semaphore(config.concurrency)
        self._client: Transport | None = None
        self._left_out: set[str] = set()
        self._chance = random.Random()

    def stop(self) -> None:
        """Sends nothing more, and waits for nothing more."""
        self.stopped.set()

    def ask(
        self, messages: Sequence[Message], read: Callable[[Any], Read], wanted: int = 1, **fields: Any
    ) -> Asked[Read]:
        """Asks until `wanted` choices could be read, or a request was sent `attempts` times and brought none.

        Args:
            messages: in OpenAI's form.
            read: what a choice of the reply says, see `completions.Choice`; raises `Unusable` where it says nothing.
            wanted: choices; asked for in one request, and in more where the server gives fewer.
            fields: of the request, such as temperature.

        Raises:
            BudgetSpent: nothing more may be sent.
        """
        answers: list[Read] = []
        bills: list[float] = []
        while (missing := wanted - len(answers)) > 0:
            many = {"n": missing} if missing > 1 and "n" not in self._left_out else {}
            heard: set[str] = set()
            read_new = functools.partial(readable, read=read, heard=heard)
            try:
                reply = self._chat(messages, {**fields, **many}, read_new, bills, heard)
            except RequestFailed as failed:
                return Asked(answers, sum(bills), str(failed))
            answers += reply[:missing]
        return Asked(answers, sum(bills))

    def reply(self, messages: Sequence[Message], **fields: Any) -> Reply:
        """One whole reply with at least one choice; a server that does not answer is not waited for long.

        Raises:
            RequestFailed: there is none to be had.
            BudgetSpent: nothing more may be sent.
        """
        return self._chat(messages, fields, whole, [], set(), _FEW)

    def edited(self, picture: bytes, prompt: str, **fields: Any) -> bytes:
        """A picture (the content of a PNG file) changed as `prompt` says; the content of a picture's file.

        Raises:
            RequestFailed: there is none to be had.
            BudgetSpent: nothing more may be sent.
        """
        config = self.config
        most = Usage(len(prompt.encode("utf-8", "replace")) + TOKENS_A_PICTURE, 4 * TOKENS_A_PICTURE)

        def send() -> Received:
            return self.client.edit(config.model, picture, prompt, config.extra, **fields)

        return self._patiently(lambda: self._send(send, most, [], picture_in))

    # ------------------------------------------------------------ a question

    def _chat(
        self,
        messages: Sequence[Message],
        fields: Mapping[str, Any],
        read: Callable[[Reply], Any],
        bills: list[float],
        heard: set[str],
        most: int | None = None,
    ) -> Any:
        """What `read` makes of a reply; fields that the server refuses are left out, for good where that helps."""
        left_out: set[str] = set()
        while True:
            out = self._left_out | left_out

            def attempt(out: set[str] = out) -> Any:
                sent = without(fields, out)
                if heard and sent.get("temperature") == 0:
                    sent["temperature"] = _WARM
                return self._send(lambda: self._asked(messages, sent), estimate(messages, sent), bills, read)

            try:
                found = self._patiently(attempt, most)
            except RequestFailed as failed:
                name = culprit(failed.kind, failed.body, without(fields, out))
                if name is None:
                    raise
                left_out.add(name)
                continue
            self._remember(left_out)
            return found

    def _asked(self, messages: Sequence[Message], sent: Mapping[str, Any]) -> Received:
        return self.client.chat(self.config.model, messages, self.config.extra, **sent)

    def _remember(self, left_out: set[str]) -> None:
        """Leaves out, from now on, fields without which a request was answered; says so once."""
        with self._lock:
            new = sorted(left_out - self._left_out)
            self._left_out |= left_out
        for name in new:
            print(f"{self.config.url}: refuses the field '{name}'; asked without it from now on")

    def _patiently(self, send: Callable[[], Any], most: int | None = None) -> Any:
        """What `send` returns, after as many attempts as it takes, `most` of them where that is said."""
        from tenacity import Retrying, retry_if_exception, sleep_using_event, stop_after_attempt

        retrying = Retrying(
            stop=stop_after_attempt(min(self.config.attempts, most or self.config.attempts)),
            wait=self._pause,
            retry=retry_if_exception(lambda error: isinstance(error, RequestFailed) and error.pause is not None),
            sleep=sleep_using_event(self.stopped),
            reraise=True,
        )
        return retrying(send)

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: what the server asks for, or twice as long each time."""
        from tenacity import wait_exponential

        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, RequestFailed) and error.pause:
            return error.pause
        doubled = wait_exponential(multiplier=self.config.pause, max=self.config.longest_pause)(state)
        return doubled * (1 - _JITTER * self._chance.random())

    def _send(self, send: Callable[[], Received], most: Usage, bills: list[float], read: Callable[[Reply], Any]) -> Any:
        """One request: what `read` makes of the reply; what it costs is added to `bills`."""
        with self._busy:
            self._reserve()
            try:
                received = self._served(send, most, bills)
                found = read(self._paid(received, most, bills))
            except (Refused, Lost, Unusable) as error:
                failed = self._failed(error)
                self._count(failed.kind)
                raise failed from None
        self._count("answered")
        return found

    def _reserve(self) -> None:
        """Counts a request that is about to be sent, or refuses it."""
        if self.stopped.is_set():
            raise RequestFailed("stopped", "the run was stopped", None)
        self.client  # noqa: B018 - a key that is missing is told before anything is counted
        if passed := self.ledger.reserve(self.config.budget):
            raise BudgetSpent(f"the budget of {self.config.model} is spent: found {passed}; raise \"budget\" in "
                              "the file that names it and run the same command again to go on")  # fmt: skip

    def _served(self, send: Callable[[], Received], most: Usage, bills: list[float]) -> Received:
        """The reply to a request; one that is lost once the request is at the server is paid, too."""
        try:
            return send()
        except Lost as error:
            if error.was_sent:
                self._pay(most.prompt_tokens or 0, most.completion_tokens or TOKENS_UNSEEN, bills)
            raise

    def _paid(self, received: Received, most: Usage, bills: list[float]) -> Reply:
        """The reply in what was received, its tokens counted; those that it does not tell, at what it may have cost.

        Raises:
            Unusable: it is none.
        """
        told, says_something = Usage(), True
        try:
            told = (reply := read_reply(received.content, received.is_json)).usage
            says_something = bool(reply.data) or any(any(vars(one.message).values()) for one in reply.choices)
        finally:
            read, written = told.prompt_tokens, told.completion_tokens
            if written is None or (written == 0 and says_something):
                written = len(received.content) if most.completion_tokens is None else most.completion_tokens
            self._pay((most.prompt_tokens if read is None else read) or 0, written, bills)
        return reply

    def _pay(self, read: int, written: int, bills: list[float]) -> None:
        """Counts tokens and what they cost."""
        money = (read * self.config.price.read + written * self.config.price.written) / 1e6
        self.ledger.spend(Spent(tokens=read + written, money=money))
        bills.append(money)

    def _count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    def _failed(self, error: Refused | Lost | Unusable) -> RequestFailed:
        """What went wrong, and after how many seconds it may be tried again."""
        if isinstance(error, Unusable):
            return RequestFailed(error.kind, self.clean(str(error)), None if error.final else _AT_ONCE)
        if isinstance(error, Lost):
            return RequestFailed(error.kind, self.clean(str(error)), None if error.kind == "too large" else 0.0)
        status, after, message = error.status, retry_after(error.headers), self.clean(refusal(error.body))
        if 300 <= status < 400:
            message = f"sends on to '{self.clean(error.headers.get('location', ''))}', which is not followed"
        message = message or f"status {status} without a word"
        if status in (401, 403) and self._withheld:
            message = f"{message}; {self._withheld}"
        if after is not None and after > self.config.longest_pause:
            return RequestFailed(str(status), f"{message}; the server asks to wait {after:.0f} seconds", None)
        is_lasting = (status not in _TEMPORARY and status < 500) or status == 501
        if is_lasting or (status == 429 and is_out_of_quota(error.body)):
            return RequestFailed(str(status), message, None, error.body)
        return RequestFailed(str(status), message, after or 0.0, error.body)

    # ------------------------------------------------------------ key and client

    @property
    def client(self) -> Transport:
        """What sends requests; made at first use.

        Raises:
            InputError: OpenAI itself is asked and there is no key.
        """
        with self._lock:
            if self._client is None:
                config, key = self.config, self._key()
                if not key and config.url.startswith(OPENAI):
                    raise InputError(f"environment variable {config.key_variable}: found no key, expected one for "
                                     f"{config.url}; set it, or name another server")  # fmt: skip
                to = keys.address(config.url)
                if key:
                    keys.announce(self._withheld or f"{config.key_variable} goes to {to.origin}")
                self._client = Transport(config.url, to, "" if self._withheld else key, config.timeout)
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

    def clean(self, said: str) -> str:
        """What a server says, on one line, at most 200 characters, the key blotted out."""
        if key := self._key():
            for form in {key, json.dumps(key)[1:-1], urllib.parse.quote(key, safe="")}:
                said = said.replace(form, "***")
        shown = "".join(c if c.isprintable() else " " for c in said[:10_000])
        text = " ".join(shown.split())
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."

    def models(self) -> list[str]:
        """Names of the server's models; none where it does not tell."""
        try:
            reply = read_reply((received := self.client.models()).content, received.is_json)
        except (Refused, Lost, Unusable):
            return []
        return sorted(self.clean(one["id"]) for one in reply.data if isinstance(one.get("id"), str))
