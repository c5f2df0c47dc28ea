"""Frames and sentences unlike all that is known are told before anything is spent on them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from worldgymnast.envs.metaworld import EXTRA_TASKS, SUITE, instructions
from worldgymnast.measure.novelty import sentence_warning, task_name_warning, unlike_warning
from worldgymnast.types import Start

KNOWN = [words for task in SUITE for words in instructions(task)]


def told(*words: str) -> str:
    return sentence_warning([Start(np.zeros((8, 8, 3), np.uint8), each) for each in words], KNOWN)


@pytest.mark.parametrize("words", ["open a drawer please", "shut it", "bring the black plate into the cabinet"])
def test_other_words_for_what_is_known_are_understood(words: str) -> None:
    assert told(words) == ""


@pytest.mark.parametrize("words", ["öffne die Schublade", "ouvrir le tiroir", "turn on the faucet", "asdf qwer"])
def test_another_language_or_task_is_told(words: str) -> None:
    assert f"found '{words}', unlike the 24 known sentences" in told(words)


@pytest.mark.parametrize("words", ["do not open the drawer", "Don\u2019t open the drawer", "never open the drawer"])
def test_a_sentence_that_forbids_is_told(words: str) -> None:
    assert "is not understood" in told("close the door", words)


def test_of_several_the_worst_is_named() -> None:
    assert "found 'ouvrir le tiroir' and 1 more, unlike" in told("open the drawer", "asdf qwer", "ouvrir le tiroir")


@pytest.mark.parametrize(("task", "near"), [("drawr-open", "drawer-open"), ("windowclose", "window-close")])
def test_a_task_that_is_nearly_a_known_one_is_told(task: str, near: str) -> None:
    starts = [Start(np.zeros((8, 8, 3), np.uint8), "open the drawer", name) for name in ("drawer-open", task)]
    assert task_name_warning(starts, (*SUITE, *EXTRA_TASKS)) == f"found task '{task}', which resembles '{near}'"
    assert task_name_warning(starts[:1], (*SUITE, *EXTRA_TASKS)) == ""


@pytest.mark.parametrize("task", ["faucet-open", "open the drawer", "", "fold the towel"])
def test_a_task_of_ones_own_is_no_slip(task: str) -> None:
    assert (
        task_name_warning([Start(np.zeros((8, 8, 3), np.uint8), "fold the towel", task)], (*SUITE, *EXTRA_TASKS)) == ""
    )


def frames(seed: int, count: int) -> list[Start]:
    """Pictures of one scene: the same large areas, with a small object somewhere."""
    rng = np.random.default_rng(0)
    areas = rng.integers(0, 160, (4, 4, 3)).repeat(16, 0).repeat(16, 1)
    rng = np.random.default_rng(seed)
    pictures = [areas.astype(np.uint8) for _ in range(count)]
    for picture in pictures:
        y, x = rng.integers(0, 56, 2)
        picture[y : y + 8, x : x + 8] = (200, 30, 30)
    return [Start(picture, "push") for picture in pictures]


def changed(start: Start, change: Callable[[np.ndarray], np.ndarray]) -> Start:
    return replace(start, frame=np.ascontiguousarray(change(start.frame)))


def test_a_new_place_of_an_object_and_other_light_are_familiar() -> None:
    new = frames(1, 4)
    brighter = [changed(one, lambda frame: (frame * 1.2).astype(np.uint8)) for one in new]
    darker = [changed(one, lambda frame: frame // 2) for one in new]
    assert unlike_warning([*new, *brighter, *darker], frames(2, 8)) == ""


@pytest.mark.parametrize(
    "change",
    [lambda f: f[::-1], lambda f: f[:, ::-1], lambda f: np.roll(f, 16, 1), np.zeros_like, lambda f: 255 - f],
    ids=["upside down", "mirrored", "camera moved", "black", "negative"],
)
def test_another_scene_is_unlike_every_known_frame(change: Callable[[np.ndarray], np.ndarray]) -> None:
    first, *others = frames(1, 4)
    said = unlike_warning([changed(first, change), *others], frames(2, 8))
    assert said.startswith("found 1 of 4 frames out of distribution for the world model: the worst differs")


def test_known_frames_that_differ_more_widen_the_limit() -> None:
    known, mirrored = frames(2, 8), changed(frames(1, 1)[0], lambda frame: frame[:, ::-1])
    black = changed(known[0], np.zeros_like)
    assert unlike_warning([mirrored], known) != ""
    assert unlike_warning([mirrored], [*known, black]) == ""
