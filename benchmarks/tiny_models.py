"""Models of the tests for studies and benchmarks: tiny ones in published layouts, tokenizers for full-size ones."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import openvla_folder
import real_server
import tiny_vla
import tiny_vlm

from worldgymnast.policies.full_size import build

__all__ = ["full_size", "openvla_folder", "real_server", "tiny_vla", "tiny_vlm"]


def full_size(kind: str, folder: Path) -> Any:
    """Build a published policy without weights; its tokenizer is written to the folder."""
    if kind == "OpenVLA":
        openvla_folder.write_tokenizer(folder / "tokenizer.json")
    else:
        tiny_vla.write_tokenizer(folder)
    return build(kind, str(folder))
