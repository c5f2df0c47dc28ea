"""The command diagnose: what costs imagined rollouts their right verdicts, and how far they tell real outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.command import (
    REPORT,
    Computing,
    Number,
    Watching,
    Weights,
    hold_out,
    labelled,
    read_each,
    sees,
    wrote,
)
from worldgymnast.cli.commands.judge import judge_of
from worldgymnast.cli.fitting import cameras_of, fps_of, frames_for, rate_of, same_cameras
from worldgymnast.cli.starters import is_metaworld, parts, refuse_starters, refuse_tasks
from worldgymnast.configs import Count, Positive, Seed, checked
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import Episode, read_episodes
from worldgymnast.judges.combined import check
from worldgymnast.measure.diagnosis import Strip, examine
from worldgymnast.registry import load_world
from worldgymnast.report import tables
from worldgymnast.report.collect import collect
from worldgymnast.report.diagnosis import FILE, MAIN, closed_loop_sheet, plain_loops, sentences, sheets
from worldgymnast.report.report import write
from worldgymnast.run import check_folder, command_line
from worldgymnast.video import contact_sheet, png
from worldgymnast.weights import to_json, write_bytes, write_text

PICTURES = "diagnosis"
"""Folder of the strips, in OUT."""


@checked(kw_only=True)
class Diagnose(Computing, Watching):
    """Where imagined rollouts lose their right verdicts: at the judge, at the world's encoding, or at its dynamics.

    The judge sees labelled real rollouts on their real frames, on the world's round trip of these, and on imagined
    replays of the same actions. With outcomes of closed-loop episodes, also how imagined and real outcome correlate.

    Attributes:
        data: labelled data sets that neither world nor judge was trained on; with several, each is a kind of policy.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        outcomes: files that hold imagined and real outcomes: outcomes.json of agree, evaluation.json of quickstart,
            reproduce or rl, state.json of an RL checkpoint.
        by: what tells kinds of policies apart: the source noted in the data, or the folder; "auto" is the folder where
            several are given.
        held_out: only the episodes that train-world and distill kept out with the same number.
        trained: with held_out, the others instead: those the world was trained on, which shows whether it fits.
        horizon: actions of an episode that are judged; left out, 24 in Meta-World, and whole episodes of other robots.
        stride: the judge sees every that many frames; left out, those of 0.15 seconds (2 in Meta-World).
        rows: episodes imagined side by side; fewer take less memory.
        strips: pictures of missed successes around the moment they succeed, at most.
        seed: of the imagination and the bootstraps.
        out: a folder for diagnosis.json, the strips and report.html; that of a run adds the section to its report.
    """

    data: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DATA...")] = ()
    world: Weights = None
    judge: Weights = None
    outcomes: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()
    by: Literal["auto", "source", "folder"] = "auto"
    held_out: Count = 0
    trained: bool = False
    horizon: Number = None
    stride: Number = None
    rows: Positive = 32
    strips: Count = 4
    seed: Seed = 0
    out: Weights = None

    def __post_init__(self) -> None:
        if not self.data and not self.outcomes:
            raise InputError(
                "data: found no data set and no --outcomes, expected at least one; give labelled rollouts, or a file "
                "with imagined and real outcomes"
            )
        if self.trained and not self.held_out:
            raise InputError("--trained: found no --held-out, expected the number that the training was given")

    def __call__(self) -> int:
        """Prints the tables; with `out`, writes numbers, strips and report."""
        self.prepare()
        if self.out is not None:
            fits(self.out)
        read = read_loops(self.outcomes)  # before anything that takes minutes
        loops = {name: plain_loops(episodes, self.seed) for name, episodes in read.items()}
        found: dict[str, Any] = {}
        strips: Sequence[Strip] = ()
        if self.data:
            found, strips = self._examined()
        for sheet in [*(sheets(found)[:MAIN] if found else []), *(closed_loop_sheet(*loop) for loop in loops.items())]:
            tables.show(tables.sheet(sheet))
        for sentence in sentences(found) if found else ():
            print(sentence)
        if self.out is None:
            return 0
        found |= {"closed_loop": loops} if loops else {}
        return self._write(self.out, found | {"command": command_line()}, strips)

    def _examined(self) -> tuple[dict[str, Any], Sequence[Strip]]:
        files = parts(world=self.world, judge=self.judge)
        world, judge = load_world(files["world"], self.device), judge_of(files["judge"], self.device)
        same_cameras(files["world"], files["judge"], asked=self.image_key)
        episodes = self._episodes(files["world"], world.frame_size[0])
        refuse_starters({"world": self.world, "judge": self.judge}, self.data[0], episodes.spec)
        refuse_tasks(self.judge, sorted(set(episodes.task)))
        sees(world, episodes.size, "data convert SOURCE TARGET --size")
        labelled(self.data, episodes)
        if self.held_out:
            episodes = hold_out(episodes, self.held_out)[0 if self.trained else 1]
        check(judge, set(zip(episodes.task, episodes.instruction, strict=True)))
        diagnosis = examine(
            world,
            judge,
            episodes,
            horizon=self.horizon or (24 if is_metaworld(episodes.spec) else None),
            stride=self.stride or frames_for(2, rate_of(episodes)),
            seed=self.seed,
            rows=self.rows,
            strips=self.strips if self.out is not None else 0,
        )
        found = diagnosis.numbers
        if left := len(episodes) - found["all"]["episodes"]:
            print(f"{left} of {len(episodes)} episodes have no label or no action and are left out")
        if reasons := Counter(row[s]["error"] for row in found["rows"] for s in found["sources"] if row[s]["error"]):
            reason, count = reasons.most_common(1)[0]
            print(f"{judge.name}: {reasons.total()} judgements failed, {count} of them because: {reason}")
        return found, diagnosis.strips

    def _episodes(self, world: Path, size: int) -> EpisodeSet:
        """The data sets as one, their sources what tells policies apart."""
        sets = read_each(
            self.data,
            size,
            cameras=self.cameras or cameras_of(world),
            fps=self.fps,
            assumed_fps=fps_of(world),
        )
        if self.by == "folder" or (self.by == "auto" and len(sets) > 1):
            sets = [
                replace(part, source=(name,) * len(part))
                for name, part in zip(short_names(self.data), sets, strict=True)
            ]
        return concatenate(sets)

    def _write(self, out: Path, found: dict[str, Any], strips: Sequence[Strip]) -> int:
        rows = []
        for number, strip in enumerate(strips, 1):
            name = f"{PICTURES}/strip-{number}.png"
            write_bytes(out / name, png(contact_sheet(list(strip.frames.values()), gap=0)))
            rows.append(
                {
                    "file": name,
                    "sources": list(strip.frames),
                    "times": strip.times.tolist(),
                    "beliefs": {k: None if np.isnan(v) else v for k, v in strip.beliefs.items()},
                }
                | {k: getattr(strip, k) for k in ("task", "policy", "instruction", "episode", "fault", "success_frame")}
            )
        write_text(out / FILE, to_json(found | {"strips": rows}))
        write(out / REPORT, collect(out))
        wrote(out / FILE)
        return wrote(out / REPORT)


def fits(out: Path) -> None:
    """Raises where OUT is neither new nor the folder of a run or of an earlier diagnosis."""
    if not any((out / name).is_file() for name in (FILE, "stages.json", "evaluation.json")):
        check_folder(out)


def read_loops(files: Sequence[Path]) -> dict[str, list[Episode]]:
    """The closed-loop episodes of some files, by file and place."""
    found: dict[str, list[Episode]] = {}
    for name, file in zip(short_names(files), files, strict=True):
        places = read_episodes(file)
        found |= {name if list(places) == ["world"] else f"{name}, {place}": own for place, own in places.items()}
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """As much of the end of each path as tells them apart.

    >>> short_names([Path("a/x/data"), Path("b/x/data"), Path("b/y")])
    ['a/x/data', 'b/x/data', 'y']
    """
    whole = [path.resolve().parts for path in paths]

    def end(own: tuple[str, ...]) -> str:
        for length in range(1, len(own) + 1):
            if sum(other[-length:] == own[-length:] for other in whole) == 1:
                return "/".join(own[-length:])
        return "/".join(own)

    return [end(own) for own in whole]
