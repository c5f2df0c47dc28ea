"""Reference of `import worldgymnast as wg`: pages for mkdocstrings, which fills in signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping

import worldgymnast
from website.markdown import cell, page, sentence, table

FOLDER = "reference/api"
TESTING = "worldgymnast.testing"
PROTOCOLS = "worldgymnast.protocols"
_PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "files": (
        "Files and data",
        ("starter", "load_policy", "load_world", "load_judge", "save", "push_to_hub", "register", "read"),
    ),
    "practice": ("Environments, starts, imagination", ("environment", "metaworld", "starts", "scorer", "imagine")),
    "training": (
        "Training and evaluation",
        (
            "finetune",
            "Result",
            "ReinforceConfig",
            "evaluate",
            "Evaluation",
            "train_policy",
            "train_world",
            "train_judge",
        ),
    ),
    "types": ("Types", ("Start", "Layout", "Episode", "EpisodeSet", "Rollout", "Verdict", "ActionSpec")),
    "protocols": ("Protocols of components", ("Policy", "WorldModel", "Judge", "RealEnvironment")),
    "testing": ("Checks of your own components", ("testing",)),
    "errors": ("Errors in Python", ("InputError", "Paused")),
}


def _others() -> tuple[str, ...]:
    named = {name for _, names in _PAGES.values() for name in names} | {"__version__"}
    return tuple(name for name in vars(worldgymnast)["__all__"] if name not in named)


PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    name: page for name, page in {**_PAGES, "more": ("More", _others())}.items() if page[1]
}
"""Title and names of each page; the last has the public names that no other names."""
_CHECKS = ("check_policy", "check_world", "check_judge", "check_environment", "inspect_environment", "ContractError")
_INTRODUCTIONS: Mapping[str, str] = {
    "protocols": "A component is any object with these members; it needs no base class. How to write and check one: "
    "[own components](../../tutorials/own-components.md). Shapes are those of jaxtyping: `b` is the batch, `h w` the "
    "frame.",
    "testing": "`import worldgymnast as wg`, then `wg.testing.check_policy(policy)`. A check raises `ContractError`, "
    "which says what the component must do instead.",
    "errors": "Exit codes of the command line: [errors](../errors.md).",
}


def target(name: str) -> str:
    """Return the module and name where a public name is defined."""
    if name == "testing":
        return TESTING
    modules: Mapping[str, str] = vars(worldgymnast)["_MODULES"]
    return f"{modules[name]}.{name}"


def optional_protocols() -> list[str]:
    """Return the Protocols beside those that every component has: optional members, and collaborators."""
    module = importlib.import_module(PROTOCOLS)
    found = [
        name
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and kind.__module__ == PROTOCOLS and getattr(kind, "_is_protocol", False)
    ]
    return [name for name in found if name not in PAGES["protocols"][1]]


def targets(name: str) -> list[str]:
    """Return what a page documents, in order."""
    if name == "testing":
        module = importlib.import_module(TESTING)
        return [f"{getattr(module, check).__module__}.{check}" for check in _CHECKS]
    return [target(each) for each in PAGES[name][1]]


def summary_of(dotted: str) -> str:
    """Return the first line of a docstring."""
    module, _, name = dotted.rpartition(".")
    value = importlib.import_module(dotted) if dotted == TESTING else getattr(importlib.import_module(module), name)
    return (inspect.getdoc(value) or "").partition("\n")[0]


def _api_page(name: str) -> str:
    title = PAGES[name][0]
    blocks: list[str] = [_INTRODUCTIONS[name]] if name in _INTRODUCTIONS else []
    blocks += [f"::: {each}" for each in targets(name)]
    if name == "protocols":
        blocks.append("## Optional members and collaborators")
        blocks += [f"::: {PROTOCOLS}.{each}" for each in optional_protocols()]
    return page(title, *blocks)


def _index_page() -> str:
    blocks: list[str | list[str]] = [
        "`import worldgymnast as wg` loads nothing heavy: each name is imported on first use. Paths may be strings. "
        "Without an output folder a temporary one is used."
    ]
    for name, (title, names) in PAGES.items():
        rows = [
            (
                f"[`wg.{each}`]({name}.md#{targets(name)[0] if each == 'testing' else target(each)})",
                cell(sentence(summary_of(target(each)))),
            )
            for each in names
        ]
        blocks += [f"## {title}", table(["name", "what it is"], rows)]
    return page("Python API", *blocks)


def api_pages() -> dict[str, str]:
    """Return all pages of the API, by path."""
    return {f"{FOLDER}/index.md": _index_page(), **{f"{FOLDER}/{name}.md": _api_page(name) for name in PAGES}}
