"""All generated pages, and the navigation with them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from website.api import api_pages
from website.commands import FOLDER as COMMANDS
from website.commands import command_nav, command_pages
from website.configs import config_pages
from website.formats import format_pages
from website.metrics import metrics_page
from website.notebooks import DOCS, notebook_pages

GENERATED = "GENERATED "
"""Marks a line of the navigation that stands for all generated pages of a folder."""
UNLISTED = "UNLISTED"
"""A section of this name holds the pages below docs/ that no other line names; it vanishes if there are none."""


@functools.cache
def pages() -> Mapping[str, str]:
    """Return every generated page, by its path in the site."""
    return {
        **command_pages(),
        **config_pages(),
        **api_pages(),
        **format_pages(),
        "reference/metrics.md": metrics_page(),
        **notebook_pages(),
    }


def written() -> list[str]:
    """Return the pages below docs/ that people wrote."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def listed(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation, in order."""
    for each in nav.values() if isinstance(nav, Mapping) else nav:
        if isinstance(each, str):
            yield each
        else:
            yield from listed(each)


def expand(nav: list[Any]) -> list[Any]:
    """Fill in the lines `GENERATED FOLDER` and the section `UNLISTED` of a navigation."""
    named = set(listed(nav))
    return _expanded(nav, [path for path in written() if path not in named])


def _expanded(nav: list[Any], unlisted: list[str]) -> list[Any]:
    lines: list[Any] = []
    for each in nav:
        if isinstance(each, str):
            lines += _generated(each.removeprefix(GENERATED)) if each.startswith(GENERATED) else [each]
            continue
        ((title, inner),) = each.items()
        inner = unlisted if inner == UNLISTED else inner
        if inner:
            lines.append({title: _expanded(inner, unlisted) if isinstance(inner, list) else inner})
    return lines


def _generated(folder: str) -> list[Any]:
    if folder == COMMANDS:
        return list(command_nav())
    return [path for path in pages() if path.startswith(f"{folder}/") and not path.endswith("/index.md")]


def with_notebook_pages(text: str) -> str:
    """Let links to notebooks lead to their pages; a notebook's own page has a link to the file, with a title."""
    return text.replace(".ipynb)", ".md)")
