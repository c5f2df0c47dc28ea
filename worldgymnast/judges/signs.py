"""Tokenizer of answers: words, numbers and signs, without markup and in normalized form."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

Scores = Sequence[float]


def word_set(text: str) -> frozenset[str]:
    """Words of a text that are separated by spaces, as a set."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Token:
    """A word, number or sign.

    Attributes:
        kind: name of its pattern, such as "word" or "number".
        text: its characters, in lower case.
        start: index of its first character.
        end: index after its last character.
        capital: whether it starts with a capital letter.
    """

    kind: str
    text: str
    start: int = 0
    end: int = 0
    capital: bool = False


_SIGNS = {
    "newline": r"\n",
    "tag": r"</[a-z_]{1,20}\s{0,3}>",
    "number": r"(?:(?<![\w.)])[+-])?(?<![\w.])(?:\d+(?:[.,]\d+)*|\.\d+)(?:e[+-]?\d{1,3})?(?:(?=[分点點점])|(?![\w]))",
    "mixed": r"\d\w*",
    "word": r"[^\W\d_][\w']*",
    "arrow": r"[-=~]{1,3}>|[→⇒➜⟶➔]",
    "sep": r"[:=]",
    "pipe": r"\|",
    "slash": r"[/÷]",
    "percent": r"%",
    "dash": r"-+",
    "doubt": r"[?~≈±≥≤]|\.{2,}",
    "stop": r"[.,;!]",
    "open": r"[(\[{<]",
    "close": r"[)\]}>]",
    "quote": r"[\"'«»]",
    "other": r"\S",
}
_TOKEN = re.compile("|".join(f"(?P<{kind}>{sign})" for kind, sign in _SIGNS.items()), re.IGNORECASE)
PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_MARKUP = re.compile(
    r"<\|[^<>|\n]{1,40}\|>"  # special tokens
    r"|</?(?:s|bos|eos|pad|end_of_turn|end_of_utterance|p|b|i|u|em|strong|span|div|center|code|td|tr|br|h\d)\s?/?>"
    r"|\\(?:text|textbf|mathbf|mathrm|bf|displaystyle|left|right|quad|[()\[\],;!])(?![a-z])"
    r"|[*`#$]|(?<![^\W_])_|_(?![^\W_])",
    re.IGNORECASE,
)
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~|<(del|strike)>[^<\n]{0,200}</\1>")
"""Text that the model crossed out."""
_FRACTION = re.compile(r"\\[dt]?frac\s?\{(\d)\}\s?\{(\d)\}")
_NO_SPACE = re.compile(r"(?<=[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af])(?=[0-9])")
"""Position between a script without spaces and a number."""
_VARIANTS = {
    "-": "\u2212\u2013\u2014\u2010\u2011",
    "/": "\u2044\u2215",
    "~": "\u223c\u301c",
    ".": "\u3002",
    ",": "\u3001",
    "[": "\u3008\u300a\u300c\u3010\u3014",
    "]": "\u3009\u300b\u300d\u3011\u3015",
    "'": "\u2018\u2019\u201a",
    '"': "\u201c\u201d\u201e",
    "\n": "\u2028\u2029\u0085",
}
"""Unicode variants of signs."""
_NORMALIZED = {ord(variant): sign for sign, variants in _VARIANTS.items() for variant in variants}


def plain(text: str) -> str:
    """Normalize a text: ASCII digits and signs, no markup, no invisible characters.

    >>> plain("**得分**：１").split()
    ['得分', ':1']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        other = [c for c in set(text) if not c.isascii()]
        changed = {ord(c): str(unicodedata.decimal(c)) for c in other if c.isdecimal()}
        changed |= {ord(c): None for c in other if unicodedata.category(c) == "Cf"}
        text = _NO_SPACE.sub(" ", text.translate(changed | _NORMALIZED))
    text = _FRACTION.sub(r"\1/\2", _STRUCK.sub(" ", text))
    return _MARKUP.sub(" ", text.replace("\r", "\n"))


def tokens_of(text: str) -> list[Token]:
    """Split a text into words, numbers and signs, without spaces.

    >>> [token.kind for token in tokens_of("Score: 1")]
    ['word', 'sep', 'number']
    """
    return [
        Token(str(m.lastgroup), m.group().lower(), m.start(), m.end(), m.group()[0].isupper())
        for m in _TOKEN.finditer(text)
    ]


# ---------------------------------------------------------------- numbers

_ENGLISH = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_CHINESE = {"零": 0, "一": 1, "二": 2, "三": 3, "四": 4, "五": 5}
WORDS = _ENGLISH | _CHINESE


def number(token: Token, scores: Scores) -> float | None:
    """Value of a number.

    None if it is ambiguous, such as 01, 1,000 or 1,0 (a list of 1 and 0).
    """
    if token.kind == "word":
        return WORDS.get(token.text)
    raw = token.text.lstrip("+-")
    whole, comma, part = raw.partition(",")
    if comma and (len(part) > 2 or "." in raw or "," in part or "e" in part):
        return None
    if comma and float(whole) in scores and float(part) in scores:
        return None
    if raw.count(".") > 1 or re.match(r"0\d", raw):
        return None
    value = float(raw.replace(",", "."))
    return -value if token.text.startswith("-") and value else value


def is_number(token: Token) -> bool:
    """Whether a token is a number, in digits or as a word."""
    return token.kind == "number" or (token.kind == "word" and token.text in WORDS)
