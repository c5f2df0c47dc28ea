"""Imagining what was logged, and judging it: real action sequences drive the world, and their true outcome is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from worldgymnast.actions import converter
from worldgymnast.episodes.windows import EpisodeSet, warn_outside
from worldgymnast.evaluation.uncertainty import belief, looks
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, PredictsSuccess, WorldModel
from worldgymnast.types import Clip, Verdict

PIECE = 32
"""Clips a judge is given in one call."""
IMAGINED = "imagined "
"""What the source of an imagined episode begins with."""
MEMORY = 1 << 29
"""Bytes of frames that are imagined side by side."""


def replay(
    world: WorldModel,
    episodes: EpisodeSet,
    *,
    seed: int,
    rows: int = 64,
    actions: np.ndarray | None = None,
    said: str = "",
) -> EpisodeSet:
    """The same episodes as the world imagines them from their first frame.

    Episodes are imagined in the order of their length, so that those side by side are about equally long; a shorter
    one is cut where it ends.

    Args:
        world: the world model.
        episodes: of any lengths, also without an action.
        seed: of the imagination.
        rows: most episodes imagined side by side; fewer where their frames would not fit into `MEMORY`.
        actions: other actions than the logged ones, float32 [e t a], t the longest episode's, such as another's.
        said: the words of a progress bar; "" for none.

    Returns:
        A set with imagined frames and the true labels, sources prefixed with "imagined ".
    """
    convert = converter(episodes.spec, world.action_spec)
    if episodes.spec.is_same_kind(world.action_spec):
        warn_outside(episodes, world.action_spec, "world model")
    order = np.argsort(episodes.length, kind="stable")
    generator = torch.Generator().manual_seed(seed)
    imagined: list[np.ndarray] = [np.empty(0, np.uint8)] * len(episodes)
    foreseen: list[np.ndarray] = [np.empty(0)] * len(episodes)
    with Progress(said, len(episodes)) if said else nullcontext() as progress:
        for part in _side_by_side(episodes, order, rows):
            length = int(episodes.length[part[-1]])
            done = driven(episodes, part, length) if actions is None else actions[part, :length]
            said_of = [episodes.instruction[e] for e in part]
            begun = np.asarray(episodes.frames[episodes.first[part]])
            made, known = follow(world, begun, convert(done), said_of, generator)
            for e, clip, own in zip(part, made, known, strict=True):
                imagined[e], foreseen[e] = (x[: episodes.length[e] + 1] for x in (clip, own))
            if progress is not None:
                progress.advance(len(part))
    frame_rows = episodes.rows
    return replace(
        episodes,
        frames=np.concatenate(imagined),
        actions=episodes.actions[frame_rows],
        success=episodes.success[frame_rows],
        first=np.concatenate([[0], np.cumsum(episodes.length + 1)[:-1]]).astype(np.int64),
        source=tuple(f"{IMAGINED}{source}" for source in episodes.source),
        foreseen=None if any(np.isnan(own).any() for own in foreseen) else np.concatenate(foreseen),
    )


def _side_by_side(episodes: EpisodeSet, order: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Parts of `order`, int64 [n] of ascending length: at most `rows`, and at most `MEMORY` bytes of frames."""
    frame_bytes = int(np.prod(episodes.frames.shape[1:]))
    while len(order):
        held = (episodes.length[order[:rows]] + 1) * np.arange(1, len(order[:rows]) + 1) * frame_bytes
        count = max(1, int((held <= MEMORY).sum()))
        yield order[:count]
        order = order[count:]


def driven(episodes: EpisodeSet, part: np.ndarray, length: int) -> np.ndarray:
    """Logged actions of some episodes, float32 [n length a]; beyond an episode's end its last one again."""
    last = np.maximum(episodes.length[part] - 1, 0)[:, None]
    return episodes.actions[episodes.first[part][:, None] + np.minimum(np.arange(length), last)]


def follow(
    world: WorldModel, first: np.ndarray, actions: np.ndarray, instruction: Sequence[str], generator: torch.Generator
) -> tuple[UInt8[np.ndarray, "n t1 h w 3"], Float[np.ndarray, "n t1"]]:
    """What a world imagines after `first`, itself in front, and what it foresees there; `actions` are in its own units.

    A world that foresees nothing says NaN; at the first frame nothing is done yet.
    """
    begun = torch.from_numpy(first)
    state, frames, known = world.start(begun), [begun[:, None]], [np.zeros(len(first))]
    each = 1 if isinstance(world, PredictsSuccess) else max(1, actions.shape[1])  # success is predicted at every step
    for done in torch.from_numpy(actions).split(each, 1) if actions.shape[1] else ():
        state, shown = world.step(state, done, generator=generator)
        found = world.predict_success(state, instruction) if isinstance(world, PredictsSuccess) else None
        frames.append(shown.cpu())
        blank = np.full(len(first), np.nan)
        known += [blank if found is None else found.double().cpu().numpy()] * shown.shape[1]
    return torch.cat(frames, 1).numpy(), np.stack(known, 1)


def shuffled_actions(episodes: EpisodeSet, seed: int) -> np.ndarray:
    """Every episode's actions replaced by those of another, float32 [e t a]: what a world that listens must dislike.

    A shorter episode's actions begin anew where they end; t is the longest episode's length.
    """
    length, every = int(episodes.length.max()), np.arange(len(episodes))
    around = np.arange(length) % np.maximum(episodes.length, 1)[:, None]
    done = episodes.actions[episodes.first[every][:, None] + around]
    order = np.random.default_rng(seed).permutation(len(episodes))
    return done[np.roll(order, 1)[np.argsort(order)]]


def clips(episodes: EpisodeSet, stride: int) -> list[Clip]:
    """What a judge sees of episodes: some frames of each (see `looks`), its sentence and its task."""
    found = []
    for e, (first, length) in enumerate(zip(episodes.first.tolist(), episodes.length.tolist(), strict=True)):
        rows = first + looks(length + 1, stride)
        foreseen = None if episodes.foreseen is None else episodes.foreseen[rows]
        made = episodes.source[e].startswith(IMAGINED)
        shown = np.asarray(episodes.frames[rows])
        found.append(Clip(shown, episodes.instruction[e], episodes.task[e], made, foreseen))
    return found


def seen_of(
    episodes: EpisodeSet,
    frames: UInt8[np.ndarray, "e t1 h w 3"],
    stride: int,
    foreseen: Float[np.ndarray, "e t1"] | None = None,
) -> list[Clip]:
    """What a judge sees of other frames of the same episodes, each cut at its end.

    Args:
        episodes: their lengths, sentences and tasks.
        frames: of each.
        stride: frames between two that the judge sees.
        foreseen: as `follow` gives it, where a world made the frames; NaN where that world foresees nothing.
    """
    found = []
    for e, length in enumerate(episodes.length.tolist()):
        rows = looks(length + 1, stride)
        own = None if foreseen is None or np.isnan(foreseen[e]).any() else foreseen[e][rows]
        clip = Clip(frames[e][rows], episodes.instruction[e], episodes.task[e], foreseen is not None, own)
        found.append(clip)
    return found


def judged(judge: Judge, episodes: EpisodeSet, stride: int) -> Iterator[list[Verdict]]:
    """The verdicts on episodes, `PIECE` at a time."""
    for i in range(0, len(episodes), PIECE):
        yield judge.score(clips(episodes.select(np.arange(i, min(i + PIECE, len(episodes)))), stride))


def clip_probabilities(judge: Judge, episodes: EpisodeSet, stride: int) -> np.ndarray:
    """The judge's belief in the success of every episode, float [e]; NaN where it failed."""
    found: list[float] = []
    with Progress("judging", len(episodes)) as progress:
        for part in judged(judge, episodes, stride):
            found += [belief(verdict) for verdict in part]
            progress.advance(len(part))
    return np.array(found, np.float64)
