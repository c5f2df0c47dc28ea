"""The fenced blocks of README.md and docs/, and the `worldgymnast` commands in them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from places import ROOT

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PROGRAM = "worldgymnast"
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_SUM = re.compile(r"\$\(\(.*?\)\)")
_SEPARATORS = frozenset("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: file and line of its first line, for a person who is to mend it.
        language: what stands behind the fence, such as "python"; "" where nothing does.
        text: what is in it.
    """

    place: str
    language: str
    text: str

    def __str__(self) -> str:
        return self.place


def blocks(text: str, name: str) -> Iterator[Block]:
    """The fenced blocks of a document called `name`."""
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start(2)) + 1
        yield Block(f"{name}:{line}", found[1], found[2])


def all_blocks(python: bool) -> list[Block]:
    """The Python blocks of all documents, or the others."""
    found = (each for path in DOCUMENTS for each in blocks(path.read_text(), str(path.relative_to(ROOT))))
    return [each for each in found if (each.language == "python") == python]


def commands(script: str) -> Iterator[list[str]]:
    """The words after `worldgymnast` of every command of a shell script, also within a loop or behind torchrun.

    Comments are left out, a variable is left as it is written, and a sum counts as 1.
    """
    for line in _SUM.sub("1", script.replace("\\\n", " ")).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="".join(sorted(_SEPARATORS)))
        lexer.whitespace_split, lexer.commenters = True, "#"
        for words in _split(list(lexer)):
            if (start := _first(words)) is not None:
                yield words[start:]


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    """The simple commands of a line."""
    found: list[str] = []
    for word in words:
        if set(word) <= _SEPARATORS:
            yield found
            found = []
        else:
            found.append(word)
    yield found


def _first(words: Sequence[str]) -> int | None:
    """Where the arguments of `worldgymnast` begin; None where the command is another program's."""
    rest = list(words)
    skipped = 0
    while rest and (rest[0] in ("do", "then", "$") or re.fullmatch(r"\w+=\S*", rest[0])):
        rest, skipped = rest[1:], skipped + 1
    if rest and rest[0] == PROGRAM:
        return skipped + 1
    for i, pair in enumerate(itertools.pairwise(rest)):
        if pair == ("-m", PROGRAM):
            return skipped + i + 2
    return None


def run(block: Block) -> None:
    """Runs a Python block; a traceback names the document and the line."""
    lines_above = "\n" * (int(block.place.rpartition(":")[2]) - 1)
    exec(compile(lines_above + block.text, block.place.rpartition(":")[0], "exec"), {"__name__": "__main__"})


def is_whole_method(block: Block) -> bool:
    """Whether a Python block trains or renders, which is no unit test's work."""
    return "reproduce(" in block.text or "wg.metaworld(" in block.text
