"""Reading the inputs of commands: data sets, components, ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from worldgymnast.actions import ActionSpec, ActionSpecMismatch
from worldgymnast.cli.checks import check_frames, check_observed, check_same_actions, check_same_rate
from worldgymnast.cli.environment import check_policy, check_tasks, fitted, is_metaworld
from worldgymnast.cli.origins import check_same_state, fps_of, rule_of
from worldgymnast.environments import EnvironmentConfig
from worldgymnast.episodes import formats
from worldgymnast.episodes.labels import SUFFIX, Labels, read_labels
from worldgymnast.episodes.rates import is_same_rate
from worldgymnast.episodes.windows import EpisodeSet, concatenate, episode_keys
from worldgymnast.errors import InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.preprocessing import Resize, Size, compact, size_text
from worldgymnast.protocols import Judge, Policy, WorldModel, predicts_state
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.run import check_folder

Cameras = str | tuple[str, ...] | None
SPLIT_SEED = 0
"""Seed of the held-out split, the same in every command."""
MAX_HELD_OUT = 20
"""Most episodes per task that are held out by default."""


def state_for(world: WorldModel | None) -> bool | None:
    """Return what to do with the state of data that a world model imagines, as `state` of `read_each`.

    A world model that predicts the state starts from the true one where the data have it.
    """
    return None if world is not None and predicts_state(world) else False


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
    labels: Sequence[Path] = (),
    resize: Resize | None = None,
    state: bool | None = False,
) -> EpisodeSet:
    """Read data sets as one; see `read_each`."""
    sets = read_each(
        paths, size, cameras=cameras, fps=fps, assumed_fps=assumed_fps, labels=labels, resize=resize, state=state
    )
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
    labels: Sequence[Path] = (),
    resize: Resize | None = None,
    state: bool | None = False,
    advice: str = "",
) -> list[EpisodeSet]:
    """Read data sets with actions in `spec`, or as in the first, and with the labels of label files.

    Rates that differ by less than 1 % count as equal.

    `state` False does not use the state, True requires it, None keeps it where there is one. `advice` is what to do
    about other actions.

    Raises:
        InputError: frame sizes or rates differ, actions cannot be converted, or a label file fits no data set.
    """
    if not paths:
        raise InputError(
            "DATA: missing data sets. Give at least one folder, and put it before flags that take several values, such "
            "as --labels"
        )
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("DATA: a data set was given twice. Give each once (train-world weighs them with --shares)")
    known = Labels(labels) if labels else None
    sets = [
        formats.read(
            path,
            size=size,
            image_key=cameras,  # pyright: ignore[reportArgumentType]
            fps=fps,
            assumed_fps=assumed_fps,
            labels=known,
            resize=resize or "squash",
            state=state,
        )
        for path in paths
    ]
    if known is not None:
        known.require_used(" or ".join(map(str, paths)))
    else:
        print_unused_labels(paths)
    first, spec = sets[0], spec or sets[0].spec
    for i, (path, part) in enumerate(zip(paths, sets, strict=True)):
        try:
            sets[i] = part.with_action_spec(spec)
        except ActionSpecMismatch as error:
            raise InputError(f"{path}: {error}. {advice or 'Train on it alone, or leave it out'}") from error
        if not is_same_rate(part.fps, first.fps):
            raise InputError(
                f"{path}: found {part.fps:g} frames per second, expected {first.fps:g} as in {paths[0]}. Leave one "
                "out, or read both at a rate that divides both, with --fps"
            )
        sets[i] = replace(sets[i], fps=first.fps)
        if part.size != first.size:
            (h, w), (height, width) = part.size, first.size
            advice = size_text(compact(first.size))
            raise InputError(
                f"{path}: found frames of {h}x{w} pixels, expected {height}x{width} as in {paths[0]}. Resize all of "
                f"them with --size, such as --size {advice}"
            )
    return sets


def print_unused_labels(paths: Sequence[Path]) -> None:
    """Print which data sets have label files beside or inside their folder that were not given."""
    for path in paths:
        beside = [one for one in path.parent.glob(f"*labels*{SUFFIX}") if _is_made_for(one, path)]
        for file in sorted([*path.glob(f"*labels*{SUFFIX}"), *beside]):
            print(f"{file}: not used; to use these labels, add --labels {file}")


def _is_made_for(file: Path, path: Path) -> bool:
    """Return whether a label file names a data set, in its own name or in its content."""
    try:
        return file.name.startswith(path.name) or Path(read_labels(file).data).name == path.name
    except (InputError, OSError):
        return False


def hold_out_each(
    paths: Sequence[Path], sets: Sequence[EpisodeSet], held_out: int | Literal["auto"], keys: Collection[str] = ()
) -> tuple[list[EpisodeSet], list[EpisodeSet]]:
    """Split off episodes of every data set with `hold_out`; what "auto" and `keys` hold out is printed.

    Returns:
        Of each data set the rest, and the held-out episodes.

    Raises:
        InputError: a task has no more than the given number of episodes.
    """
    pairs = [hold_out(part, held_out, path, keys) for path, part in zip(paths, sets, strict=True)]
    return [rest for rest, _ in pairs], [held for _, held in pairs]


def auto_held_out(episodes: int) -> int:
    """Number of a task's episodes that "auto" holds out.

    >>> [auto_held_out(count) for count in (1, 2, 3, 9, 10, 50, 1000)]
    [0, 0, 1, 1, 2, 10, 20]
    """
    return min(MAX_HELD_OUT, max(1, episodes // 5)) if episodes >= 3 else 0


def hold_out(
    episodes: EpisodeSet, held_out: int | Literal["auto"], path: Path | None = None, keys: Collection[str] = ()
) -> tuple[EpisodeSet, EpisodeSet]:
    """Split off episodes of every task, the same in every command.

    A data set that grows after a training would be split in another way. So the episodes that the training held out
    are recorded with the component (`origins.held_out_keys`), and stay held out.

    Args:
        episodes: the episodes of one data set.
        held_out: number per task; or "auto", a fifth of each task, at least one of three or more episodes and at most
            `MAX_HELD_OUT`.
        path: the data set; with it, what "auto" and `keys` hold out is printed.
        keys: `episode_keys` of episodes to hold out instead, if there are any in this data set.

    Raises:
        InputError: a task has no more than the given number of episodes.
    """
    known = np.isin(episode_keys(episodes), list(keys)) if held_out and keys else np.zeros(len(episodes), bool)
    if known.any():
        if path is not None:
            print(f"{path}: {known.sum()} of {len(episodes)} episodes are held out, as in the training before")
        return episodes.select(~known), episodes.select(known)
    sizes = {task: len(episodes.where(task=task)) for task in sorted(set(episodes.task))}
    if held_out == "auto":
        counts = {task: auto_held_out(size) for task, size in sizes.items()}
        without = sum(count == 0 for count in counts.values())
        rest = f"; none of {without} of {len(counts)} tasks, which have fewer than 3 episodes" if without else ""
        line = f"{sum(counts.values())} of {len(episodes)} episodes are held out (a fifth of each task{rest})"
        if path is not None:
            print(f"{path}: {line}. --held-out N changes this")
        return episodes.split_by_task(counts, SPLIT_SEED)
    for task, available in sizes.items() if held_out else ():
        if available <= held_out:
            of = f" of task '{task}'" if task else ""
            raise InputError(
                f"--held-out: cannot hold out {held_out} of {available} episodes{of}. Hold out fewer (--held-out auto: "
                f"{auto_held_out(available)}), or add data"
            )
    return episodes.split(held_out, SPLIT_SEED)


def held_out_or_default(held_out: int | Literal["auto"] | None, episodes: EpisodeSet) -> int | Literal["auto"]:
    """The value of a training command's flag.

    If omitted, "auto"; but 0 in Meta-World, whose held-out data are recorded separately.
    """
    if held_out is not None:
        return held_out
    return 0 if is_metaworld(episodes.spec) else "auto"


def choose_held_out(
    paths: Sequence[Path],
    sets: Sequence[EpisodeSet],
    held_out: int | Literal["auto"] | None,
    trained: bool,
    keys: Collection[str] = (),
) -> list[EpisodeSet]:
    """Choose the episodes to measure on: all, or those that `hold_out` holds out, or with `trained` the rest.

    With all of them, a warning names the data sets that the component was trained on.

    Raises:
        InputError: none is held out.
    """
    if not held_out:
        for path, episodes in zip(paths, sets, strict=True):
            unseen = int(np.isin(episode_keys(episodes), list(keys)).sum())
            if 0 < unseen < len(episodes):
                print(
                    f"warning: {path}: the world model was trained on it and held out {unseen} episodes, but this "
                    f"measures on all {len(episodes)}. The numbers are better than on new data. Give --held-out auto, "
                    "or other data"
                )
        return list(sets)
    rest, held = hold_out_each(paths, sets, held_out, keys)
    chosen = [part for part in (rest if trained else held) if len(part)]
    if not chosen:
        raise InputError("--held-out: no task has 3 episodes, so none is held out. Omit it, or add data")
    return chosen


@dataclass(frozen=True)
class Components:
    """A policy, and a fitting world model and judge.

    Attributes:
        policy: the policy.
        world: the world model.
        judge: the judge.
        env: config of the real environment, with the world model's frame size; None if nothing real is needed.
    """

    policy: Policy
    world: WorldModel
    judge: Judge
    env: EnvironmentConfig | None = None

    def to(self, device: str) -> None:
        """Move the policy, the world model and a learned judge to a device."""
        for component in (self.policy, self.world, self.judge):
            if isinstance(component, nn.Module):
                component.to(device)


def load_components(
    files: Mapping[str, Path],
    device: str,
    ledger: Ledger,
    env: EnvironmentConfig | None,
    given_flags: Collection[str] = (),
    *,
    policy: Policy | None = None,
    waits: bool = False,
) -> Components:
    """Load "policy", "world" and "judge", and check their fit.

    Args:
        files: see `starters.component_files`.
        device: where they run.
        ledger: record of paid judge requests.
        env: real environment; None if nothing real is needed.
        given_flags: flags on the command line; all else of the environment follows the components.
        policy: the policy, if it is loaded already.
        waits: weights stay on the CPU until `Components.to`.

    Raises:
        InputError: a file is missing, or the components do not fit one another or `env`.
    """
    at_first = "cpu" if waits else device
    policy, world = policy or load_policy(files["policy"], at_first), load_world(files["world"], at_first)
    is_description = files["judge"].suffix == ".json"  # a local vision-language model is loaded where it runs
    judge = load_judge(files["judge"], device if is_description else at_first, ledger)
    check_same_actions(files["policy"], policy.action_spec, files["world"], world.action_spec)
    if files["judge"].suffix == ".safetensors":
        check_same_rate(files["judge"], fps_of(files["judge"]), files["world"], world.fps)
    check_observed(files["policy"], policy, files["world"], world)
    rule_of(*files.values())
    check_same_state(files["policy"], files["world"])
    if env is not None:
        env = fitted(env, given_flags, world.frame_size, policy.chunk)
        check_policy(files["policy"], policy, env)
        check_frames(world.frame_size, env)
        check_tasks(env)
    return Components(policy, world, judge, env)
