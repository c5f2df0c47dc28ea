"""Request fields of chat endpoints: refused fields, their replacements, and an upper bound of costs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from worldgymnast.completions import Usage, error_message
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import parse_json

TOKENS_A_PICTURE = 2000
"""Upper bound of the tokens of an image, for models with token prices."""
TOKENS_UNSEEN = 300
"""Assumed tokens of a lost answer without a limit."""
_OPTIONAL = ("n", "response_format", "logprobs")
"""Fields that some servers refuse, in the order in which they are suspected if an error names none."""
_REPLACEMENTS = {"max_tokens": "max_completion_tokens"}
"""Names of fields on servers that refuse the usual name."""
_RESERVED = ("model", "messages", "stream", "n", "image", "prompt")
"""Fields that the request sets itself."""
_REFUSING = ("400", "404", "415", "422", "501")


def check_extra(extra: Mapping[str, Any]) -> None:
    """Check additional fields of a request.

    Raises:
        FieldError: a field is reserved, or cannot be sent as JSON.
    """
    if reserved := [name for name in extra if name in _RESERVED]:
        raise FieldError("extra", f"found '{reserved[0]}', which the request sets itself. Remove it")
    try:
        json.dumps(dict(extra), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FieldError(
            "extra",
            f"found values that cannot be sent as JSON ({error}), expected fields of a request, such as "
            '{"reasoning_effort": "low"}',
        ) from error


def without(fields: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """Fields of a request without refused ones, which are renamed where the server has another name.

    >>> without({"max_tokens": 300, "n": 5}, {"max_tokens", "n"})
    {'max_completion_tokens': 300}
    """
    sent = {name: value for name, value in fields.items() if name not in left_out}
    for name, other in _REPLACEMENTS.items():
        if name in fields and name in left_out and other not in left_out:
            sent[other] = fields[name]
    if "logprobs" in left_out:
        sent.pop("top_logprobs", None)
    return sent


def culprit(kind: str, body: str, sent: Mapping[str, Any]) -> str | None:
    """Field that probably caused a refused request; None if there is none.

    Args:
        kind: HTTP status as text.
        body: body of the error.
        sent: fields of the request.
    """
    if kind not in _REFUSING:
        return None
    if named := refused_parameter(body, [*sent]):
        return named
    if kind == "404":
        return None
    return next((name for name in _OPTIONAL if name in sent), None)


def estimate(messages: Sequence[Mapping[str, Any]], sent: Mapping[str, Any]) -> Usage:
    """Upper bound of a question's tokens, for replies without token counts.

    The answer's tokens are None if no limit was sent.
    """
    pictures, characters = 0, 0
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            pictures += part.get("type") == "image_url"
            characters += len(str(part.get("text", "")).encode("utf-8", "replace"))
    limit = sent.get("max_tokens") or sent.get("max_completion_tokens")
    answered = int(limit) * int(sent.get("n", 1)) if limit else None
    return Usage(characters + TOKENS_A_PICTURE * pictures, answered)


def refused_parameter(body: str, sent: Sequence[str]) -> str | None:
    """Field of `sent` that an error names; None if it names none.

    >>> refused_parameter('{"error": {"message": "n must be 1", "param": "n"}}', ["n", "temperature"])
    'n'
    """
    try:
        reply = parse_json(body, "reply")
    except InputError:
        reply = None
    named: set[str] = set()
    if isinstance(reply, dict):
        inner = reply.get("error")
        named |= {str(where.get("param")) for where in (reply, inner) if isinstance(where, dict)}
        detail = reply.get("detail")
        for one in detail if isinstance(detail, list) else []:  # FastAPI's format
            if isinstance(one, dict) and isinstance(one.get("loc"), list):
                named |= {str(part) for part in one["loc"]}
    if hits := [name for name in sent if name in named]:
        return hits[0]
    return next((name for name in sent if _names(error_message(body), name)), None)


def _names(text: str, name: str) -> bool:
    """Whether a text names a field.

    A single letter must be marked as a name.
    """
    text = text[:4000]
    if len(name) > 1:
        return re.search(rf"(?<![\w]){name}(?![\w])", text) is not None
    marked = rf"['\"`]{name}['\"`]|\b(?:parameter|field|argument|value of|option) {name}\b"
    compared = rf"(?<![\w']){name}\s*(?:[=<>:]|!=|must|should|is not|isn't|> ?1)"
    return re.search(f"{marked}|{compared}", text) is not None
