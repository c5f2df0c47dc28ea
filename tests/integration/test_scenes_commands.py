"""Commands that create and edit scenes, with servers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_builders import bare_plate, scene
from servers import editing, saying

from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.endpoint import EndpointConfig
from worldgymnast.envs.metaworld import INSTRUCTIONS
from worldgymnast.episodes.lerobot import LeRobotWriter, read
from worldgymnast.episodes.starts import read_starts, write_start
from worldgymnast.errors import InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.recipes.quickstart import starter_plate
from worldgymnast.registry import load_proposer
from worldgymnast.scenes.edit import MAX_CHANGE, MIN_CHANGE, changed_share
from worldgymnast.scenes.plate import Plate, estimate_plate, load_plate
from worldgymnast.scenes.proposals import Proposer, ProposerConfig
from worldgymnast.scenes.remote import RemoteEditor, RemoteEditorConfig
from worldgymnast.types import Episode


@pytest.fixture
def plate() -> Plate:
    return bare_plate()


# ---------------------------------------------------------------- an editor behind a server


def remote(url: str, **more: object) -> RemoteEditor:
    endpoint = EndpointConfig("painter", url, pause=0.01, timeout=5.0, attempts=3, **more)  # type: ignore[arg-type]
    return RemoteEditor(RemoteEditorConfig(endpoint, pixels=96))


@pytest.mark.server
def test_a_server_edits() -> None:
    with editing("square") as server:
        edited = remote(server.url).edit(scene()[None], "open the drawer", np.random.default_rng(0))
    assert edited.shape == (1, 48, 48, 3)
    assert 0.01 < changed_share(scene(), edited[0]) < 0.2
    assert server.size == (96, 96), "the frame is sent enlarged"
    assert "open the drawer" in server.body
    assert "96x96" in server.body


@pytest.mark.server
def test_a_server_that_is_out_for_a_while_is_asked_again() -> None:
    with editing("late") as server:
        editor = remote(server.url)
        editor.edit(scene()[None], "", np.random.default_rng(0))
        assert editor.endpoint.counts == {"500": 2, "answered": 1}


@pytest.mark.server
@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("size", 'found a picture of 64x64 pixels, expected 96x96 as sent. Set "pixels"'),
        ("text", "no picture in the reply"),
        ("address", "response_format"),
        ("nothing", "check that the model can edit pictures"),
    ],
)
def test_what_no_editor_may_answer_is_said(mode: str, said: str) -> None:
    with editing(mode) as server, pytest.raises(InputError, match=said):
        remote(server.url).edit(scene()[None], "", np.random.default_rng(0))


def reply(text: str) -> str:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


@pytest.mark.server
def test_a_model_proposes_and_one_that_does_not_is_told(tmp_path: Path) -> None:
    with saying(reply('["open the drawer", "wipe the table"]')) as url:
        file = tmp_path / "proposer.json"
        file.write_text(json.dumps({"kind": "ProposerConfig", "endpoint": {"model": "m", "url": url}}))
        assert load_proposer(file).propose(scene(), 4) == ["open the drawer", "wipe the table"]
    with saying(reply("I cannot see pictures.")) as url:
        proposer = Proposer(ProposerConfig(EndpointConfig("m", url, pause=0.01, attempts=2)))
        with pytest.raises(InputError, match="found no proposals"):
            proposer.propose(scene(), 4)


# ---------------------------------------------------------------- commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of the starter's bare table, with sentences."""
    frame = load_plate(starter_plate()).frame
    for task in ("drawer-open", "door-close"):
        write_start(tmp_path / "scenes", task, frame, INSTRUCTIONS[task], task)
    return tmp_path / "scenes"


def test_what_is_written_is_read(folder: Path) -> None:
    starts = read_starts(folder, None)
    assert [s.task for s in starts] == ["door-close"] * 4 + ["drawer-open"] * 4
    assert {s.instruction for s in starts[4:]} == set(INSTRUCTIONS["drawer-open"])


def test_pictures_are_distracted_and_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "among"
    command = ["scenes", "distract", str(folder), str(target), "--copies", "2"]
    assert main(command) == 0
    names = sorted(path.name for path in target.glob("*.png"))
    assert names == ["door-close-1.png", "door-close-2.png", "drawer-open-1.png", "drawer-open-2.png"]
    plain, found = read_starts(folder, None), read_starts(target, None)
    assert len(found) == 2 * len(plain)
    assert all(MIN_CHANGE <= changed_share(plain[0].frame, start.frame) <= MAX_CHANGE for start in found)
    before = {path: path.read_bytes() for path in target.iterdir()}
    for name in ("drawer-open-2.json", "summary.json"):  # as if it had been killed there
        (target / name).unlink()
    assert main(command) == 0
    pictures = [path for path in before if path.stem[-1].isdigit()]
    assert len(pictures) == 8
    assert all(path.read_bytes() == before[path] for path in pictures)
    assert main([*command, "--seed", "1"]) == 2, "other pictures are another folder"
    assert f"--seed: {target} was started with 0; this command has 1" in capsys.readouterr().err


@pytest.mark.server
def test_what_an_editor_left_as_it_was_is_not_asked_for_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(folder / "door-close.png") as image:
        frame = np.array(image)
    frame[-13:, :13] = (0, 0, 255)  # where the server would paint
    Image.fromarray(frame).save(folder / "door-close.png")
    file, target = tmp_path / "editor.json", tmp_path / "among"
    with editing("square") as server:
        file.write_text(json.dumps({"kind": "RemoteEditorConfig", "endpoint": {"model": "m", "url": server.url}}))
        command = ["scenes", "distract", str(folder), str(target), "--editor", str(file)]
        assert main(command) == 0
        for name in ("drawer-open-1.json", "summary.json"):  # as if it had been killed there
            (target / name).unlink()
        assert main(command) == 0
    assert capsys.readouterr().out.count("skipped 1 of 2") == 2
    assert {s.task for s in read_starts(target, None)} == {"drawer-open"}
    assert Ledger(target / FILE).total().requests == 3 + 1 + 1, "three tries, the other one, and that one again"


def test_another_camera_needs_a_plate_of_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*.png"):
        Image.fromarray(255 - scene(size=64)).save(path)
    assert main(["scenes", "distract", str(folder), str(tmp_path / "bare")]) == 2
    assert "Give the --plate of this camera" in capsys.readouterr().err
    mine = tmp_path / "plate.png"
    estimate_plate(np.stack([255 - scene(robot, 64) for robot in range(0, 56, 2)])).save(mine)
    assert main(["scenes", "distract", str(folder), str(tmp_path / "among"), "--plate", str(mine)]) == 0


@pytest.mark.server
def test_sentences_are_proposed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenes", "propose", str(folder), str(tmp_path / "told"), "--count", "5"]) == 0
    assert len(read_starts(tmp_path / "told", None)) == 10
    (folder / "drawer-open.json").write_text('{"instruction": "juggle"}')
    assert main(["scenes", "propose", str(folder), str(tmp_path / "other")]) == 2
    assert "field 'task': the objects of 'juggle' are unknown" in capsys.readouterr().err
    with saying(reply('["juggle", "wave"]')) as url:
        file = tmp_path / "proposer.json"
        file.write_text(json.dumps({"kind": "ProposerConfig", "endpoint": {"model": "m", "url": url}}))
        command = ["scenes", "propose", str(folder), str(tmp_path / "asked"), "--proposer", str(file)]
        assert main(command) == 0
        for name in ("drawer-open-1.json", "summary.json"):  # as if it had been killed there
            (tmp_path / "asked" / name).unlink()
        assert main(command) == 0
        spent = Ledger(tmp_path / "asked" / FILE).total()
        assert spent.requests == 3, "what is there is not asked for again"
    assert {(s.instruction, s.task) for s in read_starts(tmp_path / "asked", None)} == {("juggle",) * 2, ("wave",) * 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    spec = metaworld_spec(6)
    with LeRobotWriter(tmp_path / "data", spec, 10.0, 48) as writer:
        for first in range(0, 30, 2):
            frames = np.stack([scene(robot) for robot in range(first, first + 10, 2)])
            writer.add(Episode(frames, np.zeros((4, 4), np.float32), "open", "a", 10.0, spec, np.arange(5) > 3))
    return tmp_path / "data"


@pytest.mark.server
def test_whole_episodes_are_distracted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plate, target = tmp_path / "plate.png", tmp_path / "among"
    assert main(["scenes", "plate", str(data), "--out", str(plate)]) == 0
    assert main(["scenes", "distract", str(data), str(target), "--plate", str(plate)]) == 0
    before, after = read(data), read(target)
    assert (after.actions == before.actions).all()
    assert (after.success == before.success).all()
    frames = np.asarray(after.frames[after.rows]), np.asarray(before.frames[before.rows])
    assert 0.001 < changed_share(*(f.reshape(-1, 48, 3) for f in frames)) < 0.2
    assert main(["scenes", "distract", str(data), str(target), "--plate", str(plate)]) == 2
    assert "already exists" in capsys.readouterr().err
    other = tmp_path / "other"
    assert main(["scenes", "distract", str(data), str(other)]) == 2
    assert "added nothing to 15 of the first 15 episodes" in capsys.readouterr().err
    assert main(["scenes", "distract", str(data), str(other), "--copies", "2"]) == 2
    assert "--copies, --crop: have no effect on a data set" in capsys.readouterr().err
    assert not other.exists()
    with editing("square") as server:
        editor = tmp_path / "editor.json"
        editor.write_text(json.dumps({"kind": "RemoteEditorConfig", "endpoint": {"model": "m", "url": server.url}}))
        assert main(["scenes", "distract", str(data), str(tmp_path / "no"), "--editor", str(editor)]) == 2
    assert "edits single frames" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distract", "nowhere", "target"], "nowhere: found no folder"),
        (["distract", "here", "here"], "is the source"),
        (["distract", "here", "target"], "here/a.json: no such file beside its picture"),
        (["plate", "nowhere", "--out", "plate.png", "--seed", "-1"], "--seed: found -1"),
        (["distract", "nowhere", "target", "--copies", "0"], "--copies: found 0"),
        (["distract", "here", "target", "--editor", "no.json"], "no.json: found no file, expected an editor's"),
        (["distract", "here", "target", "--plate", "here/a.png"], "expected a plate"),
        (["propose", "nowhere", "target", "--count", "0"], "--count: found 0"),
        (["propose", "nowhere", "target", "--proposr", "x"], "--proposr"),
        (["plate", "nowhere", "--out", "plate.jpg"], "expected a file that ends in .png"),
        (["photograph", "target", "--env.tasks", "drawer-opem"], "did you mean 'drawer-open'"),
    ],
)
def test_bad_input(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    Image.fromarray(scene()).save("here/a.png")
    assert main(["scenes", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not list((tmp_path / "target").glob("*.png"))


@pytest.mark.usefixtures("gl")
def test_photographs_are_taken(tmp_path: Path) -> None:
    target = tmp_path / "photos"
    assert main(["scenes", "photograph", str(target), "--per-task", "1", "--env.tasks", "drawer-open"]) == 0
    starts = read_starts(target, None)
    assert {s.task for s in starts} == {"drawer-open"}
    assert len(starts) == 4
