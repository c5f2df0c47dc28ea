"""A real OpenAI-compatible server answers the official client: `transformers serve` with a tiny model.

What a client must know of it (transformers 5.23, pinned to one model), checked here where a client depends on it:

- `n`, `logprobs`, `top_logprobs`, `response_format`, `store` are taken and ignored: always one choice, never a
  log-probability. `seed` counts, for the process. Other fields that OpenAI does not have are a 422.
- `temperature` above 0 samples only where the model's generation_config.json says `do_sample`; 0 is always greedy.
- `stop`, `max_tokens` below 1, no `messages`, and any picture that cannot be read are a 500 with the plain text
  "Internal Server Error": a client cannot tell its own mistake from the server's.
- Another model's name is a 400, an unknown path a 404, both with JSON {"detail": ...}. No key is asked for.
- A question longer than the model's `max_position_embeddings` is answered all the same.
- `GET /v1/models` lists the hub's cache, not the model that is served.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai
import pytest

from worldgymnast.video import png

Served = tuple[str, str]


def _url(seed: int) -> str:
    frame = np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    return "data:image/png;base64," + base64.b64encode(png(frame)).decode()


def _ask(server: Served, *urls: str, **fields: Any) -> Any:
    base, model = server
    content = [{"type": "text", "text": "Look."}, *({"type": "image_url", "image_url": {"url": u}} for u in urls)]
    asked: Any = {"model": model, "max_tokens": 8, "temperature": 0.0} | fields
    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60)
    return client.chat.completions.create(messages=[{"role": "user", "content": content}], **asked)


def test_pictures_reach_the_model(vlm_server: Served) -> None:
    replies = [_ask(vlm_server, *(_url(i) for i in range(count))) for count in range(3)]
    tokens = [reply.usage.prompt_tokens for reply in replies]
    assert tokens[1] - tokens[0] == tokens[2] - tokens[1] == 2 * 2 + 2, "56 pixels are 2 x 2 tokens, and two around"
    assert [reply.usage.completion_tokens for reply in replies] == [8, 8, 8]
    black, noise = ("data:image/png;base64," + base64.b64encode(png(np.zeros((56, 56, 3), np.uint8))).decode(), _url(0))
    said = [_ask(vlm_server, picture, max_tokens=32).choices[0].message.content for picture in (black, noise, noise)]
    assert said[0] != said[1] == said[2]


def test_what_it_ignores(vlm_server: Served) -> None:
    reply = _ask(vlm_server, n=3, logprobs=True, top_logprobs=5, response_format={"type": "json_object"})
    assert len(reply.choices) == 1
    assert reply.choices[0].logprobs is None
    warm = [_ask(vlm_server, temperature=1.0, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"model": "another"}, 400), ({"extra_body": {"unheard_of": 1}}, 422), ({"stop": ["x"]}, 500)],
)
def test_its_refusals(vlm_server: Served, fields: dict[str, Any], status: int) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        _ask(vlm_server, **fields)
    assert caught.value.status_code == status


def test_a_picture_that_cannot_be_read_and_a_wrong_path(vlm_server: Served) -> None:
    with pytest.raises(openai.InternalServerError):
        _ask(vlm_server, "data:image/png;base64,AAAA")
    base, model = vlm_server
    with pytest.raises(openai.NotFoundError):
        _ask((base.removesuffix("/v1"), model))
    assert _ask(vlm_server, _url(0)).choices, "it goes on"
