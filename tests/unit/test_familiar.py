"""Frames and sentences unlike all that is known are told before anything is spent on them."""

import numpy as np
import pytest

from worldgymnast.envs.metaworld import EXTRA_TASKS, SUITE, instructions
from worldgymnast.measure.novelty import sentence_warning, task_name_warning
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
