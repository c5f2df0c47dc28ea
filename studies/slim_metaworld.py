"""Removes pictures and meshes that the suite's scenes never load from Meta-World's wheel: 37 MB become 4.

python -m studies.slim_metaworld WHEEL          rewrites it under the same name
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from worldgymnast.envs.metaworld import SUITE

ASSETS = PurePosixPath("metaworld/assets")
_LARGE = (".png", ".stl", ".obj", ".msh", ".jpg")


def scenes(files: Mapping[str, bytes], tasks: Iterable[str]) -> set[str]:
    """Return the XML files that the environments of these tasks refer to."""
    names: set[str] = set()
    for task in tasks:
        source = files[f"metaworld/envs/sawyer_{task.replace('-', '_')}_v3.py"].decode()
        names |= {str(ASSETS / name) for name in re.findall(r"sawyer_xyz/\w+\.xml", source)}
    return names


def loaded(files: Mapping[str, bytes], scene: str) -> set[str]:
    """Return every file that a scene refers to, directly or not.

    All paths are relative to its folder.
    """
    visited, pending, folder = set[str](), [scene], PurePosixPath(scene).parent
    while pending:
        path = pending.pop()
        if path in visited or path not in files:
            continue
        visited.add(path)
        if path.endswith(".xml"):
            root = ElementTree.fromstring(files[path])
            pending += [_normal(folder / name) for each in root.iter() if (name := each.get("file"))]
    return visited


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def slim(wheel: Path, tasks: Iterable[str] = SUITE) -> None:
    """Rewrite `wheel` without the large files that no scene of `tasks` loads."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    needed = set[str]().union(*(loaded(files, scene) for scene in scenes(files, tasks)))
    unused = {name for name in files if name.endswith(_LARGE) and name not in needed}
    record = next(name for name in files if name.endswith(".dist-info/RECORD"))
    lines = files[record].decode().splitlines(keepends=True)
    files[record] = "".join(line for line in lines if line.partition(",")[0] not in unused).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            if name not in unused:
                archive.writestr(name, content)


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
