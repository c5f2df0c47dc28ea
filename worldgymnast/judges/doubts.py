"""Checks for words that invalidate a score in an answer: a second score, another scale, or a contradiction.

The rule is strict: every other number after a score that could be a score makes it ambiguous, unless the number counts
things, names a step, or is declared no score ("not 0", "would be 1 if").
"""

from __future__ import annotations

import re

from worldgymnast.judges.signs import Scores, Token, is_number, number, tokens_of, word_set

# ---------------------------------------------------------------- success and failure in words

_SUCCESS = r"success(?:ful(?:ly)?)?|succeed(?:s|ed)?|accomplished|completed|achieved|fulfilled|passed|pass|成功|完成"
_FAILURE = r"fail(?:s|ed|ure)?|unsuccess(?:ful(?:ly)?)?|incomplete|unaccomplished|unfinished|失败|失敗|未完成"
_NEGATION = r"(?:not|no|never|isn't|wasn't|hasn't|didn't|un|nicht|kein)"
_NOTE = (
    r"[\s\-:=(\[,;.>/|]*(?:(?:because|since|as|for|the|a|an|it|task|attempt|rollout|goal|robot|arm|was|is|has|been|"
    r"which|that|so|hence|overall|therefore|means|meaning|indicating|indicates|clear|clearly|full|fully|complete|total|did)\s+){0,6}"
    rf"(?P<no>{_NEGATION}\s*(?:(?:been|yet|fully|be|a|clearly|successfully)\s+){{0,3}})?"
    rf"(?:(?P<yes>{_SUCCESS})|(?P<fail>{_FAILURE}))(?![\w-])(?!\s+(?:of|rate|criteri\w+|condition\w*|at|to)\b)"
)
_SHORT_NOTE = re.compile(_NOTE, re.IGNORECASE)
_OUTCOME = re.compile(
    r"\b(?:judge?ment|verdict|result|decision|conclusion|outcome|status|assessment)\s{0,3}(?:is\b|was\b|[:=])" + _NOTE,
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"(?:(?<=[\n.!?])|^)" + _NOTE + r"(?=\s{0,3}(?:[.!\n]|$|(?:by|in|at)\s{1,3}the\s{1,3}(?:last|final|end)))",
    re.IGNORECASE,
)
"""A sentence that only says whether the task was accomplished."""


def polarity(word: str) -> bool | None:
    """Whether a word means success (True), failure (False) or neither (None).

    >>> polarity("passed"), polarity("failed"), polarity("door")
    (True, False, None)
    """
    if re.fullmatch(_SUCCESS, word, re.IGNORECASE):
        return True
    return False if re.fullmatch(_FAILURE, word, re.IGNORECASE) else None


def _denies(note: re.Match[str] | None, value: float, scores: Scores) -> bool:
    if note is None:
        return False
    success = bool(note["yes"]) != bool(note["no"])
    return (value == scores[-1] and not success) or (value == scores[0] and success)


def note_denies(text: str, value: float, scores: Scores) -> bool:
    """Whether a note after a score contradicts it.

    >>> note_denies("(the task was not accomplished)", 1.0, (0.0, 1.0)), note_denies("(Success)", 1.0, (0.0, 1.0))
    (True, False)
    """
    return _denies(_SHORT_NOTE.match(text[:200]), value, scores)


def text_denies(text: str, value: float, scores: Scores) -> bool:
    """Whether a sentence of an answer contradicts its score: "Verdict: failure", "The task failed."."""
    return any(_denies(m, value, scores) for pattern in (_OUTCOME, _VERDICT) for m in pattern.finditer(text))


# ---------------------------------------------------------------- another scale

_OTHER_SCALE = (
    re.compile(
        r"\bmax(?:imum)?(?:\s{1,3}possible)?(?:\s{1,3}(?:score|points?|rating))?\s{0,3}(?:is\b|of\b|[:=])\s{0,3}"
        r"(\d{1,6})(?![.\d])"
    ),
    re.compile(
        r"\b(?:scales?|scores?|ratings?)\s{0,3}(?:range[sd]?|go(?:es)?|runs?)?\s{0,3}(?:is\s|of\s|from|between|[:=])?"
        r"\s{0,3}\d(?:\.\d)?\s{0,3}(?:-|to|and|through)\s{0,3}(\d{1,6})\b"
    ),
    re.compile(
        r"\brang(?:e|es|ed|ing)\s{1,3}(?:is\s{1,3})?(?:from|of|between)\s{1,3}\d(?:\.\d)?\s{0,3}(?:-|to|and)\s{0,3}"
        r"(\d{1,6})\b(?!\s{0,3}(?:cm|mm|deg|°|%))"
    ),
    re.compile(r"(?<![\w.])\d\s{0,2}(?:-|to)\s{0,2}(\d{1,6})[\s-]{1,2}(?:point\s{1,3})?(?:scale|range)\b"),
    re.compile(r"\b(\d{1,6})-point\s{1,3}scale\b"),
    re.compile(
        r"(?<![\w.])(\d{1,6})\s{0,3}(?:=|is|means|being)\s{0,3}(?:a\s{1,3})?(?:perfect|best|max|full|highest|success|done"
        r"|complete|accomplished)"
    ),
)
_NEXT_LINE = re.compile(
    r"[\s.*)\]}>|]{0,8}(?:points?\s{0,3}|pts\s{0,3})?(?:/|\(?\s{0,3}out\s{1,3}of|\(\s{0,3}of)\s{0,3}(\d{1,6})"
)
_IN_WORDS = re.compile(
    r"[^.]{0,20}\b(?:out\s{1,3}of|of|over|to)\s{1,3}(?:a\s{1,3}possible\s{1,3})?(?:ten|twenty|hundred)\b"
)
_PERCENT = re.compile(r"[\s*]{0,8}(?:%|percent\b|per\s{1,3}cent\b)")


def other_scale(before: str, after: str, scores: Scores) -> bool:
    """Whether the text around a score declares a scale with another maximum."""
    if _PERCENT.match(after) and after[:1].isspace() and after.lstrip(" \t")[:1] == "\n":
        return True
    if _IN_WORDS.match(after.lower()[:100]):
        return True
    if (below := _NEXT_LINE.match(after)) and float(below[1]) != scores[-1]:
        return True
    return any(
        float(end) > scores[-1] or (i < 5 and float(end) != scores[-1])
        for text in (before.lower(), after.lower())
        for i, pattern in enumerate(_OTHER_SCALE)
        for end in pattern.findall(text)
    )


# ---------------------------------------------------------------- a second score

_RETRACTION = re.compile(
    r"(?:^|[\n.!?])[\s*\"'(-]{0,6}(?:actually|wait|oops|hold\s{1,3}on|no,?\s{1,3}wait|sorry|apologies|my\s{1,3}mistake|i\s{1,3}made\s{1,3}an?\s{1,3}(?:mistake|error)|correction|edit|on\s{1,3}(?:second|closer|further)|hmm"
    r"|upon\s{1,3}(?:closer|further|second)|on\s{1,3}reflection|scratch\s{1,3}that|i\s{1,3}misread|i\s{1,3}was\s{1,3}wrong)\b"
    r"|\b(?:chang|revis|correct|retract|withdraw|reconsider|updat|adjust|lower|rais)(?:e|ing|ed|ct|cted)?\s{1,3}"
    r"(?:my|the|this|that)\s{1,3}(?:\w{1,12}\s{1,3})?(?:answer|score|rating|verdict|judge?ment)\b"
    r"|\b(?:my|the|that|this|above|previous)\s{1,3}(?:answer|score|rating|verdict|judge?ment)\s{1,3}(?:is|was)\s{1,3}"
    r"(?:wrong|incorrect|mistaken|a\s{1,3}mistake)"
    r"|\b(?:disregard|ignore)\s{1,3}(?:my|the|that|this)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\n|[!?;]|\.(?=\s|$)|\b(?:but|however|yet|though|although|so|now|then|hence|therefore|thus)\b")
_NO_SCORE = re.compile(
    r"\b(?:would(?!\s{1,3}(?:say|give|rate|change|now|go|make))|would've|wouldn't|had\s|needs?|needed|requires?|required"
    r"|to\s{1,3}(?:get|reach|earn|score|deserve|receive|achieve)|initially|at\s{1,3}first|considered|torn|hesitated"
    r"|rather\s{1,3}than|instead\s{1,3}of|between|too)\b"
)
_OWN = re.compile(r"\b(?:i'd|i\s{1,3}(?:would|should))\s{1,3}(?!(?:have|give\s{1,3}(?:it\s{1,3})?\S{1,4}\s{1,3}if)\b)")
_NEGATES = ("not", "than", "never", "nor", "nicht")
_NAMES = word_set(
    "frame frames step steps stage phase picture image level confidence certainty criterion figure object part"
)
"""Words before a number that names something or belongs to something else."""
_COUNTED = word_set(
    "object step item frame cup block drawer part subtask stage piece attempt second cm mm cube spoon door arm other "
    "failure error meter"
)
"""Nouns that a number counts."""
_NOT_COUNTED = word_set(
    "points pts is as was its this success pass plus minus always has does unless afterwards stars yes less perhaps "
    "overall's marks"
)
"""Words that end in s but are not counted."""


def second_score(rest: str, value: float, scores: Scores) -> bool:
    """Whether the text after a score contains another score or retracts the first.

    >>> second_score(". Make that 0.", 1.0, (0.0, 1.0)), second_score(", not 0.", 1.0, (0.0, 1.0))
    (True, False)
    """
    rest = rest.replace("I'", "i'")
    if _RETRACTION.search(rest):
        return True
    return any(_has_other_score(clause, value, scores) for clause in _CLAUSE.split(rest.lower()))


def _has_other_score(clause: str, value: float, scores: Scores) -> bool:
    tokens = tokens_of(clause)
    others = [
        i
        for i, t in enumerate(tokens)
        if is_number(t) and (n := number(t, scores)) in scores and n != value and _may_be_score(tokens, i, scores)
    ]
    return bool(others) and (not _NO_SCORE.search(clause) or bool(_OWN.search(clause)))


def _may_be_score(tokens: list[Token], i: int, scores: Scores) -> bool:
    """Whether the number at `i` of a clause could be a score: it neither counts nor names anything."""
    before = [t.text for t in tokens[max(0, i - 3) : i]]
    after = tokens[i + 1] if i + 1 < len(tokens) else Token("newline", "")
    if any(word in _NEGATES for word in before[-2:]) or any(word in _NAMES for word in before):
        return False
    if i == 0 and after.text in (")", ".") and len(tokens) > 2:
        return False  # number of a list item
    if after.kind == "word" and (after.text in _COUNTED or (after.text[-1] == "s" and after.text not in _NOT_COUNTED)):
        return False
    if after.text in ("=", "means", "being", "is") and len(tokens) > i + 2 and not is_number(tokens[i + 2]):
        return after.text == "is" and tokens[i + 2].text in ("the", "my", "right", "correct", "more", "better")
    if tokens[i].kind == "word" and tokens[i].text != "zero" and after.kind == "word":
        return False
    return not (_is_share(tokens, i, scores) or _is_scale_end(tokens, i, scores))


def _is_scale_end(tokens: list[Token], i: int, scores: Scores) -> bool:
    """Whether the number at `i` is an end of the score's own scale: "out of 5", "0-5", "Max: 5"."""
    if any(t.text in ("out", "满分") or t.text.startswith("max") for t in tokens[max(0, i - 4) : i]):
        return number(tokens[i], scores) == scores[-1]
    for low in (i, i - 2):
        if low >= 0 and low + 2 < len(tokens) and tokens[low + 1].text in ("-", "to"):
            ends = [number(t, scores) for t in (tokens[low], tokens[low + 2]) if is_number(t)]
            if ends == [scores[0], scores[-1]]:
                return True
    return False


def _is_share(tokens: list[Token], i: int, scores: Scores) -> bool:
    """Whether the number at `i` is part of "2 of 3" or "2/3" on another scale."""
    links = ("of", "out", "/", "the")
    k = i + 1
    while k < len(tokens) and tokens[k].text in links:
        k += 1
    if k > i + 1 and k < len(tokens) and is_number(tokens[k]):
        return number(tokens[k], scores) != scores[-1]
    k = i - 1
    while k >= 0 and tokens[k].text in links:
        k -= 1
    return k < i - 1 and k >= 0 and is_number(tokens[k])


# ---------------------------------------------------------------- hypothetical scores

_HYPOTHETICAL = re.compile(
    r"(?<!see )(?<!tell )(?<!whether or )\bif\b|\b(?:assum(?:e|ing)|suppos(?:e|ing|ed)|hypothetical(?:ly)?"
    r"|examples?|e\.g|imagine"
    r"|unless|provided\s{1,3}that|for\s{1,3}instance|in\s{1,3}case|falls|wenn|si|如果|假设|例如)(?![\w-])"
    r"|^\W*(?:had|were|should|(?:output\s{1,3})?format|template)\b"
)


def is_hypothetical(before: str) -> bool:
    """Whether the words before a label, in lower case, introduce an example or a possibility."""
    return bool(_HYPOTHETICAL.search(before))
