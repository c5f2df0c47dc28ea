"""Where a command will write is checked before anything is read, which can take minutes."""

from pathlib import Path

import pytest

from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.run import check_folder, check_writable

NOWHERE = "/no/such/data"
COMMANDS = {
    "sft": ["sft", NOWHERE, "--begin-with", "/no/policy.safetensors", "--out"],
    "train-world": ["train-world", NOWHERE, "--begin-with", "/no/world.safetensors", "--out"],
    "train-judge": ["train-judge", NOWHERE, "--world", "/no/world.safetensors", "--out"],
    "distill": ["distill", NOWHERE, "--world", "/no/world.safetensors", "--out"],
    "rl": ["rl", "debug", "--policy", "/no/policy.safetensors", "--out"],
    "rl-simulator": ["rl-simulator", "debug", "--policy", "/no/policy.safetensors", "--out"],
    "adapt": ["adapt", "--frame", "/no/picture.png", "--instruction", "open it", "--out"],
    "dyna": ["dyna", "--data", NOWHERE, "--policy", "/no/policy.safetensors", "--out"],
    "dyna --from": ["dyna", "--data", NOWHERE, "--from", NOWHERE, "--policy", "/no/policy.safetensors", "--out"],
    "iter-sft": ["iter-sft", "--data", NOWHERE, "--policy", "/no/policy.safetensors", "--out"],
    "quickstart": ["quickstart", "--policy", "/no/policy.safetensors", "--out"],
    "reproduce": ["reproduce", "debug", "--env.tasks", "door-opne", "--out"],
    "evaluate": ["evaluate", "/no/a.safetensors", "/no/b.safetensors", "--out"],
    "diagnose": ["diagnose", NOWHERE, "--world", "/no/world.safetensors", "--out"],
    "record": ["record", "debug", "--env.tasks", "door-opne", "--out"],
    "record-policy": ["record-policy", "/no/policy.safetensors", "--out"],
    "data convert": ["data", "convert", NOWHERE],
    "data add": ["data", "add", NOWHERE, NOWHERE + "2", "--out"],
    "scenes photograph": ["scenes", "photograph", "--env.tasks", "door-opne"],
    "scenes distract": ["scenes", "distract", NOWHERE],
    "scenes propose": ["scenes", "propose", NOWHERE],
    "import-policy": ["import-policy", NOWHERE, "--out"],
    "export-policy": ["export-policy", "/no/policy.safetensors", "--base", NOWHERE, "--out"],
}
"""Commands whose inputs do not exist, without the last word: where they write."""


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


def test_files_are_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file/numbers.json"
    assert main(["eval-world", "/no/world.safetensors", "--data", NOWHERE, "--out", str(out)]) == 2
    assert f"--out: cannot write {out}" in capsys.readouterr().err


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
