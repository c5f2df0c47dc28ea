"""Reading the inputs of commands: data sets, components, ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldgymnast.actions import ActionSpec, ActionSpecMismatch
from worldgymnast.cli.checks import check_frame_size, check_observed, check_same_actions, check_same_rate
from worldgymnast.cli.environment import check_policy, check_tasks
from worldgymnast.cli.origins import check_same_state, fps_of, rule_of
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.preprocessing import Resize, Size, compact, size_text
from worldgymnast.protocols import Judge, Policy, WorldModel
from worldgymnast.registry import EnvironmentConfig, load_judge, load_policy, load_world
from worldgymnast.run import check_folder

Cameras = str | tuple[str, ...] | None
SPLIT_SEED = 0
"""Seed of the held-out split, the same in every command."""


def open_ledger(out: Path) -> Ledger:
    """Open the ledger of paid judge requests in a run folder."""
    check_folder(out)
    return Ledger(out / FILE)


def read(
    paths: Sequence[Path],
    size: Size | None,
    cameras: Cameras = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
    resize: Resize | None = None,
    state: bool | None = False,
) -> EpisodeSet:
    """Read data sets as one; see `read_each`."""
    sets = read_each(paths, size, cameras=cameras, fps=fps, assumed_fps=assumed_fps, resize=resize, state=state)
    if state:
        check_one_state(paths, sets)
    return concatenate(sets)


def check_one_state(paths: Sequence[Path], sets: Sequence[EpisodeSet]) -> None:
    """Raise InputError unless all data sets have a state of the same numbers."""
    for path, part in zip(paths, sets, strict=True):
        if (part.state_dim, part.state_names) != (sets[0].state_dim, sets[0].state_names):
            raise InputError(
                f"{path}: found a state of {part.state_dim} numbers ({', '.join(part.state_names) or 'no names'}), "
                f"expected {sets[0].state_dim} ({', '.join(sets[0].state_names) or 'no names'}) as in {paths[0]}. Give "
                "data of one robot"
            )


def read_each(
    paths: Sequence[Path],
    size: Size | None,
    spec: ActionSpec | None = None,
    cameras: Cameras = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
    resize: Resize | None = None,
    state: bool | None = False,
) -> list[EpisodeSet]:
    """Read data sets with actions in `spec`, or as in the first.

    `state` False does not use the state, True requires it, None keeps it where there is one.

    Raises:
        InputError: frame sizes or rates differ, or actions cannot be converted.
    """
    if not paths:
        raise InputError("DATA: missing data sets. Give at least one folder")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("DATA: a data set was given twice. Give each once (train-world weighs them with --shares)")
    sets = [
        formats.read(
            path,
            size=size,
            image_key=cameras,  # pyright: ignore[reportArgumentType]
            fps=fps,
            assumed_fps=assumed_fps,
            resize=resize or "squash",
            state=state,
        )
        for path in paths
    ]
    first, spec = sets[0], spec or sets[0].spec
    for i, (path, part) in enumerate(zip(paths, sets, strict=True)):
        if part.fps != first.fps:
            raise InputError(
                f"{path}: found {part.fps:g} frames per second, expected {first.fps:g} as in {paths[0]}. Leave one "
                "out, or read both at a rate that divides both, with --fps"
            )
        try:
            sets[i] = part.with_action_spec(spec)
        except ActionSpecMismatch as error:
            raise InputError(f"{path}: {error}. Train on it alone, or leave it out") from error
        if part.size != first.size:
            (h, w), (height, width) = part.size, first.size
            advice = size_text(compact(first.size))
            raise InputError(
                f"{path}: found frames of {h}x{w} pixels, expected {height}x{width} as in {paths[0]}. Resize all of "
                f"them with --size, such as --size {advice}"
            )
    return sets


def hold_out(episodes: EpisodeSet, count: int) -> tuple[EpisodeSet, EpisodeSet]:
    """Split off `count` episodes per task, the same in every command.

    Raises:
        InputError: a task has no more than `count` episodes.
    """
    for task in sorted(set(episodes.task)) if count else ():
        if (available := len(episodes.where(task=task))) <= count:
            of = f" of task '{task}'" if task else ""
            raise InputError(
                f"--held-out: cannot hold out {count} of {available} episodes{of}. Hold out fewer, or add data"
            )
    return episodes.split(count, SPLIT_SEED)


@dataclass(frozen=True)
class Components:
    """A policy, and a fitting world model and judge."""

    policy: Policy
    world: WorldModel
    judge: Judge


def load_components(
    files: Mapping[str, Path], device: str, ledger: Ledger, env: EnvironmentConfig | None, flags: str = "--env"
) -> Components:
    """Load "policy", "world" and "judge", and check their fit.

    Args:
        files: see `starters.component_files`.
        device: where they run.
        ledger: record of paid judge requests.
        env: real environment; None if nothing real is needed.
        flags: prefix of the environment's flags.

    Raises:
        InputError: a file is missing, or the components do not fit one another or `env`.
    """
    policy, world = load_policy(files["policy"], device), load_world(files["world"], device)
    judge = load_judge(files["judge"], device, ledger)
    check_same_actions(files["policy"], policy.action_spec, files["world"], world.action_spec)
    if files["judge"].suffix == ".safetensors":
        check_same_rate(files["judge"], fps_of(files["judge"]), files["world"], world.fps)
    check_observed(files["policy"], policy, files["world"], world)
    rule_of(*files.values())
    check_same_state(files["policy"], files["world"])
    if env is not None:
        check_policy(files["policy"], policy, env, f"{flags}.hold")
        check_frame_size(world.frame_size, (env.size, env.size), f"{flags}.size")
        check_tasks(env.tasks)
    return Components(policy, world, judge)
