"""Scenes to train on: distractors in front of the table and behind the robot, new sentences, and the commands."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import editing, saying

from studies.diverse import UNHEARD
from worldgymnast.actions import metaworld_spec
from worldgymnast.cli.main import main
from worldgymnast.endpoint import EndpointConfig, Unusable
from worldgymnast.envs.metaworld import INSTRUCTIONS, MORE, SUITE
from worldgymnast.episodes.lerobot import LeRobotWriter, read
from worldgymnast.episodes.starts import read_starts, write_start
from worldgymnast.errors import InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.measure.novelty import SENTENCE_LIKENESS
from worldgymnast.protocols import Editor
from worldgymnast.recipes.quickstart import starter_plate
from worldgymnast.registry import load_editor, load_proposer
from worldgymnast.scenes.cutouts import Cutouts, CutoutsConfig, cutouts_in, drawn
from worldgymnast.scenes.edit import LEAST, MOST, changed, distracted
from worldgymnast.scenes.inpainting import InpaintingConfig
from worldgymnast.scenes.language import AFFORDANCES, written
from worldgymnast.scenes.plate import Plate, load_plate, plate_of
from worldgymnast.scenes.proposals import Proposer, ProposerConfig, parse
from worldgymnast.scenes.remote import RemoteEditor, RemoteEditorConfig
from worldgymnast.text import SentenceEncoder
from worldgymnast.types import Episode, Start

TABLE, WALL, ROBOT = (60, 120, 150), (200, 200, 210), (180, 20, 20)


def scene(robot: int | None = None, size: int = 48) -> np.ndarray:
    """A table under a wall; a robot's arm from above at that column."""
    frame = np.full((size, size, 3), TABLE, np.uint8)
    frame[: size // 3] = WALL
    if robot is not None:
        frame[: size * 3 // 4, robot : robot + 8] = ROBOT
    return frame


@pytest.fixture
def plate() -> Plate:
    return plate_of(np.stack([scene(robot) for robot in range(0, 40, 2)]))


# ---------------------------------------------------------------- the empty scene


def test_the_plate_is_the_scene_without_what_moves(plate: Plate) -> None:
    assert (plate.frame == scene()).all()
    assert plate.surface[16:].all()
    assert not plate.surface[:16].any(), "the wall is not what things stand on"
    before = plate.foreground(scene(10)[None])[0]
    assert (before[:36, 10:18] == 1).all()
    assert before.sum() == 36 * 8


def test_a_plate_is_read_as_it_was_written(plate: Plate, tmp_path: Path) -> None:
    plate.save(tmp_path / "plate.png")
    found = load_plate(tmp_path / "plate.png")
    assert (found.frame == plate.frame).all()
    assert (found.surface == plate.surface).all()
    half = found.at((24, 24))
    assert half.frame.shape == (24, 24, 3)
    assert half.surface[9:].all()
    assert not half.surface[:7].any()


def test_a_camera_that_moves_has_no_plate() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 48, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="no surface that stays the same in 20 frames"):
        plate_of(noise)


def test_the_starter_plate_is_a_bare_table() -> None:
    plate = load_plate(starter_plate())
    assert plate.frame.shape == (64, 64, 3)
    assert 0.3 < plate.surface.mean() < 0.8


# ---------------------------------------------------------------- cut-outs


def test_a_distractor_stands_on_the_table_and_behind_the_robot(plate: Plate) -> None:
    clip = np.stack([scene(robot) for robot in (0, 8, 16, 24, 32)])
    hidden = 0
    for seed in range(20):
        edited = Cutouts(CutoutsConfig(), plate).edit(clip, "", np.random.default_rng(seed))
        there = (edited != clip).any(-1)
        robots = (clip == ROBOT).all(-1)
        assert not (there & robots).any(), "the robot is in front"
        assert not there[:, :16].any(), "nothing hangs on the wall"
        first = there[0]
        assert first.any()
        assert not (there & ~first).any(), "the objects are those of the first frame"
        for t in range(1, len(clip)):
            assert (there[t] == (first & ~robots[t])).all(), "and hidden exactly where the robot is"
            hidden += int((first & robots[t]).sum())
    assert hidden > 0


def test_the_same_draw_pastes_the_same(plate: Plate) -> None:
    editor = Cutouts(CutoutsConfig(), plate)
    one, other, third = (editor.edit(scene(4)[None], "", np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == other).all()
    assert (one != third).any()


def test_nearer_objects_are_larger(plate: Plate) -> None:
    heights: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(120):
        edited = Cutouts(CutoutsConfig(objects=1), plate).edit(scene()[None], "", np.random.default_rng(seed))[0]
        rows = np.flatnonzero((edited != scene()).any((1, 2)))
        heights[rows[-1] > 32].append(len(rows))
    assert np.mean(heights[True]) > np.mean(heights[False]) + 1


def test_every_drawn_object_is_solid_inside_and_clear_at_a_corner() -> None:
    for seed in range(40):
        cutout = drawn(12, np.random.default_rng(seed))
        assert cutout.shape[0] == 12
        assert 0 <= cutout.min() <= cutout.max() <= 1
        assert cutout[6, cutout.shape[1] // 2, 3] > 0.9


def cut(path: Path, colour: Sequence[int], opaque: bool = False, empty: bool = False) -> None:
    picture = np.zeros((30, 20, 4), np.uint8)
    if not empty:
        picture[5:25, 5:15] = (*colour, 255)
    if opaque:
        picture[..., 3] = 255
    Image.fromarray(picture).save(path)


def test_cut_outs_come_from_a_folder(plate: Plate, tmp_path: Path) -> None:
    cut(tmp_path / "cup.png", (0, 0, 255))
    (tmp_path / "editor.json").write_text(json.dumps({"kind": "CutoutsConfig", "folder": ".", "objects": 1}))
    (cutout,) = cutouts_in(tmp_path)
    assert cutout.shape == (20, 10, 4), "its empty margin is cut away"
    editor = load_editor(tmp_path / "editor.json", plate)
    assert editor.name == "1 cut-outs"
    edited = editor.edit(scene()[None], "", np.random.default_rng(0))[0]
    assert ((edited == (0, 0, 255)).all(-1)).any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "found no PNG file"),
        (lambda folder: cut(folder / "a.png", (1, 2, 3), opaque=True), "opaque everywhere"),
        (lambda folder: cut(folder / "a.png", (1, 2, 3), empty=True), "empty"),
        (lambda folder: (folder / "a.png").write_text("no"), "no picture that can be read"),
    ],
)
def test_what_is_no_cut_out_is_refused(make: object, said: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        cutouts_in(tmp_path)


# ---------------------------------------------------------------- what an edit must be


class Odd:
    """An editor that does something wrong."""

    name, clips = "odd", False

    def __init__(self, kind: str):
        self.kind, self.asked = kind, 0

    def edit(self, frames: np.ndarray, instruction: str, rng: np.random.Generator) -> np.ndarray:
        self.asked += 1
        if self.kind == "small":
            return frames[:, ::2, ::2]
        return frames if self.kind == "nothing" else 255 - frames


def test_an_edit_of_another_size_is_refused() -> None:
    editor: Editor = Odd("small")
    with pytest.raises(InputError, match=r"editor 'odd': found uint8 frames \[1, 24, 24, 3\], expected uint8"):
        distracted(editor, Start(scene(), "open the drawer"), np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["nothing", "everything"])
def test_no_edit_and_another_scene_are_left_out(kind: str) -> None:
    editor = Odd(kind)
    assert distracted(editor, Start(scene(), "open the drawer"), np.random.default_rng(0)) is None
    assert editor.asked == 3


def test_an_edited_start_has_no_layout(plate: Plate) -> None:
    start = Start(scene(), "open the drawer", "drawer-open", 7)
    made = distracted(Cutouts(CutoutsConfig(), plate), start, np.random.default_rng(0))
    assert made is not None
    assert (made.instruction, made.task, made.layout) == ("open the drawer", "drawer-open", None)
    assert LEAST <= changed(start.frame, made.frame) <= MOST


# ---------------------------------------------------------------- an editor behind a server


def remote(url: str, **more: object) -> RemoteEditor:
    endpoint = EndpointConfig("painter", url, pause=0.01, timeout=5.0, attempts=3, **more)  # type: ignore[arg-type]
    return RemoteEditor(RemoteEditorConfig(endpoint, pixels=96))


def test_a_server_edits() -> None:
    with editing("square") as server:
        edited = remote(server.url).edit(scene()[None], "open the drawer", np.random.default_rng(0))
    assert edited.shape == (1, 48, 48, 3)
    assert 0.01 < changed(scene(), edited[0]) < 0.2
    assert server.size == (96, 96), "the frame is sent enlarged"
    assert "open the drawer" in server.body
    assert "96x96" in server.body


def test_a_server_that_is_out_for_a_while_is_asked_again() -> None:
    with editing("late") as server:
        editor = remote(server.url)
        editor.edit(scene()[None], "", np.random.default_rng(0))
        assert editor.endpoint.counts == {"500": 2, "answered": 1}


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("size", 'found a picture of 64x64 pixels, expected 96x96 as was sent; set "pixels"'),
        ("text", "no picture in the reply"),
        ("address", "response_format"),
        ("nothing", "can the model edit pictures"),
    ],
)
def test_what_no_editor_may_answer_is_said(mode: str, said: str) -> None:
    with editing(mode) as server, pytest.raises(InputError, match=said):
        remote(server.url).edit(scene()[None], "", np.random.default_rng(0))


# ---------------------------------------------------------------- an inpainting model


def test_an_inpainting_model_paints_behind_the_robot(tmp_path: Path, plate: Plate) -> None:
    pytest.importorskip("diffusers")
    from tiny_painter import save

    save(tmp_path / "painter")
    (tmp_path / "editor.json").write_text(
        json.dumps({"kind": "InpaintingConfig", "model": "painter", "pixels": 32, "steps": 2, "objects": 1})
    )
    editor = load_editor(tmp_path / "editor.json", plate)
    frame = scene(20)
    edited = editor.edit(frame[None], "", np.random.default_rng(0))[0]
    there = (edited != frame).any(-1)
    assert 10 < there.sum() <= 100, "a rectangle of a fifth of the frame is painted anew"
    assert not there[(frame == ROBOT).all(-1)].any()
    again = editor.edit(frame[None], "", np.random.default_rng(0))[0]
    assert (again == edited).all()


def test_a_painter_paints_multiples_of_eight() -> None:
    with pytest.raises(InputError, match="'pixels': found 500, expected a multiple of 8"):
        InpaintingConfig("painter", pixels=500)


def test_what_is_no_painter_is_said(tmp_path: Path, plate: Plate) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "painter").mkdir()
    (tmp_path / "editor.json").write_text(json.dumps({"kind": "InpaintingConfig", "model": "painter"}))
    with pytest.raises(InputError, match="found no pipeline for inpainting"):
        load_editor(tmp_path / "editor.json", plate)


# ---------------------------------------------------------------- language


def test_sentences_are_written_from_the_objects() -> None:
    rng = np.random.default_rng(0)
    assert len(set(written("drawer-open", 24, rng))) == 24
    assert all("drawer" in sentence for sentence in written("drawer-open", 100, rng))
    assert written("unheard-of", 5, rng) == []
    assert set(AFFORDANCES) == {*SUITE, *MORE}


def test_what_is_written_is_near_to_what_is_known() -> None:
    encode = SentenceEncoder()
    for task in SUITE:
        said = encode(AFFORDANCES[task].sentences())
        likeness = (said @ encode(INSTRUCTIONS[task]).T).max(1).values
        assert float(likeness.min()) > SENTENCE_LIKENESS, AFFORDANCES[task].sentences()[int(likeness.argmin())]


def test_the_sentences_of_the_tests_are_heard_nowhere_else() -> None:
    heard = {s for known in AFFORDANCES.values() for s in known.sentences()}
    heard |= {s for group in INSTRUCTIONS.values() for s in group}
    assert set(UNHEARD) == set(SUITE)
    assert not heard & {s for group in UNHEARD.values() for s in group}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('["open the drawer.", "push  the cup"]', ["open the drawer", "push the cup"]),
        ('Sure!\n```json\n["a b", "a b", 3, "", "c"]\n```', ["a b", "c"]),
        ('["a", "b", "c", "d"]', ["a", "b", "c"]),
    ],
)
def test_proposals_are_read(text: str, found: list[str]) -> None:
    assert parse(text, 3) == found


@pytest.mark.parametrize("text", ["", "open the drawer", "[1, 2]", '{"a": 1}', "[broken", "[]"])
def test_an_answer_without_proposals_says_nothing(text: str) -> None:
    with pytest.raises(Unusable):
        parse(text, 3)


def reply(text: str) -> str:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


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
    assert all(LEAST <= changed(plain[0].frame, start.frame) <= MOST for start in found)
    before = {path: path.read_bytes() for path in target.iterdir()}
    for name in ("drawer-open-2.json", "summary.json"):  # as if it had been killed there
        (target / name).unlink()
    assert main(command) == 0
    pictures = [path for path in before if path.stem[-1].isdigit()]
    assert len(pictures) == 8
    assert all(path.read_bytes() == before[path] for path in pictures)
    assert main([*command, "--seed", "1"]) == 2, "other pictures are another folder"
    assert "field 'seed'" in capsys.readouterr().err


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
    assert capsys.readouterr().out.count("left out 1 of 2") == 2
    assert {s.task for s in read_starts(target, None)} == {"drawer-open"}
    assert Ledger(target / FILE).spent().requests == 3 + 1 + 1, "three tries, the other one, and that one again"


def test_another_camera_needs_a_plate_of_its_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*.png"):
        Image.fromarray(255 - scene(size=64)).save(path)
    assert main(["scenes", "distract", str(folder), str(tmp_path / "bare")]) == 2
    assert "give --plate of this camera" in capsys.readouterr().err
    mine = tmp_path / "plate.png"
    plate_of(np.stack([255 - scene(robot, 64) for robot in range(0, 56, 2)])).save(mine)
    assert main(["scenes", "distract", str(folder), str(tmp_path / "among"), "--plate", str(mine)]) == 0


def test_sentences_are_proposed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenes", "propose", str(folder), str(tmp_path / "told"), "--count", "5"]) == 0
    assert len(read_starts(tmp_path / "told", None)) == 10
    (folder / "drawer-open.json").write_text('{"instruction": "juggle"}')
    assert main(["scenes", "propose", str(folder), str(tmp_path / "other")]) == 2
    assert "field 'task': found 'juggle'" in capsys.readouterr().err
    with saying(reply('["juggle", "wave"]')) as url:
        file = tmp_path / "proposer.json"
        file.write_text(json.dumps({"kind": "ProposerConfig", "endpoint": {"model": "m", "url": url}}))
        command = ["scenes", "propose", str(folder), str(tmp_path / "asked"), "--proposer", str(file)]
        assert main(command) == 0
        for name in ("drawer-open-1.json", "summary.json"):  # as if it had been killed there
            (tmp_path / "asked" / name).unlink()
        assert main(command) == 0
        spent = Ledger(tmp_path / "asked" / FILE).spent()
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


def test_whole_episodes_are_distracted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plate, target = tmp_path / "plate.png", tmp_path / "among"
    assert main(["scenes", "plate", str(data), "--out", str(plate)]) == 0
    assert main(["scenes", "distract", str(data), str(target), "--plate", str(plate)]) == 0
    before, after = read(data), read(target)
    assert (after.actions == before.actions).all()
    assert (after.success == before.success).all()
    frames = np.asarray(after.frames[after.rows]), np.asarray(before.frames[before.rows])
    assert 0.001 < changed(*(f.reshape(-1, 48, 3) for f in frames)) < 0.2
    assert main(["scenes", "distract", str(data), str(target), "--plate", str(plate)]) == 2
    assert "exists already" in capsys.readouterr().err
    other = tmp_path / "other"
    assert main(["scenes", "distract", str(data), str(other)]) == 2
    assert "adds nothing to 15 of the first 15 episodes" in capsys.readouterr().err
    assert main(["scenes", "distract", str(data), str(other), "--copies", "2"]) == 2
    assert "--copies, --crop: found one of them for a data set" in capsys.readouterr().err
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
        (["distract", "here", "here"], "which is the source"),
        (["distract", "here", "target"], "here/a.json: found no file beside its picture"),
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


def test_an_editor_of_no_kind_is_refused(tmp_path: Path, plate: Plate) -> None:
    file = tmp_path / "editor.json"
    file.write_text('{"kind": "VLMConfig"}')
    with pytest.raises(InputError, match="found VLMConfig, expected one of CutoutsConfig, InpaintingConfig, Remote"):
        load_editor(file, plate)
    file.write_text('{"kind": "CutoutsConfig", "object": 3}')
    with pytest.raises(InputError, match="did you mean 'objects'"):
        load_editor(file, plate)


@pytest.mark.usefixtures("gl")
def test_photographs_are_taken(tmp_path: Path) -> None:
    target = tmp_path / "photos"
    assert main(["scenes", "photograph", str(target), "--per-task", "1", "--env.tasks", "drawer-open"]) == 0
    starts = read_starts(target, None)
    assert {s.task for s in starts} == {"drawer-open"}
    assert len(starts) == 4
