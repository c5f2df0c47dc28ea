"""Held-out Bridge scenes as starts: every command from BridgeData V2 to RL, in order, with no real environment.

`python -m studies.bridge_starts DATA OUT` reads BridgeData V2 in RLDS, and prints and runs the commands that train a
policy, `bridge-25m` and a judge on some of its episodes, and finetune the policy from first frames of the others. At
the end, a picture of noise and one of another robot, Meta-World's, must be refused.

The demonstrations have no success labels and no failures. So the judge learns from a substitute: a demonstration is a
success at its last frame, and the same demonstration with the sentence of another task is a failure. That is enough to
run the commands, not to reward a robot: use labelled failures of your own.

The default settings prove that every command runs. With `--full`, they are those of docs/how-to/no-robot.md.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional

from studies.command import run
from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorld
from worldgymnast.episodes import formats, lerobot
from worldgymnast.episodes.starts import write_start
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import resize
from worldgymnast.types import Episode

TASK = "bridge"
"""Name under which results of all scenes are grouped."""
STRIDE = 5
"""Every fifth episode is held out."""
BRIEF = {
    "sft": ["--fit.steps", "30", "--batch", "16"],
    "world": ["--autoencoder.steps", "40", "--fit.steps", "30", "--clips", "2", "--length", "6"],
    "judge": ["--fit.steps", "40", "--batch", "16"],
    "rl": ["--rl.steps", "5", "--rl.starts", "2", "--rl.group-size", "4", "--rl.horizon", "2s"],
}
"""Settings that take minutes on a laptop; the results mean nothing."""


@dataclass
class BridgeStarts:
    """Run every command from Bridge data to RL from held-out scenes.

    Attributes:
        data: folder of BridgeData V2 in RLDS.
        out: new folder.
        begin_with: policy that sft begins with, such as the description of an OpenVLA checkpoint (policy.json).
        judge: judge of RL, such as the description of a vision-language model; default the one that is trained.
        full: use the default sizes of all trainings.
        threads: CPU threads; 0 for all cores.
    """

    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")]
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")]
    begin_with: Path | None = None
    judge: Path | None = None
    full: bool = False
    threads: int = 0

    def __call__(self) -> None:
        """Prepare the data, and run the commands."""
        episodes = formats.read(self.data)
        if len(episodes) < 2 * STRIDE or len(set(episodes.instruction)) < 2:
            raise InputError(f"{self.data}: expected at least {2 * STRIDE} episodes and two instructions")
        prepare(episodes, self.out)
        given = {"begin_with": self.begin_with, "judge": self.judge}
        for code, words in commands(self.out, {} if self.full else BRIEF, self.threads, **given):
            print(f"\n$ worldgymnast {shlex.join(words)}", flush=True)
            if (found := main(words)) != code:
                raise InputError(f"worldgymnast {words[0]} ended with {found}, expected {code}")


def prepare(episodes: EpisodeSet, out: Path) -> None:
    """Write OUT/demos, OUT/labelled, OUT/test (data sets) and OUT/scenes, OUT/noise, OUT/metaworld (pictures)."""
    if out.exists():
        raise InputError(f"{out}: already exists. Remove it, or give a new path")
    is_held_out = np.arange(len(episodes)) % STRIDE == STRIDE - 1
    kept, held_out = episodes.select(~is_held_out), episodes.select(is_held_out)
    lerobot.write(out / "demos", (kept.episode(e) for e in range(len(kept))))
    lerobot.write(out / "labelled", labelled(kept))
    lerobot.write(out / "test", labelled(held_out))
    for e in range(len(held_out)):
        start = held_out.episode(e).start()
        write_start(out / "scenes", f"scene-{e}", start.frame, [start.instruction], TASK)
    noise = np.random.default_rng(0).integers(0, 256, episodes.frames.shape[1:], dtype=np.uint8)
    robot = MetaWorld()
    for start in robot.photograph(robot.layouts(1, 0)):
        frame = resize(start.frame, (episodes.size[0], episodes.size[1]))
        write_start(out / "metaworld", start.task, frame, [episodes.instruction[0]], TASK)
    write_start(out / "noise", "noise", noise, [episodes.instruction[0]], TASK)


def labelled(episodes: EpisodeSet) -> Iterator[Episode]:
    """Yield each demonstration as a success, and with another task's sentence as a failure."""
    sentences = sorted(set(episodes.instruction))
    for e in range(len(episodes)):
        episode = episodes.episode(e)
        done = np.arange(len(episode.frames)) == len(episode.frames) - 1
        yield replace(episode, success=done, source="")
        other = sentences[(sentences.index(episode.instruction) + 1) % len(sentences)]
        yield replace(episode, success=np.zeros_like(done), instruction=other, source="")


def commands(
    out: Path,
    brief: Mapping[str, Sequence[str]],
    threads: int,
    begin_with: Path | None = None,
    judge: Path | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Yield every command and its expected exit code."""
    policy, world, trained = (out / name / f"{name}.safetensors" for name in ("policy", "world", "judge"))
    common = ["--threads", str(threads)]
    files = ["--policy", policy, "--world", world, "--judge", judge or trained]
    begin = ["--begin-with", begin_with] if begin_with else []
    measured = ["--data", out / "demos", "--test", out / "test"]
    rows: list[tuple[int, list[object]]] = [
        (0, ["data", "check", out / "demos"]),
        (0, ["sft", out / "demos", *begin, "--out", out / "policy", *brief.get("sft", ()), *common]),
        (0, ["train-world", "bridge-25m", out / "demos", "--out", out / "world", *brief.get("world", ()), *common]),
        (
            0,
            [
                "train-judge",
                out / "labelled",
                "--world",
                world,
                "--out",
                out / "judge",
                *brief.get("judge", ()),
                *common,
            ],
        ),
        (0, ["diagnose", out / "test", "--world", world, "--judge", trained, "--out", out / "diagnosis", *common]),
        (
            0,
            [
                "rl",
                "quickstart",
                *measured,
                "--starts",
                out / "scenes",
                *files,
                "--out",
                out / "rl",
                *brief.get("rl", ()),
                *common,
            ],
        ),
    ]
    for strange in ("noise", "metaworld"):
        refused = ["--starts", out / strange, *files, "--out", out / "refused", *brief.get("rl", ()), *common]
        rows.append((2, ["rl", "quickstart", *measured, *refused]))
    for code, words in rows:
        yield code, [str(word) for word in words]


if __name__ == "__main__":
    sys.exit(run(BridgeStarts, __doc__))
