"""Reference of file formats and errors, from the docstrings of the modules that read and write them."""

from __future__ import annotations

import importlib
import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docstring_parser
from safetensors import safe_open

from website.configs import configs
from website.markdown import cell, code, page, sentence, table
from worldgymnast.actions import ActionSpecMismatch
from worldgymnast.cli.parse import UsageError
from worldgymnast.episodes.labels import Label, LabelWriter
from worldgymnast.errors import InputError
from worldgymnast.judges import descriptions
from worldgymnast.policies import published
from worldgymnast.recipes.quickstart import starter
from worldgymnast.records import RESULTS
from worldgymnast.registry import Manifest
from worldgymnast.testing import ContractError
from worldgymnast.weights import read_header

_METADATA: Mapping[str, str] = {
    "kind": "class of the component, as registered",
    "config": "its config, as JSON",
    "action_spec": "meaning of the action numbers, as JSON; policies and world models",
    "fps": "frames per second; world models",
    "tiling": "where each camera lies in the frame, as JSON; components of several cameras",
    "manifest": "origin of the weights, as JSON; see below",
    "sha256": "hash of the weights and of this metadata; checked on loading",
}
"""Entries of a component file's header."""
_EXIT_CODES = (
    ("0", "done", "output on stdout"),
    ("1", "`doctor` or `data check` found errors, or a judge is not usable", "their report"),
    ("1", "any other exception: a bug, please report it", "traceback"),
    ("2", "wrong input, full disk, out of memory, paused run", "one line on stderr"),
    ("130", "Ctrl-C", "one line on stderr"),
)
_REACHING: tuple[type[Exception], ...] = (InputError, UsageError, ActionSpecMismatch, ContractError)
"""Errors that reach a user, with the classes below them."""


def _text(module: str) -> str:
    """Return a module's docstring."""
    return inspect.getdoc(importlib.import_module(module)) or ""


def _body(module: str) -> str:
    """Return a module's docstring below its first line, which says what the section's title says."""
    return _text(module).partition("\n\n")[2]


def _fields(kind: type[Any]) -> list[str]:
    params = docstring_parser.parse(kind.__doc__ or "").params
    return table(["field", "meaning"], [(code(one.arg_name), cell(one.description or "")) for one in params])


def metadata_keys() -> set[str]:
    """Return the header's entries of the shipped components."""
    paths = [starter(name) for name in ("policy", "world", "judge")]
    return {key for path in paths for key in safe_open(path, "pt").metadata()}


def label_example() -> str:
    """Return the text of a small label file, as the program writes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.jsonl"
        writer = LabelWriter(path, "data/mine")
        writer.add(Label(0, "3f9c2a7be1d04c55", "anna", True, frame=31))
        writer.add(Label(1, "a01bd3927cc8e4f6", "vlm", None, error="no answer"))
        return path.read_text().strip()


def _descriptions() -> Iterator[str]:
    """Yield the kinds of descriptions, with links to their fields."""
    places = {kind.__name__: page for page, kinds in configs().items() for kind in kinds}
    for name in (*published._KINDS, *(kind.__name__ for kind in descriptions._KINDS)):
        yield f"[{name}](config/{places[name]}.md#{name.lower()})"


def formats_page() -> str:
    """Return the page of file formats."""
    manifest = json.dumps(json.loads(read_header(starter("policy")).metadata["manifest"]), indent=1)
    kinds = list(_descriptions())
    return page(
        "File formats",
        "## Run folders",
        _body("worldgymnast.run"),
        "Commands add their results, which `worldgymnast report` reads:",
        table(["file", "content"], [(code(name), cell(sentence(text))) for name, text in RESULTS.items()]),
        "Keys of `metrics.jsonl`: [logged metrics](metrics.md). Fields of `config.json`: [configs](config/index.md).",
        "## Component files",
        _body("worldgymnast.registry"),
        table(["metadata", "meaning"], [(code(key), meaning) for key, meaning in _METADATA.items()]),
        "The manifest:",
        _fields(Manifest),
        f"That of the starter policy begins so:\n\n```json\n{manifest[:600].rpartition(',')[0]}, ...\n```",
        "## Descriptions of policies and judges",
        f"{_text('worldgymnast.policies.published')} Kinds: {', '.join(kinds[: len(published._KINDS)])}.",
        f"{_text('worldgymnast.judges.descriptions')} Kinds: {', '.join(kinds[len(published._KINDS) :])}.",
    )


def data_page() -> str:
    """Return the page of data formats."""
    return page(
        "Data formats",
        "## Label files",
        _body("worldgymnast.episodes.labels"),
        f"```json\n{label_example()}\n```",
        _fields(Label),
        "## Starts",
        _body("worldgymnast.episodes.starts"),
        "## LeRobot data sets",
        f"{_text('worldgymnast.episodes.lerobot_layout')}\n\nMore: [LeRobot](../how-to/lerobot.md), "
        "[RLDS and WorldGym](../how-to/rlds-and-worldgym.md).",
        "## Ledgers of paid judges",
        _body("worldgymnast.ledger"),
    )


def errors() -> list[type[Exception]]:
    """Return the classes of errors that reach a user."""
    configs()  # imports every module
    return [
        kind for each in _REACHING for kind in _with_subclasses(each) if kind.__module__.startswith("worldgymnast.")
    ]


def _with_subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _with_subclasses(each)


def _code_of(kind: type[Exception]) -> str:
    return "Python only" if kind is ContractError else "2"


def errors_page() -> str:
    """Return the page of exit codes and errors."""
    rows = [
        (
            code(kind.__name__),
            code(kind.__mro__[1].__name__),
            _code_of(kind),
            cell(sentence((inspect.getdoc(kind) or "").split("\n\n")[0])),
        )
        for kind in errors()
    ]
    return page(
        "Errors and exit codes",
        table(["exit code", "when", "output"], _EXIT_CODES),
        "An error that you can fix is one line: what happened, the consequence, the fix. `--traceback` shows where it "
        "was raised. In Python the same errors are exceptions with the same text; `except wg.InputError` catches them.",
        "## Classes",
        table(["class", "is a", "exit code", "meaning"], rows),
        "`wg.Paused` is no failure: the state is saved, and the same command or call resumes the run.",
    )


def format_pages() -> dict[str, str]:
    """Return these pages, by path."""
    return {
        "reference/files.md": formats_page(),
        "reference/data-files.md": data_page(),
        "reference/errors.md": errors_page(),
    }
