"""Batches for each learner: pure functions from a step to a batch, over decoded episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldgymnast.episodes.clips import ClipSampler
from worldgymnast.episodes.frame_view import FrameView
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.precision import Precision, autocast
from worldgymnast.progress import Progress
from worldgymnast.tiling import check_cameras, see
from worldgymnast.training.fit import Batches
from worldgymnast.types import IMAGE, Observation
from worldgymnast.worldmodel.autoencoder import Codec


def frame_batches(episodes: EpisodeSet, batch: int, seed: int, weights: np.ndarray | None = None) -> Batches:
    """Return random frames for the autoencoder: "frames" uint8 [b h w 3].

    Args:
        episodes: provide the frames.
        batch: frames per batch, b.
        seed: of the draws.
        weights: probability that a frame is drawn from each episode, [e]; by default all frames are equally likely.
    """
    rows = episodes.rows
    cumulative = None
    if weights is not None:
        cumulative = np.cumsum(np.repeat(weights / (episodes.length + 1), episodes.length + 1))
        cumulative /= cumulative[-1]

    def make(step: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])
        if cumulative is None:
            chosen = rng.choice(rows, batch)
        else:
            chosen = rows[np.searchsorted(cumulative, rng.random(batch), side="right")]
        return {"frames": torch.from_numpy(np.asarray(episodes.frames[chosen]))}

    return make


def imitation_batches(
    episodes: EpisodeSet,
    chunk: int,
    batch: int,
    seed: int,
    paraphrases: Mapping[str, Sequence[str]],
    after_success: int = 3,
    cameras: Sequence[str] = (IMAGE,),
    needs_state: bool = False,
    every: int = 1,
) -> Batches:
    """Return looks and the actions that followed: "obs", "actions" [b k a], "mask" [b k].

    Args:
        episodes: the demonstrations.
        chunk: actions per look, k.
        batch: looks per batch, b.
        seed: of the draws.
        paraphrases: instructions of each task to draw from; for other tasks, the episode's own instruction is used.
        after_success: actions imitated after the first success.
        cameras: cameras that the policy sees; "image" alone is the whole frame.
        needs_state: whether the policy sees the state.
        every: looks are at every `every`-th frame of an episode.

    Raises:
        InputError: there is no action to imitate, or the episodes lack a camera or the state.
    """
    looks, actions, mask = [], [], []
    for e, (first, length) in enumerate(zip(episodes.first, episodes.length, strict=True)):
        successes = np.flatnonzero(episodes.success[first : first + length + 1])
        end = min(length, successes[0] + after_success) if len(successes) else length
        for t in range(0, end, every):
            within = np.arange(t, t + chunk)
            looks.append((first + t, e))
            actions.append(episodes.actions[first + np.minimum(within, length)])
            mask.append(within < end)
    if not looks:
        raise InputError("Demonstrations contain no action to imitate. Give at least one with actions")
    check_observed(episodes, cameras, needs_state)
    all_actions, all_masks = torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(mask))

    def sentence(e: int, rng: np.random.Generator) -> str:
        choices = paraphrases.get(episodes.task[e], (episodes.instruction[e],))
        return choices[int(rng.integers(len(choices)))]

    def make(step: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(len(looks), size=batch)
        frames = np.asarray(episodes.frames[[looks[i][0] for i in chosen]])
        sentences = [sentence(looks[i][1], rng) for i in chosen]
        return {
            "obs": Observation(
                see(torch.from_numpy(frames), cameras, episodes.tiling),
                sentences,
                _states(episodes, [looks[i][0] for i in chosen]) if needs_state else None,
            ),
            "actions": all_actions[chosen],
            "mask": all_masks[chosen],
        }

    return make


def check_observed(episodes: EpisodeSet, cameras: Sequence[str], needs_state: bool) -> None:
    """Raise InputError unless episodes have what a policy sees."""
    check_cameras(cameras, episodes.tiling, "policy")
    if needs_state and episodes.state is None:
        raise InputError(
            "policy needs the state, but not all episodes have one of the same numbers. Give data with the state, or "
            "train a policy without it"
        )


def _states(episodes: EpisodeSet, rows: Sequence[Any]) -> Tensor:
    """The state of some frames, float32 [b s]."""
    assert episodes.state is not None
    return torch.from_numpy(episodes.state[np.asarray(rows)])


@torch.no_grad()
def encode_all(
    autoencoder: Codec, frames: np.ndarray | FrameView, batch: int = 256, precision: Precision = "auto"
) -> np.ndarray:
    """Encode every frame; return latents, float16 [n h w c].

    They are computed in `precision`, as imagination computes those of first frames.
    """
    latents = []
    with Progress("encoding frames", len(frames)) as progress:
        for i in range(0, len(frames), batch):
            part = torch.from_numpy(np.array(frames[i : i + batch]))
            with autocast(precision, autoencoder.device):
                latents.append(autoencoder.encode(part).half().cpu())
            progress.advance(len(part))
    return torch.cat(latents).numpy()


def latent_batches(
    episodes: EpisodeSet,
    latents: np.ndarray,
    length: int,
    batch: int,
    seed: int,
    device: torch.device,
    weights: np.ndarray | None = None,
) -> Batches:
    """Return clips for the world model: "latents" [b t+1 h w c], "actions" [b t a], "mask" [b t].

    With a state in the episodes also "state" [b t+1 s].

    Args:
        episodes: provide actions and labels.
        latents: of every frame, see `encode_all`.
        length: actions per clip, t.
        batch: clips per batch, b.
        seed: of the draws.
        device: of the batches.
        weights: probability of drawing each episode, [e]; see `ClipSampler`.
    """
    sampler = ClipSampler(episodes, length, batch, seed, weights)

    def make(step: int) -> Mapping[str, Any]:
        clip = sampler(step)
        episode, offset = clip.episode.numpy(), clip.offset.numpy()
        within = np.minimum(offset[:, None] + np.arange(length + 1), episodes.length[episode][:, None])
        return {
            "latents": torch.from_numpy(latents[episodes.first[episode][:, None] + within]).to(device).float(),
            "actions": clip.actions.to(device),
            "mask": clip.mask.to(device),
            "success": clip.success.to(device),
            "labelled": clip.labelled.to(device),
            "instruction": clip.instruction,
            **({} if episodes.state is None else {"state": _clip_states(episodes, episode, within).to(device)}),
        }

    return make


def _clip_states(episodes: EpisodeSet, episode: np.ndarray, within: np.ndarray) -> Tensor:
    """The state at every frame of clips, float32 [b t+1 s]."""
    assert episodes.state is not None
    return torch.from_numpy(episodes.state[episodes.first[episode][:, None] + within])


@dataclass(frozen=True)
class _LabeledSet:
    """Frames of one set by task and label."""

    episodes: EpisodeSet
    rows: dict[tuple[str, bool], np.ndarray]  # [n 4]: rows of first, last possible first, present; episode


def success_batches(
    sets: Sequence[EpisodeSet], batch: int, seed: int, paraphrases: Mapping[str, Sequence[str]]
) -> Batches:
    """Return pairs of frames with their label for the judge: "first", "now", "instruction", "success".

    Every set, every task and both labels are equally likely. The first frame of a pair is the first of the episode. In
    a quarter of the pairs it is a later one before the success and the present frame, because rollouts may also start
    in the middle of an episode.

    Raises:
        InputError: no episode has success labels.
    """
    tables = [_LabeledSet(s, _label_table(s)) for s in sets]
    if not any(t.rows for t in tables):
        raise InputError("No episode has success labels, so a judge cannot be trained. Record or label some episodes")

    def make(step: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])
        first, now, sentences, labels = [], [], [], []
        for _ in range(batch):
            table = tables[int(rng.integers(len(tables)))]
            keys = sorted(table.rows)
            task, label = keys[int(rng.integers(len(keys)))]
            rows = table.rows[task, label]
            begin, latest, present, e = rows[int(rng.integers(len(rows)))]
            choices = paraphrases.get(task, (table.episodes.instruction[e],))
            if rng.random() < 0.25:
                begin = int(rng.integers(begin, latest + 1))
            first.append(table.episodes.frames[begin])
            now.append(table.episodes.frames[present])
            sentences.append(choices[int(rng.integers(len(choices)))])
            labels.append(label)
        stacked: list[Tensor] = [torch.from_numpy(np.stack(x)) for x in (first, now)]
        return {"first": stacked[0], "now": stacked[1], "instruction": sentences, "success": torch.tensor(labels)}

    return make


def _label_table(episodes: EpisodeSet) -> dict[tuple[str, bool], np.ndarray]:
    """Return the frames of labeled episodes by task and label; see `_LabeledSet.rows`."""
    table: dict[tuple[str, bool], list[tuple[int, int, int, int]]] = {}
    for e in np.flatnonzero(episodes.labelled):
        first, length = int(episodes.first[e]), int(episodes.length[e])
        labels = episodes.success[first : first + length + 1]
        unsolved = int(np.argmax(labels)) - 1 if labels.any() else length  # last frame before the success
        for t in range(length + 1):
            row = (first, first + max(0, min(t, unsolved)), first + t, int(e))
            table.setdefault((episodes.task[e], bool(labels[t])), []).append(row)
    return {key: np.array(rows) for key, rows in table.items()}
