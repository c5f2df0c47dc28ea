"""Parse and validate responses of OpenAI-compatible servers. Pure functions.

Invalid parts are dropped rather than passed on:

- a choice without a message is skipped;
- a token count that is negative, fractional or implausibly large becomes None or is rounded up;
- log-probabilities are complete or None.
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

Parsed = TypeVar("Parsed")
NO_CHAT = "no chat completion"
"""Failure kind of a response that is not a chat completion, such as a web page at a wrong URL."""
_MAX_TOKENS = 10**8
"""Upper bound on a plausible token count per request."""
_MAX_CHOICES = 1024
_MAX_DEPTH = 16


class UnusableReply(ValueError):
    """A response without usable content.

    Attributes:
        kind: failure kind under which the attempt is counted.
        final: whether a retry is pointless because the server would repeat the same response.
    """

    def __init__(self, kind: str, message: str = "", final: bool = False):
        super().__init__(message or kind)
        self.kind, self.final = kind, final


# ---------------------------------------------------------------- the parts of a reply


@dataclass(frozen=True)
class Alternative:
    """A candidate token.

    Attributes:
        token: its text.
        logprob: its log-probability, at most 0.
    """

    token: str
    logprob: float


@dataclass(frozen=True)
class Token(Alternative):
    """A generated token and the most likely alternatives at its position."""

    top_logprobs: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Logprobs:
    """The tokens of an answer, in order."""

    content: tuple[Token, ...]


@dataclass(frozen=True)
class Message:
    """The message of a choice.

    Attributes:
        content: usually a string; some servers send a list of parts, or None.
        reasoning_content: reasoning that the server separates from the answer; also named reasoning or thinking.
        refusal: refusal text given instead of an answer.
        tool_calls: tool calls made instead of an answer; function_call is the older form.
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
        message: the message.
        finish_reason: "stop", "length", ...; a JSON object on some servers, None if not reported.
        logprobs: log-probabilities of all tokens, or None.
    """

    message: Message
    finish_reason: Any = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Usage:
    """Token counts of a request.

    None where the server reports no valid number.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """A parsed chat completion or image response.

    Attributes:
        choices: the choices that have a message.
        usage: token counts.
        data: images, as JSON objects.
        error: error message sent with status 200, if any.
        is_chat: whether the response has the form of a chat completion.
    """

    choices: tuple[Choice, ...] = ()
    usage: Usage = field(default_factory=Usage)
    data: tuple[Mapping[str, Any], ...] = ()
    error: str | None = None
    is_chat: bool = False


# ---------------------------------------------------------------- from bytes


def read_reply(content: bytes, is_json: bool) -> Reply:
    """Parse the body of a response.

    Args:
        content: the raw bytes.
        is_json: whether the content type is JSON.

    Raises:
        UnusableReply: the body is not JSON.

    >>> reply = read_reply(b'{"choices": [{"message": {"content": "1"}}, null], "usage": {"prompt_tokens": -5}}', True)
    >>> [choice.message.content for choice in reply.choices], reply.usage.prompt_tokens
    (['1'], None)
    """
    try:
        body = parse_json(content, "reply", endless=True)
    except InputError:
        if is_json:
            raise UnusableReply("cut off", "truncated reply (not valid JSON)") from None
        raise UnusableReply(NO_CHAT, "the reply is not a chat completion; check the URL") from None
    if not isinstance(body, dict):
        return Reply()
    choices, data = body.get("choices"), body.get("data")
    raw_choices = choices[:_MAX_CHOICES] if isinstance(choices, list) else []
    raw_images = data[:_MAX_CHOICES] if isinstance(data, list) else []
    return Reply(
        tuple(choice for raw in raw_choices if (choice := _choice(raw)) is not None),
        _usage(body.get("usage")),
        tuple(image for image in raw_images if isinstance(image, dict)),
        _error(body),
        "choices" in body and (choices is None or isinstance(choices, list)),
    )


def _choice(raw: Any) -> Choice | None:
    message = raw.get("message") if isinstance(raw, dict) else None
    if not isinstance(message, dict):
        return None
    parts = {part.name: _sanitize(message.get(part.name)) for part in fields(Message)}
    return Choice(Message(**parts), _sanitize(raw.get("finish_reason")), _logprobs(raw.get("logprobs")))


def _logprobs(raw: Any) -> Logprobs | None:
    content = raw.get("content") if isinstance(raw, dict) else None
    if not isinstance(content, list) or not content:
        return None
    tokens = [_token(item) for item in content]
    return Logprobs(tuple(token for token in tokens if token)) if all(tokens) else None


def _token(raw: Any) -> Token | None:
    generated = _alternative(raw)
    if generated is None:
        return None
    listed = raw.get("top_logprobs")
    alternatives = [_alternative(item) for item in listed] if isinstance(listed, list) else []
    return Token(generated.token, generated.logprob, tuple(item for item in alternatives if item is not None))


def _alternative(raw: Any) -> Alternative | None:
    token, logprob = (raw.get("token"), raw.get("logprob")) if isinstance(raw, dict) else (None, None)
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    if not logprob <= 1e-3:  # NaN or not a probability; values slightly above 0 are rounding errors
        return None
    return Alternative(_sanitize(token), float(max(min(logprob, 0), -1e9)))


def _usage(raw: Any) -> Usage:
    """Billed tokens; reasoning tokens counted apart from the answer are completion tokens."""
    body = raw if isinstance(raw, dict) else {}
    prompt = _first_count(body, "prompt_tokens", "input_tokens")
    completion = _first_count(body, "completion_tokens", "output_tokens")
    total = _tokens(body.get("total_tokens"))
    if prompt and total is not None and total > prompt + (completion or 0):
        completion = total - prompt
    return Usage(prompt or None, completion)  # a prompt of 0 tokens is not possible


def _first_count(body: Mapping[str, Any], *names: str) -> int | None:
    counts = (_tokens(body.get(name)) for name in names)
    return next((count for count in counts if count is not None), None)


def _tokens(value: Any) -> int | None:
    """A token count, or None if the value is invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TOKENS:
        return None
    return math.ceil(value)


def token_count(usage: Any, name: str) -> int:
    """A token count of a reply; 0 if not reported."""
    return getattr(usage, name, None) or 0


def _error(body: Mapping[str, Any]) -> str | None:
    """The error message of a response, in any server's format."""
    for name in ("error", "message", "detail"):
        value = body.get(name)
        if isinstance(value, dict):
            value = value.get("message") or value.get("detail") or value
        if value:
            return value if isinstance(value, str) else _json(value)
    return None


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""


def _sanitize(value: Any, depth: int = 0) -> Any:
    """Replace lone surrogates, which cannot be written to a file.

    None beyond the maximum depth.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, list):
        return [_sanitize(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_sanitize(name): _sanitize(item, depth + 1) for name, item in value.items()}
    return value


def _choices(reply: Reply) -> Sequence[Choice]:
    """The choices of a reply that have a message.

    Raises:
        UnusableReply: the reply is not a chat completion.
    """
    if not reply.is_chat:
        raise UnusableReply(NO_CHAT, f"the reply is not a chat completion: {reply.error or 'check the URL'}")
    return reply.choices


def require_choice(reply: Reply) -> Reply:
    """The reply itself; raises `UnusableReply` if it has no choice."""
    if not _choices(reply):
        raise UnusableReply(NO_CHAT, "the reply is not a chat completion: it has no choices", final=True)
    return reply


def parse_choices(reply: Reply, parse: Callable[[Any], Parsed], seen_texts: set[str]) -> list[Parsed]:
    """Parse the choices of a reply.

    UnusableReply ones are skipped if another is usable.

    Args:
        reply: the reply.
        parse: turns a `Choice` into a value, or raises `UnusableReply`.
        seen_texts: texts of unusable choices of earlier attempts; extended here.

    Raises:
        UnusableReply: no choice is usable. Final if the text is the same as in an earlier attempt.
    """
    parsed: list[Parsed] = []
    last_error = UnusableReply("no choices", "the reply has no choices")
    for choice in _choices(reply):
        try:
            parsed.append(parse(choice))
        except UnusableReply as error:
            text = str(choice.message.content)
            last_error = UnusableReply(error.kind, str(error), final=bool(text) and text in seen_texts)
            seen_texts.add(text)
    if not parsed:
        raise last_error
    return parsed


def extract_picture(reply: Reply) -> bytes:
    """The decoded image of a reply to an image edit.

    Raises:
        UnusableReply: the reply has no image.
    """
    for image in reply.data:
        if isinstance(content := image.get("b64_json"), str) and content:
            try:
                payload = "".join(content.split()).rpartition(";base64,")[2]  # line breaks, or a data URL
                return base64.b64decode(payload, validate=True)
            except ValueError:
                raise UnusableReply("cut off", "truncated picture") from None
        if image.get("url"):
            fix = 'add "extra": {"response_format": "b64_json"}'
            raise UnusableReply("no picture", f"the reply has a link instead of a picture; {fix}", final=True)
    raise UnusableReply("no picture", "the reply has no picture; check that the model can edit pictures", final=True)


# ---------------------------------------------------------------- error responses


def error_message(body: str) -> str:
    """The message in an error response, or the whole body.

    >>> error_message('{"error": {"message": "invalid model"}}')
    'invalid model'
    """
    try:
        parsed = parse_json(body, "reply")
    except InputError:
        return body
    return (_error(parsed) if isinstance(parsed, dict) else None) or body


_QUOTA = re.compile(
    r"insufficient_quota|billing_hard_limit|exceeded your current quota|insufficient.{0,20}(balance|credit)",
    re.IGNORECASE,
)


def is_out_of_quota(body: str) -> bool:
    """Whether an error response reports an exhausted quota, which retries cannot fix."""
    return _QUOTA.search(body) is not None


# ---------------------------------------------------------------- retry delay


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait before a retry, from the response headers.

    None if absent or invalid.

    >>> retry_after({"retry-after-ms": "1500"})
    1.5
    """
    for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"-?\d{1,18}(\.\d{0,18})?", text):
            return max(0.0, float(text) / per_second)
        if (seconds := _seconds_until(text, time.time() if now is None else now)) is not None:
            return seconds
    return None


def _seconds_until(text: str, now: float) -> float | None:
    """Seconds until an HTTP date."""
    try:
        date = email.utils.parsedate_tz(text[:100])
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - now)
    except (ValueError, OverflowError, TypeError, IndexError):  # the year 99999, day 0, ...
        return None
