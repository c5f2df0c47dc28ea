"""Files that come back from another machine: packed, split into parts of a limited size, and joined again.

python studies/parcel.py pack OUT FILE...      OUT/weights.tar in parts, and OUT/parts.json with their hashes
python studies/parcel.py unpack OUT FOLDER     the files again, in FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from worldgymnast.errors import InputError

LIST = "parts.json"
MOST = 16 * 2**20 - 2**16
"""Bytes of a part: under 16 MiB."""


def split(file: Path, out: Path, most: int = MOST) -> list[Path]:
    """Cut `file` into OUT/NAME.000, OUT/NAME.001, ... of at most `most` bytes, and list them in OUT/parts.json."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{file.name}.[0-9][0-9][0-9]"):
        old.unlink()
    whole, parts = hashlib.sha256(), []
    with file.open("rb") as source:
        while piece := source.read(most):
            part = out / f"{file.name}.{len(parts):03d}"
            part.write_bytes(piece)
            whole.update(piece)
            parts.append({"name": part.name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
    found = {"name": file.name, "sha256": whole.hexdigest(), "parts": parts}
    (out / LIST).write_text(json.dumps(found, indent=2) + "\n")
    return [out / str(part["name"]) for part in parts]


def join(out: Path, target: Path) -> Path:
    """Put what `split` left in OUT together again, as file `target`.

    Raises:
        InputError: a part is missing or not the one that was written; `target` is then not written.
    """
    listed = json.loads((out / LIST).read_text())
    pieces = []
    for part in listed["parts"]:
        path = out / Path(part["name"]).name
        if not path.is_file():
            raise InputError(f"{path}: found no such part, expected {part['bytes']} bytes of it; copy it again")
        pieces.append(path.read_bytes())
        if hashlib.sha256(pieces[-1]).hexdigest() != part["sha256"]:
            raise InputError(f"{path}: found another content than was written; nothing is joined; copy it again")
    target.write_bytes(b"".join(pieces))
    return target


def pack(out: Path, files: Sequence[Path], root: Path) -> list[Path]:
    """Split a tar of `files`, named as seen from `root`, into OUT."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "weights.tar"
        with tarfile.open(archive, "w") as tar:
            for file in files:
                tar.add(file, file.relative_to(root))
        return split(archive, out)


def unpack(out: Path, folder: Path) -> None:
    """The files that `pack` packed, in `folder`."""
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(join(out, Path(temporary) / "whole.tar")) as tar:
        tar.extractall(folder, filter="data")


if __name__ == "__main__":
    what, out, *rest = sys.argv[1:]
    if what == "pack":
        there = [path for path in dict.fromkeys(map(Path, rest)) if path.is_file()]
        for part in pack(Path(out), there, Path()):
            print(part)
    else:
        unpack(Path(out), Path(rest[0]))
