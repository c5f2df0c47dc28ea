"""Training without a real environment: what is said before it, and what is measured after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from worldgymnast.actions import ActionSpec, ActionSpecMismatch, converter
from worldgymnast.cli.inputs import hold_out
from worldgymnast.cli.origins import HeldOut, held_out_keys, held_out_of, holds_out
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.measure.offline import ROLLOUTS, References, measure_fidelity
from worldgymnast.measure.support import Support, evenly_spaced
from worldgymnast.protocols import Policy, StartSampler, WorldModel
from worldgymnast.recipes.iterated_sft import IterSftConfig
from worldgymnast.recipes.offline import write_offline
from worldgymnast.records import OFFLINE
from worldgymnast.report.offline import doubts
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import PhotographedStarts
from worldgymnast.run import is_finished
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Start

NOTICE = (
    "Nothing is scored for real, and the result is the last step or round. --env, without --unscored, chooses an "
    "environment that scores it."
)
"""Printed before the training."""


def announce(given_flags: Collection[str], is_unscored: bool) -> None:
    """Print that nothing is scored for real.

    Raises:
        InputError: flags ask for real scoring, without an environment.
    """
    if not is_unscored and (scoring := sorted(flag for flag in given_flags if flag.startswith("--scoring."))):
        raise InputError(
            f"{scoring[0]}: has no effect without a real environment, which starts from --data or --starts do not "
            "need. Add the environment with --env (Meta-World: a flag such as --env.size), or omit it"
        )
    print(NOTICE, flush=True)


def split_references(
    sets: Sequence[EpisodeSet], test: EpisodeSet | None, held_out: HeldOut | None, files: Mapping[str, Path]
) -> tuple[EpisodeSet, References]:
    """Split the data into episodes to start from and episodes to measure world model and judge on.

    Args:
        sets: the data sets.
        test: other episodes to measure on, which no component was trained on.
        held_out: episodes per task that world model and judge were not trained on; None for as many as recorded in the
            world model's file.
        files: files of the components.

    Returns:
        The episodes to start from, and the references.
    """
    learned = [name for name in ("world", "judge") if files[name].suffix == ".safetensors"]
    names = {"world": "world model", "judge": "judge"}
    if test is not None:
        data = concatenate(sets)
        return data, References(test, data)
    count = held_out_of(files["world"]) if held_out is None else held_out
    if not count:
        data = concatenate(sets)
        return data, References(data, data, tuple(names[name] for name in learned))
    parts = [hold_out(part, count, keys=held_out_keys(files["world"])) for part in sets]
    data, kept = (concatenate([part[i] for part in parts]) for i in (0, 1))
    seen_by = (names["judge"],) if "judge" in learned and not holds_out(files["judge"], count, kept) else ()
    return data, References(kept, data, seen_by)


def comparable(references: References | None, spec: ActionSpec) -> References | None:
    """Return the references if their actions mean the same as the world model's; otherwise print that they do not."""
    if references is None:
        return None
    try:
        converter(references.data.spec, spec)
    except ActionSpecMismatch as error:
        print(f"--data: {error}. Only frames are used: world model and judge are not compared with these episodes")
        return None
    return references


def warn_of_wrong_world(out: Path, references: References | None, world: WorldModel, horizon: int) -> None:
    """Warn, before a training begins or goes on, of a world model that does not predict the test episodes."""
    if references is None or is_finished(out):
        return
    if found := doubts(measure_fidelity(world, references.test, horizon=horizon)):
        print(f"warning: {' '.join(found)} RL in it teaches nothing about the robot", flush=True)


def support_of(references: References | None, imagination: Imagination) -> Support | None:
    """Make the reference of the data for the log, or None without enough of them."""
    if references is None:
        return None
    try:
        return Support(references.data, imagination.action_spec, imagination.chunk)
    except ValueError as error:
        print(f"--data: {error}, so the share of rollouts outside the data is unknown")
        return None


def measure(
    out: Path,
    policies: tuple[Policy, Policy],
    imagination: Imagination,
    sampler: StartSampler,
    pictures: Sequence[Start],
    references: References | None,
    config: ReinforceConfig | IterSftConfig,
) -> None:
    """Write what is known of a finished training to its folder, unless this was done before.

    Both policies are imagined from the pictures, if there are some, and from the first frames of the test episodes;
    without either, from starts of the training.
    """
    if (out / OFFLINE).exists():
        return
    starts = sampler.photographs if isinstance(sampler, PhotographedStarts) else list(pictures)
    if references is not None:
        test = references.test
        starts += [test.episode(int(e)).start() for e in evenly_spaced(len(test), ROLLOUTS)]
    if not starts:  # the data's actions cannot be compared with the world model's
        drawn = sampler(np.random.default_rng(config.seed), ROLLOUTS)
        starts = [start for start in drawn if isinstance(start, Start)]
    write_offline(
        out,
        policies,
        imagination.keyframes_only(),
        starts,
        references,
        horizon=config.horizon,
        temperature=config.temperature,
        rows=config.rows,
        seed=config.seed,
    )
