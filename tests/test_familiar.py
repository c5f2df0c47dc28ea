"""Frames and sentences unlike all that is known are told before anything is spent on them."""

from dataclasses import replace

import numpy as np
import pytest

from worldgymnast.config import load_world
from worldgymnast.envs.metaworld import SUITE, MetaWorldConfig, instructions
from worldgymnast.loops.familiar import strange_frames, strange_sentences
from worldgymnast.loops.finetune import photographs
from worldgymnast.loops.quickstart import starter
from worldgymnast.types import Start

KNOWN = [words for task in SUITE for words in instructions(task)]


def told(*words: str) -> str:
    return strange_sentences([Start(np.zeros((8, 8, 3), np.uint8), each) for each in words], KNOWN)


@pytest.mark.usefixtures("gl")
def test_a_frame_unlike_all_that_is_known_is_told() -> None:
    world = load_world(starter("world"))
    known = photographs(MetaWorldConfig(), 2, 6_000_000)
    familiar = photographs(MetaWorldConfig(), 1, 6_500_000)
    assert strange_frames(world, familiar, known) == ""
    assert strange_frames(world, familiar, []) == "", "nothing is known, so nothing is strange"
    first = known[0].frame
    strange = [
        replace(known[0], frame=np.ascontiguousarray(frame))
        for frame in (first[::-1], np.full((64, 64, 3), 128, np.uint8), first[..., ::-1])
    ]
    for one in strange:
        assert strange_frames(world, [one], known).startswith("found a frame unlike those that the world model knows")
    assert strange_frames(world, [*familiar, *strange], known).startswith("found 3 of 9 frames unlike those")


@pytest.mark.parametrize("words", ["open a drawer please", "shut it", "bring the black plate into the cabinet"])
def test_other_words_for_what_is_known_are_understood(words: str) -> None:
    assert told(words) == ""


@pytest.mark.parametrize("words", ["öffne die Schublade", "ouvrir le tiroir", "turn on the faucet", "asdf qwer"])
def test_another_language_or_task_is_told(words: str) -> None:
    assert f"found '{words}', unlike the 24 known sentences" in told(words)


def test_of_several_the_worst_is_named() -> None:
    assert "found 'ouvrir le tiroir' and 1 more, unlike" in told("open the drawer", "asdf qwer", "ouvrir le tiroir")
