"""Broken replies are failed judgements, with a deadline and a size limit, and are paid for."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import socket
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import servers
from raw_server import Answer, Raw, chat, http, raw, sending
from servers import brightening

from worldgymnast.completions import read_reply, retry_after
from worldgymnast.endpoint import BudgetSpent, Endpoint, EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Budget, Ledger, Price, Spending
from worldgymnast.parameters import refused_parameter
from worldgymnast.transport import Body, TransportError
from worldgymnast.types import Verdict

CLIP = brightening(1)[0]
ESTIMATE = 2 * 2000
"""Of two pictures; the words come on top."""


def judge(url: str, ledger: Ledger | None = None, **settings: Any) -> VLMJudge:
    endpoint = {"attempts": 2, "pause": 0.0, "timeout": 5.0, "concurrency": 4, **settings.pop("endpoint", {})}
    return VLMJudge(VLMConfig(EndpointConfig("m", url, **endpoint), pixels=8, **settings), ledger)


def judged(answer: Answer, **settings: Any) -> tuple[Verdict, VLMJudge, Raw]:
    with raw(answer) as server:
        asked = judge(server.url, **settings)
        (verdict,) = asked.score(CLIP)
    return verdict, asked, server


def saying(body: Any, status: str = "200 OK", *headers: str) -> Answer:
    text = body if isinstance(body, bytes | str) else json.dumps(body)
    return sending(http(text, status, "application/json", *headers))


def slowly(connection: socket.socket, head: bytes, body: bytes) -> None:
    """A byte every tenth of a second, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.1)


def slow_head(connection: socket.socket, head: bytes, body: bytes) -> None:
    """A header that never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(100):
        connection.sendall(b"a")
        time.sleep(0.1)


def reset(connection: socket.socket, head: bytes, body: bytes) -> None:
    """A part of a reply, then no more connection."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def endless(connection: socket.socket, head: bytes, body: bytes) -> None:
    """Gigabytes of white space."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    for _ in range(4096):
        connection.sendall(b" " * 2**20)


BOMB = gzip.compress(b" " * 64 * 2**20)
HALF_GZIP = gzip.compress(b"{}" * 999)[:30]
TOLD = {"prompt_tokens": 100, "completion_tokens": 10}
BROKEN: dict[str, tuple[Answer, str]] = {
    "message null": (saying({"choices": [{"message": None}]}), "no choices"),
    "message a list": (saying({"choices": [{"message": []}]}), "no choices"),
    "choice a number": (saying({"choices": [1]}), "no choices"),
    "choices empty": (saying({"choices": [], "usage": TOLD}), "no choices"),
    "choices null": (saying({"choices": None}), "no choices"),
    "choices an object": (saying({"choices": {"0": {}}}), "not a chat completion"),
    "no choices": (saying({"usage": TOLD}), "not a chat completion"),
    "an error with status 200": (saying({"error": {"message": "model is loading"}}), "model is loading"),
    "a list": (saying([]), "not a chat completion"),
    "null": (saying("null"), "not a chat completion"),
    "content null": (saying(chat(None)), "empty"),
    "content a number": (saying(chat(1)), "empty"),
    "content an object": (saying(chat({"words": "Final Score: 1"})), "no score"),
    "half a surrogate pair": (saying(chat("\ud800")), ""),
    "a score of 400 digits": (saying(chat("Final Score: " + "9" * 400)), ""),
    "a number of 5000 digits": (saying('{"choices": ' + "9" * 5000 + "}"), "not a chat completion"),
    "100,000 brackets": (saying("[" * 100_000), "not valid JSON"),
    "100,000 brackets in the content": (saying(chat("[" * 100_000)), ""),
    "half a reply": (saying(json.dumps(chat())[:40]), "not valid JSON"),
    "no UTF-8": (saying(b'{"choices": "\xff"}'), "not valid JSON"),
    "words": (sending(http("all is well", kind="text/plain")), "not a chat completion"),
    "a web page": (sending(http("<html>log in</html>", kind="text/html")), "not a chat completion"),
    "204": (sending(b"HTTP/1.1 204 No Content\r\n\r\n"), "not a chat completion"),
    "a redirect": (saying("", "302 Found", "location: http://127.0.0.1:1/v1/chat/completions"), "is not followed"),
    "too short": (sending(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{}"), "no connection"),
    "chunks of nonsense": (sending(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n"), "connection"),
    "no HTTP": (sending(b"220 mail.example.org ESMTP\r\n"), "no connection"),
    "nothing": (sending(), "no connection"),
    "reset midway": (reset, "no connection"),
    "no gzip": (saying("{}", "200 OK", "content-encoding: gzip"), "cannot be decompressed"),
    "half of gzip": (sending(http(HALF_GZIP, "200 OK", "", "content-encoding: gzip")), "truncated"),
    "an unknown encoding": (saying("{}", "200 OK", "content-encoding: br"), "was not requested"),
    "a bomb": (sending(http(BOMB, "200 OK", "application/json", "content-encoding: gzip")), "more than 8 MiB"),
    "endless": (endless, "more than 8 MiB"),
    "a byte at a time": (slowly, "within 1 seconds"),
    "a header without end": (slow_head, "within 1 seconds"),
    "500 with an endless body": (
        sending(b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n", *[b"10000\r\n" + b"a" * 65536 + b"\r\n"] * 20),
        "aaaa",
    ),
    "500 with a bomb": (sending(http(BOMB, "500 X", "application/json", "content-encoding: gzip")), "status 500"),
}  # fmt: skip


@pytest.mark.server
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_reply_is_a_failed_judgement_with_a_reason(kind: str) -> None:
    answer, reason = BROKEN[kind]
    began = time.monotonic()
    patience = 1.0 if "within" in reason else 20.0
    verdict, asked, server = judged(answer, endpoint={"timeout": patience})
    assert verdict.score is None
    assert verdict.error is not None
    assert reason in verdict.error
    assert len(verdict.error) < 350
    assert "\n" not in verdict.error
    assert time.monotonic() - began < 30, "two attempts: of a second each where there is no end, else at once; never 20"
    assert asked.endpoint.counts.total() == len(server.heads) == asked.ledger.total().requests
    assert "answered" not in asked.endpoint.counts
    assert math.isfinite(asked.ledger.total().money)


@pytest.mark.server
def test_tls_at_a_plain_server_is_no_connection() -> None:
    with servers.saying(json.dumps(chat())) as url:
        (verdict,) = judge(url.replace("http:", "https:")).score(CLIP)
    assert verdict.score is None
    assert "no connection" in str(verdict.error)


WHOLE = json.dumps(chat()).encode()


@pytest.mark.server
@pytest.mark.parametrize(
    "answer",
    [
        sending(http(gzip.compress(WHOLE), "200 OK", "application/json", "content-encoding: gzip")),
        sending(http(zlib.compress(WHOLE), "200 OK", "application/json", "content-encoding: deflate")),
        sending(http("\ufeff" + json.dumps(chat()), kind="text/plain")),
        saying(chat() | {"object": None, "id": 7, "created": "now", "service_tier": {"a": []}}),
        saying(chat(logprobs={"content": [{"token": None}]})),
        saying(chat(index="zero")),
    ],
)  # fmt: skip
def test_odd_but_whole_replies_are_read(answer: Answer) -> None:
    verdict, *_ = judged(answer)
    assert verdict.score == 1, verdict.error


@pytest.mark.server
@pytest.mark.parametrize("told", [None, {}, {"content": None}, {"content": []}, {"content": [{"token": "1"}]}, 3])
def test_log_probabilities_that_are_missing_leave_the_written_score(told: Any) -> None:
    verdict, *_ = judged(saying(chat(logprobs=told)), logprobs=True)
    assert (verdict.score, verdict.probability) == (1, 1)


@pytest.mark.parametrize("odd", [math.nan, 1e999, 0.5, "-1", None, True])
def test_a_log_probability_that_is_none_is_not_read(odd: Any) -> None:
    content = [{"token": "Final Score: ", "logprob": 0.0}, {"token": "1", "logprob": odd}]
    reply = read_reply(json.dumps(chat(logprobs={"content": content})).encode(), True)
    assert reply.choices[0].logprobs is None


# ---------------------------------------------------------------- what is paid


@pytest.mark.server
@pytest.mark.parametrize(
    "usage",
    [None, "many", [], {}, *({"prompt_tokens": odd, "completion_tokens": odd} for odd in
     (-1000, -0.5, math.nan, 1e999, -1e999, 10**400, 2**63, 1e300, "100", None, True, [], {}))],
)  # fmt: skip
def test_tokens_that_are_no_count_are_counted_at_what_they_may_have_been(usage: Any) -> None:
    body = chat() | {"usage": usage}
    verdict, asked, _ = judged(saying(body), endpoint={"price": Price(1.0, 10.0)})
    assert verdict.score == 1
    spent = asked.ledger.total()
    assert ESTIMATE < spent.tokens - 300 < ESTIMATE + 2000, "two pictures, the words, and an answer of max_tokens"
    assert spent.money == pytest.approx((spent.tokens - 300 + 300 * 10) / 1e6)
    assert verdict.cost == pytest.approx(spent.money)


@pytest.mark.server
def test_tokens_that_are_told_are_counted_exactly() -> None:
    for usage, tokens in (
        ({"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 50}, 101),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}, 110),
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 1110}, 1110),
        ({"prompt_tokens": 100, "total_tokens": 130}, 130),
        ({"prompt_tokens": 7.0, "completion_tokens": 1}, 8),
        ({"input_tokens": 5, "output_tokens": 6}, 11),
    ):
        assert judged(saying(chat(usage=usage)))[1].ledger.total().tokens == tokens


@pytest.mark.server
def test_thoughts_beside_the_answer_cost_what_is_written() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 1110}
    _, asked, _ = judged(saying(chat(usage=usage)), endpoint={"price": Price(1.0, 10.0)})
    assert asked.ledger.total().money == pytest.approx((100 + 1010 * 10) / 1e6)


@pytest.mark.server
def test_a_text_has_tokens() -> None:
    assert judged(saying(chat(usage={"prompt_tokens": 100, "completion_tokens": 0})))[1].ledger.total().tokens == 400


def without_end(connection: socket.socket, head: bytes, body: bytes) -> None:
    """A whole answer, then less than was promised."""
    content = json.dumps(chat()).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(content) + 5) + content)


@pytest.mark.server
@pytest.mark.parametrize("answer", [without_end, slowly, endless, saying(gzip.compress(b"{}")[:-4], "200 OK",
                         "content-encoding: gzip"), lambda *_: None])  # fmt: skip
def test_a_reply_that_is_lost_is_paid(answer: Answer) -> None:
    _, asked, server = judged(answer, endpoint={"price": Price(1.0, 10.0), "attempts": 1, "timeout": 1.0})
    spent = asked.ledger.total()
    assert ESTIMATE < spent.tokens - 300 < ESTIMATE + 2000
    assert spent.money == pytest.approx((spent.tokens - 300 + 300 * 10) / 1e6)
    assert len(server.heads) == 1


def test_a_server_that_is_not_there_is_not_paid() -> None:
    asked = judge("http://127.0.0.1:9/v1", endpoint={"attempts": 1})
    assert asked.score(CLIP)[0].error
    assert asked.ledger.total() == Spending(1, 0, 0.0)


@pytest.mark.server
@pytest.mark.parametrize("name", ["Z\u00fcrich".encode("latin-1"), "Z\u00fcrich".encode(), b"\xff\xfe"])
def test_a_header_of_any_bytes_is_no_fault(name: bytes) -> None:
    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(http(json.dumps(chat())).replace(b"\r\n", b"\r\nx-served-by: " + name + b"\r\n", 1))

    verdict, asked, _ = judged(answer)
    assert (verdict.score, verdict.error) == (1, None)
    assert asked.endpoint.counts == {"answered": 1}


def test_gzip_of_several_members_is_read_whole() -> None:
    content = json.dumps(chat()).encode()
    packed = gzip.compress(content[:20]) + gzip.compress(b"") + gzip.compress(content[20:])
    for size in (1, 7, len(packed)):
        body = Body("gzip", 2**20)
        for start in range(0, len(packed), size):
            body.add(packed[start : start + size])
        assert body.finish() == content
    with pytest.raises(TransportError, match="more than"):
        Body("gzip", 2**10).add(gzip.compress(b" " * 1000) * 2)


@pytest.mark.server
def test_a_count_of_thousands_of_digits_is_no_count() -> None:
    text = json.dumps(chat()).replace("100", "9" * 5000)
    verdict, asked, _ = judged(saying(text))
    assert verdict.score == 1
    assert ESTIMATE < asked.ledger.total().tokens < ESTIMATE + 2000


@pytest.mark.server
@pytest.mark.parametrize("usage", [{"prompt_tokens": -(10**9), "completion_tokens": -1},
                         {"prompt_tokens": 0, "completion_tokens": 0}, {}])  # fmt: skip
def test_a_budget_cannot_be_talked_down(usage: Any) -> None:
    with raw(saying(chat(usage=usage))) as server:
        asked = judge(server.url, endpoint={"budget": Budget(tokens=3 * ESTIMATE), "concurrency": 1})
        with pytest.raises(BudgetSpent, match="Budget of m is spent"):
            asked.score(brightening(9)[0])
        assert len(server.heads) == 3
    assert asked.ledger.total().tokens >= 3 * ESTIMATE


@pytest.mark.server
def test_no_request_goes_beyond_the_budget_of_several_threads_and_ledgers(tmp_path: Path) -> None:
    """Two clients of one file, 16 requests at a time each."""
    clips = brightening(40)[0]
    with raw(saying(chat())) as server:
        asked = [
            judge(
                server.url, Ledger(tmp_path / "l.sqlite"), endpoint={"budget": Budget(requests=11), "concurrency": 16}
            )
            for _ in range(2)
        ]
        parts = [clips[:20], clips[20:]]
        threads = [threading.Thread(target=_spends, args=pair) for pair in zip(asked, parts, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.heads) == 11
    assert asked[0].ledger.total() == Spending(11, 11 * 110, 0.0)


def _spends(asked: VLMJudge, clips: Any) -> None:
    with pytest.raises(BudgetSpent):
        asked.score(clips)


# ---------------------------------------------------------------- what is tried again


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0), ("0.25", 0.25), ("-5", 0.0), ("nan", None), ("inf", None), ("soon", None), ("", None),
        ("1e9", None), ("9" * 400, None), ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0), ("\x00", None),
    ],
)  # fmt: skip
def test_the_time_that_a_server_names_is_a_time_or_nothing(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, now=1000.0) == seconds


@pytest.mark.server
@pytest.mark.parametrize(
    "after", ["Fri, 31 Dec 99999 23:59:59 GMT", "-1", "nan", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"]
)
def test_a_time_that_is_none_is_not_waited_for(after: str) -> None:
    verdict, asked, _ = judged(saying('{"error": "busy"}', "429 X", f"retry-after: {after}"))
    assert (verdict.score, verdict.error) == (None, "busy")
    assert asked.endpoint.counts == {"429": 2}


@pytest.mark.server
def test_pauses_double_up_to_the_longest_and_lose_at_most_a_quarter_to_chance() -> None:
    times: list[float] = []

    def busy(connection: socket.socket, head: bytes, body: bytes) -> None:
        times.append(time.monotonic())
        connection.sendall(http("", "503 X"))

    judged(busy, endpoint={"attempts": 5, "pause": 0.1, "longest_pause": 0.3})
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert len(gaps) == 4
    for gap, least in zip(gaps, (0.1, 0.2, 0.3, 0.3), strict=True):
        assert 0.75 * least <= gap < least + 5


@pytest.mark.server
@pytest.mark.parametrize(
    ("status", "body", "requests"),
    [
        ("429 X", {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, 1),
        ("429 X", {"error": {"message": "slow down"}}, 2),
        ("401 X", {"error": {"message": "wrong key"}}, 1),
        ("403 X", {"detail": "not for you"}, 1),
        ("404 X", {"message": "no such model"}, 1),
        ("400 X", "plain words", 1),
        ("400 X", "", 1),
        ("501 X", {"error": "not made"}, 1),
        ("503 X", "", 2),
    ],
)
def test_what_waiting_does_not_help_is_asked_once_and_told(status: str, body: Any, requests: int) -> None:
    verdict, asked, server = judged(saying(body, status))
    assert len(server.heads) == requests
    assert asked.endpoint.counts == {status[:3]: requests}
    said = body if isinstance(body, str) else body.get("error", body)
    said = said if isinstance(said, str) else next(iter(said.values()))
    assert verdict.error == (said or f"status {status[:3]} without a message")


@pytest.mark.server
def test_the_body_of_an_error_is_one_short_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret/1+1")
    body = "\x1b[2Jkey sk-secret/1+1 or sk-secret%2F1%2B1\r\n\tis bad " + "x" * 500 + " sk-secret/1+1"
    verdict, *_ = judged(saying(body, "400 X"))
    assert verdict.error is not None
    assert "secret" not in verdict.error
    assert verdict.error.startswith("[2Jkey *** or *** is bad xxx")
    assert len(verdict.error) <= 203
    assert verdict.error.isprintable()


@pytest.mark.server
def test_an_unreadable_answer_at_temperature_zero_is_asked_for_again_warm() -> None:
    """The same question at temperature 0 gets the same answer, run after run."""

    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        cold = json.loads(body)["temperature"] == 0
        connection.sendall(http(json.dumps(chat("I would rather not say." if cold else "Final Score: 1"))))

    verdict, asked, server = judged(answer)
    assert verdict.score == 1
    assert [fields["temperature"] for fields in server.fields()] == [0, 0.7]
    assert asked.endpoint.counts == {"no score": 1, "answered": 1}


# ---------------------------------------------------------------- fields that servers refuse


def refusing(
    *names: str, words: str = "{name} is not supported", status: str = "400 X", form: str = "message"
) -> Answer:
    """Refuses requests with any of these fields, and answers what is left."""

    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        fields = json.loads(body)
        if bad := [name for name in names if name in fields]:
            told = words.format(name=bad[0])
            shapes = {
                "message": {"error": {"message": told}},
                "param": {"error": {"message": "bad request", "param": bad[0]}},
                "detail": {"detail": [{"loc": ["body", bad[0]], "msg": "unexpected"}]},
            }
            connection.sendall(http(json.dumps(shapes[form]), status))
        else:
            connection.sendall(http(json.dumps(chat())))

    return answer


@pytest.mark.server
@pytest.mark.parametrize(
    ("names", "settings", "how"),
    [
        (["n"], {"votes": 3, "temperature": 1.0}, {"words": "`{name}` must be 1"}),
        (["n"], {"votes": 3, "temperature": 1.0}, {"form": "param"}),
        (["n"], {"votes": 3, "temperature": 1.0}, {"form": "detail", "status": "422 X"}),
        (["n"], {"votes": 3, "temperature": 1.0}, {"words": "only one completion at a time"}),
        (["logprobs"], {"logprobs": True}, {}),
        (["top_logprobs"], {"logprobs": True}, {"words": "'{name}' out of range"}),
        (["response_format"], {"structured": True}, {"status": "404 X"}),
        (["temperature"], {}, {"words": "Unsupported value: '{name}' does not support 0"}),
        (["temperature", "max_tokens", "logprobs"], {"logprobs": True}, {"form": "param"}),
    ],
)
def test_a_field_that_a_server_refuses_is_left_out_and_said_once(
    names: list[str], settings: dict[str, Any], how: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with raw(refusing(*names, **how)) as server:
        asked = judge(server.url, endpoint={"attempts": 1, "concurrency": 1}, **settings)
        verdicts = asked.score(brightening(3)[0])
        later = server.fields()[-1]
    assert [v.score for v in verdicts] == [1, 1, 1], verdicts[0].error
    assert not set(names) & set(later)
    assert asked.endpoint.counts["answered"] == 3 * settings.get("votes", 1)
    assert asked.endpoint.counts.total() == asked.endpoint.counts["answered"] + len(names), "refused once a field"
    said = capsys.readouterr().out
    for name in names:
        assert said.count(f"rejects the field '{name}'") == 1
    if "max_tokens" in names:
        assert later["max_completion_tokens"] == 300


@pytest.mark.server
def test_a_field_is_left_out_for_good_only_where_that_helps() -> None:
    with raw(saying({"error": {"message": "temperature: n must be 1"}}, "400 X")) as server:
        asked = judge(server.url, votes=2, temperature=1.0)
        (verdict,) = asked.score(CLIP)
        sent = server.fields()
        asked.score(brightening(2, seed=5)[0][1:])
        assert server.fields()[len(sent)].keys() == sent[0].keys()
    assert verdict.score is None
    assert len(sent) == 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("'n' must be 1", "n"), ("parameter n is not supported", "n"), ("n > 1 is not supported", "n"), ("n=2", "n"),
        ("an image is not n-dimensional", None), ("I can't", None), ("no", None), ("top_logprobs", "top_logprobs"),
        ("Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens'", "max_tokens"),
        ("[" * 5000, None), ('{"error": null}', None), ('{"detail": [null, {"loc": 1}, {"loc": ["n"]}]}', "n"),
    ],
)  # fmt: skip
def test_which_field_a_refusal_names(text: str, name: str | None) -> None:
    assert refused_parameter(text, ["n", "logprobs", "top_logprobs", "max_tokens"]) == name


# ---------------------------------------------------------------- bounds


def test_a_reply_is_unpacked_no_further_than_its_bound() -> None:
    body = Body("gzip", 1000)
    with pytest.raises(TransportError, match="more than"):
        body.add(gzip.compress(b"a" * 10**6))
    assert len(body.content) == 1000
    name = Body("gzip", 1000)
    name.add(b"\x1f\x8b\x08\x08\0\0\0\0\0\0")
    name.add(b"n" * 60_000)  # of a file's name that never ends: packed bytes that unpack to nothing
    with pytest.raises(TransportError, match="more than"):
        name.add(b"n" * 60_000)


@pytest.mark.server
def test_a_picture_may_be_larger_than_words() -> None:
    data = {"data": [{"b64_json": "A" * (12 * 2**20)}]}
    with raw(saying(data)) as server:
        found = Endpoint(EndpointConfig("m", server.url, attempts=1, timeout=20.0)).edit(b"png", "add a cup")
    assert len(found) == 9 * 2**20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timeout", math.inf), ("timeout", 0.0), ("timeout", -1.0), ("timeout", 1e300), ("timeout", math.nan),
        ("pause", math.inf), ("longest_pause", math.nan), ("attempts", 10**9), ("concurrency", 10**9), ("model", ""),
        ("model", "m\ud800"), ("extra", {"stream": True}), ("extra", {"n": 5}), ("extra", {"x": math.nan}),
    ],
)  # fmt: skip
def test_settings_that_no_request_can_have_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"field '{field}"):
        EndpointConfig(**{"model": "m", field: value})


@pytest.mark.parametrize("odd", [math.inf, math.nan, -1.0])
def test_a_price_is_a_finite_number(odd: float) -> None:
    with pytest.raises(InputError, match="field 'read' of Price"):
        Price(read=odd)
