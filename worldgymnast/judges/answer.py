"""The score in a model's answer: the labels that may stand before it, JSON, and what several of them mean together.

Ambiguous is no score, never a guess. What the model thought aloud is cut off first (`replies`); what stands around a
number is looked at in `wording`. All steps take time in proportion to the length of the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worldgymnast.endpoint import Unusable
from worldgymnast.judges.wording import NOTHING, Reading, Scores, plain, read_after, read_alone
from worldgymnast.replies import without_thoughts


class NoScore(Unusable):
    """An answer from which no score can be read; says why."""


_FINAL = (
    r"(?:final|overall\s{1,3}final)[\s_-]{0,6}(?:score|answer|rating|grade|verdict|mark)"
    r"|finalscore|finalanswer|gesamtpunktzahl|endpunktzahl|endergebnis|score\s{1,3}final|note\s{1,3}finale"
    r"|puntuación\s{1,3}final|puntaje\s{1,3}final|итоговая\s{1,3}оценка"
)
_PLAIN = r"score|answer|rating|punktzahl|bewertung|puntuación|puntaje|оценка"
_LABEL = re.compile(
    rf"(?<![\w-])(?:(?P<final>{_FINAL})|(?P<plain>{_PLAIN}))(?![\w-])"
    r"|(?P<marked>\\f?boxed(?![a-z])|<(?:answer|final_answer|final_score)>)"
    r"|(?P<east_final>(?:最终|最後の|最后|最終)(?:得分|分数|評分|评分|スコア|答案)|최종\s{0,2}점수)"
    r"|(?P<east>得分|分数|评分|評分|スコア|점수)",
    re.IGNORECASE,
)
_BEFORE = ("the", "my", "a", "an", "your", "overall", "total", "task", "success", "completion", "progress", "its",
           "this", "so", "therefore", "thus", "hence", "with", "and", "assigned", "binary", "numerical", "numeric",
           "resulting", "is", "of", "as", "give", "assign", "then", "correct", "appropriate", "die", "der", "das", "le",
           "la", "el")  # fmt: skip
"""Words that may stand before a plain "score"; any other makes it the score of something else."""
_DENIED = re.compile(r"\b(?:not|no|never|cannot|without|neither|nor|previous|wrong|kein|keine|nicht)\b|n't\b")
_SCALED = re.compile(r"\b(?:scale|range)\b[^\n\d]{0,20}\d(?:\.\d{1,3})?\s{0,2}(?:-|to|and)\s{0,2}(\d{1,6})")
"""A scale that is named before the label, to its highest number."""
_CORRECTED = re.compile(
    r"\b(?:wait|actually|correction|sorry|hmm|instead|rather|revis\w{1,6}|reconsider\w{0,6}|mistake|second\s{1,3}thoughts?)\b"
    r"[^\n\d]{0,60}?(?<![\w.])(\d(?:\.\d{1,3})?)(?![\w.]*\w)",
    re.IGNORECASE,
)
_ALONE = re.compile(r"^[ \t]{0,4}(\d(?:\.\d{1,3})?)[ \t]{0,4}$", re.MULTILINE)
_WINDOW = 400
"""Characters after a label that are looked at."""
_MOST = 200
"""Labels in an answer at most."""
_LONGEST = 1_000_000
"""Characters in an answer at most, thoughts not counted."""
_BROKEN = 20
"""Braces at most that may be tried as the beginning of a JSON object."""


@dataclass(frozen=True)
class _Placed:
    """A reading and where it was.

    Attributes:
        rank: 0 for a final score, 2 for another; 1 more where it is only supposed.
        end: where its label ends; -1 in JSON.
    """

    reading: Reading
    rank: int
    end: int


def read_score(text: str, scores: Scores) -> float:
    """The one score in an answer.

    Args:
        text: the whole answer, with the model's thoughts, where the server leaves them in it.
        scores: what may be answered, ascending.

    Raises:
        NoScore: the answer is empty, cut off, or has no score, a doubtful one, an unknown one, or several.

    >>> read_score("The drawer is open.\\n**Final Score (0-1):** 1", (0.0, 1.0))
    1.0
    """
    if not text.strip():
        raise NoScore("empty", "empty answer")
    said = without_thoughts(text)
    if said is None:
        raise NoScore("cut off", "no score in the answer: it ends inside a thought")
    if len(said) > _LONGEST:
        raise NoScore("too long", f"no score in the answer: it has {len(said):,} characters (limit {_LONGEST:,})")
    objects, words = _objects(said)
    words = plain(words)
    found = [_Placed(reading, 0, -1) for obj in objects for reading in _in_json(obj, scores)]
    if said.lstrip().startswith("{") and not objects and not said.rstrip("` \n").endswith("}"):
        raise NoScore("no score", "no score in the answer: JSON that is cut off")
    found += _labelled(words, scores)
    if not found and not objects:
        found = [_Placed(read_alone(words, scores), 0, len(words))]
    score, end = _decided(found, scores)
    if end >= 0:
        _refuse_corrected(words[end:], score, scores)
    return score


def _labelled(text: str, scores: Scores) -> list[_Placed]:
    """What follows every label in a text."""
    found: list[_Placed] = []
    for label in _LABEL.finditer(text):
        if len(found) == _MOST:
            raise NoScore("contradictory", f"more than {_MOST} scores in the answer")
        final = any(label[name] for name in ("final", "east_final", "marked"))
        reading = _after(label, text, scores, final)
        found.append(_Placed(reading, (0 if final else 2) + reading.weak, label.end()))
    return found


def _after(label: re.Match[str], text: str, scores: Scores, final: bool) -> Reading:
    """What follows a label, unless what stands before it makes it another's, or denies it."""
    before = re.split(r"[\n.!?]", text[max(0, label.start() - 120) : label.start()].lower())[-1]
    last = re.findall(r"[^\W\d_][\w']*\s*$", before)
    word = last[0].strip() if last else ""
    if word and _DENIED.search(word):
        return NOTHING
    if word and label["plain"] and word not in _BEFORE:
        return NOTHING
    if any(float(end) != scores[-1] for end in _SCALED.findall(before)):
        return Reading("unsure", why="another scale before the number")
    following = text[label.end() : label.end() + _WINDOW]
    if len(following) == _WINDOW:
        following = following.rstrip("0123456789.,")  # a number that the window cuts is another
    if re.match(r"\s*(?:of|is\s+not|isn)\b", following) and _DENIED.search(before):
        return NOTHING  # "does not deserve a score of 1"
    tag = text[label.start() - 1 : label.start()] == "<" and following.startswith(">")
    return read_after(following[tag:], scores, joined=tag or final)


def _decided(found: Sequence[_Placed], scores: Scores) -> tuple[float, int]:
    """The score that the readings mean together, and where the last of them is.

    Raises:
        NoScore: there is none, or more than one.
    """
    telling = [p for p in found if p.reading.kind != "nothing"]
    if not telling:
        raise NoScore("no score", "no score in the answer")
    rank = min(p.rank for p in telling)
    best = [p for p in telling if p.rank == rank]
    for placed in best:
        if placed.reading.kind == "unsure":
            raise NoScore("ambiguous", f"no score in the answer that is sure: {placed.reading.why}")
    if best[-1].reading.kind == "choices":
        raise NoScore("ambiguous", "no score in the answer: it names all that may be given")
    values = list(dict.fromkeys(p.reading.score for p in best if p.reading.kind == "value"))
    if len(values) > 1:
        raise NoScore("contradictory", f"contradictory scores {', '.join(f'{x:g}' for x in values[:5])}")
    if values[0] not in scores:
        raise NoScore("out of range", f"score {values[0]:g} is none of {', '.join(f'{s:g}' for s in scores)}")
    return float(values[0]), max(p.end for p in best)


def _refuse_corrected(rest: str, score: float, scores: Scores) -> None:
    """Raises `NoScore` where the text after the score takes it back."""
    others = [float(m[1]) for pattern in (_CORRECTED, _ALONE) for m in pattern.finditer(rest)]
    if any(other in scores and other != score for other in others):
        raise NoScore("contradictory", f"score {score:g} is taken back later in the answer")


# ---------------------------------------------------------------- JSON

_KEYS = ("finalscore", "finalanswer", "score", "answer", "rating")
"""Fields that hold the score, without spaces and underscores; the first ones outrank the others."""


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs, so that a key that stands there twice is seen."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_int=float)


def _objects(text: str) -> tuple[list[_Object], str]:
    """The JSON objects in a text, and the text without them."""
    found: list[_Object] = []
    rest: list[str] = []
    start, at, failed = 0, text.find("{"), 0
    while at >= 0 and failed < _BROKEN:
        try:
            made, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            failed += 1
            at = text.find("{", at + 1)
            continue
        if made:
            found.append(made)
            rest.append(text[start:at])
            start = end
        at = text.find("{", end)
    return found, " {} ".join([*rest, text[start:]])


def _in_json(made: _Object, scores: Scores) -> list[Reading]:
    """The readings of the outermost fields that hold a score."""
    level: list[Any] = [made]
    while level:
        pairs = [
            (re.sub(r"[\s_-]", "", key).lower(), value) for o in level if isinstance(o, _Object) for key, value in o
        ]
        for key in _KEYS:
            values = [value for name, value in pairs if name == key]
            if values:
                return [_value(value, scores) for value in values]
        inner = [value for _, value in pairs] + [v for o in level if not isinstance(o, _Object) for v in o]
        level = [value for value in inner if isinstance(value, list)]
    return []


def _value(value: Any, scores: Scores) -> Reading:
    """What a field says that should hold the score."""
    if isinstance(value, float):
        return Reading("value", value)
    if isinstance(value, str) and len(value) <= 1000:
        words = plain(value)
        return next(
            (p.reading for p in _labelled(words, scores) if p.reading.kind != "nothing"), read_alone(words, scores)
        )
    return NOTHING
