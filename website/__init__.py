"""The documentation site: pages generated from the code, and the hook that adds them to the build.

`make docs` builds it. `website.pages.pages()` gives every generated page without mkdocs. Nothing generated is
committed.
"""
