"""New instructions for a frame, proposed by a vision-language model behind an endpoint.

The published method obtains new tasks this way (World-Gymnast, arXiv 2602.02454). `scenes/language.py` generates
instructions without a model for known scenes.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from worldgymnast.configs import Between, checked
from worldgymnast.endpoint import Endpoint, EndpointConfig, UnusableReply
from worldgymnast.errors import InputError
from worldgymnast.ledger import Ledger
from worldgymnast.replies import answer_text, strip_reasoning
from worldgymnast.video import jpeg_url

PROMPT = (
    "You see what the camera of a one-armed robot sees. Propose {count} different short instructions for it: each a "
    "single task of a few seconds (push, press, open, close, pick up, move) that can be begun in this very scene, that "
    "is not accomplished yet, and whose success can be seen in the picture afterwards. Name objects as a person would "
    "who stands beside the robot. Answer with a JSON list of strings and nothing else."
)
_LONGEST = 200
"""Characters of an instruction."""
_FIELDS = ("instruction", "task", "text")
"""Fields of a JSON object that may hold the sentence."""
_MOST_BRACKETS = 20
"""Opening brackets that are tried as the start of a list."""
_DECODER = json.JSONDecoder(parse_int=float)


@checked
class ProposerConfig:
    """Config of a `Proposer`.

    Attributes:
        endpoint: the server and its model.
        prompt: prompt in which `{count}` is replaced.
        pixels: the frame is enlarged by an integer factor until its shorter side has at least this many pixels.
        temperature: sampling temperature; None uses the server's default.
        max_tokens: limit of the answer; None uses the server's default.
    """

    endpoint: EndpointConfig
    prompt: str = PROMPT
    pixels: Annotated[int, Between(16, 4096)] = 448
    temperature: Annotated[float, Between(0, 100)] | None = 0.7
    max_tokens: Annotated[int, Between(1, 2**20)] | None = 400


class Proposer:
    """Proposes instructions for a scene.

    Args:
        config: the model and its prompt.
        ledger: records costs; in memory by default.
    """

    def __init__(self, config: ProposerConfig, ledger: Ledger | None = None):
        self.config = config
        self.endpoint = Endpoint(config.endpoint, ledger)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.config.endpoint.model

    def propose(self, frame: UInt8[np.ndarray, "h w 3"], count: int) -> list[str]:
        """Propose 1 to `count` different instructions for a scene.

        Raises:
            InputError: the server returns no readable proposals.
            BudgetSpent: the budget is used up.
        """
        config = self.config
        prompt = config.prompt.replace("{count}", str(count))
        image = {"type": "image_url", "image_url": {"url": jpeg_url(frame, config.pixels)}}
        messages = [{"role": "user", "content": [{"type": "text", "text": prompt}, image]}]
        fields: dict[str, Any] = {} if config.temperature is None else {"temperature": config.temperature}
        fields |= {} if config.max_tokens is None else {"max_tokens": config.max_tokens}
        reply = self.endpoint.ask(messages, functools.partial(_read, count=count), **fields)
        if not reply.answers:
            raise InputError(
                f"{config.endpoint.url}: '{self.name}': found no proposals ({reply.error}), expected a JSON list of "
                "instructions. Use a vision-language model that follows instructions"
            )
        return reply.answers[0]


def _read(choice: Any, count: int) -> list[str]:
    """Read the proposals in one choice of a reply.

    Raises `UnusableReply` if there are none.
    """
    return parse(answer_text(choice), count)


def parse(text: str, count: int) -> list[str]:
    """Up to `count` different sentences of the first JSON list with sentences, reasoning ignored.

    Raises:
        UnusableReply: there is no list, or no sentence in it.

    >>> parse('Sure: ["open the drawer.", "close the door"]', 5)
    ['open the drawer', 'close the door']
    """
    answer = strip_reasoning(text)
    if answer is None:
        raise UnusableReply("no proposals", "an answer that ends inside a thought")
    lists = _lists(answer)
    for items in lists:
        sentences = [" ".join(sentence.split()).rstrip(".") for sentence in map(_sentence, items)]
        good = {s.casefold(): s for s in reversed(sentences) if 0 < len(s) <= _LONGEST and s.isprintable()}
        if good:
            return list(reversed(good.values()))[:count]
    if lists:
        raise UnusableReply("no proposals", "a list without a sentence")
    raise UnusableReply(
        "no proposals", f"an answer without a JSON list: {' '.join(text[:1000].split())[:100] or 'nothing'}"
    )


def _lists(text: str) -> list[list[Any]]:
    """JSON lists in a text, without nested ones.

    Only the first brackets are tried.
    """
    lists: list[list[Any]] = []
    at, attempts = text.find("["), 0
    while at >= 0 and attempts < _MOST_BRACKETS:
        attempts += 1
        try:
            items, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            lists.append(items)
        at = text.find("[", end)
    return lists


def _sentence(item: Any) -> str:
    """Sentence of a list item: the item itself or one of its fields.

    "" if there is none.
    """
    if isinstance(item, dict):
        item = next((item[name] for name in _FIELDS if name in item), "")
    return item if isinstance(item, str) and len(item) <= 10 * _LONGEST else ""
