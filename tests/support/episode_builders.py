"""Small episodes and where the shared real data are, for the tests of `worldgymnast.episodes`."""

from pathlib import Path

import numpy as np
import pytest
from places import DATA

from worldgymnast.actions import ActionSpec, metaworld_spec
from worldgymnast.types import Episode

SPEC = metaworld_spec(3)


def shared(name: str) -> Path:
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f"the real data {path} are not here")
    return path


def episode(index: int, steps: int = 5, size: int = 32, spec: ActionSpec = SPEC, fps: float = 80 / 3) -> Episode:
    """Noise, so that nothing survives by chance; every kind of optional field is there and absent in turn."""
    random = np.random.default_rng(index)
    low, high = np.array(spec.low), np.array(spec.high)
    return Episode(
        frames=random.integers(0, 256, (steps + 1, size, size, 3), dtype=np.uint8),
        actions=random.uniform(low, high, (steps, spec.dim)).astype(np.float32),
        instruction=f"öffne die Schublade {index % 3}",
        task=f"task-{index % 2}",
        fps=fps,
        spec=spec,
        success=None if index % 3 == 0 else random.random(steps + 1) > 0.5,
        source=("expert", "policy@0.7", "")[index % 3],
        layout=None if index % 2 else index,
    )


def episodes(count: int, **options) -> list[Episode]:
    return [episode(index, steps=4 + index % 4, **options) for index in range(count)]


def assert_identical(found: Episode, expected: Episode) -> None:
    for name in ("frames", "actions"):
        left, right = getattr(found, name), getattr(expected, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right), name
    assert (found.success is None) == (expected.success is None)
    if expected.success is not None:
        assert found.success is not None
        assert found.success.dtype == bool
        assert np.array_equal(found.success, expected.success)
    for name in ("instruction", "task", "source", "layout", "fps", "spec"):
        assert getattr(found, name) == getattr(expected, name), name
