"""Fixed data set of a study: eleven sets of real episodes in one folder, as LeRobot folders or plain files.

A plain file (safetensors with raw frames, labels and strings) needs no video codec.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from worldgymnast import video
from worldgymnast.actions import ActionSpec
from worldgymnast.environments import environment
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.windows import EpisodeSet, concatenate, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.progress import Progress
from worldgymnast.protocols import Demonstrates, Policy
from worldgymnast.recipes.quickstart import starter, starter_explorers
from worldgymnast.recipes.record import PolicyRecordConfig, explorer_config, policy_episodes, record
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import load_policy
from worldgymnast.staging import atomic_path
from worldgymnast.tiling import Tiling
from worldgymnast.types import Episode

HELD_OUT = "held_out"
"""Name of the held-out set."""
EXPLORED = "explored-"
"""Prefix of the names of explorers' sets."""
PLANNED = "planned-"
"""Prefix of the names of sets of imagined rollouts, executed for real."""
_ARRAYS = ("frames", "actions", "success", "first", "length", "labelled", "layout")
Source = tuple[int, Callable[[], Iterator[Episode]]]
"""Number of episodes, and a function that records them."""


def scaled(count: int, share: float) -> int:
    """Return a share of a count, at least 1."""
    return max(1, round(count * share))


def rollouts_of(policy: Callable[[], Policy], config: PolicyRecordConfig) -> Source:
    """Return the recording of labeled real rollouts of a policy, which is loaded when needed."""
    env = environment(Recipe().env)
    count = len(config.temperatures) * len(env.tasks) * config.per_temperature
    return count, lambda: policy_episodes(policy(), env, config)


def sources(share: float = 1.0, workers: int = 2) -> dict[str, Source]:
    """Return the recordings of `reproduce` by name, with a share of the episodes and the starter's policies."""
    recipe = Recipe()
    tasks, r = len(recipe.env.tasks), recipe.record
    kinds = {kind: scaled(getattr(r, kind), share) for kind in ("expert", "noisy", "play")}
    logged, demonstrated = replace(r, **kinds, workers=workers), environment(recipe.env)
    assert isinstance(demonstrated, Demonstrates)
    recordings: dict[str, Source] = {}

    def add_policy(name: str, path: Path, config: PolicyRecordConfig) -> None:
        config = replace(config, per_temperature=scaled(config.per_temperature, share), workers=workers)
        recordings[name] = rollouts_of(lambda: load_policy(path), config)

    add_policy(HELD_OUT, starter("policy"), recipe.held_out)
    recordings["logged"] = tasks * sum(kinds.values()), lambda: record(demonstrated, logged)
    add_policy("policy", starter("policy"), recipe.rollouts)
    for i, path in enumerate(starter_explorers()):
        add_policy(f"{EXPLORED}{i}", path, explorer_config(recipe.explored, i))
    return recordings


def record_all(folder: Path, share: float, workers: int, only: Collection[str] = ()) -> None:
    """Record every set that is not in `folder` yet, or those named `only`."""
    folder.mkdir(parents=True, exist_ok=True)
    known = sources(share, workers)
    if unknown := sorted(set(only) - set(known)):
        raise InputError(f"--only: found '{unknown[0]}', expected one of {', '.join(known)}. Correct the name")
    for name in only or known:
        count, make = known[name]
        if find(folder, name):
            continue
        keep(folder, name, count, make())


def keep(folder: Path, name: str, count: int, episodes: Iterator[Episode]) -> None:
    """Write a set of `count` episodes to `folder` as they arrive."""
    with Progress(f"recording {name}", count) as progress:
        counted = _counted(episodes, progress)
        if video.is_available():
            lerobot.write(folder / name, counted)
        else:
            save(folder / f"{name}.safetensors", from_episodes(list(counted)))


def _counted(episodes: Iterator[Episode], progress: Progress) -> Iterator[Episode]:
    for episode in episodes:
        yield episode
        progress.advance()


def find(folder: Path, name: str) -> Path | None:
    """Return the path of a set in `folder`, or None."""
    return next((path for path in (folder / name, folder / f"{name}.safetensors") if path.exists()), None)


def load(folder: Path, name: str) -> EpisodeSet:
    """Load a set; raise InputError if it is missing."""
    path = find(folder, name)
    if path is None:
        raise InputError(f"{folder}: set '{name}' is missing. Run: python -m studies.worlds record {folder}")
    return lerobot.read(path) if path.is_dir() else load_plain(path)


def training_names(folder: Path) -> list[str]:
    """Return the names of the training sets in `folder`."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Run: python -m studies.worlds record {folder}")
    names = sorted({path.name.removesuffix(".safetensors") for path in folder.iterdir() if path.name[0] != "."})
    return [name for name in names if name != HELD_OUT]


def load_training(folder: Path) -> EpisodeSet:
    """Load all sets except the held-out one."""
    return concatenate([load(folder, name) for name in training_names(folder)])


def load_shared(folder: Path, explored: float | None) -> tuple[list[EpisodeSet], tuple[float, ...]]:
    """Load the training sets with their shares: `explored` for explorers' and executed plans' sets, in equal parts.

    Without `explored`, no shares are returned.
    """
    names = training_names(folder)
    explorers = [name for name in names if name.startswith((EXPLORED, PLANNED))]
    if explored is None or not explorers:
        return [load_training(folder)], ()
    old = concatenate([load(folder, name) for name in names if name not in explorers])
    count = len(explorers)
    return [old, *(load(folder, name) for name in explorers)], (1 - explored, *[explored / count] * count)


def some(episodes: EpisodeSet, count: int, seed: int = 0) -> EpisodeSet:
    """Draw at most `count` episodes, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(episodes))[:count]
    return episodes.select(np.sort(chosen))


def compact(episodes: EpisodeSet) -> EpisodeSet:
    """Copy the episodes into a set without other frames, so per-frame work covers only them."""
    return from_episodes([episodes.episode(i) for i in range(len(episodes))])


def save(path: Path, episodes: EpisodeSet) -> None:
    """Write a set as one plain file, atomically."""
    strings = {name: list(getattr(episodes, name)) for name in ("instruction", "task", "source")}
    tiling = None if episodes.tiling is None else episodes.tiling.to_dict()
    meta = strings | {"spec": episodes.spec.to_dict(), "fps": episodes.fps, "tiling": tiling}
    meta["state_names"] = list(episodes.state_names)
    names = _ARRAYS if episodes.state is None else (*_ARRAYS, "state")
    arrays = {name: np.ascontiguousarray(getattr(episodes, name)) for name in names}
    with atomic_path(path, arrays["frames"].nbytes) as temporary:
        save_file(arrays, temporary, {"episodes": json.dumps(meta)})


def load_plain(path: Path) -> EpisodeSet:
    """Load a file written by `save`."""
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        meta = json.loads(file.metadata()["episodes"])
    fields: dict[str, Any] = arrays | {name: tuple(meta[name]) for name in ("instruction", "task", "source")}
    fields["state_names"] = tuple(meta.get("state_names", ()))
    tiling = Tiling.from_dict(meta["tiling"]) if meta.get("tiling") else None
    return EpisodeSet(**fields, spec=ActionSpec.from_dict(meta["spec"]), fps=meta["fps"], tiling=tiling)
