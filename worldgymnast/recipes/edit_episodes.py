"""Adds distractors to whole episodes, as training data for world model and judge."""

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

_CHECKED = 20
"""Episodes to edit on trial before any is written."""


def with_distractors(editor: Editor, episodes: EpisodeSet, seed: int) -> Iterator[Episode]:
    """Yield every episode with the same objects in all its frames; everything else is unchanged.

    Raises:
        InputError: the editor edits single frames only.
    """
    if not editor.clips:
        raise InputError(
            f"editor '{editor.name}' edits single frames only. Use one that edits whole episodes alike (cut-outs)"
        )
    for i in range(len(episodes)):
        episode = episodes.episode(i)
        rng = np.random.default_rng([seed, i])
        yield replace(episode, frames=edit_frames(editor, episode.frames, episode.instruction, rng))


def distract_episodes(editor: Editor, episodes: EpisodeSet, path: Path, seed: int) -> None:
    """Write `with_distractors` as a LeRobot folder, atomically.

    Raises:
        InputError: most of the first episodes are unchanged.
    """
    sample = episodes.select(np.arange(min(len(episodes), _CHECKED)))
    originals = np.asarray(sample.frames[sample.first])
    edits = [episode.frames[0] for episode in with_distractors(editor, sample, seed)]
    unchanged = sum(changed_share(before, after) < MIN_CHANGE for before, after in zip(originals, edits, strict=True))
    if unchanged > len(sample) / 2:
        raise InputError(
            f"editor '{editor.name}' added nothing to {unchanged} of the first {len(sample)} episodes. Pass --plate of "
            "this camera (worldgymnast scenes plate)"
        )
    with (
        LeRobotWriter(path, episodes.spec, episodes.fps, episodes.size) as writer,
        Progress("editing episodes", len(episodes)) as progress,
    ):
        for episode in with_distractors(editor, episodes, seed):
            writer.add(episode)
            progress.advance()
