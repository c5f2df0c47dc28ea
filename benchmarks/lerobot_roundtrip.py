"""The three small steps of `lerobot_roundtrip.sh`: write data sets, load one with lerobot, read one here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TOP, WRIST = "observation.images.top", "observation.images.wrist"
JOINTS = ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos")
EPISODES = 4


def _episodes() -> Iterator:
    """Episodes of an arm with absolute joint targets, two cameras and a state."""
    from worldgymnast.actions import ActionSpec
    from worldgymnast.types import Episode

    low, high = (-90.0, 10.0, 0.0), (90.0, 80.0, 100.0)
    spec = ActionSpec(JOINTS, "unknown", low, high, "unknown", "unknown", rate=30.0, motion="absolute", space="joint")
    for index in range(EPISODES):
        random = np.random.default_rng(index)
        count = 20 + index
        targets = np.linspace(low, high, count, dtype=np.float32)
        cloud = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        yield Episode(
            frames=cloud,
            actions=targets[:-1],
            instruction="stack the cubes",
            task="",
            fps=30.0,
            spec=spec,
            camera=TOP,
            cameras={WRIST: cloud[:, :32, :48]},
            state=targets - 1,
            state_names=JOINTS,
            robot="so101_follower",
            last_action=targets[-1] if index % 2 else None,
        )


def write(work: Path) -> None:
    """One data set as it is recorded, bit-exact, and one that is converted, yuv420p at half the rate."""
    from worldgymnast.episodes import formats, lerobot

    lerobot.write(work / "recorded", _episodes())
    formats.convert(work / "recorded", work / "converted", fps=15)


def load(path: Path) -> None:
    """Every row through lerobot's own loader, and no row far from the others."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    found = LeRobotDataset("x/set", root=path)
    rows = [found[index] for index in range(len(found))]
    actions = np.stack([row["action"].numpy() for row in rows])
    away = np.abs((actions - found.meta.stats["action"]["mean"]) / found.meta.stats["action"]["std"]).max()
    assert away < 3, f"an action lies {away:.1f} standard deviations away"
    assert {"q01", "q99"} <= set(found.meta.stats["action"])
    print(
        f"lerobot loads {path.name}: {found.num_episodes} episodes, {len(found)} rows, robot {found.meta.robot_type}, "
        f"{sorted(key for key in rows[0] if key.startswith('observation'))}, furthest action {away:.2f} deviations"
    )


def read(path: Path) -> None:
    """What lerobot made of it is read here, with the spec it was written with."""
    from worldgymnast.episodes import lerobot

    episodes = list(lerobot.episodes(path))
    spec = episodes[0].spec
    assert (spec.axes, spec.motion, spec.space) == (JOINTS, "absolute", "joint")
    assert set(episodes[0].cameras) | {episodes[0].camera} == {TOP, WRIST}
    assert all(one.state is not None and one.last_action is not None for one in episodes)
    print(f"read again: {len(episodes)} episodes, {sum(len(one.actions) for one in episodes)} actions, {spec}")


if __name__ == "__main__":
    {"write": write, "load": load, "read": read}[sys.argv[1]](Path(sys.argv[2]))
