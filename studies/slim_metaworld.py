"""Leave out of Meta-World's wheel the pictures and meshes that the suite's scenes never load: 37 MB become 4.

python studies/slim_metaworld.py WHEEL          writes it anew, under the same name
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
    """The XML files that the environments of these tasks name."""
    found: set[str] = set()
    for task in tasks:
        source = files[f"metaworld/envs/sawyer_{task.replace('-', '_')}_v3.py"].decode()
        found |= {str(ASSETS / name) for name in re.findall(r"sawyer_xyz/\w+\.xml", source)}
    return found


def loaded(files: Mapping[str, bytes], scene: str) -> set[str]:
    """Every file that a scene or what it includes names; paths in included files count from the scene's folder."""
    found, waiting, folder = set[str](), [scene], PurePosixPath(scene).parent
    while waiting:
        path = waiting.pop()
        if path in found or path not in files:
            continue
        found.add(path)
        if path.endswith(".xml"):
            root = ElementTree.fromstring(files[path])
            waiting += [_normal(folder / name) for each in root.iter() if (name := each.get("file"))]
    return found


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
    left_out = {name for name in files if name.endswith(_LARGE) and name not in needed}
    record = next(name for name in files if name.endswith(".dist-info/RECORD"))
    lines = files[record].decode().splitlines(keepends=True)
    files[record] = "".join(line for line in lines if line.partition(",")[0] not in left_out).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            if name not in left_out:
                archive.writestr(name, content)


if __name__ == "__main__":
    slim(Path(sys.argv[1]))
