"""How a score is worded: what stands between "Final Score" and its number, and what follows the number.

A number counts only where nothing around it makes it doubtful. `read_after` looks at the words and signs after a label
and says whether there is a value, a doubt, the choices themselves, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from worldgymnast.judges.doubts import note_denies, polarity
from worldgymnast.judges.signs import PAIRS, WORDS, Scores, Token, is_number, number, tokens_of


@dataclass(frozen=True)
class Reading:
    """What a label is followed by.

    Attributes:
        kind: "value"; "unsure", a number in doubt; "choices", all that may be answered; "nothing".
        score: the value.
        why: what makes it unsure.
        weak: whether it is only supposed ("would be", "if"), so that a plain statement outranks it.
        end: where the value is over in the text that was read.
    """

    kind: Literal["value", "unsure", "choices", "nothing"]
    score: float = 0.0
    why: str = ""
    weak: bool = False
    end: int = 0


NOTHING = Reading("nothing")


# ---------------------------------------------------------------- before the number

_VERBS = ("is", "was", "are", "be", "equals", "equal", "of", "ist", "est", "es", "是", "为", "為")
_SUPPOSED = ("would", "should", "must")
_POSSIBLE = ("could", "might", "may", "can")
"""Words that make a number one of several that are possible."""
_BOXES = ("x", "v", "✓", "✔", "✗", "✘", "☑")
_STARTS = ("the", "in", "by", "from", "between", "it", "this", "both", "explanation", "reason", "reasoning", "note")
"""How a sentence begins that follows the number without a full stop, with a capital letter."""
_PARTS = ("half", "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "tenth",
          "tenths", "ish", "minus", "plus", "x", "something",
          "some", "bit", "change")  # fmt: skip
"""What makes a number only part of one: one-third, three-ish, 3-minus."""
_FILLERS = ("a", "an", "the", "to", "at", "as", "therefore", "thus", "hence", "so", "clearly", "definitely", "simply",
            "then", "final", "score", "value", "answer", "finale", "given", "for", "this", "task", "rollout", "attempt",
            "video", "i", "give", "assign", "here", "will", "my", "overall", "it")  # fmt: skip
_TENTATIVE = ("maybe", "perhaps", "probably", "tentative", "preliminary", "initial", "draft", "example", "previous",
              "old", "not", "guess", "uncertain", "unsure", "approx", "approximate", "hypothetical")  # fmt: skip
_ODD = ("doubt", "other", "percent", "slash", "stop", "mixed", "dash")
"""Signs that stand before no plain number."""
_SHARES = ("of", "out", "von", "sur", "aus", "from", "de")
_ALTERNATIVES = ("or", "oder", "ou", "and", "und", "et", "to", "bis", "vs", "versus", "through", "或", "and/or")
_SCALE = ("scale", "range", "out", "max", "maximum", "max.", "skala", "possible", "满分", "von", "sur")
_SCALES_BEGIN = ("on", "from", "out", "between", "in", "range", "scale", "auf", "von")
"""How a scale begins that stands without brackets before the number: "on a scale of 0 to 5: 4"."""
_CONDITIONS = ("if", "unless", "when", "only", "provided", "wenn", "falls", "assuming", "iff", "whenever", "means")
_REASONS = ("because", "since", "as", "for", "due", "given", "based", "which", "where", "indicating", "meaning",
            "point", "points", "pt", "pts", "punkt", "punkte", "分", "点", "點", "점", "success", "successful",
            "failure", "weil", "da", "denn", "not", "with", "on", "so", "therefore")  # fmt: skip
_RETRACTIONS = ("or", "oder", "otherwise", "else", "maybe", "perhaps", "possibly", "probably", "rather", "instead",
                "actually", "wait", "no", "correction", "sorry", "sonst", "but", "though", "although",
                "alternatively", "better", "could", "might", "may")  # fmt: skip
_BEHIND = ("open", "sep", "dash", "stop", "newline")
"""What stands between a word and its number: "Success (1)", "success, 1"."""
_HALF_OPEN = (["number", "pipe"], ["number", "pipe", "newline"])
_DEPTH = 3
"""Brackets within brackets that are looked into."""


def read_after(text: str, scores: Scores, joined: bool = False) -> Reading:
    """What the words after a label say.

    Args:
        text: what follows the label, a few hundred characters.
        scores: what may be answered, ascending.
        joined: whether the number may follow at once; otherwise a colon or verb has to come first.
    """
    return _Slot(tokens_of(text), scores, text=text).read(joined)


def read_alone(text: str, scores: Scores) -> Reading:
    """What a text says that is nothing but a score."""
    text = text.strip()
    slot = _Slot(tokens_of(text[:100]), scores, text=text[:100])
    start = slot.group(0)[1] if text.startswith("(") else None
    begin = start if start and slot.describes(start) else 0  # "(5 = done): 3"
    known = (*WORDS, "out", "of", "percent", "point", "points")
    if len(text) > 60 or any(t.kind in ("newline", "mixed") for t in slot.tokens):
        return NOTHING
    if any(t.kind == "word" and t.text not in known and polarity(t.text) is None for t in slot.tokens[begin:]):
        return NOTHING
    return slot.read(joined=True)


class _Slot:
    """The tokens after a label, and what may be answered."""

    def __init__(self, tokens: list[Token], scores: Scores, depth: int = 0, text: str = ""):
        self.tokens, self.scores, self.top, self.depth, self.text = tokens, scores, scores[-1], depth, text

    def at(self, i: int) -> Token:
        """The token at `i`; a line's end after the last one."""
        return self.tokens[i] if i < len(self.tokens) else Token("newline", "")

    def read(self, joined: bool) -> Reading:
        """What the tokens say; a word such as "Success (1)" has to agree with the number."""
        word = next((i for i, t in enumerate(self.tokens[:3]) if self.named(t) is not None), None)
        if word is None or not (joined or word):
            return self.slot(joined)
        named, behind = self.named(self.tokens[word]), self.tokens[word + 1 :]
        if any(t.kind != "sep" for t in self.tokens[:word]) or not behind or behind[0].kind not in _BEHIND:
            return self.slot(joined)
        if behind[0].kind == "stop":
            behind = behind[1:]
        found = _Slot(behind, self.scores, self.depth, self.text).slot(joined=True)
        if found.kind == "value" and found.score != named:
            return Reading("unsure", why="a word and a number that differ")
        return found

    def named(self, token: Token) -> float | None:
        """The score that a word says by itself, where it is no number."""
        if token.text == "half" and self.top == 1:
            return 0.5
        success = polarity(token.text) if token.kind == "word" else None
        return None if success is None else self.scores[-1 if success else 0]

    def slot(self, joined: bool) -> Reading:
        """What the tokens say, without such a word."""
        i, lines, weak, parted, verb = 0, 0, False, False, ""
        while i < len(self.tokens):
            token = self.tokens[i]
            if is_number(token):
                found = self.value(i, own_line=lines > 0) if joined else NOTHING
                supposed = weak or (verb == "of" and found.kind == "unsure")
                return replace(found, weak=found.weak or supposed)
            if token.kind == "open":
                inner, after = self.group(i)
                if after is None and [t.kind for t in self.tokens[i + 1 : i + 4]] in _HALF_OPEN:
                    i += 1  # "<1|"
                    continue
                if joined and after is not None and after < len(self.tokens) and (not inner or inner[0].text in _BOXES):
                    return Reading("unsure", why="boxes to tick")
                if after is None:
                    return Reading("unsure", why="an open bracket") if joined else NOTHING
                if self.describes(after) or self.repeats(inner, after):
                    if doubt := self.other_scale(inner):
                        return doubt
                    i = after
                    continue
                found = self.within(inner, after) if self.depth < _DEPTH else NOTHING
                return replace(found, weak=found.weak or weak)
            if token.kind == "newline":
                lines += 1
                joined = parted = True
                if lines > 2:
                    return NOTHING
            elif token.kind in ("sep", "arrow", "pipe") or (token.kind == "dash" and not parted):
                joined = parted = True
            elif token.text in _VERBS:
                joined, parted, verb = True, True, token.text
            elif token.text in _POSSIBLE:
                return NOTHING
            elif self.is_bullet(i):
                i = i + 1
                continue
            elif token.text in _SUPPOSED:
                weak = True
            elif token.kind in _ODD or (token.text == ">" and parted):
                return self.doubtful(i) if joined else NOTHING
            elif token.kind == "word" and token.text not in _FILLERS:
                colon = self.colon(i)
                if parted or token.text not in _SCALES_BEGIN or colon is None:
                    return NOTHING
                if doubt := self.other_scale(self.tokens[i:colon]):
                    return doubt
                i = colon
                continue
            i += 1
        return NOTHING

    def is_bullet(self, i: int) -> bool:
        """Whether the token at `i` begins the item of a list that is a number and nothing else."""
        alone = is_number(self.at(i + 1)) and self.at(i + 2).kind == "newline"
        return alone and self.at(i).text in ("-", "•", "·", "+") and i > 0 and self.at(i - 1).kind == "newline"

    def repeats(self, inner: list[Token], after: int) -> bool:
        """Whether a bracket repeats the form that was asked for, and the number stands alone on the next line."""
        k = after
        while self.at(k).kind == "newline" and k < min(after + 2, len(self.tokens)):
            k += 1
        choices = any(t.kind == "pipe" for t in inner)
        return choices and k > after and is_number(self.at(k)) and self.at(k + 1).kind == "newline"

    def doubtful(self, i: int) -> Reading:
        """Of a sign before the number: a doubt where a number follows at once."""
        near = any(is_number(self.at(k)) or self.at(k).kind == "mixed" for k in (i, i + 1))
        return Reading("unsure", why=f"'{self.at(i).text}' before the number") if near else NOTHING

    def colon(self, i: int) -> int | None:
        """Where the colon is behind a description that begins at `i`; None where the line has none nearby."""
        for k in range(i, min(i + 15, len(self.tokens))):
            if self.tokens[k].kind in ("newline", "sep"):
                return k if self.tokens[k].kind == "sep" else None
        return None

    def group(self, i: int) -> tuple[list[Token], int | None]:
        """The tokens in the bracket that opens at `i`, and where it is over; None where it does not close."""
        closing, depth = PAIRS[self.tokens[i].text], 0
        for k in range(i, min(i + 40, len(self.tokens))):
            text = self.tokens[k].text
            if self.tokens[k].kind == "newline":
                break
            depth += (text == self.tokens[i].text) - (text == closing)
            if depth == 0:
                return self.tokens[i + 1 : k], k + 1
        return [], None

    def describes(self, after: int) -> bool:
        """Whether a bracket that is over at `after` describes the scale, so that the value comes behind it."""
        k = after
        while self.at(k).kind in ("sep", "quote", "close", "arrow") or self.at(k).text in _VERBS:
            k += 1
        if is_number(self.at(k)):
            return True
        return self.at(after).kind == "sep" and self.at(k).kind in ("open", "doubt", "newline") and k < len(self.tokens)

    def other_scale(self, inner: list[Token]) -> Reading | None:
        """A doubt where the bracket before a value is a lone number, tentative, or describes another scale."""
        if any(t.text in _TENTATIVE or t.kind == "doubt" for t in inner):
            return Reading("unsure", why="a doubt in brackets before the number")
        numbers = [number(t, self.scores) for t in inner if t.kind == "number"]
        if any(n is None for n in numbers) or (len(inner) == 1 and numbers):
            return Reading("unsure", why="a number in brackets before the number")
        known = [n for n in numbers if n is not None]
        declares = len(known) > 1 or any(t.kind == "slash" or t.text in (*_SCALE, "of", "to") for t in inner)
        if known and (max(known) > self.top or (declares and max(known) < self.top)):
            return Reading("unsure", why=f"a scale to {max(known):g}")
        return None

    def within(self, inner: list[Token], after: int) -> Reading:
        """What the bracket says that stands in the place of the value."""
        if any(t.kind == "word" and t.text in _CONDITIONS for t in inner):
            return NOTHING
        found = _Slot(inner, self.scores, self.depth + 1, self.text).read(joined=True)
        if found.kind == "choices" and any(t.kind == "pipe" for t in inner):
            return NOTHING  # the form that the question asks for, repeated
        if found.kind == "value":
            rest = _Slot(self.tokens[after:], self.scores, self.depth + 1, self.text)
            return replace(rest.tail(0, found.score), end=found.end)
        return found

    # ------------------------------------------------------------ the number and what follows it

    def value(self, i: int, own_line: bool) -> Reading:
        """The value of the number at `i`, held against all that follows on its line.

        Args:
            i: where the number is.
            own_line: whether its line must hold nothing else, since the label stands on another.
        """
        if (listed := self.listed(i)) is not None:
            return listed
        value, word = number(self.tokens[i], self.scores), self.tokens[i].kind == "word"
        if value is None:
            return Reading("unsure", why=f"'{self.tokens[i].text}' can be read in two ways")
        after = i + 1
        if (fraction := self.fraction(after)) is not None:
            below, after = fraction
            if (share := self.share(value, below)) is None:
                return Reading("unsure", why=f"{value:g} of {below:g} on a scale to {self.top:g}")
            value = share
        elif self.at(after).kind == "percent" or self.at(after).text in ("percent", "prozent"):
            if self.top != 1:
                return Reading("unsure", why=f"a percentage on a scale to {self.top:g}")
            value, after = value / 100, after + 1
        equal = after > i + 1 and self.at(after).text == "=" and is_number(self.at(after + 1))
        if equal and number(self.at(after + 1), self.scores) == value:
            after += 2  # "1/2 = 0.5"
        if self.is_part(after):
            return Reading("unsure", why="part of a number")
        if (own_line or word) and not self.ends(after):
            return Reading("unsure", why="words after the number")
        return replace(self.tail(after, value), end=self.tokens[after - 1].end)

    def is_part(self, k: int) -> bool:
        """Whether a word from `k` makes the number only part of one: "4 and a half", "one-third", "0 point 5"."""
        while self.at(k).kind == "dash" or self.at(k).text in ("and", "a", "one", "."):
            glued = self.at(k).text == "." and self.at(k + 1).start != self.at(k).end
            if glued:
                return False
            k += 1
        if self.at(k).text in _PARTS:
            return True
        while self.at(k).kind == "dash" and self.at(k + 1).text == "point":
            k += 1
        return self.at(k).text == "point" and any(is_number(self.at(n)) for n in (k + 1, k + 2))

    def listed(self, i: int) -> Reading | None:
        """The choices, or a doubt, where several numbers stand side by side; None where one stands alone."""
        found, k = [self.tokens[i]], i + 1
        links: set[str] = set()
        while self.links(k) and is_number(self.at(k + 1)) and len(found) < 20:
            links.add(self.at(k).kind)
            found.append(self.at(k + 1))
            k += 2
        if len(found) == 1 or (len(found) == 2 and links == {"slash"}):
            return None
        values = {number(t, self.scores) for t in found}
        if values == set(self.scores) or (values == {self.scores[0], self.top} and len(found) == 2):
            return Reading("choices")
        return Reading("unsure", why="several numbers")

    def links(self, k: int) -> bool:
        """Whether the token at `k` may join two numbers of a list."""
        return self.at(k).kind in ("pipe", "slash", "dash", "stop", "doubt") or self.at(k).text in _ALTERNATIVES

    def fraction(self, k: int) -> tuple[float, int] | None:
        """The number below a fraction whose upper one ends before `k`, and where it is over."""
        if self.at(k).kind != "slash" and self.at(k).text not in _SHARES:
            return None
        while self.at(k).kind == "slash" or self.at(k).text in (*_SHARES, "a", "the", "possible", "maximum"):
            k += 1
        below = number(self.at(k), self.scores) if is_number(self.at(k)) else None
        return (below, k + 1) if below is not None else None

    def share(self, value: float, below: float) -> float | None:
        """The score that a fraction is: one of the whole scale, or a half; None for any other."""
        if below == self.top:
            return value
        return 0.5 if (value, below) == (1, 2) and self.top == 1 else None

    def ends(self, k: int) -> bool:
        """Whether the line holds no further word from `k`."""
        while self.at(k).kind in ("stop", "close", "quote", "tag", "pipe"):
            k += 1
        return self.at(k).kind in ("newline", "open", "dash")

    def tail(self, k: int, value: float) -> Reading:
        """The value, unless what follows from `k` on the same line makes it doubtful."""
        while self.at(k).kind in ("close", "quote", "tag"):
            k += 1
        line = self.line(k)
        if line and line[0].end and self.text and note_denies(self.text[line[0].start :], value, self.scores):
            return Reading("unsure", why="a word after the number that says the opposite")
        if len(line) > 1 and line[0].text == "/" and self.named(line[1]) == value:
            return Reading("value", value)
        if line and (why := self.disturbs(line)):
            supposed = line[0].text in _CONDITIONS
            return NOTHING if supposed else Reading("unsure", why=why)
        if why := self.revised(line, value):
            return Reading("unsure", why=why)
        return Reading("value", value)

    def line(self, k: int) -> list[Token]:
        """The tokens from `k` to the end of the line."""
        end = next((i for i in range(k, len(self.tokens)) if self.tokens[i].kind == "newline"), len(self.tokens))
        return self.tokens[k:end]

    def disturbs(self, line: list[Token]) -> str:
        """Why the first token after the number makes it doubtful; "" where it does not."""
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
            sentence = first.capital and first.text in _STARTS
            linked = first.text in ("and", "et", "und") and not is_number(second)
            allowed = sentence or linked or first.text in _REASONS
            return "" if allowed else f"'{first.text}' after the number"
        return ""

    def revised(self, line: list[Token], value: float) -> str:
        """Why something later on the line takes the number back; "" where nothing does."""
        for i, token in enumerate(line):
            numbers = [number(t, self.scores) for t in line[i + 1 : i + 7] if t.kind == "number"]
            if token.kind == "doubt" and token.text == "?":
                return "a question mark after the number"
            if token.text in _RETRACTIONS and any(n in self.scores and n != value for n in numbers[:1]):
                return f"'{token.text}' and a second score after the number"
            if token.text in _SCALE and self.declares_other(line, i):
                return "another scale after the number"
            if token.kind == "open" and (why := self.beside(line, i, value)):
                return why
        return ""

    def declares_other(self, line: list[Token], i: int) -> bool:
        """Whether the word at `i` of a line, such as "scale" or "out", goes with numbers that end elsewhere than ours.

        "2 out of 3 steps" declares none; "0-5 scale" does, and "out of 5".
        """
        if line[i].text in _SHARES:
            near = [] if i and is_number(line[i - 1]) else line[i + 1 : i + 4]
        else:
            near = line[max(0, i - 4) : i + 7]
        numbers = [number(t, self.scores) for t in near if t.kind == "number"]
        return bool(numbers) and max(n or 0 for n in numbers) != self.top

    def beside(self, line: list[Token], i: int, value: float) -> str:
        """Why the bracket at `i` of a line contradicts the number; "" where it does not."""
        inner, _ = _Slot(line, self.scores).group(i)
        numbers = [number(t, self.scores) for t in inner if t.kind == "number"]
        if i == 0 and len(inner) == 1 and numbers and numbers[0] != value:
            return "another number in brackets"
        if i == 0 and inner and inner[0].kind in ("slash", "doubt"):
            return "" if numbers == [self.top] else "another scale in brackets"
        ranges = [t.kind == "number" or t.kind == "dash" or t.text == "to" for t in inner[:3]]
        if i == 0 and len(numbers) >= 2 and sum(ranges) == 3 and numbers[1] != self.top:
            return "another scale in brackets"
        return ""
