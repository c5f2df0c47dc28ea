"""Tiny models of the tests, for studies and benchmarks: checkpoints in published layouts, and the server of a judge."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import openvla_folder
import real_server
import tiny_vla
import tiny_vlm

__all__ = ["openvla_folder", "real_server", "tiny_vla", "tiny_vlm"]
