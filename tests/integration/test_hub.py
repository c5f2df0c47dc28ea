"""Components to and from the hub: huggingface_hub itself, against a local server of its interface."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hub_server import TOKEN, WEAK, Hub, hub_server
from run_builders import parts, seed_component

pytestmark = pytest.mark.server
SCRIPT = """
import contextlib, io, json, os, sys
from worldgymnast.cli.main import main
told = []
for words, variables in json.loads(sys.stdin.read()):
    os.environ.update(variables)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


def variables(url: str, home: Path, **more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return known | {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN} | more


def say(
    commands: Sequence[Sequence[object]], environment: Mapping[str, str], changes: Sequence[Mapping[str, str]] = ()
) -> list[tuple[int, str, str]]:
    """Run commands one after the other in a process with another hub; exit code, stdout and stderr of each.

    Args:
        commands: their words.
        environment: of the process.
        changes: of the environment before each command.
    """
    steps = [[list(map(str, words)), changes[i] if changes else {}] for i, words in enumerate(commands)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(steps), env=dict(environment), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]


def test_a_component_goes_to_the_hub_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    file = seed_component(tmp_path)
    environment = variables(hub.url, tmp_path / "home")
    out = tmp_path / "again"
    hub.repositories["me/empty"] = {"README.md": b""}
    first, second, dry, shown, absent, empty = say(
        [
            ["push", file, "me/drawer", "--private", "--license", "apache-2.0"],
            ["push", file, "me/drawer"],
            ["push", file, "me/other", "--dry-run"],
            ["export-policy", "hf:me/drawer", "--base", "base", "--out", out],
            ["export-policy", "hf:me/absent", "--base", "base", "--out", out],
            ["export-policy", "hf:me/empty", "--base", "base", "--out", out],
        ],
        environment,
    )
    assert first[2] == ""
    assert first[:2] == (0, f"{hub.url}/me/drawer\n")
    assert second[:2] == (0, f"{hub.url}/me/drawer\n"), "an existing repository gets a new commit"
    assert hub.private == {"me/drawer"}
    stored = hub.repositories["me/drawer"]
    assert sorted(stored) == ["README.md", "policy.safetensors"]
    assert stored["policy.safetensors"] == file.read_bytes()
    card = stored["README.md"].decode()
    assert "SmallVLA" in card
    assert dry[0] == 0
    assert dry[1].startswith("---\nlibrary_name: worldgymnast\n")
    assert "me/other" not in hub.repositories
    assert shown[0] == 2
    assert "SmallVLA has no published layout" in shown[2], "it was downloaded and loaded"
    assert absent[0] == 2
    assert absent[2].count("\n") == 1
    assert "hf:me/absent: cannot be downloaded (the hub has no such model, or it is private" in absent[2]
    assert "hf:me/empty: the repository has none of policy.safetensors, world.safetensors" in empty[2]

    script = "import sys, worldgymnast as wg; wg.save(wg.load_policy('hf:me/drawer@main'), sys.argv[1])"
    copy = tmp_path / "copy.safetensors"
    cached = environment | {"HF_HUB_OFFLINE": "1"}  # from the cache alone
    subprocess.run([sys.executable, "-c", script, str(copy)], env=cached, check=True)
    tensors, found = parts(file)[0], parts(copy)[0]
    assert all((found[name] == tensor).all() for name, tensor in tensors.items())


WRONG_TOKENS = {
    WEAK: "the token may not write to me",
    "hf_wrong": "the hub does not accept the token: run `hf auth login`",
    "": "found no token, so nothing was uploaded",
}


def test_a_refused_upload_is_one_line(hub: Hub, tmp_path: Path) -> None:
    push, home = ["push", seed_component(tmp_path), "me/drawer"], tmp_path / "home"
    tokens = [{"HF_TOKEN": token} for token in WRONG_TOKENS]
    told = say([push] * len(tokens), variables(hub.url, home), tokens)
    told += say([push], variables(hub.url, home, HF_HUB_OFFLINE="1"))
    told += say([push], variables("http://127.0.0.1:9", home))
    expected = [*WRONG_TOKENS.values(), "HF_HUB_OFFLINE is set: unset it", "the hub cannot be reached"]
    for (code, out, said), reason in zip(told, expected, strict=True):
        assert (code, out) == (2, "")
        assert said.count("\n") == 1
        assert said.startswith("worldgymnast: error: me/drawer: ")
        assert reason in said
    assert hub.repositories == {}
