"""Parser of the score in a model's answer: labels such as "Final Score:", JSON, and several scores together.

An ambiguous answer has no score; the parser never guesses. Reasoning is removed first (`replies`), and the words around
a number are checked in `wording`. Run time is linear in the length of the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from worldgymnast.endpoint import UnusableReply
from worldgymnast.judges.doubts import is_hypothetical, other_scale, second_score, text_denies
from worldgymnast.judges.signs import Scores, plain, word_set
from worldgymnast.judges.wording import NOTHING, Reading, read_after, read_alone
from worldgymnast.replies import strip_reasoning


class NoScore(UnusableReply):
    """An answer without a readable score; the message gives the reason."""


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
_WORDS_BEFORE_LABEL = word_set(
    "the my a an your overall total task success completion progress its this so therefore thus hence with and "
    "assigned binary numerical numeric resulting is of as give assign then correct appropriate die der das le la el"
)
"""Words allowed before a plain "score"; any other word makes it the score of something else."""
_DENIED = re.compile(r"\b(?:not|no|never|cannot|without|neither|nor|previous|wrong|kein|keine|nicht)\b|n't\b")
_SCALED = re.compile(r"\b(?:scale|range)\b[^\n\d]{0,20}\d(?:\.\d{1,3})?\s{0,2}(?:-|to|and)\s{0,2}(\d{1,6})")
"""A scale named before the label, up to its highest number."""
_OBJECT = re.compile(r"\{\s{0,20}[\"'][^\"'\n{}]{1,60}(?:[\"']|$)|\{\s{0,20}$")
"""Start of a JSON object."""
_MARKED = re.compile(
    r"(?<![\w.])\d(?:\.\d)?\s{0,3}[/|]\s{0,3}(?:\*{1,2}|__|`|\(\s{0,2}|\[)\d(?:\.\d)?\s{0,2}(?:\*|_|`|\)|\])"
)
"""A marked choice: "0 / **1**"."""
_QUESTION = re.compile(
    r"(?:^|\W)(?:is|was|are|should|would|could|can|does|do|might|may|what|what's)\s{1,3}"
    r"(?:(?:the|my|a|this|its)\s{1,3})?$"
)
_GAP = " {} "
"""Replacement of a JSON object in a text."""
_WINDOW = 400
"""Characters after a label that are read."""
_MOST_LABELS = 200
"""Largest number of labels in an answer."""
_LONGEST = 1_000_000
"""Largest number of characters in an answer, without reasoning."""
_MOST_BRACES = 20
"""Largest number of invalid braces tried as the start of a JSON object."""


@dataclass(frozen=True)
class _LocatedReading:
    """A reading with its priority and position.

    Attributes:
        reading: what was read.
        rank: 0 for a final score, 2 for another score; plus 1 if it is hypothetical. Lower ranks win.
        end: end of its number in the text.
    """

    reading: Reading
    rank: int
    end: int


def read_score(text: str, scores: Scores) -> float:
    """Read the score of an answer.

    Args:
        text: the whole answer; may contain reasoning.
        scores: allowed scores, ascending.

    Raises:
        NoScore: the answer is empty, truncated, or has no score, an ambiguous one, an unknown one, or several.

    >>> read_score("The drawer is open.\\n**Final Score (0-1):** 1", (0.0, 1.0))
    1.0
    """
    if not text.strip():
        raise NoScore("empty", "empty answer")
    answer = strip_reasoning(text)
    if answer is None:
        raise NoScore("cut off", "no score in the answer: it ends inside a thought")
    if len(answer) > _LONGEST:
        raise NoScore("too long", f"no score in the answer: it has {len(answer):,} characters (limit {_LONGEST:,})")
    objects, words = _split_json(answer)
    _refuse_marked_choices(words)
    words = plain(words)
    close = words.rfind(_GAP) + len(_GAP) if objects else 0
    readings = [_LocatedReading(reading, 0, close) for obj in objects for reading in _read_json(obj, scores)]
    if _is_truncated(words):
        raise NoScore("no score", "no score in the answer: truncated JSON")
    readings += _read_labels(words, scores)
    if not readings and not objects:
        readings = [_LocatedReading(read_alone(words, scores), 0, len(words))]
    score, end = _decide(readings, scores)
    if other_scale(words[:end], words[end:], scores):
        raise NoScore("ambiguous", "ambiguous score in the answer: another scale next to the number")
    if text_denies(words, score, scores):
        raise NoScore("contradictory", f"score {score:g} contradicts a sentence of the answer")
    if second_score(words[end:], score, scores):
        raise NoScore("contradictory", f"score {score:g} is retracted later in the answer")
    return score


def _is_truncated(words: str) -> bool:
    """Whether a text contains a JSON object without an end."""
    starts = [m.start() for m in _OBJECT.finditer(words)]
    return bool(starts) and words.rfind("}") < starts[-1]


def _refuse_marked_choices(words: str) -> None:
    """Raise NoScore if one of several choices is only marked by formatting, which `plain` removes."""
    if _MARKED.search(words):
        raise NoScore("ambiguous", "ambiguous score in the answer: one of several numbers is marked")


def _read_labels(text: str, scores: Scores) -> list[_LocatedReading]:
    """Readings after every label in a text."""
    readings: list[_LocatedReading] = []
    for label in _LABEL.finditer(text):
        if len(readings) == _MOST_LABELS:
            raise NoScore("contradictory", f"more than {_MOST_LABELS} scores in the answer")
        is_final = any(label[name] for name in ("final", "east_final", "marked"))
        reading = _read_label(label, text, scores, is_final)
        rank = (0 if is_final else 2) + reading.is_hypothetical
        readings.append(_LocatedReading(reading, rank, label.end() + reading.end))
    return readings


def _read_label(label: re.Match[str], text: str, scores: Scores, is_final: bool) -> Reading:
    """Reading after a label.

    NOTHING if the words before it deny it or name another score.
    """
    before = re.split(r"[\n.!?]", text[max(0, label.start() - 120) : label.start()].lower())[-1]
    last = re.findall(r"[^\W\d_][\w']*\s*$", before)
    word = last[0].strip() if last else ""
    if word and _DENIED.search(word):
        return NOTHING
    if word and label["plain"] and word not in _WORDS_BEFORE_LABEL:
        return NOTHING
    if any(float(end) != scores[-1] for end in _SCALED.findall(before)):
        return Reading("unsure", why="another scale before the number")
    following = text[label.end() : label.end() + _WINDOW]
    if len(following) == _WINDOW:
        following = following.rstrip("0123456789.,")  # a number cut by the window would be another one
    if re.match(r"\s*(?:of|is\s+not|isn)\b", following) and _DENIED.search(before):
        return NOTHING  # "does not deserve a score of 1"
    previous = text[label.start() - 1 : label.start()]
    is_tag = previous == "<" and following.startswith(">")
    is_note = previous == "(" and re.match(r"\s{1,3}\d[\d.]{0,4}\)", following) is not None
    reading = read_after(following[is_tag:], scores, is_adjacent=is_tag or is_final or is_note)
    if reading.kind == "value" and is_hypothetical(_sentence_before(text, label.start())):
        return NOTHING
    has_question = reading.kind == "unsure" and ("?" in reading.why or "question mark" in reading.why)
    if has_question and _QUESTION.search(before):
        return NOTHING
    return replace(reading, end=reading.end + is_tag)


def _sentence_before(text: str, start: int) -> str:
    """Words before a label in its sentence, including a previous line that ends in a colon."""
    before = re.split(r"[\n!?]|\.(?=\s)(?<!e\.g\.)", text[max(0, start - 200) : start].lower())
    if before[-1].strip(" \t>-\"'"):
        return before[-1]
    earlier = next((line for line in reversed(before[:-1]) if line.strip()), "")
    return earlier if earlier.rstrip().endswith(":") else ""


def _decide(readings: Sequence[_LocatedReading], scores: Scores) -> tuple[float, int]:
    """Score of the highest-priority readings, and the end of the last of them.

    Raises:
        NoScore: there is none, or more than one.
    """
    informative = [r for r in readings if r.reading.kind != "nothing"]
    if not informative:
        raise NoScore("no score", "no score in the answer")
    rank = min(r.rank for r in informative)
    best = [r for r in informative if r.rank == rank]
    for located in best:
        if located.reading.kind == "unsure":
            raise NoScore("ambiguous", f"ambiguous score in the answer: {located.reading.why}")
    if best[-1].reading.kind == "choices":
        raise NoScore("ambiguous", "no score in the answer: it only lists the allowed scores")
    values = list(dict.fromkeys(r.reading.score for r in best if r.reading.kind == "value"))
    if len(values) > 1:
        raise NoScore("contradictory", f"contradictory scores {', '.join(f'{x:g}' for x in values[:5])}")
    if values[0] not in scores:
        raise NoScore("out of range", f"score {values[0]:g} is none of {', '.join(f'{s:g}' for s in scores)}")
    return float(values[0]), max(r.end for r in best)


# ---------------------------------------------------------------- JSON

_KEYS = ("finalscore", "finalanswer", "score", "answer", "rating")
"""Fields for the score, without spaces and underscores, in order of priority."""


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs, which keeps duplicate keys."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_int=float)


def _split_json(text: str) -> tuple[list[_Object], str]:
    """JSON objects in a text, and the text without them."""
    objects: list[_Object] = []
    rest: list[str] = []
    start, at, failed = 0, text.find("{"), 0
    while at >= 0 and failed < _MOST_BRACES:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            failed += 1
            at = text.find("{", at + 1)
            continue
        if value:
            objects.append(value)
            rest.append(text[start:at])
            start = end
        at = text.find("{", end)
    return objects, _GAP.join([*rest, text[start:]])


def _read_json(value: _Object, scores: Scores) -> list[Reading]:
    """Readings of the outermost score fields."""
    level: list[Any] = [value]
    while level:
        pairs = [
            (re.sub(r"[\s_-]", "", key).lower(), value) for o in level if isinstance(o, _Object) for key, value in o
        ]
        for key in _KEYS:
            values = [value for name, value in pairs if name == key]
            if values:
                context = _read_context(pairs, scores)
                return [_check_context(_read_field(value, scores), context, scores) for value in values]
        inner = [value for _, value in pairs] + [v for o in level if not isinstance(o, _Object) for v in o]
        level = [value for value in inner if isinstance(value, list)]
    return []


_LIMITS = ("max", "maximum", "maxscore", "maximumscore", "outof", "scale", "range", "total", "maxpoints")
_OUTCOMES = ("success", "accomplished", "completed", "tasksuccess", "taskaccomplished", "taskcompleted", "succeeded")


def _read_context(pairs: Sequence[tuple[str, Any]], scores: Scores) -> Reading | bool | None:
    """Information in the other fields of a score: a doubt about its scale, a success flag, or None."""
    for name, value in pairs:
        numbers = [value] if isinstance(value, float) else re.findall(r"\d{1,6}(?:\.\d)?", str(value)[:60])
        if name in _LIMITS and isinstance(value, float | str) and numbers and float(numbers[-1]) != scores[-1]:
            return Reading("unsure", why=f"a scale to {float(numbers[-1]):g}")
    outcomes = [value for name, value in pairs if name in _OUTCOMES and isinstance(value, bool)]
    return outcomes[0] if outcomes else None


def _check_context(reading: Reading, context: Reading | bool | None, scores: Scores) -> Reading:
    """The reading, or a doubt if the other fields contradict it."""
    if isinstance(context, Reading):
        return context
    opposite = {True: scores[0], False: scores[-1]}
    if context is not None and reading.kind == "value" and reading.score == opposite[context]:
        return Reading("unsure", why="fields that contradict each other")
    return reading


def _read_field(value: Any, scores: Scores) -> Reading:
    """Reading of a score field."""
    if isinstance(value, float):
        return Reading("value", value)
    if isinstance(value, str) and len(value) <= 1000:
        words = plain(value)
        labeled = next((r for r in _read_labels(words, scores) if r.reading.kind != "nothing"), None)
        reading, end = (labeled.reading, labeled.end) if labeled else (read_alone(words, scores), len(words))
        if reading.kind == "value" and second_score(words[end:], reading.score, scores):
            return Reading("unsure", why="a second score in the field")
        return reading
    return NOTHING
