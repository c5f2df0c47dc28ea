"""The command export-rerun: episodes and runs for the Rerun viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional

from worldgymnast.cli.checks import check_frame_size, check_same_rate, require_writable
from worldgymnast.cli.command import DeviceCommand, LabelledCommand, OptionalPath, file_suffix, print_written
from worldgymnast.cli.commands.judge_evaluation import load_judge_with_ledger
from worldgymnast.cli.data_defaults import frames_for, rate_of
from worldgymnast.cli.inputs import read
from worldgymnast.cli.origins import cameras_of, check_same_state, fps_of, rule_of
from worldgymnast.configs import Positive, Seed, checked
from worldgymnast.episodes.formats import has_episodes
from worldgymnast.errors import InputError
from worldgymnast.preprocessing import compact
from worldgymnast.registry import load_world
from worldgymnast.rerun_export import export_episodes, export_run
from worldgymnast.training.replay import clip_probabilities, replay


@checked(kw_only=True)
class ExportRerun(DeviceCommand, LabelledCommand):
    """Write a data set or a run for the Rerun viewer.

    A data set: frames, actions, state and success of its episodes; with a world model also the same episodes imagined
    from their actions, and with a judge its beliefs. A run: its pairs of imagined and real videos, and its metrics.
    Open the file with `rerun FILE.rrd`.

    Attributes:
        source: data set, or run folder.
        out: file to write (.rrd).
        world: world-model file; imagines the episodes again.
        judge: judge file; adds its success probability of real and imagined episodes.
        episodes: number of episodes, from the first.
        seed: random seed of imagination.
    """

    source: Positional[Path]
    out: Annotated[Path, file_suffix(".rrd")]
    world: OptionalPath = None
    judge: OptionalPath = None
    episodes: Positive = 20
    seed: Seed = 0

    def __call__(self) -> int:
        """Read, imagine and judge if requested, write."""
        require_writable("--out", self.out)
        is_data = has_episodes(self.source)
        if not is_data and (self.world or self.judge):
            raise InputError(
                f"--world, --judge: {self.source} is no data set, so nothing can be imagined or judged. Omit them"
            )
        self.prepare()
        if is_data:
            self._export_data()
        else:
            export_run(self.out, self.source)
        return print_written(self.out)

    def _export_data(self) -> None:
        world = None if self.world is None else load_world(self.world, self.device)
        episodes = read(
            (self.source,),
            None if world is None else compact(world.frame_size),
            cameras=self.cameras or (None if self.world is None else cameras_of(self.world)) or "all",
            fps=self.fps,
            assumed_fps=None if self.world is None else fps_of(self.world),
            labels=self.labels,
            resize=rule_of(self.world, self.judge, requested=self.resize),
            state=None,
        )
        episodes = episodes.select(np.arange(min(self.episodes, len(episodes))))
        imagined = None
        if world is not None and self.world is not None:
            check_frame_size(world.frame_size, episodes.size, "data convert SOURCE TARGET --size")
            check_same_rate(self.source, episodes.fps, self.world, world.fps, is_data=True)
            check_same_state(self.world, names=episodes.state_names)
            imagined = replay(world, episodes, seed=self.seed, label="imagining")
        beliefs = {}
        if self.judge is not None:
            judge, stride = load_judge_with_ledger(self.judge, self.device), frames_for(2, rate_of(episodes))
            beliefs["judge"] = clip_probabilities(judge, episodes, stride)
            if imagined is not None:
                beliefs["judge_imagined"] = clip_probabilities(judge, imagined, stride)
        export_episodes(self.out, episodes, imagined=imagined, beliefs=beliefs)
