"""Replays logged actions in a world model, and judges the result. The true outcome is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from worldgymnast.actions import converter
from worldgymnast.episodes.windows import EpisodeSet, warn_out_of_range
from worldgymnast.evaluation.uncertainty import look_indices, success_probability
from worldgymnast.progress import Progress
from worldgymnast.protocols import Judge, PredictsSuccess, WorldModel, start_at
from worldgymnast.types import Clip, Verdict

JUDGE_BATCH = 32
"""Clips per call of a judge."""
IMAGINED = "imagined "
"""Prefix of the source of an imagined episode."""
MAX_FRAME_BYTES = 1 << 29
"""Most bytes of frames imagined in parallel."""


def replay(
    world: WorldModel,
    episodes: EpisodeSet,
    *,
    seed: int,
    rows: int = 64,
    actions: np.ndarray | None = None,
    label: str = "",
) -> EpisodeSet:
    """Imagine episodes again from their first frame and their logged actions.

    Episodes are imagined in order of length, so parallel ones have similar lengths. Shorter ones are cut at their end.

    Args:
        world: the world model.
        episodes: of any lengths, also without actions.
        seed: of the imagination.
        rows: most episodes imagined in parallel; fewer if their frames exceed `MAX_FRAME_BYTES`.
        actions: actions to use instead of the logged ones, float32 [e t a]; t is the length of the longest episode.
        label: text of a progress bar; "" shows none.

    Returns:
        A set with imagined frames and the true labels; sources have the prefix "imagined ".
    """
    convert = converter(episodes.spec, world.action_spec)
    if episodes.spec.is_same_kind(world.action_spec):
        warn_out_of_range(episodes, world.action_spec, "world model")
    order = np.argsort(episodes.length, kind="stable")
    generator = torch.Generator().manual_seed(seed)
    imagined: list[np.ndarray] = [np.empty(0, np.uint8)] * len(episodes)
    foreseen: list[np.ndarray] = [np.empty(0)] * len(episodes)
    with Progress(label, len(episodes)) if label else nullcontext() as progress:
        for part in _parallel_parts(episodes, order, rows):
            length = int(episodes.length[part[-1]])
            chosen = logged_actions(episodes, part, length) if actions is None else actions[part, :length]
            instructions = [episodes.instruction[e] for e in part]
            starts, known = first_frames(episodes, part)
            clips, predictions = imagine_actions(world, starts, convert(chosen), instructions, generator, known)
            for e, clip, prediction in zip(part, clips, predictions, strict=True):
                frames = episodes.length[e] + 1
                imagined[e], foreseen[e] = clip[:frames], prediction[:frames]
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
        foreseen=None if any(np.isnan(each).any() for each in foreseen) else np.concatenate(foreseen),
        state=None,  # logged, not imagined
        state_names=(),
    )


def _parallel_parts(episodes: EpisodeSet, order: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Split `order`, int64 [n] by ascending length, by `rows` and `MAX_FRAME_BYTES`."""
    frame_bytes = int(np.prod(episodes.frames.shape[1:]))
    while len(order):
        size = (episodes.length[order[:rows]] + 1) * np.arange(1, len(order[:rows]) + 1) * frame_bytes
        count = max(1, int((size <= MAX_FRAME_BYTES).sum()))
        yield order[:count]
        order = order[count:]


def logged_actions(episodes: EpisodeSet, part: np.ndarray, length: int) -> np.ndarray:
    """Return the logged actions of episodes, float32 [n length a]; beyond the end, the last repeats."""
    last = np.maximum(episodes.length[part] - 1, 0)[:, None]
    return episodes.actions[episodes.first[part][:, None] + np.minimum(np.arange(length), last)]


def first_frames(
    episodes: EpisodeSet, part: np.ndarray | slice | None = None
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float[np.ndarray, "n s"] | None]:
    """Return the first frames of all or some episodes, and the robot's state in them, None if the set has none."""
    rows = episodes.first if part is None else episodes.first[part]
    return np.asarray(episodes.frames[rows]), first_states(episodes, part)


def first_states(episodes: EpisodeSet, part: np.ndarray | slice | None = None) -> Float[np.ndarray, "n s"] | None:
    """Return the robot's state in the first frames of all or some episodes, None if the set has none."""
    rows = episodes.first if part is None else episodes.first[part]
    return None if episodes.state is None else np.asarray(episodes.state[rows])


def imagine_actions(
    world: WorldModel,
    first: np.ndarray,
    actions: np.ndarray,
    instruction: Sequence[str],
    generator: torch.Generator,
    known: np.ndarray | None = None,
) -> tuple[UInt8[np.ndarray, "n t1 h w 3"], Float[np.ndarray, "n t1"]]:
    """Imagine action sequences from first frames.

    Args:
        world: the world model.
        first: first frames, uint8 [n h w 3].
        actions: float32 [n t a], in the units of the world model.
        instruction: one per row.
        generator: of every draw.
        known: the robot's state in the first frames, float32 [n s]; a world model that predicts the state estimates it
            otherwise.

    Returns:
        Frames including the first, and the world model's own success predictions: 0 at the first frame, NaN without
        predictions.
    """
    starts = torch.from_numpy(first)
    state = start_at(world, starts, None if known is None else torch.from_numpy(known))
    frames, predictions = [starts[:, None]], [np.zeros(len(first))]
    if not actions.shape[1]:
        return starts[:, None].numpy(), np.stack(predictions, 1)
    step_length = (
        1 if isinstance(world, PredictsSuccess) else actions.shape[1]
    )  # predictions are read after every action
    for step_actions in torch.from_numpy(actions).split(step_length, 1):
        state, imagined = world.step(state, step_actions, generator=generator)
        frames.append(imagined.cpu())
        foreseen = world.predict_success(state, instruction) if isinstance(world, PredictsSuccess) else None
        unknown = np.full(len(first), np.nan)
        predictions += [unknown if foreseen is None else foreseen.double().cpu().numpy()] * imagined.shape[1]
    return torch.cat(frames, 1).numpy(), np.stack(predictions, 1)


def shuffled_actions(episodes: EpisodeSet, seed: int) -> np.ndarray:
    """Swap the actions between episodes, float32 [e t a], as a control for action-following.

    The actions of a shorter episode repeat from the beginning; t is the length of the longest episode.
    """
    offsets = np.arange(int(episodes.length.max())) % np.maximum(episodes.length, 1)[:, None]
    actions = episodes.actions[episodes.first[:, None] + offsets]
    order = np.random.default_rng(seed).permutation(len(episodes))
    return actions[np.roll(order, 1)[np.argsort(order)]]


def episode_clips(episodes: EpisodeSet, stride: int) -> list[Clip]:
    """Return what a judge sees of episodes: some frames of each (see `look_indices`), instruction and task."""
    clips = []
    for e, (first, length) in enumerate(zip(episodes.first.tolist(), episodes.length.tolist(), strict=True)):
        rows = first + look_indices(length + 1, stride)
        foreseen = None if episodes.foreseen is None else episodes.foreseen[rows]
        is_imagined = episodes.source[e].startswith(IMAGINED)
        frames = np.asarray(episodes.frames[rows])
        clips.append(Clip(frames, episodes.instruction[e], episodes.task[e], is_imagined, foreseen))
    return clips


def frame_clips(
    episodes: EpisodeSet,
    frames: UInt8[np.ndarray, "e t1 h w 3"],
    stride: int,
    foreseen: Float[np.ndarray, "e t1"] | None = None,
) -> list[Clip]:
    """Return what a judge sees of other frames of the same episodes.

    Args:
        episodes: their lengths, instructions and tasks.
        frames: of each episode; frames after its end are ignored.
        stride: frames between two that the judge sees.
        foreseen: success predictions of `imagine_actions`, if a world model made the frames.
    """
    clips = []
    for e, length in enumerate(episodes.length.tolist()):
        rows = look_indices(length + 1, stride)
        predictions = None if foreseen is None or np.isnan(foreseen[e]).any() else foreseen[e][rows]
        clip = Clip(frames[e][rows], episodes.instruction[e], episodes.task[e], foreseen is not None, predictions)
        clips.append(clip)
    return clips


def judge_episodes(judge: Judge, episodes: EpisodeSet, stride: int) -> Iterator[list[Verdict]]:
    """Yield the verdicts on episodes, `JUDGE_BATCH` at a time."""
    for i in range(0, len(episodes), JUDGE_BATCH):
        yield judge.score(episode_clips(episodes.select(np.arange(i, min(i + JUDGE_BATCH, len(episodes)))), stride))


def clip_probabilities(judge: Judge, episodes: EpisodeSet, stride: int) -> np.ndarray:
    """Return the judge's success probability of every episode, float [e]; NaN where it failed."""
    probabilities: list[float] = []
    with Progress("judging", len(episodes)) as progress:
        for part in judge_episodes(judge, episodes, stride):
            probabilities += [success_probability(verdict) for verdict in part]
            progress.advance(len(part))
    return np.array(probabilities, np.float64)
