"""Sentences that stand in the rows themselves, as other programs than LeRobot write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.text import is_sentence

TEXTS = ("language_instruction", "instruction", "task")
"""Columns of text that say what to do."""


@dataclass(frozen=True)
class Texts:
    """A column of text.

    Attributes:
        codes: int64 [n], the number of each row's text in `words`, -1 for none.
        words: the texts.
    """

    codes: np.ndarray
    words: tuple[str, ...]


def own_sentence(texts: Mapping[str, Texts], index: np.ndarray, where: str) -> tuple[str, str]:
    """The sentence in the rows `index`, and its column; both "" where there is none.

    Raises:
        InputError: the rows have several, or two columns different ones.
    """
    found, column = "", ""
    for name, text in texts.items():
        sentence = _one(name, text, index, where)
        if sentence and found and not alike(sentence, found):
            raise InputError(
                f"{where}: found {short(found)} in column '{column}' and {short(sentence)} in '{name}', expected one "
                "sentence; remove the column that does not hold"
            )
        if sentence and not found:
            found, column = sentence, name
    return found, column


def _one(name: str, text: Texts, index: np.ndarray, where: str) -> str:
    """The sentence of one column."""
    codes = text.codes[index]
    kept = [(int(np.flatnonzero(codes == code)[0]), text.words[code].strip()) for code in np.unique(codes[codes >= 0])]
    kept = sorted((row, sentence) for row, sentence in kept if is_sentence(sentence))
    for row, sentence in kept[1:]:
        if not alike(sentence, kept[0][1]):
            raise InputError(
                f"{where}: field '{name}': found {short(kept[0][1])} in row {index[kept[0][0]]} and {short(sentence)} "
                f"in row {index[row]}, expected one sentence an episode; split the episode, or remove the column"
            )
    return kept[0][1] if kept else ""


def chosen(listed: str, texts: Mapping[str, Texts], index: np.ndarray, where: str) -> str:
    """The sentence by the tasks' table, or the rows' own where the table gives none.

    Raises:
        InputError: both say something, and not the same.
    """
    own, column = own_sentence(texts, index, where)
    if not own or not is_sentence(listed):
        return own or listed
    if not alike(own, listed):
        raise InputError(
            f"{where}: field '{column}': found {short(own)}, expected {short(listed)} by its task_index and the tasks; "
            "correct the one that is wrong, or remove the column"
        )
    return listed


def alike(one: str, other: str) -> bool:
    """Whether two sentences differ in blanks, case and the final dot alone."""
    return _plain(one) == _plain(other)


def _plain(sentence: str) -> str:
    return " ".join(sentence.split()).casefold().rstrip(" .")
