"""Where the checkout is, and the real data beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
"""Recordings of real robots; they are no part of the project, and tests that need them are skipped without them."""
