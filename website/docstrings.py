"""Docstrings for mkdocstrings: examples (`>>>`) become a section of their own, as the parser expects them."""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"(?:^|\n\n)(?=>>> )")


def with_examples(text: str) -> str:
    """Put the examples of a docstring into a section.

    >>> with_examples("Add.\\n\\n>>> 1 + 1\\n2")
    'Add.\\n\\nExamples:\\n    >>> 1 + 1\\n    2'
    """
    clean = inspect.cleandoc(text)
    found = _EXAMPLE.search(clean)
    if found is None:
        return clean
    head, examples = clean[: found.start()], clean[found.end() :]
    indented = "\n".join(f"    {line}".rstrip() for line in examples.splitlines())
    return f"{head}\n\nExamples:\n{indented}"


class Examples(Extension):
    """Applies `with_examples` to every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """See `griffe.Extension`."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)
