"""The score in a model's answer: the labels that may stand before it, JSON, and what several of them mean together.

Ambiguous is no score, never a guess. What the model thought aloud is cut off first (`replies`); what stands around a
number is looked at in `wording`. All steps take time in proportion to the length of the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from worldgymnast.endpoint import Unusable
from worldgymnast.judges.doubts import is_supposed, other_scale, second_score, text_denies
from worldgymnast.judges.signs import Scores, plain
from worldgymnast.judges.wording import NOTHING, Reading, read_after, read_alone
from worldgymnast.replies import without_thoughts


class NoScore(Unusable):
    """An answer from which no score can be read; says why."""


_FINAL = (
    r"(?:final|overall\s{1,3}final)[\s_-]{0,6}(?:scores?|answer|rating|grade|verdict|mark|decision|judge?ment|response)"
    r"|finalscore|finalanswer|gesamtpunktzahl|endpunktzahl|endergebnis|score\s{1,3}final|note\s{1,3}finale"
    r"|puntuación\s{1,3}final|puntaje\s{1,3}final|итоговая\s{1,3}оценка"
    r"|endgültige\s{1,3}(?:punktzahl|bewertung)|(?:pontuação|nota)\s{1,3}final|(?:punteggio|voto)\s{1,3}finale"
    r"|النتيجة\s{1,3}النهائية"
)
_PLAIN = r"score|answer|rating|punktzahl|bewertung|puntuación|puntaje|оценка"
_LABEL = re.compile(
    rf"(?<![\w-])(?:(?P<final>{_FINAL})|(?P<plain>{_PLAIN}))(?![\w-])"
    r"|(?P<marked>\\f?boxed(?![a-z])|<(?:answer|final_answer|final_score|conclusion)>)"
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
_OBJECT = re.compile(r"\{\s{0,20}[\"'][^\"'\n{}]{1,60}(?:[\"']|$)|\{\s{0,20}$")
"""How a JSON object begins."""
_MARKED = re.compile(
    r"(?<![\w.])\d(?:\.\d)?\s{0,3}[/|]\s{0,3}(?:\*{1,2}|__|`|\(\s{0,2}|\[)\d(?:\.\d)?\s{0,2}(?:\*|_|`|\)|\])"
)
"""A choice that is marked: "0 / **1**"."""
_QUESTION = re.compile(
    r"(?:^|\W)(?:is|was|are|should|would|could|can|does|do|might|may|what|what's)\s{1,3}"
    r"(?:(?:the|my|a|this|its)\s{1,3})?$"
)
_GAP = " {} "
"""What stands in a text in the place of a JSON object."""
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
        end: where its number ends.
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
    _refuse_marked(words)
    words = plain(words)
    close = words.rfind(_GAP) + len(_GAP) if objects else 0
    found = [_Placed(reading, 0, close) for obj in objects for reading in _in_json(obj, scores)]
    if _is_cut(words):
        raise NoScore("no score", "no score in the answer: JSON that is cut off")
    found += _labelled(words, scores)
    if not found and not objects:
        found = [_Placed(read_alone(words, scores), 0, len(words))]
    score, end = _decided(found, scores)
    if other_scale(words[:end], words[end:], scores):
        raise NoScore("ambiguous", "no score in the answer that is sure: another scale beside the number")
    if text_denies(words, score, scores):
        raise NoScore("contradictory", f"score {score:g} and a sentence that says the opposite")
    if second_score(words[end:], score, scores):
        raise NoScore("contradictory", f"score {score:g} is taken back later in the answer")
    return score


def _is_cut(words: str) -> bool:
    """Whether a text holds a JSON object that begins and never ends."""
    begins = [m.start() for m in _OBJECT.finditer(words)]
    return bool(begins) and words.rfind("}") < begins[-1]


def _refuse_marked(words: str) -> None:
    """Raises `NoScore` where one of several choices is only marked, which the plain text would not show."""
    if _MARKED.search(words):
        raise NoScore("ambiguous", "no score in the answer that is sure: one of several numbers is marked")


def _labelled(text: str, scores: Scores) -> list[_Placed]:
    """What follows every label in a text."""
    found: list[_Placed] = []
    for label in _LABEL.finditer(text):
        if len(found) == _MOST:
            raise NoScore("contradictory", f"more than {_MOST} scores in the answer")
        final = any(label[name] for name in ("final", "east_final", "marked"))
        reading = _after(label, text, scores, final)
        end = label.end() + reading.end
        found.append(_Placed(reading, (0 if final else 2) + reading.weak, end))
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
    noted = text[label.start() - 1 : label.start()] == "(" and re.match(r"\s{1,3}\d[\d.]{0,4}\)", following) is not None
    found = read_after(following[tag:], scores, joined=tag or final or noted)
    if found.kind == "value" and is_supposed(_sentence(text, label.start())):
        return NOTHING
    if found.kind == "unsure" and ("?" in found.why or "question mark" in found.why) and _QUESTION.search(before):
        return NOTHING
    return replace(found, end=found.end + tag)


def _sentence(text: str, start: int) -> str:
    """What stands before a label in its sentence, a line before it that ends in a colon included."""
    before = re.split(r"[\n!?]|\.(?=\s)(?<!e\.g\.)", text[max(0, start - 200) : start].lower())
    if before[-1].strip(" \t>-\"'"):
        return before[-1]
    earlier = next((line for line in reversed(before[:-1]) if line.strip()), "")
    return earlier if earlier.rstrip().endswith(":") else ""


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
    return found, _GAP.join([*rest, text[start:]])


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
                doubt = _beside(pairs, scores)
                return [_doubted(_value(value, scores), doubt, scores) for value in values]
        inner = [value for _, value in pairs] + [v for o in level if not isinstance(o, _Object) for v in o]
        level = [value for value in inner if isinstance(value, list)]
    return []


_LIMITS = ("max", "maximum", "maxscore", "maximumscore", "outof", "scale", "range", "total", "maxpoints")
_OUTCOMES = ("success", "accomplished", "completed", "tasksuccess", "taskaccomplished", "taskcompleted", "succeeded")


def _beside(pairs: Sequence[tuple[str, Any]], scores: Scores) -> Reading | bool | None:
    """What the fields beside a score say: a doubt about its scale, whether the task is done, or nothing."""
    for name, value in pairs:
        numbers = [value] if isinstance(value, float) else re.findall(r"\d{1,6}(?:\.\d)?", str(value)[:60])
        if name in _LIMITS and isinstance(value, float | str) and numbers and float(numbers[-1]) != scores[-1]:
            return Reading("unsure", why=f"a scale to {float(numbers[-1]):g}")
    said = [value for name, value in pairs if name in _OUTCOMES and isinstance(value, bool)]
    return said[0] if said else None


def _doubted(reading: Reading, beside: Reading | bool | None, scores: Scores) -> Reading:
    """A score, or a doubt where the fields beside it contradict it."""
    if isinstance(beside, Reading):
        return beside
    opposite = {True: scores[0], False: scores[-1]}
    if beside is not None and reading.kind == "value" and reading.score == opposite[beside]:
        return Reading("unsure", why="fields that contradict each other")
    return reading


def _value(value: Any, scores: Scores) -> Reading:
    """What a field says that should hold the score."""
    if isinstance(value, float):
        return Reading("value", value)
    if isinstance(value, str) and len(value) <= 1000:
        words = plain(value)
        labelled = next((p for p in _labelled(words, scores) if p.reading.kind != "nothing"), None)
        found, end = (labelled.reading, labelled.end) if labelled else (read_alone(words, scores), len(words))
        if found.kind == "value" and second_score(words[end:], found.score, scores):
            return Reading("unsure", why="a second score in the field")
        return found
    return NOTHING
