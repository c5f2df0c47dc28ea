"""Checks of inputs and outputs that run before any expensive work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, require_same
from worldgymnast.arguments import check_pictures
from worldgymnast.cli.environment import misspelled_task, suite_instructions
from worldgymnast.cli.origins import warn_of_other_size
from worldgymnast.environments import EnvironmentConfig, environment
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.measure.novelty import frame_warning, sentence_warning
from worldgymnast.preprocessing import compact, size_text
from worldgymnast.protocols import Policy, PredictsState, WorldModel, frame_size, predicts_state, tiling_of
from worldgymnast.run import check_writable
from worldgymnast.tiling import check_cameras
from worldgymnast.types import IMAGE, STATE, Start

_RATE_TOLERANCE = 0.01
"""Relative difference of two rates that count as the same, as 29.97 and 30."""


def check_instructions(paths: Sequence[Path], episodes: EpisodeSet, required: bool = False) -> None:
    """Print how many episodes lack an instruction.

    Raises:
        InputError: all of them do, and instructions are `required`.
    """
    missing, folders = episodes.without_instruction, " ".join(map(str, paths))
    if required and missing == len(episodes):
        raise InputError(
            f"{folders}: no episode has an instruction, so a policy cannot tell tasks apart. Write instructions into "
            "the data set (LeRobot: meta/tasks), then rerun"
        )
    if missing:
        print(f"{folders}: {missing} of {len(episodes)} episodes have no instruction")


def require_labels(paths: Sequence[Path], episodes: EpisodeSet) -> None:
    """Raise `InputError` if no episode has a success label."""
    if not episodes.labelled.any():
        raise InputError(
            f"{' '.join(map(str, paths))}: field 'success': no episode has a label. Label them (worldgymnast label "
            f"{paths[0]} --by-hand --out labels.jsonl, then --labels labels.jsonl), or record labelled episodes with "
            "record-policy"
        )


def check_frame_size(expected: tuple[int, int], size: tuple[int, int], flag: str) -> None:
    """Require frames of the world model's size; `flag` resizes them."""
    if size != expected:
        raise InputError(
            f"frames: found {size[0]}x{size[1]} pixels, expected {expected[0]}x{expected[1]} as in the world model. "
            f"Resize with {flag} {size_text(compact(expected))}"
        )


def check_frames(expected: tuple[int, int], config: EnvironmentConfig) -> None:
    """Require that a real environment's frames have the world model's size."""
    check_frame_size(expected, frame_size(environment(config)), "--env.size")


def check_observed(path: Path, policy: Policy, world_path: Path, world: WorldModel) -> None:
    """Require a world model that provides the state and the cameras that a policy reads."""
    if STATE in policy.needs and not predicts_state(world):
        raise InputError(
            f"{path}: the policy reads the robot's state, but {world_path} does not predict it. Train a world model "
            f"that does: worldgymnast train-world DATA --state --begin-with {world_path}, or a policy without state "
            "(sft without --state)"
        )
    widths = getattr(policy, "state_dim", 0), world.state_dim if isinstance(world, PredictsState) else 0
    if STATE in policy.needs and widths[0] and widths[0] != widths[1]:
        raise InputError(
            f"{path}: the policy reads a state of {widths[0]} numbers, but {world_path} predicts {widths[1]}. Train "
            "both on the same data"
        )
    tiling = tiling_of(world)
    if any(name not in (IMAGE, STATE) for name in policy.cameras):
        check_cameras(policy.cameras, tiling, f"{path} with {world_path}: the policy")
    check_pictures(policy, world.frame_size, tiling, str(path), str(world_path))
    warn_of_other_size(path, policy, world.frame_size, tiling, str(world_path))


def check_same_actions(path: Path, spec: ActionSpec, other: Path, other_spec: ActionSpec) -> None:
    """Require the same actions in two files (policy, world or data)."""
    if spec.differences(other_spec) == ["rate"]:
        check_same_rate(path, spec.rate, other, other_spec.rate)
    try:
        require_same(spec, other_spec, f"{path} and {other}")
    except ActionSpecMismatch as error:
        raise InputError(f"{error}. Give two that were trained on the same data") from error


def check_same_rate(
    path: Path | str, rate: float | None, other: Path | str, other_rate: float | None, is_data: bool = False
) -> None:
    """Require one rate of two components, or of data (`path`) and a component; an unknown rate fits any.

    Raises:
        InputError: the rates differ by more than 1 %; the message has both, and the fix.
    """
    if rate is None or other_rate is None or abs(rate / other_rate - 1) <= _RATE_TOLERANCE:
        return
    fix = "Give two that were trained at one rate, or train one of them again (data convert --fps subsamples the data)"
    factor = rate / other_rate
    if is_data and factor > 1 and abs(factor / round(factor) - 1) <= _RATE_TOLERANCE:
        fix = f"Add --fps {other_rate:g} to read every {round(factor)}{_ordinal(round(factor))} frame"
    elif is_data:
        fix = (
            f"{other_rate:g} is no integer fraction of {rate:g}, and frames cannot be interpolated. Train the "
            f"component again on data of {rate:g} frames per second"
        )
    raise InputError(
        f"{path}: {rate:g} actions per second, but {other_rate:g} in {other}. An action would last another time. {fix}"
    )


def _ordinal(number: int) -> str:
    """Return the ending of an ordinal number.

    >>> [f"{n}{_ordinal(n)}" for n in (1, 2, 3, 4, 11, 12, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '22nd']
    """
    is_teen = number // 10 % 10 == 1
    return "th" if is_teen else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def check_in_distribution(
    world: WorldModel,
    starts: Sequence[Start],
    known: Sequence[Start],
    flags: tuple[str, str],
    is_allowed: bool,
    known_instructions: Sequence[str] = (),
) -> None:
    """Check that starts resemble the training data of the components.

    Args:
        world: world model that imagines from the starts.
        starts: starts to check.
        known: starts like those of the training data.
        flags: flags that gave the frames and the instructions.
        is_allowed: print out-of-distribution starts instead of raising.
        known_instructions: further instructions of the training data.

    Raises:
        InputError: a frame or an instruction is out of distribution, or a task is misspelled.
    """
    spec = world.action_spec
    if not is_allowed and (problem := misspelled_task(spec, starts)):
        raise InputError(f"{flags[0]}: {problem}. Correct it, or add --anyway")
    sentences = [*known_instructions, *(start.instruction for start in known), *suite_instructions(spec)]
    problems = frame_warning(world, starts, known), sentence_warning(starts, sentences)
    for flag, problem in zip(flags, problems, strict=True):
        if problem and not is_allowed:
            raise InputError(f"{flag}: {problem}. Train world model, policy and judge on such data, or add --anyway")
        if problem:
            print(f"{flag}: {problem}")


def require_new_path(path: Path) -> None:
    """Raise `InputError` if `path` exists or cannot be written."""
    if os.path.lexists(path):
        raise InputError(f"{path}: already exists, and nothing is overwritten. Give a new path")
    check_writable(path)


def refuse_pool_flags(pool: str, given_flags: Collection[str]) -> None:
    """Raise `InputError` if flags of `--pool ray` are given without it."""
    if pool == "local" and (useless := {"--workers", "--ray-address"} & set(given_flags)):
        raise InputError(f"{', '.join(sorted(useless))}: no effect with --pool local. Add --pool ray")


def require_writable(flag: str, path: Path) -> None:
    """Require that `path`, the value of `flag`, can be written."""
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{flag}: cannot write {path} ({error.strerror}). Give a file in a writable folder") from error
    if path.is_dir():
        raise InputError(f"{flag}: {path} is a folder. Give a file name")
