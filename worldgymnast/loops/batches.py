"""What each learner is fed: pure maps from a step to a batch, over episodes that are decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from worldgymnast.episodes.windows import ClipSampler, EpisodeSet
from worldgymnast.loops.supervised import Batches
from worldgymnast.types import InputError, Observation
from worldgymnast.worldmodel.autoencoder import Autoencoder


def frame_batches(episodes: EpisodeSet, batch: int, seed: int) -> Batches:
    """Random frames for the autoencoder: "frames" uint8 [b h w 3]."""
    rows = frame_rows(episodes)

    def make(step: int) -> Mapping[str, Any]:
        chosen = np.random.default_rng([seed, step]).choice(rows, batch)
        return {"frames": torch.from_numpy(np.asarray(episodes.frames[chosen]))}

    return make


def frame_rows(episodes: EpisodeSet) -> np.ndarray:
    """Rows of `episodes.frames` that belong to its episodes, int64 [n]."""
    return np.concatenate([np.arange(f, f + n + 1) for f, n in zip(episodes.first, episodes.length, strict=True)])


def imitation_batches(
    episodes: EpisodeSet,
    chunk: int,
    batch: int,
    seed: int,
    paraphrases: Mapping[str, Sequence[str]],
    after_success: int = 3,
) -> Batches:
    """Looks and the actions that followed: "obs", "actions" [b k a], "mask" [b k].

    Actions later than `after_success` after the first success are not imitated. The sentence is drawn from the task's
    `paraphrases`, or is the episode's own.
    """
    looks, actions, mask = [], [], []
    for e, (first, length) in enumerate(zip(episodes.first, episodes.length, strict=True)):
        hit = np.flatnonzero(episodes.success[first : first + length + 1])
        end = min(length, hit[0] + after_success) if len(hit) else length
        for t in range(end):
            within = np.arange(t, t + chunk)
            looks.append((first + t, e))
            actions.append(episodes.actions[first + np.minimum(within, length)])
            mask.append(within < end)
    if not looks:
        raise InputError("imitation: found no action to imitate, expected at least one demonstration")
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
            "obs": Observation(torch.from_numpy(frames), sentences),
            "actions": all_actions[chosen],
            "mask": all_masks[chosen],
        }

    return make


@torch.no_grad()
def encode_all(autoencoder: Autoencoder, frames: np.ndarray, batch: int = 256) -> np.ndarray:
    """Latents float16 [n h w c] of every frame."""
    parts = (torch.from_numpy(np.asarray(frames[i : i + batch])) for i in range(0, len(frames), batch))
    return torch.cat([autoencoder.encode(part).half().cpu() for part in parts]).numpy()


def latent_batches(
    episodes: EpisodeSet, latents: np.ndarray, length: int, batch: int, seed: int, device: torch.device
) -> Batches:
    """Clips for the world model: "latents" [b t+1 h w c], "actions" [b t a], "mask" [b t]."""
    sampler = ClipSampler(episodes, length, batch, seed)

    def make(step: int) -> Mapping[str, Any]:
        clip = sampler(step)
        episode, offset = clip.episode.numpy(), clip.offset.numpy()
        within = np.minimum(offset[:, None] + np.arange(length + 1), episodes.length[episode][:, None])
        return {
            "latents": torch.from_numpy(latents[episodes.first[episode][:, None] + within]).to(device).float(),
            "actions": clip.actions.to(device),
            "mask": clip.mask.to(device),
        }

    return make


def success_batches(
    sets: Sequence[EpisodeSet],
    length: int,
    stride: int,
    batch: int,
    seed: int,
    paraphrases: Mapping[str, Sequence[str]],
) -> Batches:
    """Clips with the label of every frame for the judge: "clips" [b t h w 3], "instruction", "success" [b t].

    A clip has `length` frames, `stride` apart, beyond the end of the episode its last one again. It begins at the
    episode's first frame, or as often anywhere before the success. Sets in equal parts; within a set every task, and of
    its episodes those with and without success, equally often.
    """
    tables = [(s, t) for s in sets if (t := _by_outcome(s))]
    if not tables:
        raise InputError("judge: found no episode with success labels, expected labelled ones; record or label some")

    def make(step: int) -> Mapping[str, Any]:
        rng = np.random.default_rng([seed, step])
        clips, sentences, labels = [], [], []
        for _ in range(batch):
            episodes, table = tables[int(rng.integers(len(tables)))]
            keys = sorted(table)
            e = int(rng.choice(table[keys[int(rng.integers(len(keys)))]]))
            first, last = int(episodes.first[e]), int(episodes.length[e])
            hit = np.flatnonzero(episodes.success[first : first + last + 1])
            latest = int(hit[0]) - 1 if len(hit) else last - 1
            begin = int(rng.integers(0, max(latest, 0) + 1)) if rng.random() < 0.5 else 0
            rows = first + np.minimum(begin + stride * np.arange(length), last)
            clips.append(episodes.frames[rows])
            labels.append(episodes.success[rows])
            choices = paraphrases.get(episodes.task[e], (episodes.instruction[e],))
            sentences.append(choices[int(rng.integers(len(choices)))])
        return {
            "clips": torch.from_numpy(np.stack(clips)),
            "instruction": sentences,
            "success": torch.from_numpy(np.stack(labels)),
        }

    return make


def _by_outcome(episodes: EpisodeSet) -> dict[tuple[str, bool], list[int]]:
    """Labelled episodes by task and whether they succeeded."""
    table: dict[tuple[str, bool], list[int]] = {}
    succeeded = episodes.succeeded
    for e in np.flatnonzero(episodes.labelled):
        table.setdefault((episodes.task[e], bool(succeeded[e])), []).append(int(e))
    return table
