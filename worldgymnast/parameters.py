"""Fields of a request: which of them a server refuses, what it takes instead, and what a question may cost. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from worldgymnast.completions import Usage, refusal
from worldgymnast.errors import FieldError, InputError
from worldgymnast.files import parse_json

TOKENS_A_PICTURE = 2000
"""At most, of those models whose prices are counted in them."""
TOKENS_UNSEEN = 300
"""Of an answer that was lost, where its length has no limit."""
_OPTIONAL = ("n", "response_format", "logprobs")
"""Fields that not every server takes, in the order in which they are suspected where a refusal names none."""
_INSTEAD = {"max_tokens": "max_completion_tokens"}
"""What a field is called at servers that refuse it."""
_TAKEN = ("model", "messages", "stream", "n", "image", "prompt")
"""Fields that are no further ones."""
_REFUSING = ("400", "404", "415", "422", "501")


def check_extra(extra: Mapping[str, Any]) -> None:
    """Raises where further fields of a request are not such."""
    if taken := [name for name in extra if name in _TAKEN]:
        raise FieldError("extra", f"found '{taken[0]}', which the request itself fills in; leave it out")
    try:
        json.dumps(dict(extra), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FieldError("extra", f"found what cannot be sent as JSON ({error}), expected fields of a request, "
                         'such as {"reasoning_effort": "low"}') from error  # fmt: skip


def without(fields: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    """The fields of a request without those that the server refuses, or under the names that it has for them.

    >>> without({"max_tokens": 300, "n": 5}, {"max_tokens", "n"})
    {'max_completion_tokens': 300}
    """
    sent = {name: value for name, value in fields.items() if name not in left_out}
    for name, other in _INSTEAD.items():
        if name in fields and name in left_out and other not in left_out:
            sent[other] = fields[name]
    if "logprobs" in left_out:
        sent.pop("top_logprobs", None)
    return sent


def culprit(kind: str, body: str, sent: Mapping[str, Any]) -> str | None:
    """The field without which a refused request may be answered; None where it is none of them.

    Args:
        kind: the status, as a word.
        body: of the refusal.
        sent: the fields of the request.
    """
    if kind not in _REFUSING:
        return None
    if named := refused_parameter(body, [*sent]):
        return named
    if kind == "404":
        return None
    return next((name for name in _OPTIONAL if name in sent), None)


def estimate(messages: Sequence[Mapping[str, Any]], sent: Mapping[str, Any]) -> Usage:
    """Tokens that a question may have cost at most, for a reply that does not tell them.

    Those of the answer are None where no limit was sent: then it is the reply's length.
    """
    pictures, letters = 0, 0
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            pictures += part.get("type") == "image_url"
            letters += len(str(part.get("text", "")).encode("utf-8", "replace"))
    limit = sent.get("max_tokens") or sent.get("max_completion_tokens")
    written = int(limit) * int(sent.get("n", 1)) if limit else None
    return Usage(letters + TOKENS_A_PICTURE * pictures, written)


def refused_parameter(body: str, sent: Sequence[str]) -> str | None:
    """Which of the fields that were `sent` a refusal names; None for none.

    >>> refused_parameter('{"error": {"message": "n must be 1", "param": "n"}}', ["n", "temperature"])
    'n'
    """
    try:
        found = parse_json(body, "reply")
    except InputError:
        found = None
    named: set[str] = set()
    if isinstance(found, dict):
        inner = found.get("error")
        named |= {str(where.get("param")) for where in (found, inner) if isinstance(where, dict)}
        detail = found.get("detail")
        for one in detail if isinstance(detail, list) else []:  # as FastAPI says it
            if isinstance(one, dict) and isinstance(one.get("loc"), list):
                named |= {str(part) for part in one["loc"]}
    if hits := [name for name in sent if name in named]:
        return hits[0]
    return next((name for name in sent if _names(refusal(body), name)), None)


def _names(text: str, name: str) -> bool:
    """Whether words name a field; one of a single letter only where it is marked as a name."""
    text = text[:4000]
    if len(name) > 1:
        return re.search(rf"(?<![\w]){name}(?![\w])", text) is not None
    return re.search(rf"['\"`]{name}['\"`]|\b(?:parameter|field|argument|value of|option) {name}\b|"
                     rf"(?<![\w']){name}\s*(?:[=<>:]|!=|must|should|is not|isn't|> ?1)", text) is not None  # fmt: skip
