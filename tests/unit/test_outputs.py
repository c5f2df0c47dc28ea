"""Flags, and where a command will write, are checked before anything is read or downloaded, which can take minutes."""

from dataclasses import fields
from pathlib import Path

import huggingface_hub.constants
import pytest

from worldgymnast.cli.commands import KINDS
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.run import check_folder, check_writable

NOWHERE = "/no/such/data"
DEMO = "worldgymnast/playground/demo"
ABSENT = "hf:me/absent"
COMMANDS = {
    "sft": ["sft", NOWHERE, "--begin-with", ABSENT, "--out"],
    "train-world": ["train-world", NOWHERE, "--begin-with", ABSENT, "--out"],
    "train-judge": ["train-judge", NOWHERE, "--world", ABSENT, "--out"],
    "distill": ["distill", NOWHERE, "--world", ABSENT, "--out"],
    "rl": ["rl", "debug", "--policy", ABSENT, "--out"],
    "rl-simulator": ["rl-simulator", "debug", "--policy", ABSENT, "--out"],
    "adapt": ["adapt", "--frame", "/no/picture.png", "--instruction", "open it", "--judge", ABSENT, "--out"],
    "dyna": ["dyna", "--data", NOWHERE, "--policy", ABSENT, "--out"],
    "dyna --from": ["dyna", "--data", NOWHERE, "--from", NOWHERE, "--policy", ABSENT, "--out"],
    "iter-sft": ["iter-sft", "--data", NOWHERE, "--policy", ABSENT, "--out"],
    "quickstart": ["quickstart", "--policy", ABSENT, "--out"],
    "reproduce": ["reproduce", "debug", "--env.tasks", "door-opne", "--out"],
    "evaluate": ["evaluate", ABSENT, ABSENT, "--out"],
    "diagnose": ["diagnose", NOWHERE, "--world", ABSENT, "--out"],
    "record": ["record", "debug", "--env.tasks", "door-opne", "--out"],
    "record-policy": ["record-policy", ABSENT, "--out"],
    "data convert": ["data", "convert", NOWHERE],
    "data add": ["data", "add", NOWHERE, NOWHERE + "2", "--out"],
    "scenes photograph": ["scenes", "photograph", "--env.tasks", "door-opne"],
    "scenes distract": ["scenes", "distract", NOWHERE],
    "scenes propose": ["scenes", "propose", NOWHERE],
    "import-policy": ["import-policy", NOWHERE, "--out"],
    "export-policy": ["export-policy", ABSENT, "--base", NOWHERE, "--out"],
    "agree": ["agree", ABSENT, ABSENT + "2", "--out"],
    "best-of": ["best-of", ABSENT, "--out"],
    "judge cascade": ["judge", "cascade", ABSENT, ABSENT, "--out"],
    "judge ensemble": ["judge", "ensemble", ABSENT, ABSENT, "--out"],
}
"""Commands whose inputs do not exist, without the last word: where they write."""

FILES = {
    "eval-world": ["eval-world", ABSENT, "--data", NOWHERE, "--out", "numbers.json"],
    "judge calibrate": ["judge", "calibrate", ABSENT, "--data", NOWHERE, "--save", "judge.json"],
    "judge compare": ["judge", "compare", ABSENT, ABSENT, "--data", NOWHERE, "--out", "numbers.json"],
    "label": ["label", NOWHERE, "--judge", ABSENT, "--out", "labels.jsonl"],
    "export-rerun": ["export-rerun", DEMO, "--world", ABSENT, "--out", "episodes.rrd"],
}
"""Commands that write a file; the last word is its name."""
OTHERS = {
    "check-env": ["check-env", "metaworld", "--policy", ABSENT],
    "plan": ["plan", "--policy", ABSENT],
    "play": ["play", ABSENT],
    "push": ["push", f"{ABSENT}.safetensors", "me/copy"],
}
"""Commands that write nothing, or not here."""
COMPONENTS = {"policy", "policies", "world", "judge", "judges", "begin_with", "before", "first", "a"}
"""Fields of commands that are components; those beside them are left out."""
WRONG = [
    ["rl", "debug", "--policy", ABSENT, "--rl.stepps", "1"],
    ["rl", "debug", "--policy", ABSENT, "--device", "tpu"],
    ["rl", "debug", "--policy", ABSENT, "--workers", "3"],
    ["plan", "--policy", ABSENT, "--workers", "3"],
    ["dyna", "--data", NOWHERE, "--policy", ABSENT, "--held-out", "2", "--out", "run"],
    ["dyna", "--data", NOWHERE, "--policy", ABSENT, "--from", NOWHERE, "--rounds", "2", "--out", "run"],
    ["export-rerun", NOWHERE, "--world", ABSENT, "--out", "run.rrd"],
]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_in_the_way_is_named_before_anything_is_read(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file/run.json"
    assert main([*COMMANDS[name], str(out)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert f"{out}: cannot be written (Not a directory). Give another path" in line


@pytest.mark.parametrize("name", FILES)
def test_files_are_checked_too(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / f"file/{FILES[name][-1]}"
    assert main([*FILES[name][:-1], str(out)]) == 2
    assert f"{FILES[name][-2]}: cannot write {out}" in capsys.readouterr().err


def fetching() -> dict[str, list[str]]:
    """Words of the commands that take a component, by name; without an output that is to be added."""
    commands = COMMANDS | {name: words[:-1] for name, words in FILES.items()} | OTHERS
    return {name: words for name, words in commands.items() if any(word.startswith(ABSENT) for word in words)}


@pytest.mark.parametrize("name", fetching())
def test_then_components_are_downloaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    out = [] if name in OTHERS else [str(tmp_path / FILES.get(name, ["run.json"])[-1])]
    assert main([*fetching()[name], *out]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"worldgymnast: error: {ABSENT}")
    assert "cannot be downloaded (HF_HUB_OFFLINE is set" in line
    assert not any(tmp_path.iterdir())


def test_every_command_with_a_component_is_tested() -> None:
    taking = {name for name, kind in KINDS.items() if COMPONENTS & {field.name for field in fields(kind)}}
    assert taking == fetching().keys() - {"dyna --from", "push"}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_flags_download_nothing(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "downloaded" not in capsys.readouterr().err


def test_help_downloads_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["rl", "debug", "--policy", ABSENT, "--help"])
    assert "--rl.group-size" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused_and_one_that_can_is_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/proc/1/run: cannot be written .*Give another path"):
        check_writable(Path("/proc/1/run"))
    with pytest.raises(InputError, match="cannot be written"):
        check_folder(Path("/proc/run"))
    for place in (tmp_path / "new/folder", tmp_path):
        check_folder(place)
    (tmp_path / "mine.txt").write_text("")
    check_writable(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
