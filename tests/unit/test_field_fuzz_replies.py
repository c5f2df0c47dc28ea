"""Randomly damaged replies never raise, and spending never decreases."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import chat
from servers import brightening

from worldgymnast.completions import UnusableReply, read_reply
from worldgymnast.endpoint import EndpointConfig
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Ledger
from worldgymnast.transport import Response, StatusError, Transport, TransportError

ODD = [
    None, True, 0, -1, 0.5, math.nan, math.inf, -math.inf, 10**400, 2**63, "", "1", "\ud800", "\x00", [], {}, [None],
    "Final Score: 1", "Final Score: " + "9" * 400, "[" * 3000, {"message": None}, "length", {"type": "stop"}, "<think>",
    "\u00bd", '{"score": 1e999}', '{"score": NaN}', "\\boxed{1}", "100%", "1/0", "Final Score: 1/0",
]  # fmt: skip


def spoilt(rng: random.Random) -> bytes:
    """A chat completion with some of its values replaced, removed or wrapped, and sometimes its bytes."""
    tokens = [
        {"token": t, "logprob": -0.1, "top_logprobs": [{"token": "0", "logprob": -2.0}]} for t in ("Score: ", "1")
    ]
    reply: Any = chat(rng.choice(["Final Score: 1", '{"score": 0}', "no"]), logprobs={"content": tokens})
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = _places(reply)
        holder, name = rng.choice(places)
        if rng.random() < 0.15:
            del holder[name]
        else:
            holder[name] = copy.deepcopy(rng.choice(ODD))
    text = json.dumps(reply).encode()
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text))]
    return text


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every holder of a value, and the name that it has there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for name, inner in items for place in [(value, name), *_places(inner)]] or [({"": None}, "")]


class Spoiling(Transport):
    """In the place of the transport."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def chat(self, *_: Any, **__: Any) -> Response:
        draw = self.rng.random()
        if draw < 0.85:
            return Response(spoilt(self.rng), draw < 0.8)
        if draw < 0.9:
            raise TransportError("connection", "gone")
        after = self.rng.choice(["-1", "nan", "Fri, 31 Dec 99999 23:59:59 GMT", "0.001"])
        raise StatusError(
            self.rng.choice([302, 400, 404, 422, 429, 500]), {"retry-after": after}, spoilt(self.rng).decode()
        )


@settings(max_examples=15)
@given(st.integers(0, 2**32))
def test_no_reply_raises_and_spending_never_decreases(seed: int) -> None:
    rng, ledger = random.Random(seed), Ledger()
    before = ledger.total()
    for i in range(10):
        endpoint = EndpointConfig("m", "http://127.0.0.1:9/v1", attempts=2, pause=0.0)
        asked = VLMJudge(VLMConfig(endpoint, pixels=8, logprobs=rng.random() < 0.5), ledger)
        asked.endpoint._client = Spoiling(rng)
        clip = replace(brightening(1)[0][0], instruction=f"question {i}")
        (verdict,) = asked.score([clip])
        assert verdict.score is None or 0 <= verdict.score <= 1
        assert (verdict.error is None) == (verdict.score is not None)
        spent = ledger.total()
        assert spent.requests > before.requests
        assert spent.tokens >= before.tokens
        assert math.isfinite(spent.money)
        before = spent


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")), st.booleans())
def test_any_bytes_are_a_reply_or_unusable(content: bytes, is_json: bool) -> None:
    try:
        reply = read_reply(content, is_json)
    except UnusableReply:
        return
    assert reply.choices == () or reply.is_chat
