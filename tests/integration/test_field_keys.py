"""Rules for keys, and validation of judges' files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from raw_server import chat, http, raw, sending
from servers import brightening

from worldgymnast import keys
from worldgymnast.cli.main import main
from worldgymnast.endpoint import EndpointConfig
from worldgymnast.errors import InputError
from worldgymnast.recipes.quickstart import starter_plate
from worldgymnast.registry import load_editor, load_judge, load_proposer
from worldgymnast.scenes.plate import load_plate

SECRET = "sk-very-secret"
ANSWERING = sending(http(json.dumps(chat())))


def described(path: Path, url: str, kind: str = "VLMConfig", **endpoint: Any) -> Path:
    told = {
        "kind": kind,
        "pixels": 64,
        "endpoint": {"model": "m", "url": url, "attempts": 1, "timeout": 10.0, **endpoint},
    }
    path.write_text(json.dumps(told))
    return path


# ---------------------------------------------------------------- where a key may go


@pytest.mark.parametrize(
    ("variable", "url", "allowed", "goes"),
    [
        ("OPENAI_API_KEY", "https://api.openai.com/v1", [], True),
        ("OPENAI_API_KEY", "https://API.OpenAI.com/v1", [], True),
        ("OPENAI_API_KEY", "https://api.openai.com:8443/v1", [], True),
        ("GROQ_API_KEY", "https://api.groq.com/openai/v1", [], True),
        ("OPENAI_API_KEY", "http://127.0.0.1:8000/v1", [], True),
        ("OPENAI_API_KEY", "http://127.8.8.8/v1", [], True),
        ("OPENAI_API_KEY", "http://[::1]:8000/v1", [], True),
        ("OPENAI_API_KEY", "http://localhost:8000/v1", [], True),
        ("OPENAI_API_KEY", "https://api.groq.com/openai/v1", [], False),
        ("OPENAI_API_KEY", "https://api.openai.com.evil.example/v1", [], False),
        ("OPENAI_API_KEY", "https://evil.example/api.openai.com/v1", [], False),
        ("OPENAI_API_KEY", "http://api.openai.com/v1", [], False),
        ("OPENAI_API_KEY", "http://localhost.evil.example/v1", [], False),
        ("OPENAI_API_KEY", "http://127.0.0.1.nip.io/v1", [], False),
        ("OPENAI_API_KEY", "http://2130706433/v1", [], False),
        ("OPENAI_API_KEY", "http://127.1/v1", [], False),
        ("OPENAI_API_KEY", "http://0x7f000001/v1", [], False),
        ("OPENAI_API_KEY", "http://[::ffff:8.8.8.8]/v1", [], False),
        ("OPENAI_API_KEY", "http://0.0.0.0:8000/v1", [], False),
        ("OPENAI_API_KEY", "http://192.168.1.5:8000/v1", [], False),
        ("OPENAI_API_KEY", "http://192.168.1.5:8000/v1", ["OPENAI_API_KEY@192.168.1.5"], False),
        ("OPENAI_API_KEY", "https://proxy.example/v1", ["OPENAI_API_KEY"], False),
        ("OPENAI_API_KEY", "https://proxy.example/v1", ["OPENAI_API_KEY@other.example"], False),
        ("OPENAI_API_KEY", "https://proxy.example/v1", ["OPENAI_API_KEY@Proxy.example"], True),
        ("OPENAI_API_KEY", "https://proxy.example:8443/v1", ["OPENAI_API_KEY@proxy.example:8443"], True),
        ("MY_KEY", "https://proxy.example/v1", ["MY_KEY"], True),
        ("MY_KEY", "https://proxy.example/v1", ["MY_KEY@proxy.example"], True),
        ("MY_KEY", "http://proxy.example/v1", ["MY_KEY"], False),
        ("MY_KEY", "http://127.0.0.1:8000/v1", ["MY_KEY"], True),
        ("MY_KEY", "http://127.0.0.1:8000/v1", [], None),
        ("AWS_SECRET_ACCESS_KEY", "https://api.openai.com/v1", [], None),
        ("MY_KEY", "https://proxy.example/v1", ["MY_KEY@other.example", "OTHER_KEY"], None),
    ],
)
def test_where_a_key_may_go(variable: str, url: str, allowed: list[str], goes: bool | None) -> None:
    """None: nothing is asked at all."""
    with keys.allow_keys(allowed):
        if goes is None:
            with pytest.raises(InputError, match=f"found {variable}.*Add --allow-key {variable}"):
                keys.withhold_reason(variable, url)
        else:
            why = keys.withhold_reason(variable, url)
            assert (why is None) == goes, why
    assert keys.PROVIDERS.keys() >= {"OPENAI_API_KEY", "HF_TOKEN"}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@evil.example/v1", "http://evil.example\\@127.0.0.1/v1", "http://127.0.0.1\\.evil.example/v1",
        "http://evil.example#@127.0.0.1/v1", "http://127.0.0.1\t.evil.example/v1", "http://127.0.0.1\n/v1", "http:///v1",
        "http://127.0.0.1\x00.evil.example/v1", "http://\u0131ocalhost/v1", "http://b\u00fccher.example/v1",
        "http://[::1/v1", "http://[v1.x]/v1", "http://[1.2.3.4]/v1", "http://a..b/v1", "file:///etc/passwd", "ftp://host",
        "http://host:0/v1", "http://host:99999/v1", "http://host:1e3/v1", "http://host/v1?key=1", "http://host/v 1", "",
        "//host/v1", "HTTP://host", "javascript:alert(1)", "http://" + "a" * 64, "http://host/\ud800",
    ],
)  # fmt: skip
def test_an_address_that_could_be_read_differently_is_none(url: str) -> None:
    with pytest.raises(InputError, match="field 'url' of EndpointConfig: found") as error:
        EndpointConfig("m", url)
    assert str(error.value).isprintable()


@pytest.mark.server
@pytest.mark.parametrize("kind", ["VLMConfig", "ProposerConfig", "RemoteEditorConfig"])
def test_no_description_sends_a_variable_that_was_not_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of an attack: any variable to any host."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with raw(ANSWERING) as server:
        path = described(tmp_path / "judge.json", server.url, kind, key_variable="AWS_SECRET_ACCESS_KEY")
        load = {
            "VLMConfig": load_judge,
            "ProposerConfig": load_proposer,
            "RemoteEditorConfig": lambda path: load_editor(path, load_plate(starter_plate())),
        }
        with pytest.raises(InputError, match=r"judge\.json: field 'key_variable': found AWS_SECRET_ACCESS_KEY"):
            load[kind](path)
        (tmp_path / "outer.json").write_text('{"kind": "CalibratedConfig", "judge": "judge.json"}')
        if kind == "VLMConfig":
            with pytest.raises(InputError, match="AWS_SECRET_ACCESS_KEY"):
                load_judge(tmp_path / "outer.json")
        assert server.heads == []


@pytest.mark.server
def test_a_named_key_is_sent_and_the_run_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    with raw(ANSWERING) as server, keys.allow_keys(["MY_KEY"]):
        asked = load_judge(described(tmp_path / "judge.json", server.url, key_variable="MY_KEY"))
        assert [v.score for v in asked.score(brightening(3)[0])] == [1, 1, 1]
        assert all(f"authorization: bearer {SECRET}".encode() in head.lower() for head in server.heads)
    said = capsys.readouterr().out
    assert said == f"MY_KEY goes to {server.url.removesuffix('/v1')}\n"


@pytest.mark.server
def test_a_key_that_does_not_belong_to_a_server_stays_here_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server of one's own, and a key of OpenAI's in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with raw(ANSWERING) as server:
        url = server.url.replace("127.0.0.1", "0.0.0.0")
        (verdict,) = load_judge(described(tmp_path / "judge.json", url)).score(brightening(1)[0])
        assert verdict.score == 1
        assert SECRET.encode() not in server.heads[0]
    assert "OPENAI_API_KEY is not sent to http://0.0.0.0" in capsys.readouterr().out


@pytest.mark.server
def test_nothing_else_of_the_environment_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Secret: {SECRET}")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with raw(ANSWERING) as server:
        (verdict,) = load_judge(described(tmp_path / "judge.json", server.url)).score(brightening(1)[0])
        assert verdict.score == 1, verdict.error
        assert SECRET.encode() not in server.heads[0] + server.bodies[0]
        assert b"stainless" not in server.heads[0].lower()


@pytest.mark.server
def test_a_redirect_is_not_followed_with_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for status in ("301 Moved", "307 Temporary Redirect", "308 Permanent Redirect"):
        with raw(ANSWERING) as other, raw(sending(http("", status, "text/plain", f"location: {other.url}/x"))) as first:
            (verdict,) = load_judge(described(tmp_path / "judge.json", first.url)).score(brightening(1)[0])
            assert verdict.score is None
            assert "is not followed" in str(verdict.error)
            assert other.heads == []


def test_the_flag_is_one_of_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    path = described(tmp_path / "judge.json", "http://127.0.0.1:9/v1", key_variable="MY_KEY")
    words = ["judge", "calibrate", str(path), "--data", str(tmp_path / "none")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{path}: field 'key_variable': found MY_KEY, expected the variable of a known provider" in said
    assert "The key would be sent to http://127.0.0.1:9" in said
    assert said.count("\n") == 1
    assert main([*words, "--allow-key=OTHER", "--allow-key", "MY_KEY@127.0.0.1"]) == 2
    assert "MY_KEY" not in capsys.readouterr().err, "now it is the data that is missing"
    with pytest.raises(InputError):
        keys.withhold_reason("MY_KEY", "http://127.0.0.1:9/v1")  # a permission ends with its command


@pytest.mark.parametrize("word", [SECRET, "", "A@", "A@b/c", "@host", "A B", "A=b"])
def test_a_permission_that_names_no_variable_is_refused_and_not_repeated(word: str) -> None:
    with (
        pytest.raises(InputError, match="--allow-key: found an invalid variable name") as error,
        keys.allow_keys([word]),
    ):
        pass
    assert SECRET not in str(error.value)


@pytest.mark.server
def test_a_server_that_is_named_on_the_command_line_gets_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    with raw(_counting_pictures) as server:
        words = ["judge", "vlm", "m", "--endpoint.url", server.url, "--endpoint.key-variable", "MY_KEY"]
        assert main([*words, "--out", str(tmp_path / "judge.json")]) == 0
        assert all(SECRET.encode() in head for head in server.heads)
    said = capsys.readouterr().out
    assert f"MY_KEY goes to {server.url.removesuffix('/v1')}" in said
    assert "add --allow-key MY_KEY@127.0.0.1 to commands" in said


def _counting_pictures(connection: Any, head: bytes, body: bytes) -> None:
    tokens = {"prompt_tokens": 10 + body.count(b"image_url"), "completion_tokens": 1}
    connection.sendall(http(json.dumps(chat(usage=tokens))))


# ---------------------------------------------------------------- descriptions


def tree(folder: Path, levels: int, members: int) -> Path:
    """Ensembles of ensembles; every level names the next `members` times."""
    described(folder / f"{levels}.json", "http://127.0.0.1:9/v1")
    for level in range(levels):
        told = {"kind": "EnsembleConfig", "judges": [f"{level + 1}.json"] * members}
        if members == 1:
            told = {"kind": "CalibratedConfig", "judge": f"{level + 1}.json"}
        (folder / f"{level}.json").write_text(json.dumps(told))
    return folder / "0.json"


@pytest.mark.parametrize(
    ("levels", "members", "said"),
    [(12, 3, "expected at most 8 levels"), (6, 3, "more than 64 judges within it"), (1500, 1, "at most 8 levels")],
)
def test_a_tree_of_judges_has_an_end(levels: int, members: int, said: str, tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match=said):
        load_judge(tree(tmp_path, levels, members))
    assert time.process_time() - began < 20
    (tmp_path / "small").mkdir()
    assert len(load_judge(tree(tmp_path / "small", 3, 3)).members) == 3  # type: ignore[attr-defined]


URL = {"model": "m", "url": "http://127.0.0.1:9/v1"}
ODD_URL = '{"kind": "VLMConfig", "endpoint": {"model": "m", "url": "http://%s"}}'
WRONG = {
    "null": ("null", "field 'kind': found none"),
    "a number": ("7", "field 'kind': found none"),
    "a list of itself": ('[{"kind": "VLMConfig"}]', "field 'kind': found none"),
    "brackets": ("[" * 100_000, "expected a judge's description"),
    "no UTF-8": (b"\xff\xfe{}", "expected a judge's description"),
    "a misspelt kind": ('{"kind": "VLMConfg"}', "did you mean VLMConfig?"),
    "a kind that is a list": ('{"kind": ["VLMConfig"]}', 'found ["VLMConfig"], expected one of'),
    "a misspelt key": ({"kind": "VLMConfig", "endpoint": URL, "temprature": 1}, "did you mean 'temperature'?"),
    "a misspelt inner key": ({"kind": "VLMConfig", "endpoint": URL | {"budget": {"tokns": 1}}}, "budget.tokns"),
    "a long key": ({"kind": "VLMConfig", "endpoint": URL, "x" * 10**5: 1}, "unknown, expected a field of VLMConfig"),
    "nothing in it": ({"kind": "VLMConfig"}, "endpoint"),
    "endpoint null": ({"kind": "VLMConfig", "endpoint": None}, "judge.json"),
    "endpoint a list": ({"kind": "VLMConfig", "endpoint": []}, "judge.json"),
    "model null": ({"kind": "VLMConfig", "endpoint": {"model": None}}, "judge.json"),
    "a flag in words": ({"kind": "VLMConfig", "endpoint": URL, "sheet": "no"}, "judge.json"),
    "a number in words": ({"kind": "VLMConfig", "endpoint": URL | {"timeout": "60"}}, "judge.json"),
    "a broken number": ({"kind": "VLMConfig", "endpoint": URL | {"attempts": 2.7}}, "judge.json"),
    "url in other letters": (ODD_URL % "h\u00f6st", "field 'endpoint.url' of VLMConfig"),
    "url with a null byte": (ODD_URL % "\\u0000", "field 'endpoint.url' of VLMConfig"),
    "timeout NaN": ('{"kind": "VLMConfig", "endpoint": {"model": "m", "timeout": NaN}}', "'endpoint.timeout'"),
    "timeout inf": ('{"kind": "VLMConfig", "endpoint": {"model": "m", "timeout": Infinity}}', "'endpoint.timeout'"),
    "extra a list": ({"kind": "VLMConfig", "endpoint": URL | {"extra": [1]}}, "judge.json"),
    "extra streams": ({"kind": "VLMConfig", "endpoint": URL | {"extra": {"stream": True}}}, "field 'endpoint.extra'"),
    "threshold NaN": ('{"kind": "CalibratedConfig", "judge": "a.json", "threshold": NaN}', "field 'threshold'"),
    "NaN for a task": ('{"kind": "CalibratedConfig", "judge": "a.json", "by_task": {"t": NaN}}', "field 'by_task.t'"),
    "low above high": ({"kind": "CascadeConfig", "first": "a", "then": "b", "low": 0.9, "high": 0.1}, "field 'low'"),
    "a rule": ({"kind": "EnsembleConfig", "judges": ["a", "b"], "rule": "some"}, "judge.json"),
    "judges in words": ({"kind": "EnsembleConfig", "judges": "ab"}, "judge.json"),
    "a member without a name": ({"kind": "CalibratedConfig", "judge": ""}, "found no file"),
    "a member with a null byte": ({"kind": "CalibratedConfig", "judge": "a\x00.json"}, "found no file"),
    "a member with a long name": ({"kind": "CalibratedConfig", "judge": "a" * 300 + ".json"}, "judge.json"),
    "a member that is missing": ({"kind": "CalibratedConfig", "judge": "../gone.json"}, "gone.json', expected"),
    "a member that is a folder": ({"kind": "CalibratedConfig", "judge": "."}, "found no file"),
    "itself by another name": ({"kind": "CalibratedConfig", "judge": "./sub/../judge.json"}, "made of itself"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_description_that_is_none_is_one_line(kind: str, tmp_path: Path) -> None:
    content, said = WRONG[kind]
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (tmp_path / "sub").mkdir()
    (tmp_path / "judge.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as error:
        load_judge(tmp_path / "judge.json")
    assert said in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 700


def test_a_description_larger_than_any_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "judge.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(InputError, match="found 1,048,577 bytes"):
        load_judge(tmp_path / "judge.json")


def test_links_in_a_circle_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "b.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    with pytest.raises(InputError, match="found no file"):
        load_judge(tmp_path / "a.json")
