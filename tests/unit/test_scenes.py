"""Scenes for training: distractors, new sentences, and edited starts."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_builders import ROBOT, bare_plate, scene

from studies.diverse import HELD_OUT_SENTENCES
from worldgymnast.endpoint import UnusableReply
from worldgymnast.envs.metaworld import EXTRA_TASKS, INSTRUCTIONS, SUITE
from worldgymnast.errors import InputError
from worldgymnast.protocols import Editor
from worldgymnast.recipes.quickstart import starter_plate
from worldgymnast.registry import load_editor
from worldgymnast.scenes.cutouts import Cutouts, CutoutsConfig, draw_object, load_cutouts
from worldgymnast.scenes.edit import MAX_CHANGE, MIN_CHANGE, add_distractors, changed_share
from worldgymnast.scenes.language import AFFORDANCES, sample_instructions
from worldgymnast.scenes.plate import Plate, estimate_plate, load_plate
from worldgymnast.scenes.proposals import parse
from worldgymnast.types import Start


@pytest.fixture
def plate() -> Plate:
    return bare_plate()


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
    half = found.resized((24, 24))
    assert half.frame.shape == (24, 24, 3)
    assert half.surface[9:].all()
    assert not half.surface[:7].any()


def test_a_camera_that_moves_has_no_plate() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 48, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="no constant surface in 20 frames"):
        estimate_plate(noise)


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
        cutout = draw_object(12, np.random.default_rng(seed))
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
    (cutout,) = load_cutouts(tmp_path)
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
        (lambda folder: (folder / "a.png").write_text("no"), "not a readable picture"),
    ],
)
def test_what_is_no_cut_out_is_refused(make: object, said: str, tmp_path: Path) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match=said):
        load_cutouts(tmp_path)


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
        add_distractors(editor, Start(scene(), "open the drawer"), np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["nothing", "everything"])
def test_no_edit_and_another_scene_are_left_out(kind: str) -> None:
    editor = Odd(kind)
    assert add_distractors(editor, Start(scene(), "open the drawer"), np.random.default_rng(0)) is None
    assert editor.asked == 3


def test_an_edited_start_has_no_layout(plate: Plate) -> None:
    start = Start(scene(), "open the drawer", "drawer-open", 7)
    made = add_distractors(Cutouts(CutoutsConfig(), plate), start, np.random.default_rng(0))
    assert made is not None
    assert (made.instruction, made.task, made.layout) == ("open the drawer", "drawer-open", None)
    assert MIN_CHANGE <= changed_share(start.frame, made.frame) <= MAX_CHANGE


# ---------------------------------------------------------------- language


def test_sentences_are_written_from_the_objects() -> None:
    rng = np.random.default_rng(0)
    assert len(set(sample_instructions("drawer-open", 24, rng))) == 24
    assert all("drawer" in sentence for sentence in sample_instructions("drawer-open", 100, rng))
    assert sample_instructions("unheard-of", 5, rng) == []
    assert set(AFFORDANCES) == {*SUITE, *EXTRA_TASKS}


def test_the_sentences_of_the_tests_are_heard_nowhere_else() -> None:
    heard = {s for known in AFFORDANCES.values() for s in known.sentences()}
    heard |= {s for group in INSTRUCTIONS.values() for s in group}
    assert set(HELD_OUT_SENTENCES) == set(SUITE)
    assert not heard & {s for group in HELD_OUT_SENTENCES.values() for s in group}


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
    with pytest.raises(UnusableReply):
        parse(text, 3)


def test_an_editor_of_no_kind_is_refused(tmp_path: Path, plate: Plate) -> None:
    file = tmp_path / "editor.json"
    file.write_text('{"kind": "VLMConfig"}')
    with pytest.raises(InputError, match="found VLMConfig, expected one of CutoutsConfig, InpaintingConfig, Remote"):
        load_editor(file, plate)
    file.write_text('{"kind": "CutoutsConfig", "object": 3}')
    with pytest.raises(InputError, match="did you mean 'objects'"):
        load_editor(file, plate)
