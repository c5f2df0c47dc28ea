"""Whole episodes with distractors in them, for world model and judge to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldgymnast.episodes.lerobot import LeRobotWriter
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.progress import Progress
from worldgymnast.protocols import Editor
from worldgymnast.scenes.edit import MIN_CHANGE, changed_share, edit_frames
from worldgymnast.types import Episode

_LOOKED_AT = 20
"""Episodes that are tried before any is written."""


def with_distractors(editor: Editor, episodes: EpisodeSet, seed: int) -> Iterator[Episode]:
    """Every episode, the same objects in all its frames; labels, actions and sentences stay as they are.

    Raises:
        InputError: the editor edits single frames only.
    """
    if not editor.clips:
        raise InputError(
            f"editor '{editor.name}': edits single frames, expected one that edits whole episodes alike (cut-outs)"
        )
    for i in range(len(episodes)):
        episode = episodes.episode(i)
        rng = np.random.default_rng([seed, i])
        yield replace(episode, frames=edit_frames(editor, episode.frames, episode.instruction, rng))


def distract_episodes(editor: Editor, episodes: EpisodeSet, path: Path, seed: int) -> None:
    """Writes `with_distractors` as a LeRobot folder, whole or not at all.

    Raises:
        InputError: nothing is added to most of the first episodes.
    """
    looked_at = episodes.select(np.arange(min(len(episodes), _LOOKED_AT)))
    plain = np.asarray(looked_at.frames[looked_at.first])
    made = [episode.frames[0] for episode in with_distractors(editor, looked_at, seed)]
    bare = sum(changed_share(before, after) < MIN_CHANGE for before, after in zip(plain, made, strict=True))
    if bare > len(looked_at) / 2:
        raise InputError(
            f"editor '{editor.name}': adds nothing to {bare} of the first {len(looked_at)} episodes, expected objects "
            "in most; give --plate of this camera (worldgymnast scenes plate)"
        )
    with (
        LeRobotWriter(path, episodes.spec, episodes.fps, episodes.size) as writer,
        Progress("editing episodes", len(episodes)) as progress,
    ):
        for episode in with_distractors(editor, episodes, seed):
            writer.add(episode)
            progress.advance()
