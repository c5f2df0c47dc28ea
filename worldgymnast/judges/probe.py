"""Preflight check of a judge's server with three small questions: is it reachable, and does it see all images?

A server that drops images still answers, so the check compares its token counts for no image, one image and many. If
the counts exclude images, it asks about the color of black and white images. A server without token counts is trusted,
and so is one whose config sets `sees`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import Protocol, runtime_checkable

from worldgymnast.endpoint import NO_CHAT, Endpoint, RequestFailed, UnusableReply, token_count
from worldgymnast.errors import InputError
from worldgymnast.judges.prompt import Part, Rubric, question, schema
from worldgymnast.replies import answer_text, strip_reasoning
from worldgymnast.types import Clip

_SIDE = 64
_SHEET = 'add --sheet ("sheet": true in the judge\'s file) to send all frames as one image'

_COLOR = "Is the {place} picture black or white? Answer with one word."
_TRUST = 'If it sees images and only excludes them from its count, set --sees ("sees": true in the file)'
_URL = '--endpoint.url ("url" in the judge\'s file), up to and including /v1'


@runtime_checkable
class RemoteJudge(Protocol):
    """Members of a judge behind a server that the check needs."""

    config: Any
    endpoint: Endpoint

    @property
    def rubric(self) -> Rubric:
        """Prompt of the judge."""
        ...

    def messages(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Question in OpenAI's message format."""
        ...

    def fields(self) -> dict[str, Any]:
        """Fields of every request, without the question."""
        ...


def probe(judge: RemoteJudge) -> None:
    """Check that the server answers and sees all images.

    Raises:
        InputError: it does not; the message says what to change.
    """
    config, endpoint = judge.config, judge.endpoint
    shades = np.linspace(30, 220, max(2, config.frames)).astype(np.uint8)
    clip = Clip(np.broadcast_to(shades[:, None, None, None], (len(shades), _SIDE, _SIDE, 3)), "look at the picture")
    parts = question(judge.rubric, clip, "it can be seen", config.frames, config.sheet)
    pictures = [i for i, part in enumerate(parts) if not isinstance(part, str)]

    def tokens(count: int, what: str) -> int:
        sent = [part for i, part in enumerate(parts) if i not in pictures[count:]]
        try:
            return _tokens(endpoint.reply(judge.messages(sent), **judge.fields()))
        except RequestFailed as failed:
            raise refused(endpoint, failed, what) from failed

    none = tokens(0, "a question")
    one = tokens(1, "an image. Use a vision-language model")
    many = tokens(len(pictures), f"{len(pictures)} images; {_SHEET}") if len(pictures) > 1 else 0
    if config.sees or not none:
        return
    ignores = f"{config.endpoint.url}: '{config.endpoint.model}' ignores"
    if one <= none and not _recognizes_colors(judge, 1):
        raise InputError(
            f"{ignores} images ({none} tokens with and without one) and does not distinguish black from white. Use a "
            f"vision-language model. {_TRUST}"
        )
    if len(pictures) > 1 and many <= one and not _recognizes_colors(judge, len(pictures)):
        raise InputError(f"{ignores} all but one of {len(pictures)} images; {_SHEET}. {_TRUST}")


def _recognizes_colors(judge: RemoteJudge, count: int) -> bool:
    """Whether the server names the color of the first and of the last of `count` black and white images."""
    shades = {"black": 0, "white": 255}
    places = ("first", "last") if count > 1 else ("first",)
    for first, last in (("black", "white"), ("white", "black")):
        images = [_flat(shades[first])] * ((count + 1) // 2) + [_flat(shades[last])] * (count // 2)
        for place, color in zip(places, (first, last), strict=False):
            if _ask_color(judge, [_COLOR.format(place=place), *images]) != color:
                return False
    return True


def _flat(shade: int) -> np.ndarray:
    return np.full((_SIDE, _SIDE, 3), shade, np.uint8)


def _ask_color(judge: RemoteJudge, parts: Sequence[Part]) -> str:
    """Color named by the server, "black" or "white".

    "" for neither or both.
    """
    fields = {k: v for k, v in judge.fields().items() if k in ("temperature", "max_tokens")}
    try:
        answer = strip_reasoning(answer_text(_first(judge.endpoint.reply(judge.messages(parts), **fields)))) or ""
    except (RequestFailed, UnusableReply):
        return ""
    colors = [color for color in ("black", "white") if color in answer.lower()]
    return colors[0] if len(colors) == 1 else ""


def _first(reply: Any) -> Any:
    """First choice of a reply with a message."""
    return next(choice for choice in reply.choices if hasattr(choice, "message"))


def _tokens(reply: Any) -> int:
    """Tokens of the question; 0 if the server does not report them."""
    return token_count(getattr(reply, "usage", None), "prompt_tokens")


def refused(endpoint: Endpoint, failed: RequestFailed, what: str) -> InputError:
    """Explain a failed request: its cause and its fix."""
    config, reason = endpoint.config, str(failed)
    if failed.kind in ("connection", "timed out"):
        return InputError(
            f"{config.url}: found no server ({reason}), expected one with OpenAI's API. Start it, or correct {_URL}"
        )
    if failed.kind in (NO_CHAT, "cut off", "405", "501"):
        return InputError(
            f"{config.url}: the server has no chat endpoint ({reason}), expected one with OpenAI's API. Correct {_URL}"
        )
    if failed.kind in ("401", "403"):
        return InputError(
            f"{config.url}: the server rejects the key in {config.key_variable} ({reason}). Set that environment "
            "variable to a valid key"
        )
    if failed.kind == "404":
        models = endpoint.models()
        fix = f", expected one of {', '.join(models[:5])}" if models else ". Check the URL, up to and including /v1"
        return InputError(f"{config.url}: found no model '{config.model}' ({reason}){fix}")
    return InputError(f"{config.url}: '{config.model}' refuses {what} (status {failed.kind}: {reason})")


# ---------------------------------------------------------------- optional features of a server


@dataclass(frozen=True)
class Abilities:
    """Optional features of a server.

    Attributes:
        several: returns `n` choices.
        structured: follows a JSON schema.
        logprobs: returns log-probabilities of tokens.
        counts: counts tokens, which budgets of tokens and money need.
    """

    several: bool
    structured: bool
    logprobs: bool
    counts: bool


def abilities(judge: RemoteJudge) -> Abilities:
    """Test which optional features the server supports; a refused request means no."""
    parts: Sequence[Part] = ['Answer with the JSON object {"observation": "none", "score": 0} and nothing else.']
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema(judge.rubric)}}
    limit = {"max_tokens": 60}

    def reply(**fields: Any) -> Any:
        try:
            return judge.endpoint.reply(judge.messages(parts), **limit, **fields)
        except RequestFailed:
            return None

    several, structured, logprobs = reply(n=2, temperature=1.0), reply(response_format=form), reply(logprobs=True)
    return Abilities(
        several=several is not None and len(several.choices) == 2,
        structured=structured is not None and _is_verdict_json(_first(structured)),
        logprobs=logprobs is not None and bool(getattr(getattr(_first(logprobs), "logprobs", None), "content", None)),
        counts=any(_tokens(each) for each in (several, structured, logprobs) if each is not None),
    )


def _is_verdict_json(choice: Any) -> bool:
    """Whether an answer is JSON with a score."""
    try:
        text = answer_text(choice)
    except UnusableReply:
        return False
    return text.strip().startswith("{") and '"score"' in text
