"""Three small questions to a judge's server before anything is spent: is it there, does it see, does it see them all.

A server that drops pictures answers all the same, so its count of the question's tokens is compared with none, one and
many pictures in it. Where the count leaves pictures out, it is asked about black and white ones instead. A server that
counts no tokens is believed, and so is one whose description says `sees`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from worldgymnast.endpoint import NO_CHAT, Endpoint, RequestFailed, Unusable, counted
from worldgymnast.errors import InputError
from worldgymnast.judges.prompt import Part, Rubric, question, schema
from worldgymnast.replies import answer_of, without_thoughts
from worldgymnast.types import Clip

_SIDE = 64
_SHEET = 'add --sheet ("sheet": true in the judge\'s file), which shows all frames as one picture'

_COLOR = "Is the {place} picture black or white? Answer with one word."
_TRUST = 'If you know that it sees them and only leaves them out of its count, set --sees ("sees": true in the file)'
_URL = '--endpoint.url ("url" in the judge\'s file), up to and with /v1'


@runtime_checkable
class Askable(Protocol):
    """What of a judge behind a server is probed."""

    config: Any
    endpoint: Endpoint

    @property
    def rubric(self) -> Rubric:
        """What it asks."""
        ...

    def messages(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """A question in OpenAI's form."""
        ...

    def fields(self) -> dict[str, Any]:
        """Fields of every request, beside the question."""
        ...


def probe(judge: Askable) -> None:
    """Raises `InputError` with one line about what is wrong; see `VLMJudge.check`."""
    config, endpoint = judge.config, judge.endpoint
    shades = np.linspace(30, 220, max(2, config.frames)).astype(np.uint8)
    clip = Clip(np.broadcast_to(shades[:, None, None, None], (len(shades), _SIDE, _SIDE, 3)), "look at the picture")
    parts = question(judge.rubric, clip, "it can be seen", config.frames, config.sheet)
    pictures = [i for i, part in enumerate(parts) if not isinstance(part, str)]

    def tokens(shown: int, what: str) -> int:
        left = [part for i, part in enumerate(parts) if i not in pictures[shown:]]
        try:
            return _tokens(endpoint.reply(judge.messages(left), **judge.fields()))
        except RequestFailed as failed:
            raise refused(endpoint, failed, what) from failed

    none = tokens(0, "a question")
    one = tokens(1, "a picture; take a model that sees")
    many = tokens(len(pictures), f"{len(pictures)} pictures; {_SHEET}") if len(pictures) > 1 else 0
    if config.sees or not none:
        return
    blind = f"{config.endpoint.url}: found that '{config.endpoint.model}' passes over"
    if one <= none and not _tells_apart(judge, 1):
        raise InputError(
            f"{blind} pictures ({none} tokens with one and without), expected a model that sees; it does not tell "
            f"black from white either. {_TRUST}"
        )
    if len(pictures) > 1 and many <= one and not _tells_apart(judge, len(pictures)):
        raise InputError(f"{blind} all pictures but one, expected it to see {len(pictures)}; {_SHEET}. {_TRUST}")


def _tells_apart(judge: Askable, count: int) -> bool:
    """Whether the server says of the first and of the last of `count` pictures which of them is black."""
    shades = {"black": 0, "white": 255}
    for first, last in (("black", "white"), ("white", "black")):
        shown = [_flat(shades[first])] * ((count + 1) // 2) + [_flat(shades[last])] * (count // 2)
        for place, color in (("first", first), ("last", last)) if count > 1 else (("first", first),):
            if _color(judge, [_COLOR.format(place=place), *shown]) != color:
                return False
    return True


def _flat(shade: int) -> np.ndarray:
    return np.full((_SIDE, _SIDE, 3), shade, np.uint8)


def _color(judge: Askable, parts: Sequence[Part]) -> str:
    """Which of black and white the server answers; "" for neither or both."""
    fields = {k: v for k, v in judge.fields().items() if k in ("temperature", "max_tokens")}
    try:
        said = without_thoughts(answer_of(_first(judge.endpoint.reply(judge.messages(parts), **fields)))) or ""
    except (RequestFailed, Unusable):
        return ""
    named = [color for color in ("black", "white") if color in said.lower()]
    return named[0] if len(named) == 1 else ""


def _first(reply: Any) -> Any:
    """The first choice of a reply that has a message."""
    return next(choice for choice in reply.choices if hasattr(choice, "message"))


def _tokens(reply: Any) -> int:
    """Tokens of the question, 0 where the server does not tell."""
    return counted(getattr(reply, "usage", None), "prompt_tokens")


def refused(endpoint: Endpoint, failed: RequestFailed, what: str) -> InputError:
    """The one line about a request that brought nothing: whose fault it is, and what to do."""
    config, said = endpoint.config, str(failed)
    if failed.kind in ("connection", "timed out"):
        return InputError(
            f"{config.url}: found no server ({said}), expected one that speaks OpenAI's API; start it, or correct "
            f"{_URL}"
        )
    if failed.kind in (NO_CHAT, "cut off", "405", "501"):
        return InputError(
            f"{config.url}: found a server that does not chat ({said}), expected one that speaks OpenAI's API; correct "
            f"{_URL}"
        )
    if failed.kind in ("401", "403"):
        return InputError(
            f"{config.url}: found that it refuses the key in {config.key_variable} ({said}), expected one that it "
            "takes; set that environment variable"
        )
    if failed.kind == "404":
        there = endpoint.models()
        known = f", expected one of {', '.join(there[:5])}" if there else "; is it the right URL, up to and with /v1?"
        return InputError(f"{config.url}: found no model '{config.model}' ({said}){known}")
    return InputError(f"{config.url}: '{config.model}' refuses {what} (status {failed.kind}: {said})")


# ---------------------------------------------------------------- what a server can


@dataclass(frozen=True)
class Abilities:
    """What a server does of what it is asked for.

    Attributes:
        several: gives as many choices as `n` asks for.
        structured: answers in JSON of the form asked for.
        logprobs: tells the log-probabilities of tokens.
        counts: counts tokens, so that budgets of tokens and money hold.
    """

    several: bool
    structured: bool
    logprobs: bool
    counts: bool


def abilities(judge: Askable) -> Abilities:
    """Tries what not every server can; a refusal is an answer too."""
    parts: Sequence[Part] = ['Answer with the JSON object {"observation": "none", "score": 0} and nothing else.']
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema(judge.rubric)}}
    warm = {"max_tokens": 60}

    def reply(**fields: Any) -> Any:
        try:
            return judge.endpoint.reply(judge.messages(parts), **warm, **fields)
        except RequestFailed:
            return None

    several, structured, told = reply(n=2, temperature=1.0), reply(response_format=form), reply(logprobs=True)
    return Abilities(
        several=several is not None and len(several.choices) == 2,
        structured=structured is not None and _in_form(_first(structured)),
        logprobs=told is not None and bool(getattr(getattr(_first(told), "logprobs", None), "content", None)),
        counts=any(_tokens(found) for found in (several, structured, told) if found is not None),
    )


def _in_form(choice: Any) -> bool:
    """Whether an answer is JSON with a score."""
    try:
        text = answer_of(choice)
    except Unusable:
        return False
    return text.strip().startswith("{") and '"score"' in text
