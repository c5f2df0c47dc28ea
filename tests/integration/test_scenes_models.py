"""Scenes that models make: sentences near to known ones, and distractors painted behind the robot."""

import json
from pathlib import Path

import numpy as np
import pytest
from scene_builders import ROBOT, bare_plate, scene

from worldgymnast.envs.metaworld import INSTRUCTIONS, SUITE
from worldgymnast.errors import InputError
from worldgymnast.measure.novelty import MIN_SENTENCE_SIMILARITY
from worldgymnast.registry import load_editor
from worldgymnast.scenes.inpainting import InpaintingConfig
from worldgymnast.scenes.language import AFFORDANCES
from worldgymnast.scenes.plate import Plate
from worldgymnast.text import SentenceEncoder


@pytest.fixture
def plate() -> Plate:
    return bare_plate()


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
    with pytest.raises(InputError, match="'pixels' of InpaintingConfig: found 500, expected a multiple of 8"):
        InpaintingConfig("painter", pixels=500)


def test_what_is_no_painter_is_said(tmp_path: Path, plate: Plate) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "painter").mkdir()
    (tmp_path / "editor.json").write_text(json.dumps({"kind": "InpaintingConfig", "model": "painter"}))
    with pytest.raises(InputError, match="found no pipeline for inpainting"):
        load_editor(tmp_path / "editor.json", plate)


def test_what_is_written_is_near_to_what_is_known() -> None:
    encode = SentenceEncoder()
    for task in SUITE:
        said = encode(AFFORDANCES[task].sentences())
        likeness = (said @ encode(INSTRUCTIONS[task]).T).max(1).values
        assert float(likeness.min()) > MIN_SENTENCE_SIMILARITY, AFFORDANCES[task].sentences()[int(likeness.argmin())]
