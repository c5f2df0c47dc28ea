"""A LeRobot owner's data set, written by lerobot itself, and a data set of this project trained by lerobot.

`record`, `load` and `train` run in lerobot's own environment (Python 3.12, `pip install "lerobot[dataset,training]"`),
and need nothing of this project:

    python studies/lerobot_owner.py record data/mine          # two cameras, six joints, LeRobotDataset.add_frame
    python studies/lerobot_owner.py record data/tuesday 100 6 # six more episodes, from another random seed on
    python studies/lerobot_owner.py load data/mine            # read every row
    python studies/lerobot_owner.py train data/ours           # two steps of ACT with lerobot-train

`write` runs in this project's environment:

    python studies/lerobot_owner.py write data/ours

The arm is simulated: the first two joints move it over a table, the gripper takes a block, and the block belongs in one
of two bins. Three of five episodes succeed; `mine.csv` beside the data set says which, as an owner's notes would.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

JOINTS = [
    *("shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos"),
    *("wrist_flex.pos", "wrist_roll.pos", "gripper.pos"),
]
FPS, EPISODES = 30, 30
HEIGHT, WIDTH = 240, 320
TASKS = {"left": "put the red block in the left bin", "right": "put the red block in the right bin"}
_BINS = {"left": (0.18, 0.2), "right": (0.82, 0.2)}
_REACH, _HOME = 80.0, (0.5, 0.5)
"""Degrees of a joint from one end of the table to the middle; where the arm begins."""


def joints_at(place: np.ndarray, grip: float) -> np.ndarray:
    """Joint positions above a place of the table, float32 [6]: degrees, and the gripper in percent."""
    x, y = place
    bent = np.array([(x - 0.5) * 2, (y - 0.5) * 2, 0.5 - y, 0.3 - x, x * y - 0.3]) * _REACH
    return np.array([*bent, grip], np.float32)


def place_of(joints: np.ndarray) -> np.ndarray:
    """Inverse of `joints_at`."""
    return np.asarray(joints[:2], float) / (2 * _REACH) + 0.5


def episode(index: int) -> tuple[list[dict[str, Any]], bool]:
    """Frames of an episode as `LeRobotDataset.add_frame` takes them, and whether it succeeded."""
    random = np.random.default_rng(index)
    side = list(TASKS)[index % 2]
    block = random.uniform((0.25, 0.5), (0.75, 0.85))
    goal = np.array(_BINS[side]) if index % 5 < 3 else random.uniform((0.2, 0.4), (0.8, 0.7))  # two of five miss
    legs = [(block, 100.0), (block, 10.0), (goal, 10.0), (goal, 100.0)]
    now, frames, is_held = joints_at(np.array(_HOME), 100.0), [], False
    for target, grip in legs:
        wanted = joints_at(target, grip)
        for _ in range(60):
            away = wanted - now
            step = now + np.clip(away, -9, 9) + random.normal(0, 0.3, 6).astype(np.float32)
            frames.append(
                {
                    "observation.state": now.astype(np.float32),
                    "action": step.astype(np.float32),
                    **cameras(now, block),
                    "task": TASKS[side],
                }
            )
            now = step.astype(np.float32)
            near = np.abs(place_of(now) - block).max() < 0.03
            is_held = now[5] < 40 and (is_held or bool(near))
            block = place_of(now) if is_held else block
            if np.abs(away).max() < 4:
                break
    return frames, bool(np.abs(block - _BINS[side]).max() < 0.1)


def cameras(joints: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures of the whole table, and of the surroundings of the gripper, uint8 [h w 3]."""
    table = np.full((HEIGHT, WIDTH, 3), (150, 130, 110), np.uint8)
    table += (np.indices((HEIGHT, WIDTH)).sum(0) % 16 < 8)[..., None].astype(np.uint8) * 6
    for side, color in (("left", (60, 90, 170)), ("right", (70, 150, 80))):
        paint(table, _BINS[side], 0.11, color)
    paint(table, block, 0.04, (210, 50, 45))
    hand, opening = place_of(joints), 0.02 + 0.03 * float(joints[5]) / 100
    wrist = table.copy()
    for sign in (-1, 1):
        paint(table, np.add(hand, (sign * opening, 0)), 0.018, (25, 25, 30))
    row, column = (np.clip(hand[::-1], 0, 1) * (HEIGHT, WIDTH)).astype(int)
    padded = np.pad(wrist, ((60, 60), (80, 80), (0, 0)), constant_values=40)
    near = padded[row : row + 120, column : column + 160].repeat(2, 0).repeat(2, 1)
    near[-30:, 150 - int(opening * 1500) : 160 - int(opening * 1500)] = 25
    near[-30:, 160 + int(opening * 1500) : 170 + int(opening * 1500)] = 25
    return {"observation.images.front": table, "observation.images.wrist": near}


def paint(picture: np.ndarray, place: Any, radius: float, color: tuple[int, int, int]) -> None:
    """Paint a square in place; sizes are shares of the table."""
    x, y = np.asarray(place, float)
    rows = np.clip([int((y - radius) * HEIGHT), int((y + radius) * HEIGHT)], 0, HEIGHT)
    columns = np.clip([int((x - radius) * WIDTH), int((x + radius) * WIDTH)], 0, WIDTH)
    picture[rows[0] : rows[1], columns[0] : columns[1]] = color


def record(path: Path, first: int = 0, count: int = EPISODES) -> None:
    """Write `count` episodes with lerobot, and `results.csv` beside it."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    pictures = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    numbers = {"dtype": "float32", "shape": (6,), "names": JOINTS}
    features = {f"observation.images.{name}": pictures for name in ("front", "wrist")}
    features |= {"observation.state": numbers, "action": numbers}
    made = LeRobotDataset.create("owner/mine", FPS, features, root=path, robot_type="so101_follower")
    lines = ["episode,success"]
    for index in range(count):
        frames, is_success = episode(first + index)
        for frame in frames:
            made.add_frame(frame)
        made.save_episode()
        lines.append(f"{index},{int(is_success)}")
    made.finalize()
    path.with_name(f"{path.name}.csv").write_text("\n".join(lines) + "\n")
    print(f"{path}: {count} episodes, {len(made)} frames, written by lerobot {version()}")


def write(path: Path) -> None:
    """Write the same episodes with this project's writer, labelled."""
    from worldgymnast.actions import ActionSpec
    from worldgymnast.episodes.lerobot import LeRobotWriter
    from worldgymnast.types import Episode

    low, high = (-100.0,) * 5 + (-5.0,), (100.0,) * 5 + (105.0,)
    spec = ActionSpec(tuple(JOINTS), "deg", low, high, rate=float(FPS), motion="absolute", space="joint")
    front, wrist = "observation.images.front", "observation.images.wrist"
    with LeRobotWriter(path, spec, FPS, lossless=False) as writer:
        for index in range(6):
            frames, is_success = episode(index)
            columns = {name: np.stack([frame[name] for frame in frames]) for name in frames[0] if name != "task"}
            success = np.zeros(len(frames), bool)
            success[-1] = is_success
            writer.add(
                Episode(
                    frames=columns[front],
                    cameras={wrist: columns[wrist]},
                    camera=front,
                    actions=columns["action"][:-1],
                    last_action=columns["action"][-1],
                    state=columns["observation.state"],
                    state_names=tuple(JOINTS),
                    instruction=frames[0]["task"],
                    task="",
                    fps=float(FPS),
                    spec=spec,
                    success=success,
                    robot="so101_follower",
                )
            )
    print(f"{path}: {writer.episodes} episodes, {writer.frames} frames, written here")


def train(path: Path) -> None:
    """Load the data set with lerobot, and train two steps of ACT on state and both cameras."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    found = LeRobotDataset("owner/ours", root=path)
    row = found[0]
    seen = {name: tuple(value.shape) for name, value in row.items() if name.startswith(("observation", "action"))}
    print(
        f"lerobot {version()} loads {found.num_episodes} episodes, {len(found)} rows of {found.meta.robot_type}: {seen}"
    )
    command = [
        *("lerobot-train", "--dataset.repo_id=owner/ours", f"--dataset.root={path}", "--policy.type=act"),
        *("--policy.device=cpu", "--policy.push_to_hub=false", "--policy.pretrained_backbone_weights=null"),
        *("--policy.chunk_size=8", "--policy.n_action_steps=8", "--policy.dim_model=64", "--policy.n_heads=2"),
        *("--policy.dim_feedforward=64", "--steps=2", "--batch_size=2", "--num_workers=0", "--log_freq=1"),
        *("--save_checkpoint=false", "--wandb.enable=false", f"--output_dir={path.with_name(path.name + '-act')}"),
    ]
    print("$ " + " ".join(command))
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    said = ran.stdout + ran.stderr
    if ran.returncode:
        sys.exit("\n".join(said.splitlines()[-20:]))
    for line in re.findall(r"num_learnable_params=\S+ \S+|step:\d+ .*loss:[\d.]+", said):
        print(line)


def load(path: Path) -> None:
    """Load every row of a data set with lerobot."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    found = LeRobotDataset("owner/set", root=path)
    rows = [found[index] for index in range(len(found))]
    numbers = sorted({int(row["episode_index"]) for row in rows})
    tasks = sorted({row["task"] for row in rows})
    print(f"lerobot {version()} loads {path}: episodes {numbers[0]} to {numbers[-1]}, {len(rows)} rows, tasks {tasks}")


def version() -> str:
    """Version of lerobot."""
    from importlib.metadata import version as version_of

    return version_of("lerobot")


if __name__ == "__main__":
    command: Any = {"record": record, "write": write, "train": train, "load": load}[sys.argv[1]]
    command(Path(sys.argv[2]), *map(int, sys.argv[3:]))
