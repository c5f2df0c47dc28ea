"""Real servers' replies end to end: parsed, or a failed judgement with its reason."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from servers import answering, brightening, choice_of, saying

from worldgymnast.cli.main import main
from worldgymnast.endpoint import EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.combined import check
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.registry import load_judge
from worldgymnast.scenes import proposals
from worldgymnast.scenes.remote import RemoteEditor, RemoteEditorConfig
from worldgymnast.types import Verdict

pytestmark = pytest.mark.server

# ---------------------------------------------------------------- replies


def verdict_of(choice: Any, **fields: Any) -> Verdict:
    """What a judge makes of a reply with that choice."""
    with saying(json.dumps({"object": "chat.completion", "choices": [choice]})) as url:
        judge = VLMJudge(VLMConfig(EndpointConfig("m", url, attempts=2, pause=0.0), pixels=8, **fields))
        (verdict,) = judge.score(brightening(1)[0])
    return verdict


@pytest.mark.parametrize(
    "choice",
    [
        choice_of([{"type": "text", "text": "Final Score: 1"}]),
        choice_of([{"type": "thinking", "thinking": [{"text": "0"}]}, {"type": "text", "text": "Final Score: 1"}]),
        choice_of(["Final Score: 1"]),
        choice_of(
            [{"type": "reasoning_content", "text": "Final Score: 0"}, {"type": "text", "text": "Final Score: 1"}]
        ),
        choice_of([{"type": "text", "thought": True, "text": "Score: 0"}, {"type": "text", "text": "Final Score: 1"}]),
        choice_of({"score": 1}),
        choice_of({"type": "text", "text": "Final Score: 1"}),
        choice_of(reasoning_content="Final Score: 0", refusal=None, tool_calls=[], function_call=None),
        choice_of(annotations=None, audio=None, logprobs=None),
        {"message": {"content": "Final Score: 1"}},
    ],
)
def test_a_reply_is_read_in_the_forms_that_servers_send(choice: dict[str, Any]) -> None:
    verdict = verdict_of(choice)
    assert (verdict.score, verdict.error) == (1.0, None)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"index": 0, "message": None}, ""),
        ({}, ""),
        (None, ""),
        (choice_of(None), "empty answer"),
        (choice_of(1), "empty answer"),
        (choice_of(None, reasoning_content="Final Score: 1"), "reasoning without an answer"),
        (choice_of([{"type": "text", "text": None}, None, 3, {"type": "image_url"}]), "empty answer"),
        (choice_of([{"type": "refusal", "refusal": "I will not"}]), 'refuses: "I will not"'),
        (choice_of([{"type": "text", "thought": True, "text": "Final Score: 1"}]), "empty answer"),
        (choice_of(refusal="I will not"), 'refuses: "I will not"'),
        (choice_of(tool_calls=[{"id": "1", "function": {"name": "score", "arguments": "1"}}]), "tool call"),
        (choice_of(finish_reason="length"), "raise max_tokens"),
        (choice_of("<think>Is it 1? Final Score: 1"), "inside a thought"),
        (choice_of('{"score": ' + "1" * 400 + "}"), "score inf is none of 0, 1"),
        (choice_of("[" * 100_000), "no score"),
        (choice_of('{"score": ' + "[" * 100_000), "no score"),
        (choice_of("1 or 0? I cannot tell"), "no score"),
    ],
)
def test_a_reply_without_an_answer_is_a_failed_judgement(choice: Any, said: str) -> None:
    verdict = verdict_of(choice)
    assert verdict.score is None
    assert said in str(verdict.error)


# ---------------------------------------------------------------- servers that do not count pictures


def uncounted(see: Callable[[list[float], str], str]) -> Callable[[str], str]:
    """A server whose count of tokens leaves pictures out, and that answers what `see` says of shades and words."""

    def reply(body: str) -> str:
        pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", body)
        shades = [float(np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))).mean()) for p in pictures]
        usage = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
        return json.dumps({"object": "chat.completion", "choices": [choice_of(see(shades, body))], "usage": usage})

    return reply


def sees_all(shades: list[float], words: str) -> str:
    if "black or white" not in words:
        return f"Final Score: {int(shades[-1] > shades[0])}" if shades else "Final Score: 0"
    return "White." if shades["last picture" in words and -1] > 128 else "<think>White?</think>It is black."


SERVERS = {
    "all": sees_all,
    "none": lambda shades, words: "black",
    "last": lambda shades, words: sees_all(shades[-1:], words),
    "silent": lambda shades, words: "",
}


def described(tmp_path: Path, url: str, *flags: str) -> int:
    return main(["judge", "vlm", "m", "--endpoint.url", url, *flags, "--out", str(tmp_path / "judge.json")])


def test_a_server_that_does_not_count_pictures_is_asked_what_it_sees(tmp_path: Path) -> None:
    """Also by `rl` and `judge calibrate`, which look again before anything is spent."""
    clips, truth = brightening(4)
    with answering(uncounted(sees_all)) as url:
        assert described(tmp_path, url) == 0
        judge = load_judge(tmp_path / "judge.json")
        check(judge, [("t", "open it")])
        assert [v.score for v in judge.score(clips)] == truth


@pytest.mark.parametrize(("server", "said"), [("none", "ignores images"), ("last", "all but one"), ("silent", "no ")])
def test_a_server_that_does_not_see_is_refused_and_told_the_way_round(
    server: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(uncounted(SERVERS[server])) as url:
        assert described(tmp_path, url) == 2
        found = capsys.readouterr().err
        assert found.count("\n") == 1
        assert "set --sees" in found
        assert said in found or server != "none"
        assert described(tmp_path, url, "--sees") == 0
        check(load_judge(tmp_path / "judge.json"), [("t", "open it")])


@pytest.mark.parametrize("content", [None, 3, [], [None], {"a": 1}])
def test_a_reply_without_proposals_is_an_input_error(content: Any) -> None:
    reply = {"object": "chat.completion", "choices": [choice_of(content)]}
    with saying(json.dumps(reply)) as url:
        asked = proposals.Proposer(proposals.ProposerConfig(EndpointConfig("m", url, attempts=2, pause=0.0)))
        with pytest.raises(InputError, match="found no proposals"):
            asked.propose(np.zeros((32, 32, 3), np.uint8), 2)


def edited(content: Any, size: int = 64) -> np.ndarray:
    """What an editor makes of a reply with that picture."""
    with saying(json.dumps({"created": 1, "data": [{"b64_json": content}]})) as url:
        editor = RemoteEditor(RemoteEditorConfig(EndpointConfig("m", url, attempts=1), pixels=size))
        return editor.edit(np.zeros((1, 32, 32, 3), np.uint8), "open it", np.random.default_rng(0))


def picture(size: int) -> str:
    made = io.BytesIO()
    Image.new("RGB", (size, size), (0, 0, 200)).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


def test_an_edited_picture_is_read_in_the_forms_that_servers_send() -> None:
    plain = picture(64)
    lines = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    for content in (plain, lines, f"data:image/png;base64,{plain}"):
        assert edited(content)[0, 0, 0].tolist() == [0, 0, 200]


@pytest.mark.parametrize(
    "content",
    [
        None, 3, "", "%%%", picture(64)[:50], picture(32), base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n").decode(),
        picture(9000),
    ],
    ids=["null", "number", "empty", "no base64", "cut", "another size", "PostScript", "a bomb"],
)  # fmt: skip
def test_an_edited_picture_that_is_none_is_one_line(content: Any) -> None:
    with pytest.raises(InputError) as error:
        edited(content)
    assert "picture" in str(error.value)
    assert "no connection" not in str(error.value)
    assert "\n" not in str(error.value)
