"""Replies of servers that speak OpenAI's API, from bytes to values that can be relied on. Pure.

Whatever is not as the API says is missing in what comes out: a choice without a message is no choice, a count of tokens
that is negative, fractional or beyond every model's reach is no count, log-probabilities are whole or absent.
"""

from __future__ import annotations

import base64
import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from worldgymnast.errors import InputError
from worldgymnast.files import parse_json

Read = TypeVar("Read")
NO_CHAT = "no chat completion"
"""What a reply is counted under that is none: a web page, say, where the URL is wrong."""
_MOST_TOKENS = 10**8
"""More than any model reads or writes in a request."""
_MOST_CHOICES = 1024
_DEEPEST = 16


class Unusable(ValueError):
    """An answer that says nothing, and may say something when it is asked for again.

    Attributes:
        kind: what it is counted under.
        final: whether there is no use in asking again, since the server answers always alike.
    """

    def __init__(self, kind: str, message: str = "", final: bool = False):
        super().__init__(message or kind)
        self.kind, self.final = kind, final


# ---------------------------------------------------------------- what a reply consists of


@dataclass(frozen=True)
class Alternative:
    """A token that could have been written.

    Attributes:
        token: as it is written.
        logprob: its log-probability, at most 0.
    """

    token: str
    logprob: float


@dataclass(frozen=True)
class Token(Alternative):
    """A token that was written, and the likeliest in its place."""

    top_logprobs: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Logprobs:
    """The tokens of an answer, in order."""

    content: tuple[Token, ...]


@dataclass(frozen=True)
class Message:
    """What was answered.

    Attributes:
        content: a string, mostly; some servers send a list of parts, or None.
        reasoning_content: what was thought before, where the server keeps it apart; also called reasoning or thinking.
        refusal: what the model says in the place of an answer.
        tool_calls: what the model wants to be called in its place; function_call is the older form.
    """

    content: Any
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


@dataclass(frozen=True)
class Choice:
    """One answer of a reply.

    Attributes:
        message: its words.
        finish_reason: why it ends: "stop", "length", ...; None where the server does not say, JSON with some servers.
        logprobs: of its tokens; None where there are none, or not of all.
    """

    message: Message
    finish_reason: Any = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of a request, each None where the server does not tell a number that can be one."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """A chat completion, or a reply with pictures.

    Attributes:
        choices: those that have a message.
        usage: tokens.
        data: pictures, as JSON.
        error: what the server says went wrong, beside status 200.
        is_chat: whether it has the form of a chat completion.
    """

    choices: tuple[Choice, ...] = ()
    usage: Usage = field(default_factory=Usage)
    data: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    is_chat: bool = False


# ---------------------------------------------------------------- from bytes


def read_reply(content: bytes, is_json: bool) -> Reply:
    """The reply in the bytes of one.

    Args:
        content: the bytes.
        is_json: whether the server calls them JSON.

    Raises:
        Unusable: it is no JSON.

    >>> reply = read_reply(b'{"choices": [{"message": {"content": "1"}}, null], "usage": {"prompt_tokens": -5}}', True)
    >>> [choice.message.content for choice in reply.choices], reply.usage.prompt_tokens
    (['1'], None)
    """
    try:
        found = parse_json(content, "reply", endless=True)
    except InputError:
        if is_json:
            raise Unusable("cut off", "a reply that is no JSON") from None
        raise Unusable(NO_CHAT, "a reply that is no chat completion; is the URL right?") from None
    if not isinstance(found, dict):
        return Reply()
    choices, data = found.get("choices"), found.get("data")
    listed = choices[:_MOST_CHOICES] if isinstance(choices, list) else []
    return Reply(
        tuple(choice for raw in listed if (choice := _choice(raw)) is not None),
        _usage(found.get("usage")),
        tuple(one for one in data[:_MOST_CHOICES] if isinstance(one, dict)) if isinstance(data, list) else (),
        _error(found),
        "choices" in found and (choices is None or isinstance(choices, list)),
    )


def _choice(raw: Any) -> Choice | None:
    message = raw.get("message") if isinstance(raw, dict) else None
    if not isinstance(message, dict):
        return None
    parts = {part.name: _scrubbed(message.get(part.name)) for part in fields(Message)}
    return Choice(Message(**parts), _scrubbed(raw.get("finish_reason")), _logprobs(raw.get("logprobs")))


def _logprobs(raw: Any) -> Logprobs | None:
    content = raw.get("content") if isinstance(raw, dict) else None
    if not isinstance(content, list) or not content:
        return None
    tokens = [_token(one) for one in content]
    return Logprobs(tuple(token for token in tokens if token)) if all(tokens) else None


def _token(raw: Any) -> Token | None:
    own = _alternative(raw)
    if own is None:
        return None
    others = raw.get("top_logprobs")
    likely = [_alternative(other) for other in others] if isinstance(others, list) else []
    return Token(own.token, own.logprob, tuple(other for other in likely if other is not None))


def _alternative(raw: Any) -> Alternative | None:
    token, logprob = (raw.get("token"), raw.get("logprob")) if isinstance(raw, dict) else (None, None)
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    if not logprob <= 1e-3:  # NaN, or no probability; a little above 0 is a rounding error
        return None
    return Alternative(_scrubbed(token), float(max(min(logprob, 0), -1e9)))


def _usage(raw: Any) -> Usage:
    """Tokens that are paid for: thoughts that a server counts beside those of the answer are written ones."""
    found = raw if isinstance(raw, dict) else {}
    read, written = (
        first if (first := _tokens(found.get(f"{chat}_tokens"))) is not None else _tokens(found.get(f"{images}_tokens"))
        for chat, images in (("prompt", "input"), ("completion", "output"))
    )
    total = _tokens(found.get("total_tokens"))
    if read and total is not None and total > read + (written or 0):
        written = total - read
    return Usage(read or None, written)  # no question has no tokens


def _tokens(value: Any) -> int | None:
    """A count of tokens; None where it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_TOKENS:
        return None
    return math.ceil(value)


def counted(usage: Any, name: str) -> int:
    """A number of tokens in a reply; 0 where the server does not tell."""
    return getattr(usage, name, None) or 0


def _error(found: Mapping[str, Any]) -> str | None:
    """What a reply says went wrong, in any of the forms that servers have for it."""
    for name in ("error", "message", "detail"):
        inner = found.get(name)
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail") or inner
        if inner:
            return inner if isinstance(inner, str) else _json(inner)
    return None


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""


def _scrubbed(value: Any, depth: int = 0) -> Any:
    """JSON without halves of surrogate pairs, which no file takes; what is nested too deeply is None."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth > _DEEPEST:
        return None
    if isinstance(value, list):
        return [_scrubbed(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {_scrubbed(name): _scrubbed(one, depth + 1) for name, one in value.items()}
    return value


def _choices(reply: Reply) -> Sequence[Choice]:
    """The choices of a reply that have a message.

    Raises:
        Unusable: it is no chat completion.
    """
    if not reply.is_chat:
        raise Unusable(NO_CHAT, f"a reply that is no chat completion: {reply.error or 'is the URL right?'}")
    return reply.choices


def whole(reply: Reply) -> Reply:
    """A reply that has a choice; raises `Unusable` for any other."""
    if not _choices(reply):
        raise Unusable(NO_CHAT, "a reply that is no chat completion: it has no choices", final=True)
    return reply


def readable(reply: Reply, read: Callable[[Any], Read], heard: set[str]) -> list[Read]:
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
            text = str(choice.message.content)
            last = Unusable(error.kind, str(error), final=bool(text) and text in heard)
            heard.add(text)
    if not found:
        raise last
    return found


def picture_in(reply: Reply) -> bytes:
    """The picture in a reply to an edit.

    Raises:
        Unusable: there is none.
    """
    for found in reply.data:
        if isinstance(content := found.get("b64_json"), str) and content:
            try:
                bare = "".join(content.split()).rpartition(";base64,")[2]  # broken into lines, or as a data URL
                return base64.b64decode(bare, validate=True)
            except ValueError:
                raise Unusable("cut off", "a picture that is cut off") from None
        if found.get("url"):
            raise Unusable("no picture", "a picture's address in the place of the picture; add "
                           '"extra": {"response_format": "b64_json"}', final=True)  # fmt: skip
    raise Unusable("no picture", "a reply without a picture; can the model edit pictures?", final=True)


# ---------------------------------------------------------------- refusals


def refusal(body: str) -> str:
    """What the body of a reply that is an error says: its message, or all of it."""
    try:
        found = parse_json(body, "reply")
    except InputError:
        return body
    return (_error(found) if isinstance(found, dict) else None) or body


_QUOTA = re.compile(
    r"insufficient_quota|billing_hard_limit|exceeded your current quota|insufficient.{0,20}(balance|credit)",
    re.IGNORECASE,
)


def is_out_of_quota(body: str) -> bool:
    """Whether a refusal says that there is no money left, so that waiting does not help."""
    return _QUOTA.search(body) is not None


# ---------------------------------------------------------------- how long to wait


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a server asks to wait, in any of the ways it may say so; None where it says nothing readable."""
    for name, share in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"-?\d{1,18}(\.\d{0,18})?", text):
            return max(0.0, float(text) / share)
        if (seconds := _until(text, time.time() if now is None else now)) is not None:
            return seconds
    return None


def _until(text: str, now: float) -> float | None:
    """Seconds until a date as HTTP writes it."""
    try:
        date = email.utils.parsedate_tz(text[:100])
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - now)
    except (ValueError, OverflowError, TypeError, IndexError):  # the year 99999, day 0, ...
        return None
