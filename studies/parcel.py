"""Packs files from another machine into parts of limited size, and joins them again.

python -m studies.parcel pack OUT FILE...      OUT/weights.tar in parts, and OUT/parts.json with their hashes
python -m studies.parcel unpack OUT FOLDER     the files again, in FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldgymnast.errors import InputError

LIST = "parts.json"
PART_BYTES = 16 * 2**20 - 2**16
"""Bytes per part: below 16 MiB."""


def split(file: Path, out: Path, part_bytes: int = PART_BYTES) -> list[Path]:
    """Cut `file` into OUT/NAME.000, OUT/NAME.001, ... of at most `part_bytes`, and list them in OUT/parts.json."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{file.name}.[0-9][0-9][0-9]"):
        old.unlink()
    digest, parts = hashlib.sha256(), []
    with file.open("rb") as source:
        while content := source.read(part_bytes):
            part = out / f"{file.name}.{len(parts):03d}"
            part.write_bytes(content)
            digest.update(content)
            parts.append({"name": part.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    listing = {"name": file.name, "sha256": digest.hexdigest(), "parts": parts}
    (out / LIST).write_text(json.dumps(listing, indent=2) + "\n")
    return [out / str(part["name"]) for part in parts]


def join(out: Path, target: Path) -> Path:
    """Join the parts written by `split` to file `target`.

    Raises:
        InputError: a part is missing or changed; `target` is then not written.
    """
    listing = json.loads((out / LIST).read_text())
    contents = []
    for part in listing["parts"]:
        path = out / Path(part["name"]).name
        if not path.is_file():
            raise InputError(f"{path} is missing ({part['bytes']} bytes). Nothing was joined. Copy it again")
        contents.append(path.read_bytes())
        if hashlib.sha256(contents[-1]).hexdigest() != part["sha256"]:
            raise InputError(f"{path}: content differs from what was written. Nothing was joined. Copy it again")
    target.write_bytes(b"".join(contents))
    return target


def pack(out: Path, files: Sequence[Path], root: Path) -> list[Path]:
    """Split a tar of `files`, with names relative to `root`, into OUT."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "weights.tar"
        with tarfile.open(archive, "w") as tar:
            for file in files:
                tar.add(file, file.relative_to(root))
        return split(archive, out)


def unpack(out: Path, folder: Path) -> None:
    """Extract the files packed by `pack` to `folder`."""
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(join(out, Path(temporary) / "whole.tar")) as tar:
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in Python 3.11.0 to 3.11.3
        tar.extractall(folder, **safely)


if __name__ == "__main__":
    command, out, *rest = sys.argv[1:]
    if command == "pack":
        files = [path for path in dict.fromkeys(map(Path, rest)) if path.is_file()]
        for part in pack(Path(out), files, Path()):
            print(part)
    else:
        unpack(Path(out), Path(rest[0]))
