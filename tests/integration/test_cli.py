"""The command line: quick help, and one clear line with exit code 2 for whatever a person can get wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_builders import episode
from places import ROOT
from refusals import Refuses

import worldgymnast as wg
from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import COMMANDS, main
from worldgymnast.episodes import lerobot
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.recipes.presets import PRESETS, debug, preset
from worldgymnast.registry import Manifest, save_component
from worldgymnast.weights import load_weights, save_weights
from worldgymnast.worldmodel.sampler import LatentWorldModel

POSITIONALS = {
    "evaluate": ("BEFORE",),
    "data convert": ("SOURCE", "TARGET"),
    "judge calibrate": ("JUDGE",),
    "judge compare": ("A", "B"),
    "sft": ("DATA...",),
    "train-world": ("DATA...",),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained components of the debug preset: policy, world and judge, and a policy in other units."""
    folder, recipe = tmp_path_factory.mktemp("parts"), debug()
    spec = recipe.env.action_spec
    save_component(folder / "policy.safetensors", SmallVLA(recipe.policy.policy, spec), Manifest())
    save_component(folder / "other.safetensors", SmallVLA(recipe.policy.policy, metaworld_spec(4)), Manifest())
    save_component(folder / "world.safetensors", LatentWorldModel(recipe.world.world, spec, 13.3), Manifest())
    save_component(folder / "judge.safetensors", SuccessClassifier(recipe.judge.judge), Manifest())
    return folder


def rl(parts: Path, out: Path, **changed: Path) -> list[object]:
    files = {name: parts / f"{name}.safetensors" for name in ("policy", "world", "judge")} | changed
    flags = [word for name, path in files.items() for word in (f"--{name}", path)]
    return ["rl", "debug", *flags, "--out", out]


def test_help_fits_a_screen_needs_the_standard_library_alone_and_lists_every_command() -> None:
    """Without site-packages (-S) there is nothing else to load, so help is as quick as Python."""
    command = [sys.executable, "-S", "-X", "importtime", "-m", "worldgymnast", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) <= 55, "one screen"
    assert max(map(len, lines)) <= 100
    for name in COMMANDS:
        family, _, member = name.partition(" ")
        (line,) = [line for line in lines if line.startswith(f"  {family} ")]
        assert member in line
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    own = {module for module in loaded if module.partition(".")[0] == "worldgymnast"}
    assert len(own) <= 6, own
    assert len(loaded) < 200, "each module of the standard library takes its time too"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([*name.split(), "--help"])
        assert stop.value.code == 0
        shown = capsys.readouterr().out
        assert "--help" in shown
        if name in ("reproduce", "quickstart"):
            assert "--finetune.rl.group-size" in shown
            assert "record.env" not in shown
        if name in ("rl", "record", "reproduce"):
            assert "PRESET comes first" in shown
            assert "Defaults below: metaworld" in shown
        if name in ("rl", "record", "record-policy"):
            assert "--env.hold" in shown
            assert "--env.horizon" not in shown
        if name == "rl":
            assert "--rl.group-size" in shown
        for word in POSITIONALS.get(name, ()):
            assert word in next(line for line in shown.splitlines() if line.startswith("usage:"))


@pytest.mark.parametrize(("family", "names"), [("data", ("check", "convert")), ("judge", ("calibrate", "compare"))])
def test_help_of_the_commands_of_two_words(
    family: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([family, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [f"{family} {name}" in shown for name in names] == [True, True]
    assert all(f"  {name} " in shown for name in COMMANDS if name.startswith(f"{family} "))
    assert len(shown.splitlines()) == 2 + sum(name.startswith(f"{family} ") for name in COMMANDS)
    assert main([family]) == 2
    said = capsys.readouterr().err
    assert all(f"{family} {name} " in said for name in names)


def test_every_flag_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        text = " ".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())
        bare = re.findall(r"(--[\w.-]+) [A-Z]+ +\((?:default|required)", text)
        assert not bare, name


def test_presets_are_whole_and_agree_on_the_environment() -> None:
    for name in PRESETS:
        recipe = preset(name)
        assert recipe.seeds
    with pytest.raises(InputError, match="did you mean 'debug'"):
        preset("debgu")


def test_unknown_words_are_answered_with_the_nearest(refuses: Refuses, tmp_path: Path) -> None:
    assert "did you mean 'record'" in refuses("recrod", "metaworld")
    assert "did you mean 'data check'" in refuses("data", "chekc")
    assert "did you mean 'judge compare'" in refuses("judge", "compair")
    assert "did you mean 'metaworld'" in refuses("rl", "metaword")
    assert "run: python -m studies.tables --quick" in refuses("reproduce", "tables", "--quick")
    assert "did you mean 'scenes photograph'" in refuses("scene", "photograph", "x")
    assert "did you mean '--rl.trainer.lr'" in refuses("rl", "debug", "--rl.lr", 3)
    assert "did you mean" not in refuses("rl", "foo")
    words = ("judge", "vlm", "model", "--url", "http://127.0.0.1:8000/v1", "--out", tmp_path / "x.json")
    assert "did you mean '--endpoint.url'" in refuses(*words)
    assert "did you mean '--rl.group-size'" in refuses("rl", "metaworld", "--rl.groupsize", 4, "--out", tmp_path / "x")
    assert "did you mean 'drawer-open'" in refuses(
        "record", "debug", "--env.tasks", "drawer-opne", "--out", tmp_path / "x"
    )
    assert "did you mean 'drawer-open'" in refuses(
        "reproduce", "debug", "--env.tasks", "drawer-opne", "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()


def test_missing_and_malformed_flags(refuses: Refuses, tmp_path: Path) -> None:
    assert "--out" in refuses("sft", tmp_path)
    assert "worldgymnast reproduce debug" in refuses("reproduce")
    assert "Run: worldgymnast record debug --out" in refuses("record", "--out", tmp_path / "x", "debug")
    for words in (("--out", ""), ("--out=",)):
        assert "--out is empty" in refuses("record", "debug", *words)
    for words in (("--rl.steps", "many"), ("--rl.steps=many",), ("--rl.steps", "2", "--rl.steps", "many")):
        assert "error: --rl.steps: found 'many', expected an integer" in refuses("rl", "debug", *words)
    assert "--rl.middle: missing value, expected a number" in refuses("rl", "debug", "--rl.middle")
    assert "--device: found 'gpu', expected cpu or cuda" in refuses("rl", "debug", "--device", "gpu")
    assert "--fps: found '5 fps', expected a number" in refuses("data", "check", "x", "--fps", "5 fps")
    assert "unexpected argument 'b'" in refuses("report", "a", "b")
    assert "DATA: missing data sets" in refuses("sft", "--out", tmp_path / "x")
    assert "evaluate: missing --out. Run worldgymnast evaluate --help" in refuses("evaluate", "a.safetensors")
    assert "dyna: missing --data, --out. Run worldgymnast dyna --help" in refuses("dyna")


def test_without_the_hook_of_tyro_its_own_box_names_the_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hook is in a private module, which another version of tyro may lack."""
    monkeypatch.delattr("tyro._errors")
    monkeypatch.setitem(sys.modules, "tyro._errors", None)
    with pytest.raises(SystemExit) as stop:
        main(["rl", "debug", "--device", "gpu"])
    assert stop.value.code == 2
    assert "--device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("sft D --fit.steps 0", "--fit.steps"),
        ("sft D --batch 0", "--batch"),
        ("sft D --threads -1", "--threads"),
        ("sft D --size 0", "--size"),
        ("reproduce debug --seeds", "--seeds"),
        ("reproduce debug --seeds 1 1", "--seeds"),
        ("reproduce debug --record.expert 1", "--record.expert"),
        ("evaluate P Q --seeds 2 0 2", "--seeds"),
        ("adapt --task drawer-open --layout -1", "--layout"),
        ("judge vlm m --unchecked --endpoint.budget.requests 0", "--endpoint.budget.requests"),
        ("record debug --env.hold 0", "--env.hold"),
        ("record debug --env.size 100000", "--env.size"),
        ("record debug --expert -1", "--expert"),
        ("record debug --workers -3", "--workers"),
        ("record debug --env.tasks drawer-opne", "--env.tasks"),
        ("quickstart --env.tasks drawer-opne", "--env.tasks"),
        ("reproduce debug --held-out.length 0", "--held-out.length"),
        ("rl debug --rl.group-size 1", "--rl.group-size"),
        ("rl debug --photographs 0", "--photographs"),
        ("train-world D --world.transformer.heads 5", "--world.transformer.width"),
        ("data convert D X --size -3", "--size"),
    ],
)
def test_a_refused_value_names_its_flag(refuses: Refuses, tmp_path: Path, words: str, flag: str) -> None:
    out = [] if words.startswith("data") else ["--out", tmp_path / "x"]
    given = [{"D": tmp_path, "X": tmp_path / "x"}.get(word, word) for word in words.split()]
    assert refuses(*given, *out).startswith(f"worldgymnast: error: {flag}: found ")
    assert not (tmp_path / "x").exists()


def test_the_numbers_of_eval_world(refuses: Refuses, tmp_path: Path) -> None:
    for flag in ("--length", "--horizon", "--stride"):
        line = refuses("eval-world", tmp_path, "--judge", tmp_path, "--data", tmp_path, flag, 0)
        assert f"error: {flag}: found 0" in line


def test_flags_without_effect_are_refused(refuses: Refuses, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    for flag in ("--record.env.hold", "--finetune.env.hold"):
        assert f"{flag} was renamed. Use --env.hold" in refuses("reproduce", "debug", flag, 3, *out)
    line = refuses("rl", "debug", "--rl.evaluate-starts", 3, *out)
    assert "--rl.evaluate-starts was renamed. Use --scoring.per-task (or --unscored instead of 0)" in line
    for flag in ("--rl.middle", "--rl.evaluate-every"):
        line = refuses("adapt", "--frame", tmp_path, "--instruction", "x", flag, 1, *out)
        assert f"{flag} has no effect in this command. A single frame has no logged episode" in line
    assert "Use --length" in refuses("record", "debug", "--env.horizon", 3, *out)
    assert "Use --length" in refuses("record-policy", tmp_path, "--env.horizon=3", *out)
    assert "Use --rl.horizon" in refuses("rl", "debug", "--env.horizon", 3, *out)
    assert "--rl.middle has no effect in this command" in refuses("rl-simulator", "debug", "--rl.middle", 0.5, *out)
    line = refuses("dyna", "--data", tmp_path, "--world.world.transformer.width", 64, *out)
    assert "World model and judge keep their architecture" in line


def test_what_is_given_twice_or_is_of_another_kind(refuses: Refuses, tmp_path: Path) -> None:
    assert "a data set was given twice" in refuses("sft", tmp_path, tmp_path / ".", "--out", tmp_path / "x")
    line = refuses("dyna", "--data", tmp_path, "--judge", tmp_path / "judge.json", "--out", tmp_path / "x")
    assert "judge.json: found the description of a judge, expected a learned one" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(refuses: Refuses, tmp_path: Path) -> None:
    assert "CUDA" in refuses("sft", tmp_path, "--device", "cuda", "--out", tmp_path / "x")


def test_wrong_and_empty_paths(refuses: Refuses, tmp_path: Path, parts: Path) -> None:
    nothing, empty = tmp_path / "nothing", tmp_path / "empty"
    empty.mkdir()
    for path in (nothing, empty):
        for command in ("sft", "train-world"):
            assert str(path) in refuses(command, path, "--out", tmp_path / "x")
        assert str(path) in refuses("data", "check", path)
        assert str(path) in refuses("data", "convert", path, tmp_path / "x")
        assert str(path) in refuses("report", path)
        assert str(path) in refuses(*rl(parts, tmp_path / "x", world=path))
        assert str(path) in refuses("evaluate", path, path, "--out", tmp_path / "x")
        assert str(path) in refuses("record-policy", path, "--out", tmp_path / "x")
    assert str(empty) in refuses("record", "debug", "--out", empty)
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_of_another_shape(refuses: Refuses, tmp_path: Path, parts: Path) -> None:
    tensors, meta = load_weights(parts / "policy.safetensors")
    name = next(key for key, value in tensors.items() if value.ndim == 4)
    wrong = tmp_path / "wrong.safetensors"
    save_weights(wrong, tensors | {name: tensors[name][:1]}, meta)
    line = refuses(*rl(parts, tmp_path / "x", policy=wrong))
    assert str(wrong) in line
    assert name in line
    line = refuses(*rl(parts, tmp_path / "x", policy=parts / "world.safetensors"))
    assert "found a world model (LatentWorldModel), expected a policy (FlowVLA, " in line
    wrong.write_bytes((parts / "policy.safetensors").read_bytes()[:1000])
    assert str(wrong) in refuses(*rl(parts, tmp_path / "x", policy=wrong))


def test_units_that_differ(refuses: Refuses, tmp_path: Path, parts: Path) -> None:
    other = parts / "other.safetensors"
    line = refuses("evaluate", other, other, "--out", tmp_path / "x")
    assert str(metaworld_spec(4)) in line
    assert str(debug().env.action_spec) in line
    assert line.endswith("Add --env.hold 4")
    line = refuses("record-policy", other, "--out", tmp_path / "x")
    assert str(other) in line
    assert line.endswith("Add --env.hold 4")
    assert refuses(*rl(parts, tmp_path / "x"), "--env.size", 32).endswith("Resize with --env.size 64")
    files = [word for name in ("policy", "world", "judge") for word in (f"--{name}", parts / f"{name}.safetensors")]
    line = refuses("quickstart", *files, "--env.hold", 4, "--out", tmp_path / "x")
    assert line.endswith("Add --env.hold 6")


def test_policy_and_world_in_other_units(refuses: Refuses, tmp_path: Path, parts: Path) -> None:
    words = rl(parts, tmp_path / "x", policy=parts / "other.safetensors")
    line = refuses(*words)
    assert "world.safetensors" in line
    assert str(parts / "other.safetensors") in line


def test_a_data_set_without_statistics(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    lerobot.write(data, [episode(i) for i in range(2)])
    info = json.loads((data / "meta/info.json").read_text())
    del info["features"]["action"]["worldgymnast"]  # someone else's: the range of its actions comes from the rows
    (data / "meta/info.json").write_text(json.dumps(info))
    (data / "meta/stats.json").unlink()
    assert main(["data", "check", str(data)]) == 0
    assert "statistics: found no such file" in capsys.readouterr().out


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("worldgymnast.cli.commands.data.check", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["data", "check", str(tmp_path)])


def test_traceback_on_demand(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        main(["data", "check", str(tmp_path / "nothing"), "--traceback"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Rerun the same command to resume"),
        (MemoryError(), 2, "out of memory"),
        (OSError(28, "No space left on device", "somewhere"), 2, "somewhere: no space left"),
        (PermissionError(13, "Permission denied", "somewhere"), 2, "somewhere: Permission denied"),
    ],
)
def test_what_happens_to_the_machine(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("worldgymnast.cli.commands.train.read", fails)
    assert main(["sft", str(tmp_path), "--out", str(tmp_path / "x")]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_data_set_that_is_stopped_starts_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stops(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worldgymnast.cli.commands.data.formats.convert", stops)
    assert main(["data", "convert", str(tmp_path), str(tmp_path / "x")]) == 130
    assert capsys.readouterr().err == "worldgymnast: Stopped. No partial data set was kept.\n"


def test_convert_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    lerobot.write(source, [episode(i) for i in range(2)])
    assert main(["data", "convert", str(source), str(target), "--size", "32"]) == 0
    assert "2 episodes" in capsys.readouterr().out
    assert lerobot.read(target).size == (32, 32)
    assert np.array_equal(lerobot.read(target).actions, lerobot.read(source).actions)
    assert main(["data", "check", str(target)]) == 0


@pytest.mark.parametrize("backend", ["glfw", "nonsense"])
def test_no_gl_is_one_line(tmp_path: Path, backend: str) -> None:
    command = [sys.executable, "-m", "worldgymnast", "record", "debug", "--out", str(tmp_path / "x")]
    environment = {**os.environ, "MUJOCO_GL": backend, "DISPLAY": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if backend == "glfw" and done.returncode == 0:
        pytest.skip("glfw renders here")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"MUJOCO_GL: found '{backend}'" in done.stderr.splitlines()[-1]
    assert "Unset it" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_what_a_terminal_would_obey_is_shown_where_it_is_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[31m\n\x07"]) == 2
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_word_that_no_file_can_have_as_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", name]) == 2
    assert capsys.readouterr().err.startswith("worldgymnast: error: RUN: found ")


def test_a_kind_beside_a_policy_of_another_kind_is_refused(refuses: Refuses, tmp_path: Path) -> None:
    policy = wg.starter("policy")
    said = refuses("sft", "tiny-smolvla", tmp_path, "--begin-with", policy, "--out", tmp_path / "run")
    assert "it is a SmallVLA, which keeps its kind, but the first argument chooses TinySmolVLA" in said
    assert not (tmp_path / "run").exists()
