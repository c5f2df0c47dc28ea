"""Notebooks as pages: text as it is, code as blocks. Outputs are not stored, so a page shows none."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def notebook_pages() -> dict[str, str]:
    """Return a page for every notebook below docs/, by its path in the site."""
    return {
        str(path.relative_to(DOCS).with_suffix(".md")): notebook_page(path) for path in sorted(DOCS.rglob("*.ipynb"))
    }


def notebook_page(path: Path) -> str:
    """Return the cells of a notebook as Markdown, with a link to the file itself after the title."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    title, *rest = parts
    link = f'[Download this notebook]({path.name} "the file itself") and run it with `jupyter lab {path.name}`.'
    head, _, below = title.partition("\n")
    return "\n\n".join(each.strip() for each in (head, link, below, *rest) if each.strip()) + "\n"
