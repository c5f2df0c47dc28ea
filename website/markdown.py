"""Small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"`[^`]*`")


def one_line(text: str) -> str:
    """Join the lines of a text."""
    return " ".join(text.split())


def cell(text: str) -> str:
    """Escape a text for a table cell: no line break, and outside of code no bar, no tag, no emphasis.

    >>> cell("a | b < `c<d>|e`")
    'a \\\\| b &lt; `c<d>|e`'
    """
    line = one_line(text)
    parts, last = [], 0
    for code in _CODE.finditer(line):
        parts += [_plain(line[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, _plain(line[last:])])


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def code(text: str) -> str:
    """Mark a text as code; "" stays empty."""
    return f"`{one_line(text)}`" if text else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, and an empty line."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def page(title: str, *blocks: str | Sequence[str]) -> str:
    """Return a page of a title and blocks."""
    lines = [f"# {title}", ""]
    for block in blocks:
        lines += [block, ""] if isinstance(block, str) else block
    return "\n".join(lines).rstrip() + "\n"


def sentence(text: str) -> str:
    """Start with a capital and end with a period.

    >>> sentence("the loss")
    'The loss.'
    """
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", ":", "?")) else f"{text}."
