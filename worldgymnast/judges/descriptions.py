"""Judge descriptions: JSON files that configure a judge without weights of its own.

A description can name the files of other judges, relative to its folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import Protocol, runtime_checkable

from worldgymnast.configs import from_dict, to_dict
from worldgymnast.errors import InputError
from worldgymnast.files import parse_json, short
from worldgymnast.judges.combined import (
    CalibratedConfig,
    CalibratedJudge,
    Cascade,
    CascadeConfig,
    Ensemble,
    EnsembleConfig,
)
from worldgymnast.judges.foreseen import ForeseenConfig, ForeseenJudge
from worldgymnast.judges.local import LocalVLM, LocalVLMConfig
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.ledger import Ledger
from worldgymnast.protocols import Judge
from worldgymnast.weights import to_json, write_text

_KINDS = (VLMConfig, LocalVLMConfig, CalibratedConfig, CascadeConfig, EnsembleConfig, ForeseenConfig)
_KIND = "kind"
"""Key of the config's class in a description."""
_LONGEST_NAME = 200
"""Characters of a name in a message."""
_MOST_LEVELS = 8
"""Largest depth of nested judges."""
_MOST_MEMBERS = 64
"""Largest number of judges in a composite judge, over all levels; each one judges every clip."""
_LARGEST = 2**20
"""Largest size of a description, in bytes."""


@runtime_checkable
class _HasModel(Protocol):
    @property
    def model(self) -> str: ...


ConfigWithModel = TypeVar("ConfigWithModel", bound=_HasModel)
Client = TypeVar("Client")


def save_judge(path: Path, config: Any) -> None:
    """Write the description of a judge, which `registry.load_judge` reads."""
    write_text(path, to_json({_KIND: type(config).__name__} | to_dict(config)))


@dataclass(frozen=True)
class JudgeReader:
    """Reader of judge descriptions.

    Args:
        load_learned: loads a judge from a file of weights.
        device: device of local models.
        ledger: records answers and costs of remote judges.
    """

    load_learned: Callable[[Path], Judge]
    device: str
    ledger: Ledger
    _files: list[Path] = field(default_factory=list)

    def read(self, path: Path, parents: tuple[Path, ...] = ()) -> Judge:
        """Build the judge of a description.

        Args:
            path: the description.
            parents: descriptions that contain it, outermost first.

        Raises:
            InputError: a file is missing or invalid, or the judges are nested too deeply or in a cycle.
        """
        config = read_description(path, _KINDS, "a judge's")
        if path.resolve() in parents:
            raise InputError(f"{path}: found a judge that is made of itself, expected the files of other judges")
        if len(parents) == _MOST_LEVELS:
            raise InputError(
                f"{path}: found judges within judges, expected at most {_MOST_LEVELS} levels. Name the inner ones "
                "directly"
            )
        if isinstance(config, CalibratedConfig):
            return CalibratedJudge(self._member(path, config.judge, parents), config)
        if isinstance(config, CascadeConfig):
            first, second = (self._member(path, name, parents) for name in (config.first, config.then))
            return Cascade(first, second, config)
        if isinstance(config, EnsembleConfig):
            return Ensemble([self._member(path, name, parents) for name in config.judges], config)
        if isinstance(config, ForeseenConfig):
            return ForeseenJudge(config)
        if isinstance(config, LocalVLMConfig):
            return LocalVLM(resolve_model(path.parent, config), self.device)
        return build_client(path, lambda: VLMJudge(config, self.ledger))

    def _member(self, path: Path, name: str, parents: tuple[Path, ...]) -> Judge:
        """Judge named by the description in `path`."""
        file = path.parent / name
        self._files.append(file)
        if len(self._files) > _MOST_MEMBERS:
            raise InputError(
                f"{(*parents, path)[0]}: found more than {_MOST_MEMBERS} judges within it, the last {file}. Each would "
                "judge every clip. Name fewer"
            )
        if not name or not _is_file(file):
            raise InputError(
                f"{path}: found no file {str(file)[:_LONGEST_NAME]!r}, expected a judge's. Paths are relative to the "
                "folder of the description"
            )
        if file.suffix != ".json":
            return self.load_learned(file)
        return self.read(file, (*parents, path.resolve()))


def build_client(path: Path, build: Callable[[], Client]) -> Client:
    """Build the client of a description.

    Errors about its endpoint and key name the file.
    """
    try:
        return build()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def resolve_model(folder: Path, config: ConfigWithModel) -> ConfigWithModel:
    """Replace `model` by a path if the folder contains one of that name.

    Otherwise it is a hub name.
    """
    inside = folder / config.model
    changed: Any = config
    return replace(changed, model=str(inside)) if inside.is_dir() else config


def read_description(path: Path, kinds: Sequence[type[Any]], whose: str) -> Any:
    """Read the config in a JSON file.

    Args:
        path: the file.
        kinds: possible classes of the config.
        whose: owner of the description, for messages, such as "a judge's".

    Raises:
        InputError: the file is missing, too large or invalid, or its kind is unknown.
    """
    if not _is_file(path):
        raise InputError(f"{path}: found no file, expected {whose} description. Check the path")
    if (size := path.stat().st_size) > _LARGEST:
        raise InputError(f"{path}: found {size:,} bytes, expected {whose} description, at most {_LARGEST:,}")
    data = parse_json(path.read_bytes(), path, f"expected {whose} description. Write the file again", unique=True)
    known = {kind.__name__: kind for kind in kinds}
    name = data.get(_KIND) if isinstance(data, Mapping) else None
    if isinstance(name, str) and name in known:
        return from_dict(known[name], {k: v for k, v in data.items() if k != _KIND}, str(path))
    near = difflib.get_close_matches(str(name)[:_LONGEST_NAME], known, n=1) if isinstance(data, Mapping) else []
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = name if isinstance(name, str) and len(name) < _LONGEST_NAME else short(name)
    found = "none" if name is None else shown
    raise InputError(f"{path}: field '{_KIND}': found {found}, expected one of {', '.join(known)}{hint}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or contains a null byte
        return False
