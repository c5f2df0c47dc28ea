"""A judge behind a server: faults change no reward, nothing is paid twice, errors are found before they cost."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat.chat_completion import Choice
from servers import Faulty, brightening, faulty, saying

from worldgymnast.cli.main import main
from worldgymnast.endpoint import BudgetSpent, EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Budget, Ledger, Price, Spending
from worldgymnast.protocols import Judge
from worldgymnast.registry import load_judge, save_judge
from worldgymnast.types import Verdict


@pytest.fixture(scope="module")
def server():
    with faulty() as running:
        yield running


def judge(server: Faulty, model: str = "m", ledger: Ledger | None = None, **settings: object) -> VLMJudge:
    endpoint = settings.pop("endpoint", {})
    config = VLMConfig(server.endpoint(model, **endpoint), pixels=8, **settings)  # type: ignore[arg-type]
    return VLMJudge(config, ledger)


def scores(verdicts: list[Verdict]) -> list[float | None]:
    return [v.score for v in verdicts]


@pytest.mark.server
def test_it_is_a_judge_whose_verdicts_cost_something(server: Faulty) -> None:
    asked = judge(server, endpoint={"price": Price(read=2.0, written=10.0)})
    assert isinstance(asked, Judge)
    assert asked.is_remote
    assert asked.name == "m, binary-v1"
    clips, truth = brightening(4)
    verdicts = asked.score(clips)
    assert scores(verdicts) == truth
    assert {v.cost for v in verdicts} == {(200 * 2 + 10 * 10) / 1e6}
    spent = asked.ledger.total()
    assert (spent.requests, spent.tokens) == (4, 4 * 210)
    assert spent.money == pytest.approx(4 * 5e-4)


@pytest.mark.server
@pytest.mark.parametrize(("model", "requests"), [("m", 5), ("several", 1)])
def test_votes_come_in_one_request_or_in_several_where_the_server_ignores_n(
    server: Faulty, model: str, requests: int
) -> None:
    asked = judge(server, model, votes=5, temperature=1.0)
    clips, truth = brightening(2, seed=3)
    assert scores(asked.score(clips)) == truth
    assert asked.ledger.total().requests == 2 * requests


def spelled(*tokens: str, at: int, likely: dict[str, float]) -> Any:
    """A choice that was written in these tokens, and what else could have stood at one of them."""
    told = [
        {"token": token, "logprob": -0.1, "bytes": None, "top_logprobs": [
            {"token": other, "logprob": math.log(p), "bytes": None} for other, p in likely.items()
        ] if i == at else []}
        for i, token in enumerate(tokens)
    ]  # fmt: skip
    message = {"role": "assistant", "content": "".join(tokens)}
    made = {"index": 0, "finish_reason": "stop", "message": message, "logprobs": {"content": told, "refusal": None}}
    return Choice.model_validate(made)


@pytest.mark.server
@pytest.mark.parametrize(
    "tokens",
    [
        ("1", " of", " 1", ".\n", "Final", " Score", ":", " 1"),
        ("**", "Final", " Score", ":**", " ", "1"),
        ("Final Score", ": <", "1", ">"),
        ('{"', "score", '":', " 1", "}"),
    ],
)
def test_the_probability_is_that_of_the_token_that_is_the_score(server: Faulty, tokens: tuple[str, ...]) -> None:
    at = max(i for i, token in enumerate(tokens) if token.strip() == "1")
    choice = spelled(*tokens, at=at, likely={tokens[at]: 0.6, tokens[at].replace("1", "0"): 0.2, "x": 0.2})
    choice.logprobs.content[at].logprob = math.log(0.6)
    found = judge(server, logprobs=True)._read(choice)
    assert found == pytest.approx({0.0: 0.25, 1.0: 0.75})
    assert judge(server)._read(choice) == {1.0: 1.0}, "only where it is asked for"


@pytest.mark.server
def test_a_server_that_says_the_same_nothing_twice_is_not_asked_a_third_time(server: Faulty) -> None:
    asked = judge(server, "stubborn")
    (verdict,) = asked.score(brightening(1)[0])
    assert (verdict.score, verdict.error) == (None, "no score in the answer")
    assert asked.endpoint.counts == {"no score": 2}


# ---------------------------------------------------------------- what is paid


@pytest.mark.server
def test_what_was_answered_is_never_asked_again_not_even_after_a_kill(server: Faulty, tmp_path: Path) -> None:
    clips, truth = brightening(6)
    first = judge(server, ledger=Ledger(tmp_path / "ledger.sqlite"), votes=3, temperature=1.0)
    first.score(clips[:4])  # no farewell: a kill leaves the file as it is now
    again = judge(server, ledger=Ledger(tmp_path / "ledger.sqlite"), votes=3, temperature=1.0)
    verdicts = again.score(clips)
    assert scores(verdicts) == truth
    assert sum(again.endpoint.counts.values()) == 2 * 3
    assert [v.cost for v in verdicts[:4]] == [0] * 4
    assert again.ledger.total().requests == 6 * 3

    more = judge(server, ledger=Ledger(tmp_path / "ledger.sqlite"), votes=5, temperature=1.0)
    more.score(clips[:1])
    assert sum(more.endpoint.counts.values()) == 2  # the three votes that are there count
    for other in (
        replace(first.config, rubric="progress-v1"),
        replace(first.config, endpoint=replace(first.config.endpoint, model="several")),
        replace(first.config, temperature=0.5),
    ):
        asked = VLMJudge(other, Ledger(tmp_path / "ledger.sqlite"))
        asked.score(clips[:1])
        assert sum(asked.endpoint.counts.values()) > 0, "another prompt, model or temperature is another question"


@pytest.mark.server
def test_a_budget_stops_the_run_and_a_larger_one_goes_on(server: Faulty, tmp_path: Path) -> None:
    clips, truth = brightening(20)
    kept = tmp_path / "ledger.sqlite"
    for budget, spent in ((Budget(requests=7), 7), (Budget(tokens=10 * 210), 10), (Budget(money=0.006), 12)):
        asked = judge(
            server, ledger=Ledger(kept), endpoint={"budget": budget, "concurrency": 1, "price": Price(2.0, 10.0)}
        )
        with pytest.raises(BudgetSpent, match=r"Budget of m is spent .*rerun the same command"):
            asked.score(clips)
        assert asked.ledger.total().requests == spent
    asked = judge(server, ledger=Ledger(kept), endpoint={"price": Price(2.0, 10.0)})
    assert scores(asked.score(clips)) == truth
    assert asked.ledger.total().requests == 20


@pytest.mark.server
def test_a_ledger_that_is_no_ledger_is_one_line(server: Faulty, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("something else, and long enough to be no header of a database")
    with pytest.raises(InputError, match=r"ledger.sqlite: the ledger of answers is unusable"):
        judge(server, ledger=Ledger(tmp_path / "ledger.sqlite")).score(brightening(1)[0])


# ---------------------------------------------------------------- keys


@pytest.mark.server
def test_a_key_reaches_the_server_and_nothing_else(
    server: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clips, truth = brightening(2)
    words = ["judge", "vlm", "locked", "--endpoint.url", server.url, "--endpoint.attempts", "2"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-but-secret")
    assert main([*words, "--out", str(tmp_path / "wrong.json")]) == 2
    said = capfd.readouterr()
    assert "rejects the key in OPENAI_API_KEY (Incorrect API key provided: ***)" in said.err
    monkeypatch.setenv("OPENAI_API_KEY", "sk-right")
    assert main([*words, "--out", str(tmp_path / "judge.json")]) == 0
    asked = load_judge(tmp_path / "judge.json", ledger=Ledger(tmp_path / "ledger.sqlite"))
    assert scores(asked.score(clips)) == truth
    said = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir()) + (said.out + said.err).encode()
    assert b"sk-right" not in written
    assert b"locked" in written


def test_openai_itself_wants_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["judge", "vlm", "gpt-4o", "--out", str(tmp_path / "judge.json")]) == 2
    assert "environment variable OPENAI_API_KEY: found no key" in capsys.readouterr().err
    assert not (tmp_path / "judge.json").exists()


@pytest.mark.server
@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} "])
def test_white_space_around_a_key_is_no_part_of_it(
    around: str, server: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", around.format("sk-wrong-but-secret"))
    assert main(["judge", "vlm", "locked", "--endpoint.url", server.url, "--out", str(tmp_path / "judge.json")]) == 2
    said = capfd.readouterr().err
    assert "rejects the key in OPENAI_API_KEY" in said
    assert "secret" not in said


@pytest.mark.server
@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-two\nlines"])
def test_a_key_that_cannot_be_sent_is_told_and_not_shown(
    key: str, server: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert main(["judge", "vlm", "m", "--endpoint.url", server.url, "--out", str(tmp_path / "judge.json")]) == 2
    said = capfd.readouterr().err
    assert "environment variable OPENAI_API_KEY: found characters that cannot be sent" in said
    assert said.count("\n") == 1
    assert "schl" not in said
    assert "two" not in said


# ---------------------------------------------------------------- bad input


@pytest.mark.server
@pytest.mark.parametrize(
    "body",
    [
        "<html>please log in</html>",
        '{"error": {"message": "model is loading"}}',
        "[]",
        '"hello"',
        '{"choices": null}',
        '{"choices": [null]}',
        '{"choices": "abc"}',
        '{"choices": []}',
    ],
)
def test_a_server_that_says_something_else_is_no_chat_server(
    body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with saying(body) as url:
        assert main(["judge", "vlm", "m", "--endpoint.url", url, "--out", str(tmp_path / "judge.json")]) == 2
    said = capsys.readouterr().err
    assert "the server has no chat endpoint (" in said
    assert "Correct --endpoint.url" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "judge.json").exists()


@pytest.mark.server
@pytest.mark.parametrize(
    "message", [{"content": [{"type": "image_url", "text": None}]}, {"content": None}, {"content": 3}]
)
def test_an_answer_that_is_no_text_is_no_verdict(message: dict[str, Any]) -> None:
    reply = {"choices": [{"index": 0, "message": message}], "usage": {"prompt_tokens": "many"}}
    with saying(json.dumps(reply)) as url:
        judge = VLMJudge(VLMConfig(EndpointConfig("m", url, attempts=2, pause=0.0)))
        (verdict,) = judge.score(brightening(1)[0])
    assert verdict.score is None
    assert verdict.error is not None


BAD = {
    "unknown": "found no model 'unknown' (The model `unknown` does not exist), expected one of m, several",
    "no-picture": "'no-picture' refuses an image. Use a vision-language model (status 400: this model takes no images)",
    "one-picture": "'one-picture' refuses 8 images; add --sheet (\"sheet\": true in the judge's file)",
    "blind": "'blind' ignores images (100 tokens with and without one)",
}


@pytest.mark.server
@pytest.mark.parametrize("model", BAD)
def test_a_server_that_cannot_judge_is_one_line_before_anything_is_spent(
    model: str, server: Faulty, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judge.json"
    assert main(["judge", "vlm", model, "--endpoint.url", server.url, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert BAD[model] in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.server
def test_a_server_that_takes_one_picture_takes_a_sheet(server: Faulty, tmp_path: Path) -> None:
    words = ["judge", "vlm", "one-picture", "--endpoint.url", server.url, "--out", str(tmp_path / "judge.json")]
    assert main([*words, "--sheet"]) == 0


@pytest.mark.server
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--endpoint.url", "http://127.0.0.1:9/v1", "--endpoint.attempts", "1"], "found no server (no connection"),
        (["--endpoint.url", "127.0.0.1:8000"], "--endpoint.url: found '127.0.0.1:8000', expected an address such as"),
        (["--endpoint.url", "http://me:secret@host/v1"], "--endpoint.url: found a user, password or query"),
        (["--rubric", "binary-v2"], "--rubric: found 'binary-v2', expected one of"),
        (["--rubric", "partial-v1", "--unchecked"], "--criteria: missing, but rubric partial-v1 needs one"),
        (["--rubric", "partial-v1", "--criteria", "t", "near it", "--unchecked"], ""),
        (["--endpoint.url", "http://127.0.0.1:abc/v1"], "--endpoint.url: found 'http://127.0.0.1:abc/v1'"),
        (["--temperature", "inf"], "--temperature: found inf, expected 0 to 100"),
        (["--pixels", "100000"], "--pixels: found 100000, expected 0 to 2048"),
        (["--endpoint.key-variable", "sk-secret-1"], "--endpoint.key-variable: found an invalid variable name"),
        (["--endpoint.budget.money", "1"], "--endpoint.budget.money: found a limit without a price"),
        (["--votes", "5"], "--temperature: found 0 for 5 votes"),
        (["--votes", "0"], "--votes: found 0, expected 1 to 1000"),
        (["--endpoint.concurrency", "0"], "--endpoint.concurrency: found 0, expected 1 to 1000"),
        (["--endpoint.budget.money", "-1"], "--endpoint.budget.money: found -1"),
        (["--logprobs", "--endpoint.url", "URL"], "--logprobs: the server does not support"),
        (["--structured", "--endpoint.url", "URL"], "--structured: the server does not support"),
        (["--endpoint.ulr", "x"], "unknown flag '--endpoint.ulr'; did you mean '--endpoint.url'?"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], said: str, server: Faulty, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag.replace("URL", server.url) for flag in flags]
    code = main(["judge", "vlm", "m", *flags, "--out", str(tmp_path / "judge.json")])
    found = capsys.readouterr().err
    assert code == (2 if said else 0)
    assert said in found
    assert "sk-secret" not in found
    assert found.count("\n") == (1 if said else 0)
    assert (tmp_path / "judge.json").exists() == (not said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "expected a judge's description"),
        ("[]", "field 'kind': found none, expected one of VLMConfig"),
        ('{"kind": "Oracle"}', "field 'kind': found Oracle, expected one of VLMConfig"),
        ('{"kind": "VLMConfig", "endpoint": {"model": "m", "ulr": "x"}}', "field 'endpoint.ulr' of VLMConfig: unknown"),
        ('{"kind": "VLMConfig", "endpoint": {"model": "m"}, "rubric": "x"}', "field 'rubric' of VLMConfig: found 'x'"),
        ('{"kind": "VLMConfig"}', "endpoint"),
        ('{"kind": "CascadeConfig", "first": "judge.json", "then": "judge.json"}', "made of itself"),
        ('{"kind": "CascadeConfig", "first": "none.safetensors", "then": "b.json"}', "found no file"),
        (
            '{"kind": "EnsembleConfig", "judges": ["a.json"]}',
            "'judges' of EnsembleConfig: found 1, expected at least",
        ),
    ],
)
def test_a_wrong_description_names_the_file_and_the_field(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "judge.json").write_text(text)
    with pytest.raises(InputError) as error:
        load_judge(tmp_path / "judge.json")
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = VLMConfig(
        EndpointConfig(
            "m", "http://127.0.0.1:1/v1", budget=Budget(money=2.5), price=Price(1), extra={"effort": "low", "k": 1}
        ),
        rubric="partial-v1", votes=3, temperature=0.7, criteria={"drawer-open": "the hand is at the handle"},
    )  # fmt: skip
    save_judge(tmp_path / "judge.json", config)
    read = load_judge(tmp_path / "judge.json")
    assert isinstance(read, VLMJudge)
    assert read.config == config
    assert read.identity == VLMJudge(replace(config, endpoint=replace(config.endpoint, budget=Budget()))).identity
    assert read.identity != VLMJudge(replace(config, votes=5)).identity


def test_an_old_ledger_stays_readable(tmp_path: Path) -> None:
    """The layout of the file is a promise: somebody paid for what is in it."""
    with sqlite3.connect(tmp_path / "old.sqlite") as file:
        file.execute("CREATE TABLE answers (key TEXT, number INTEGER, answer TEXT, PRIMARY KEY (key, number))")
        file.execute("CREATE TABLE spent (requests INTEGER, tokens INTEGER, money REAL)")
        file.execute("INSERT INTO answers VALUES ('k', 1, '[[1.0, 1.0]]')")
        file.execute("INSERT INTO spent VALUES (3, 100, 0.5)")
    ledger = Ledger(tmp_path / "old.sqlite")
    assert ledger.answers("k") == {1: "[[1.0, 1.0]]"}
    assert ledger.spend(Spending(requests=1)) == Spending(4, 100, 0.5)
