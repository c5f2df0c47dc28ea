"""The fixed data set of a study: eleven sets of real episodes in one folder, each a LeRobot folder or one plain file.

The plain file (safetensors: frames as they are, labels and words beside them) needs no video codec.
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
from worldgymnast.episodes import lerobot
from worldgymnast.episodes.windows import EpisodeSet, concatenate, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.progress import Progress
from worldgymnast.protocols import Demonstrates, Policy
from worldgymnast.recipes.quickstart import starter, starter_explorers
from worldgymnast.recipes.record import PolicyRecordConfig, of_explorer, policy_episodes, record
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import environment, load_policy
from worldgymnast.staging import atomic_path
from worldgymnast.types import Episode

HELD_OUT = "held_out"
"""The set that nothing is trained on."""
EXPLORED = "explored-"
"""What the names of explorers' sets begin with."""
_ARRAYS = ("frames", "actions", "success", "first", "length", "labelled", "layout")
Source = tuple[int, Callable[[], Iterator[Episode]]]
"""How many episodes, and what records them."""


def scaled(count: int, share: float) -> int:
    """That share of a count, at least 1."""
    return max(1, round(count * share))


def rollouts_of(policy: Callable[[], Policy], config: PolicyRecordConfig) -> Source:
    """The labelled real rollouts of a policy, which is made when they are recorded."""
    env = environment(Recipe().env)
    count = len(config.temperatures) * len(env.tasks) * config.per_temperature
    return count, lambda: policy_episodes(policy(), env, config)


def sources(share: float = 1.0, workers: int = 2) -> dict[str, Source]:
    """The recordings of `reproduce` by name, with `share` of their episodes; the policies are the starter's."""
    recipe = Recipe()
    tasks, r = len(recipe.env.tasks), recipe.record
    kinds = {kind: scaled(getattr(r, kind), share) for kind in ("expert", "noisy", "play")}
    logged, demonstrated = replace(r, **kinds, workers=workers), environment(recipe.env)
    assert isinstance(demonstrated, Demonstrates)
    found: dict[str, Source] = {}

    def of_policy(name: str, path: Path, config: PolicyRecordConfig) -> None:
        config = replace(config, per_temperature=scaled(config.per_temperature, share), workers=workers)
        found[name] = rollouts_of(lambda: load_policy(path), config)

    of_policy(HELD_OUT, starter("policy"), recipe.held_out)
    found["logged"] = tasks * sum(kinds.values()), lambda: record(demonstrated, logged)
    of_policy("policy", starter("policy"), recipe.rollouts)
    for i, path in enumerate(starter_explorers()):
        of_policy(f"{EXPLORED}{i}", path, of_explorer(recipe.explored, i))
    return found


def record_all(folder: Path, share: float, workers: int, only: Collection[str] = ()) -> None:
    """Record every set that is not in `folder` yet, or those named `only`."""
    folder.mkdir(parents=True, exist_ok=True)
    known = sources(share, workers)
    if unknown := sorted(set(only) - set(known)):
        raise InputError(f"--only: found '{unknown[0]}', expected one of {', '.join(known)}; correct the name")
    for name in only or known:
        count, make = known[name]
        if find(folder, name):
            continue
        keep(folder, name, count, make())


def keep(folder: Path, name: str, count: int, episodes: Iterator[Episode]) -> None:
    """Write a set of `count` episodes into `folder` as they come."""
    with Progress(f"recording {name}", count) as progress:
        counted = _counted(episodes, progress)
        if video.available():
            lerobot.write(folder / name, counted)
        else:
            save(folder / f"{name}.safetensors", from_episodes(list(counted)))


def _counted(episodes: Iterator[Episode], progress: Progress) -> Iterator[Episode]:
    for episode in episodes:
        yield episode
        progress.advance()


def find(folder: Path, name: str) -> Path | None:
    """Where that set lies in `folder`, or None."""
    return next((path for path in (folder / name, folder / f"{name}.safetensors") if path.exists()), None)


def load(folder: Path, name: str) -> EpisodeSet:
    """One set; raises InputError where it is missing."""
    path = find(folder, name)
    if path is None:
        raise InputError(f"{folder}: found no set '{name}', expected it; python studies/worlds.py record {folder}")
    return lerobot.read(path) if path.is_dir() else load_plain(path)


def training_names(folder: Path) -> list[str]:
    """The sets in `folder` that may be trained on."""
    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected recorded sets; python studies/worlds.py record {folder}")
    names = sorted({path.name.removesuffix(".safetensors") for path in folder.iterdir() if path.name[0] != "."})
    return [name for name in names if name != HELD_OUT]


def load_training(folder: Path) -> EpisodeSet:
    """All sets but the held-out one."""
    return concatenate([load(folder, name) for name in training_names(folder)])


def load_shared(folder: Path, explored: float | None) -> tuple[list[EpisodeSet], tuple[float, ...]]:
    """What `load_training` loads, as sets and their shares: `explored` for those of explorers in equal parts.

    No shares are returned where `explored` is None.
    """
    names = training_names(folder)
    theirs = [name for name in names if name.startswith(EXPLORED)]
    if explored is None or not theirs:
        return [load_training(folder)], ()
    old = concatenate([load(folder, name) for name in names if name not in theirs])
    return [old, *(load(folder, name) for name in theirs)], (1 - explored, *[explored / len(theirs)] * len(theirs))


def some(episodes: EpisodeSet, count: int, seed: int = 0) -> EpisodeSet:
    """At most `count` of the episodes, drawn at random, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(episodes))[:count]
    return episodes.select(np.sort(chosen))


def apart(episodes: EpisodeSet) -> EpisodeSet:
    """The same episodes with rows of their own, so that what is computed a row is computed for them alone."""
    return from_episodes([episodes.episode(i) for i in range(len(episodes))])


def save(path: Path, episodes: EpisodeSet) -> None:
    """Write a set as one plain file, whole or not at all."""
    words = {name: list(getattr(episodes, name)) for name in ("instruction", "task", "source")}
    meta = words | {"spec": episodes.spec.to_dict(), "fps": episodes.fps}
    arrays = {name: np.ascontiguousarray(getattr(episodes, name)) for name in _ARRAYS}
    with atomic_path(path, arrays["frames"].nbytes) as temporary:
        save_file(arrays, temporary, {"episodes": json.dumps(meta)})


def load_plain(path: Path) -> EpisodeSet:
    """What `save` wrote."""
    with safe_open(path, "np") as file:
        arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        meta = json.loads(file.metadata()["episodes"])
    fields: dict[str, Any] = arrays | {name: tuple(meta[name]) for name in ("instruction", "task", "source")}
    return EpisodeSet(**fields, spec=ActionSpec.from_dict(meta["spec"]), fps=meta["fps"])
