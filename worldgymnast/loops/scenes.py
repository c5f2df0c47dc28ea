"""Whole episodes with distractors in them, for world model and judge to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldgymnast.episodes.lerobot import LeRobotWriter
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.run import Progress
from worldgymnast.scenes.edit import edited
from worldgymnast.types import Editor, Episode, InputError


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
        yield replace(episode, frames=edited(editor, episode.frames, episode.instruction, rng))


def distract_episodes(editor: Editor, episodes: EpisodeSet, path: Path, seed: int) -> None:
    """Writes `with_distractors` as a LeRobot folder, whole or not at all."""
    made = with_distractors(editor, episodes, seed)
    first = next(made)  # what the editor cannot do is known before the folder is there
    with (
        LeRobotWriter(path, episodes.spec, episodes.fps, episodes.size[0]) as writer,
        Progress("editing episodes", len(episodes)) as progress,
    ):
        writer.add(first)
        for episode in made:
            progress.advance()
            writer.add(episode)
        progress.advance()
