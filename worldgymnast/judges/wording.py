"""Reader of the text after a label such as "Final Score": the words before its number, and those after it.

A number counts only if no word around it makes it ambiguous. `read_after` returns a value, a doubt, the list of
choices, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from worldgymnast.judges.doubts import note_denies, polarity
from worldgymnast.judges.signs import PAIRS, WORDS, Scores, Token, is_number, number, tokens_of, word_set


@dataclass(frozen=True)
class Reading:
    """Result of reading the text after a label.

    Attributes:
        kind: "value"; "unsure" for an ambiguous number; "choices" for a list of the allowed scores; "nothing".
        score: the value.
        why: reason for "unsure".
        is_hypothetical: whether the value is conditional ("would be", "if"); plain statements outrank it.
        end: end of the value in the text.
    """

    kind: Literal["value", "unsure", "choices", "nothing"]
    score: float = 0.0
    why: str = ""
    is_hypothetical: bool = False
    end: int = 0


NOTHING = Reading("nothing")


# ---------------------------------------------------------------- before the number

_VERBS = ("is", "was", "are", "be", "equals", "equal", "of", "ist", "est", "es", "是", "为", "為")
_HYPOTHETICAL = ("would", "should", "must")
_POSSIBLE = ("could", "might", "may", "can")
"""Words that make a number one of several possibilities."""
_BOXES = ("x", "v", "✓", "✔", "✗", "✘", "☑")
_STARTS = ("the", "in", "by", "from", "between", "it", "this", "both", "explanation", "reason", "reasoning", "note")
"""Capitalized first words of a sentence that follows the number without a full stop."""
_FRACTION_WORDS = word_set(
    "half halves third thirds quarter quarters fourth fourths fifth fifths tenth tenths ish minus plus x something "
    "some bit change"
)
"""Words that make the number part of a larger expression: one-third, three-ish, 3-minus."""
_FILLERS = word_set(
    "a an the to at as therefore thus hence so clearly definitely simply then final score value answer finale given "
    "for this task rollout attempt video i give assign here will my overall it"
)
_TENTATIVE = word_set(
    "maybe perhaps probably tentative preliminary initial draft example previous old not guess uncertain unsure approx "
    "approximate hypothetical"
)
_UNEXPECTED = ("doubt", "other", "percent", "slash", "stop", "mixed", "dash")
"""Kinds of signs that never precede a plain number."""
_SHARES = ("of", "out", "von", "sur", "aus", "from", "de")
_ALTERNATIVES = ("or", "oder", "ou", "and", "und", "et", "to", "bis", "vs", "versus", "through", "或", "and/or")
_SCALE = ("scale", "range", "out", "max", "maximum", "max.", "skala", "possible", "满分", "von", "sur")
_SCALE_STARTS = ("on", "from", "out", "between", "in", "range", "scale", "auf", "von")
"""First words of a scale without brackets before the number: "on a scale of 0 to 5: 4"."""
_CONDITIONS = ("if", "unless", "when", "only", "provided", "wenn", "falls", "assuming", "iff", "whenever", "means")
_REASONS = word_set(
    "because since as for due given based which where indicating meaning point points pt pts punkt punkte 分 点 點 점 "
    "success successful failure weil da denn not with on so therefore"
)
"""Words that may follow the number without changing it."""
_RETRACTIONS = word_set(
    "or oder otherwise else maybe perhaps possibly probably rather instead actually wait no correction sorry sonst but "
    "though although alternatively better could might may"
)
_WORD_SEPARATORS = ("open", "sep", "dash", "stop", "newline")
"""Kinds of tokens between a word and its number: "Success (1)", "success, 1"."""
_HALF_OPEN = (["number", "pipe"], ["number", "pipe", "newline"])
_DEPTH = 3
"""Largest depth of nested brackets that are read."""


def read_after(text: str, scores: Scores, is_adjacent: bool = False) -> Reading:
    """Read the text after a label.

    Args:
        text: a few hundred characters after the label.
        scores: allowed scores, ascending.
        is_adjacent: whether the number may follow directly; otherwise a colon or verb must come first.

    >>> read_after(": 1 because it is open", (0.0, 1.0)).score
    1.0
    """
    return _Reader(tokens_of(text), scores, text=text).read(is_adjacent)


def read_alone(text: str, scores: Scores) -> Reading:
    """Read a text that consists of a score only.

    >>> read_alone("1", (0.0, 1.0)).kind, read_alone("maybe", (0.0, 1.0)).kind
    ('value', 'nothing')
    """
    text = text.strip()
    reader = _Reader(tokens_of(text[:100]), scores, text=text[:100])
    start = reader.group(0)[1] if text.startswith("(") else None
    begin = start if start and reader.is_description(start) else 0  # "(5 = done): 3"
    known = (*WORDS, "out", "of", "percent", "point", "points")
    if len(text) > 60 or any(t.kind in ("newline", "mixed") for t in reader.tokens):
        return NOTHING
    if any(t.kind == "word" and t.text not in known and polarity(t.text) is None for t in reader.tokens[begin:]):
        return NOTHING
    return reader.read(is_adjacent=True)


class _Reader:
    """Parser of the tokens after a label.

    Args:
        tokens: the tokens.
        scores: allowed scores, ascending.
        depth: number of enclosing brackets.
        text: the text of the tokens, if they start at its beginning.
    """

    def __init__(self, tokens: list[Token], scores: Scores, depth: int = 0, text: str = ""):
        self.tokens, self.scores, self.top, self.depth, self.text = tokens, scores, scores[-1], depth, text

    def at(self, i: int) -> Token:
        """Token at `i`; a newline beyond the last one."""
        return self.tokens[i] if i < len(self.tokens) else Token("newline", "")

    def read(self, is_adjacent: bool) -> Reading:
        """Read the score; a word as in "Success (1)" must agree with the number."""
        word = next((i for i, t in enumerate(self.tokens[:3]) if self.word_score(t) is not None), None)
        if word is None or not (is_adjacent or word):
            return self.read_number(is_adjacent)
        expected, rest = self.word_score(self.tokens[word]), self.tokens[word + 1 :]
        if any(t.kind != "sep" for t in self.tokens[:word]) or not rest or rest[0].kind not in _WORD_SEPARATORS:
            return self.read_number(is_adjacent)
        if rest[0].kind == "stop":
            rest = rest[1:]
        reading = _Reader(rest, self.scores, self.depth, self.text).read_number(is_adjacent=True)
        if reading.kind == "value" and reading.score != expected:
            return Reading("unsure", why="a word and a number that differ")
        return reading

    def word_score(self, token: Token) -> float | None:
        """Score expressed by a word such as "success"; None for other words."""
        if token.text == "half" and self.top == 1:
            return 0.5
        success = polarity(token.text) if token.kind == "word" else None
        return None if success is None else self.scores[-1 if success else 0]

    def read_number(self, is_adjacent: bool) -> Reading:
        """Read the score after the separators and fillers before it."""
        i, lines, is_hypothetical, is_separated, verb = 0, 0, False, False, ""
        while i < len(self.tokens):
            token = self.tokens[i]
            if is_number(token):
                reading = self.read_value(i, own_line=lines > 0) if is_adjacent else NOTHING
                is_hypothetical |= verb == "of" and reading.kind == "unsure"
                return replace(reading, is_hypothetical=reading.is_hypothetical or is_hypothetical)
            if token.kind == "open":
                inner, after = self.group(i)
                if after is None and [t.kind for t in self.tokens[i + 1 : i + 4]] in _HALF_OPEN:
                    i += 1  # "<1|"
                    continue
                if (
                    is_adjacent
                    and after is not None
                    and after < len(self.tokens)
                    and (not inner or inner[0].text in _BOXES)
                ):
                    return Reading("unsure", why="check boxes")
                if after is None:
                    return Reading("unsure", why="an open bracket") if is_adjacent else NOTHING
                if self.is_description(after) or self.repeats_form(inner, after):
                    if doubt := self.scale_doubt(inner):
                        return doubt
                    i = after
                    continue
                reading = self.read_bracket(inner, after) if self.depth < _DEPTH else NOTHING
                return replace(reading, is_hypothetical=reading.is_hypothetical or is_hypothetical)
            if token.kind == "newline":
                lines += 1
                is_adjacent = is_separated = True
                if lines > 2:
                    return NOTHING
            elif token.kind in ("sep", "arrow", "pipe") or (token.kind == "dash" and not is_separated):
                is_adjacent = is_separated = True
            elif token.text in _VERBS:
                is_adjacent, is_separated, verb = True, True, token.text
            elif token.text in _POSSIBLE:
                return NOTHING
            elif self.is_bullet(i):
                i = i + 1
                continue
            elif token.text in _HYPOTHETICAL:
                is_hypothetical = True
            elif token.kind in _UNEXPECTED or (token.text == ">" and is_separated):
                return self.sign_doubt(i) if is_adjacent else NOTHING
            elif token.kind == "word" and token.text not in _FILLERS:
                colon = self.find_colon(i)
                if is_separated or token.text not in _SCALE_STARTS or colon is None:
                    return NOTHING
                if doubt := self.scale_doubt(self.tokens[i:colon]):
                    return doubt
                i = colon
                continue
            i += 1
        return NOTHING

    def is_bullet(self, i: int) -> bool:
        """Whether the token at `i` is the bullet of a list item that is only a number."""
        is_only_number = is_number(self.at(i + 1)) and self.at(i + 2).kind == "newline"
        return is_only_number and self.at(i).text in ("-", "•", "·", "+") and i > 0 and self.at(i - 1).kind == "newline"

    def repeats_form(self, inner: list[Token], after: int) -> bool:
        """Whether a bracket repeats the requested form and the number is alone on the next line."""
        k = after
        while self.at(k).kind == "newline" and k < min(after + 2, len(self.tokens)):
            k += 1
        has_choices = any(t.kind == "pipe" for t in inner)
        return has_choices and k > after and is_number(self.at(k)) and self.at(k + 1).kind == "newline"

    def sign_doubt(self, i: int) -> Reading:
        """A doubt if a number follows directly after an unexpected sign."""
        is_near = any(is_number(self.at(k)) or self.at(k).kind == "mixed" for k in (i, i + 1))
        return Reading("unsure", why=f"'{self.at(i).text}' before the number") if is_near else NOTHING

    def find_colon(self, i: int) -> int | None:
        """Index of the colon after a description that starts at `i`; None if the line has none nearby."""
        for k in range(i, min(i + 15, len(self.tokens))):
            if self.tokens[k].kind in ("newline", "sep"):
                return k if self.tokens[k].kind == "sep" else None
        return None

    def group(self, i: int) -> tuple[list[Token], int | None]:
        """Tokens in the bracket that opens at `i`, and the index after it; None if it does not close."""
        closing, depth = PAIRS[self.tokens[i].text], 0
        for k in range(i, min(i + 40, len(self.tokens))):
            text = self.tokens[k].text
            if self.tokens[k].kind == "newline":
                break
            depth += (text == self.tokens[i].text) - (text == closing)
            if depth == 0:
                return self.tokens[i + 1 : k], k + 1
        return [], None

    def is_description(self, after: int) -> bool:
        """Whether a bracket that ends at `after` describes the scale and the value follows it."""
        k = after
        while self.at(k).kind in ("sep", "quote", "close", "arrow") or self.at(k).text in _VERBS:
            k += 1
        if is_number(self.at(k)):
            return True
        return self.at(after).kind == "sep" and self.at(k).kind in ("open", "doubt", "newline") and k < len(self.tokens)

    def scale_doubt(self, inner: list[Token]) -> Reading | None:
        """A doubt if a bracket before the value is a single number, tentative, or describes another scale."""
        if any(t.text in _TENTATIVE or t.kind == "doubt" for t in inner):
            return Reading("unsure", why="a doubt in brackets before the number")
        numbers = [number(t, self.scores) for t in inner if t.kind == "number"]
        if any(n is None for n in numbers) or (len(inner) == 1 and numbers):
            return Reading("unsure", why="a number in brackets before the number")
        known = [n for n in numbers if n is not None]
        is_scale = len(known) > 1 or any(t.kind == "slash" or t.text in (*_SCALE, "of", "to") for t in inner)
        if known and (max(known) > self.top or (is_scale and max(known) < self.top)):
            return Reading("unsure", why=f"a scale to {max(known):g}")
        return None

    def read_bracket(self, inner: list[Token], after: int) -> Reading:
        """Read a bracket in place of the value."""
        if any(t.kind == "word" and t.text in _CONDITIONS for t in inner):
            return NOTHING
        reading = _Reader(inner, self.scores, self.depth + 1, self.text).read(is_adjacent=True)
        if reading.kind == "choices" and any(t.kind == "pipe" for t in inner):
            return NOTHING  # the requested form, repeated
        if reading.kind == "value":
            rest = _Reader(self.tokens[after:], self.scores, self.depth + 1, self.text)
            return replace(rest.check_rest(0, reading.score), end=reading.end)
        return reading

    # ------------------------------------------------------------ the number and the words after it

    def read_value(self, i: int, own_line: bool) -> Reading:
        """Read the number at `i` and check the rest of its line.

        Args:
            i: index of the number.
            own_line: whether its line must contain nothing else, because the label is on another line.
        """
        if (choices := self.read_list(i)) is not None:
            return choices
        value, is_word = number(self.tokens[i], self.scores), self.tokens[i].kind == "word"
        if value is None:
            return Reading("unsure", why=f"'{self.tokens[i].text}' is ambiguous")
        after = i + 1
        if (fraction := self.read_denominator(after)) is not None:
            denominator, after = fraction
            if (score := self.fraction_score(value, denominator)) is None:
                return Reading("unsure", why=f"{value:g} of {denominator:g} on a scale to {self.top:g}")
            value = score
        elif self.at(after).kind == "percent" or self.at(after).text in ("percent", "prozent"):
            if self.top != 1:
                return Reading("unsure", why=f"a percentage on a scale to {self.top:g}")
            value, after = value / 100, after + 1
        is_equation = after > i + 1 and self.at(after).text == "=" and is_number(self.at(after + 1))
        if is_equation and number(self.at(after + 1), self.scores) == value:
            after += 2  # "1/2 = 0.5"
        if self.is_part(after):
            return Reading("unsure", why="part of a number")
        if (own_line or is_word) and not self.ends_line(after):
            return Reading("unsure", why="words after the number")
        return replace(self.check_rest(after, value), end=self.tokens[after - 1].end)

    def is_part(self, k: int) -> bool:
        """Whether the number is part of an expression: "4 and a half", "one-third", "0 point 5"."""
        while self.at(k).kind == "dash" or self.at(k).text in ("and", "a", "one", "."):
            if self.at(k).text == "." and self.at(k + 1).start != self.at(k).end:
                return False
            k += 1
        if self.at(k).text in _FRACTION_WORDS:
            return True
        while self.at(k).kind == "dash" and self.at(k + 1).text == "point":
            k += 1
        return self.at(k).text == "point" and any(is_number(self.at(n)) for n in (k + 1, k + 2))

    def read_list(self, i: int) -> Reading | None:
        """Read a list of numbers: the choices, or a doubt; None for a single number."""
        numbers, k = [self.tokens[i]], i + 1
        kinds: set[str] = set()
        while self.is_separator(k) and is_number(self.at(k + 1)) and len(numbers) < 20:
            kinds.add(self.at(k).kind)
            numbers.append(self.at(k + 1))
            k += 2
        if len(numbers) == 1 or (len(numbers) == 2 and kinds == {"slash"}):
            return None
        values = {number(t, self.scores) for t in numbers}
        if values == set(self.scores) or (values == {self.scores[0], self.top} and len(numbers) == 2):
            return Reading("choices")
        return Reading("unsure", why="several numbers")

    def is_separator(self, k: int) -> bool:
        """Whether the token at `k` can separate two numbers of a list."""
        return self.at(k).kind in ("pipe", "slash", "dash", "stop", "doubt") or self.at(k).text in _ALTERNATIVES

    def read_denominator(self, k: int) -> tuple[float, int] | None:
        """Denominator of a fraction whose numerator ends before `k`, and the index after it."""
        if self.at(k).kind != "slash" and self.at(k).text not in _SHARES:
            return None
        while self.at(k).kind == "slash" or self.at(k).text in (*_SHARES, "a", "the", "possible", "maximum"):
            k += 1
        denominator = number(self.at(k), self.scores) if is_number(self.at(k)) else None
        return None if denominator is None else (denominator, k + 1)

    def fraction_score(self, value: float, denominator: float) -> float | None:
        """Score of a fraction of the scale's maximum, or of 1/2; None for any other."""
        if denominator == self.top:
            return value
        return 0.5 if (value, denominator) == (1, 2) and self.top == 1 else None

    def ends_line(self, k: int) -> bool:
        """Whether the line has no further word from `k`."""
        while self.at(k).kind in ("stop", "close", "quote", "tag", "pipe"):
            k += 1
        return self.at(k).kind in ("newline", "open", "dash")

    def check_rest(self, k: int, value: float) -> Reading:
        """The value, or a doubt from the rest of the line after `k`."""
        while self.at(k).kind in ("close", "quote", "tag"):
            k += 1
        line = self.line(k)
        if line and line[0].end and self.text and note_denies(self.text[line[0].start :], value, self.scores):
            return Reading("unsure", why="a contradicting word after the number")
        if len(line) > 1 and line[0].text == "/" and self.word_score(line[1]) == value:
            return Reading("value", value)
        if line and (why := self.next_doubt(line)):
            return NOTHING if line[0].text in _CONDITIONS else Reading("unsure", why=why)
        if why := self.later_doubt(line, value):
            return Reading("unsure", why=why)
        return Reading("value", value)

    def line(self, k: int) -> list[Token]:
        """Tokens from `k` to the end of the line."""
        end = next((i for i in range(k, len(self.tokens)) if self.tokens[i].kind == "newline"), len(self.tokens))
        return self.tokens[k:end]

    def next_doubt(self, line: list[Token]) -> str:
        """Reason why the first token after the number makes it ambiguous; "" if it does not."""
        first, second = line[0], line[1] if len(line) > 1 else Token("newline", "")
        if first.text == "<" and is_number(second) and not any(t.text == ">" for t in line):
            return "a comparison"
        if first.text in ("+", "-") and len(line) == 1:
            return f"'{first.text}' after the number"
        if first.kind in ("number", "mixed", "doubt", "percent", "slash"):
            return f"'{first.text}' after the number"
        if first.kind in ("stop", "dash", "sep", "arrow", "pipe", "other") and (
            is_number(second) or second.kind == "mixed"
        ):
            return "a second number"
        if first.kind == "word":
            starts_sentence = first.capital and first.text in _STARTS
            starts_clause = first.text in ("and", "et", "und") and not is_number(second)
            is_allowed = starts_sentence or starts_clause or first.text in _REASONS
            return "" if is_allowed else f"'{first.text}' after the number"
        return ""

    def later_doubt(self, line: list[Token], value: float) -> str:
        """Reason why later words on the line retract the number; "" if none do."""
        for i, token in enumerate(line):
            numbers = [number(t, self.scores) for t in line[i + 1 : i + 7] if t.kind == "number"]
            if token.kind == "doubt" and token.text == "?":
                return "a question mark after the number"
            if token.text in _RETRACTIONS and any(n in self.scores and n != value for n in numbers[:1]):
                return f"'{token.text}' and a second score after the number"
            if token.text in _SCALE and self.declares_other_scale(line, i):
                return "another scale after the number"
            if token.kind == "open" and (why := self.bracket_doubt(line, i, value)):
                return why
        return ""

    def declares_other_scale(self, line: list[Token], i: int) -> bool:
        """Whether the word at `i` of a line, such as "scale" or "out", declares another scale.

        "0-5 scale" and "out of 5" declare one; "2 out of 3 steps" does not.
        """
        if line[i].text in _SHARES:
            near = [] if i and is_number(line[i - 1]) else line[i + 1 : i + 4]
        else:
            near = line[max(0, i - 4) : i + 7]
        numbers = [number(t, self.scores) for t in near if t.kind == "number"]
        return bool(numbers) and max(n or 0 for n in numbers) != self.top

    def bracket_doubt(self, line: list[Token], i: int, value: float) -> str:
        """Reason why the bracket at `i` of a line contradicts the number; "" if it does not."""
        inner, _ = _Reader(line, self.scores).group(i)
        numbers = [number(t, self.scores) for t in inner if t.kind == "number"]
        if i == 0 and len(inner) == 1 and numbers and numbers[0] != value:
            return "another number in brackets"
        if i == 0 and inner and inner[0].kind in ("slash", "doubt"):
            return "" if numbers == [self.top] else "another scale in brackets"
        in_range = [t.kind in ("number", "dash") or t.text == "to" for t in inner[:3]]
        if i == 0 and len(numbers) >= 2 and sum(in_range) == 3 and numbers[1] != self.top:
            return "another scale in brackets"
        return ""
