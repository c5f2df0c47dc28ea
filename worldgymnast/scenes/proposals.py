"""New instructions for a frame, proposed by a vision-language model behind an endpoint.

The published way to more tasks than were demonstrated (World-Gymnast, arXiv 2602.02454): look at the scene, say what a
robot could do there. `scenes/language.py` writes them without a model, where the scene's objects are known.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from worldgymnast.configs import Between, checked
from worldgymnast.endpoint import Endpoint, EndpointConfig, Unusable
from worldgymnast.errors import InputError
from worldgymnast.ledger import Ledger
from worldgymnast.replies import answer_of, without_thoughts
from worldgymnast.video import jpeg_url

PROMPT = (
    "You see what the camera of a one-armed robot sees. Propose {count} different short instructions for it: each a "
    "single task of a few seconds (push, press, open, close, pick up, move) that can be begun in this very scene, that "
    "is not accomplished yet, and whose success can be seen in the picture afterwards. Name objects as a person would "
    "who stands beside the robot. Answer with a JSON list of strings and nothing else."
)
_LONGEST = 200
_FIELDS = ("instruction", "task", "text")
"""Where an item that is an object may have its sentence."""
_TRIED = 20
"""Brackets at most that may be tried as the beginning of a list."""
_DECODER = json.JSONDecoder(parse_int=float)


@checked
class ProposerConfig:
    """What is asked, and where.

    Attributes:
        endpoint: where.
        prompt: what is asked; `{count}` is filled in.
        pixels: the frame is enlarged until its shorter side has as many, by whole pixels.
        temperature: of the answer; None leaves it to the server.
        max_tokens: of the answer; None leaves it to the server.
    """

    endpoint: EndpointConfig
    prompt: str = PROMPT
    pixels: Annotated[int, Between(16, 4096)] = 448
    temperature: Annotated[float, Between(0, 100)] | None = 0.7
    max_tokens: Annotated[int, Between(1, 2**20)] | None = 400


class Proposer:
    """Asks what could be done in a scene.

    Args:
        config: what is asked, and where.
        ledger: counts what is spent; in memory if left out.
    """

    def __init__(self, config: ProposerConfig, ledger: Ledger | None = None):
        self.config = config
        self.endpoint = Endpoint(config.endpoint, ledger)

    @property
    def name(self) -> str:
        """The model."""
        return self.config.endpoint.model

    def propose(self, frame: UInt8[np.ndarray, "h w 3"], count: int) -> list[str]:
        """At most that many different instructions for a scene; at least one.

        Raises:
            InputError: the server answers nothing that can be read.
            BudgetSpent: nothing more may be sent.
        """
        config = self.config
        words = config.prompt.replace("{count}", str(count))
        shown = {"type": "image_url", "image_url": {"url": jpeg_url(frame, config.pixels)}}
        messages = [{"role": "user", "content": [{"type": "text", "text": words}, shown]}]
        fields: dict[str, Any] = {} if config.temperature is None else {"temperature": config.temperature}
        fields |= {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
        asked = self.endpoint.ask(messages, functools.partial(_read, count=count), **fields)
        if not asked.answers:
            raise InputError(
                f"{config.endpoint.url}: '{self.name}': found no proposals ({asked.error}), expected a JSON list of "
                "instructions; take a model that sees and follows instructions"
            )
        return asked.answers[0]


def _read(choice: Any, count: int) -> list[str]:
    """The proposals in a choice of a reply.

    Raises:
        Unusable: there are none.
    """
    return parse(answer_of(choice), count)


def parse(text: str, count: int) -> list[str]:
    """At most `count` different sentences of the first JSON list in a text that has some, thoughts left out.

    Raises:
        Unusable: there is no list, or no sentence in it.
    """
    said = without_thoughts(text)
    if said is None:
        raise Unusable("no proposals", "an answer that ends inside a thought")
    lists = _lists(said)
    for found in lists:
        sentences = [" ".join(words.split()).rstrip(".") for words in map(_words, found)]
        good = {s.casefold(): s for s in reversed(sentences) if 0 < len(s) <= _LONGEST and s.isprintable()}
        if good:
            return list(reversed(good.values()))[:count]
    if lists:
        raise Unusable("no proposals", "a list without a sentence")
    raise Unusable("no proposals", f"an answer without a JSON list: {' '.join(text[:1000].split())[:100] or 'nothing'}")


def _lists(text: str) -> list[list[Any]]:
    """The JSON lists in a text, one inside another left out; looked for at the first brackets only."""
    found: list[list[Any]] = []
    at, tried = text.find("["), 0
    while at >= 0 and tried < _TRIED:
        tried += 1
        try:
            made, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found.append(made)
        at = text.find("[", end)
    return found


def _words(item: Any) -> str:
    """The sentence in an item of a list: the item, or its field; "" where there is none."""
    if isinstance(item, dict):
        item = next((item[name] for name in _FIELDS if name in item), "")
    return item if isinstance(item, str) and len(item) <= 10 * _LONGEST else ""
