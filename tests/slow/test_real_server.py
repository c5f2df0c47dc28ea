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

import openai
import pytest
import tiny_vlm

from worldgymnast.endpoint import EndpointConfig
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.video import png

Served = tuple[str, str]
PICTURE = "data:image/png;base64," + base64.b64encode(png(tiny_vlm.clip((1,), side=56).frames[0])).decode()


def _ask(server: Served, *urls: str, **fields: Any) -> Any:
    base, model = server
    content = [{"type": "text", "text": "Look."}, *({"type": "image_url", "image_url": {"url": u}} for u in urls)]
    asked: Any = {"model": model, "max_tokens": 8, "temperature": 0.0} | fields
    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60)
    return client.chat.completions.create(messages=[{"role": "user", "content": content}], **asked)


def test_pictures_reach_the_model(vlm_server: Served) -> None:
    tokens = [_ask(vlm_server, *[PICTURE] * count).usage.prompt_tokens for count in range(3)]
    assert tokens[1] - tokens[0] == tokens[2] - tokens[1] == 2 * 2 + 2, "56 pixels are 2 x 2 tokens, and two around"


def test_the_endpoint_judge_tells_success_from_failure(vlm_server: Served) -> None:
    base, model = vlm_server
    shown = [(0, 1), (1, 0), (1, 1, 0), (0, 0, 1)]
    config = VLMConfig(EndpointConfig(model, base, attempts=1), pixels=28, max_tokens=16)
    verdicts = VLMJudge(config).score([tiny_vlm.clip(bright, 900 + i) for i, bright in enumerate(shown)])
    assert [v.succeeded for v in verdicts] == [True, False, False, True], verdicts


def test_what_it_ignores(vlm_server: Served) -> None:
    reply = _ask(vlm_server, n=3, logprobs=True, top_logprobs=5, response_format={"type": "json_object"})
    assert len(reply.choices) == 1
    assert reply.choices[0].logprobs is None
    warm = [_ask(vlm_server, temperature=9.0, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
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
    assert _ask(vlm_server, PICTURE).choices, "it goes on"
