"""Hook of mkdocs: adds the generated pages to the build, and to the navigation."""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

from website.pages import expand, pages, with_notebook_pages

_SWITCH = re.compile(
    r'(<label class="md-nav__link[^"]*" for="[^"]*" id="[^"]*" tabindex="\d*")(>\s*<span class="md-nav__icon)'
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the navigation; anchors are those of GitHub, so that links work in both places."""
    config.nav = expand(config.nav or [])
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to notebooks lead to their pages."""
    return with_notebook_pages(markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the arrows that open a section of the navigation; the theme leaves them unnamed."""
    return _SWITCH.sub(r'\1 aria-label="Show or hide the pages of this section"\2', output)
