"""Instructions stored in the rows, as programs other than LeRobot write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldgymnast.errors import InputError
from worldgymnast.files import short
from worldgymnast.text import is_sentence

TEXTS = ("language_instruction", "instruction", "task")
"""Names of text columns with instructions."""


@dataclass(frozen=True)
class Texts:
    """A text column.

    Attributes:
        codes: int64 [n], index of each row's text in `words`, -1 for none.
        words: the distinct texts.
    """

    codes: np.ndarray
    words: tuple[str, ...]


def sentence_in_rows(texts: Mapping[str, Texts], index: np.ndarray, where: str) -> tuple[str, str]:
    """The sentence in the rows `index` and its column.

    Both "" if there is none.

    Raises:
        InputError: the rows or the columns have different sentences.
    """
    first, column = "", ""
    for name, text in texts.items():
        sentence = _sentence_in_column(name, text, index, where)
        if sentence and first and not is_same_sentence(sentence, first):
            raise InputError(
                f"{where}: found {short(first)} in column '{column}' and {short(sentence)} in '{name}', expected one "
                "sentence; remove the wrong column"
            )
        if sentence and not first:
            first, column = sentence, name
    return first, column


def _sentence_in_column(name: str, text: Texts, index: np.ndarray, where: str) -> str:
    codes = text.codes[index]
    rows = [(int(np.flatnonzero(codes == code)[0]), text.words[code].strip()) for code in np.unique(codes[codes >= 0])]
    rows = sorted((row, sentence) for row, sentence in rows if is_sentence(sentence))
    if not rows:
        return ""
    first_row, first = rows[0]
    for row, sentence in rows[1:]:
        if not is_same_sentence(sentence, first):
            raise InputError(
                f"{where}: field '{name}': found {short(first)} in row {index[first_row]} and {short(sentence)} in row "
                f"{index[row]}, expected one sentence per episode; split the episode, or remove the column"
            )
    return first


def choose_sentence(listed: str, texts: Mapping[str, Texts], index: np.ndarray, where: str) -> str:
    """The sentence of the tasks table, or else of the rows.

    Raises:
        InputError: the two sentences differ.
    """
    sentence, column = sentence_in_rows(texts, index, where)
    if not sentence or not is_sentence(listed):
        return sentence or listed
    if not is_same_sentence(sentence, listed):
        raise InputError(
            f"{where}: field '{column}': found {short(sentence)}, expected {short(listed)} by its task_index and the "
            "tasks; correct the wrong one, or remove the column"
        )
    return listed


def is_same_sentence(first: str, second: str) -> bool:
    """Whether sentences are equal up to whitespace, case and final period.

    >>> is_same_sentence("Open the drawer.", "open  the drawer")
    True
    """
    return _normalize(first) == _normalize(second)


def _normalize(sentence: str) -> str:
    return " ".join(sentence.split()).casefold().rstrip(" .")
