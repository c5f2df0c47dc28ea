"""The commands that measure: evaluate, eval-world, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.command import (
    REPORT,
    Command,
    Computing,
    Evaluating,
    Number,
    Watching,
    Weights,
    agree,
    components,
    drives,
    ending,
    hold_out,
    ledger,
    read,
    sees,
    writable,
    wrote,
)
from worldgymnast.cli.conclude import conclude
from worldgymnast.cli.fitting import cameras_of, fps_of, frames_for, rate_of, same_cameras
from worldgymnast.cli.starters import is_metaworld, parts, refuse_tasks
from worldgymnast.configs import Count, Positive, Seed, Seeds, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.evaluation.perceptual import lpips_distance
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import ScoreConfig
from worldgymnast.measure.world import SIGNAL, above, drift, outcomes, plain, replay_fidelity
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.registry import environment, load_judge, load_policy, load_world, to_dict
from worldgymnast.report import tables
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import write
from worldgymnast.report.world import markdown as world_markdown
from worldgymnast.report.world import sheets
from worldgymnast.run import Run
from worldgymnast.video import contact_sheet, png
from worldgymnast.weights import identity, load_weights, to_json, weights_hash, write_bytes, write_text


@checked(kw_only=True)
class Evaluate(Evaluating):
    """Two policies on the same real layouts: success per task with intervals, and the paired difference.

    Attributes:
        before: a policy's file.
        after: another's.
        env: the real environment.
        score: how many episodes, on which layouts.
        seeds: of the sampling; each has layouts of its own.
        world: a world model's file, in which the same layouts are imagined; the starter's if left out with --imagined.
        judge: a judge's file, for what is imagined; the starter's if left out.
        out: the run folder.
    """

    before: Positional[Path]
    after: Positional[Path]
    env: MetaWorldConfig = MetaWorldConfig()
    score: ScoreConfig = ScoreConfig()
    seeds: Seeds = (0,)
    world: Weights = None
    judge: Weights = None
    out: Path

    def __call__(self) -> int:
        """Evaluates, prints the table and writes the report."""
        self.prepare()
        policies = {"before": self.before, "after": self.after}
        for path in policies.values():
            drives(path, load_policy(path), self.env)
        check_tasks(self.env.tasks)
        hashes = {name: weights_hash(load_weights(path)[0]) for name, path in policies.items()}
        config = {"policies": hashes, "env": to_dict(self.env), "score": to_dict(self.score), "seeds": self.seeds}
        world, judge = self._imagining()
        config |= {name: identity(part) for name, part in (("world", world), ("judge", judge)) if part is not None}
        with Run(self.out, config) as run:
            file = self.out / "evaluation.json"
            both = {name: Contender(path, self.seeds) for name, path in policies.items()}
            found = evaluate(file, both, environment(self.env), self.score, self.device, world, judge, self.imagined)
            run.finish({})
        conclude(self.out, found)
        return 0

    def _imagining(self) -> tuple[WorldModel | None, Judge | None]:
        """World and judge where something is to be imagined; they fit policies and environment."""
        if not (self.imagined or self.world or self.judge):
            return None, None
        files = parts(world=self.world, judge=self.judge)
        refuse_tasks(self.judge, self.env.tasks)
        found = components({"policy": self.before, **files}, self.device, ledger(self.out), self.env)
        agree(self.after, load_policy(self.after).action_spec, files["world"], found.world.action_spec)
        same_cameras(self.before, self.after, *files.values())
        return found.world, found.judge


@checked(kw_only=True)
class EvalWorld(Computing, Watching):
    """How far a world model can be trusted: its frames, whether it listens, how it ends; with a judge, what it knows.

    Attributes:
        world: the world model's file.
        judge: the judge's file; without it nothing is said about outcomes.
        data: data sets that neither was trained on; outcomes need labelled ones.
        held_out: only the episodes that `train-world` and `distill` kept out with the same number.
        trained: with `held_out`, the others instead: those it was trained on.
        starts: start frames of each episode, spread over it.
        length: frames imagined after each; left out, those of 2.25 seconds (30 in Meta-World).
        drift: frames imagined from some first frames, far beyond the data; 0 leaves it out; left out, those of 15
            seconds (200 in Meta-World).
        perceptual: also LPIPS; needs the extra of that name.
        horizon: actions of an episode that are judged; left out, 24 in Meta-World, and whole episodes of other robots.
        stride: the judge sees every that many frames; the policy's chunk; left out, those of 0.15 seconds (2 in
            Meta-World).
        jitter: the disturbed futures whose disagreement is the uncertainty.
        rows: clips imagined side by side; fewer take less memory.
        seed: of the imagination.
        sheet: also draw real frames above imagined ones into this .png file, a pair of rows for an episode.
        out: also write the tables to this .md file, or all numbers to this .json file.
    """

    world: Positional[Path]
    judge: Weights = None
    data: tuple[Path, ...]
    held_out: Count = 0
    trained: bool = False
    starts: Positive = 1
    length: Number = None
    drift: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    perceptual: bool = False
    horizon: Number = None
    stride: Number = None
    jitter: JitterConfig = JitterConfig()
    rows: Positive = 32
    seed: Seed = 0
    sheet: Annotated[Weights, ending(".png")] = None
    out: Annotated[Weights, ending(".md", ".json")] = None

    def __post_init__(self) -> None:
        if self.trained and not self.held_out:
            raise InputError("--trained: found no --held-out, expected the number that the training was given")

    def __call__(self) -> int:
        """Prints the tables one after the other as they are found."""
        self.prepare()
        distance = lpips_distance(self.device) if self.perceptual else None
        world = load_world(self.world, self.device)
        judge = None if self.judge is None else load_judge(self.judge, self.device)
        same_cameras(self.world, self.judge, asked=self.image_key)
        episodes = read(
            self.data, world.frame_size[0], self.cameras or cameras_of(self.world), self.fps, fps_of(self.world)
        )
        sees(world, episodes.size, "data convert SOURCE TARGET --size")
        if self.held_out:
            episodes = hold_out(episodes, self.held_out)[0 if self.trained else 1]
        rate = rate_of(episodes)
        found: dict[str, Any] = {}

        def show(**new: Any) -> None:
            found.update(new)
            for sheet in sheets(new):
                tables.show(tables.sheet(sheet))

        episodes, length = long_enough(episodes, self.length or frames_for(30, rate))
        if self.sheet is not None:
            write_bytes(self.sheet, png(contact_sheet(above(world, episodes, length, self.seed))))
            wrote(self.sheet)
        common = {"seed": self.seed, "rows": self.rows}
        show(
            fidelity=replay_fidelity(world, episodes, starts=self.starts, length=length, perceptual=distance, **common)
        )
        if frames := frames_for(200, rate) if self.drift is None else self.drift:
            show(drift=drift(world, episodes, frames=frames, **common))
        labelled = episodes.select(episodes.labelled)
        said = self._without(judge is None, len(labelled) == 0)
        if judge is not None and len(labelled):
            horizon = self.horizon or (24 if is_metaworld(episodes.spec) else int(labelled.length.max()))
            stride = self.stride or frames_for(2, rate)
            known = outcomes(world, judge, labelled, horizon=horizon, stride=stride, jitter=self.jitter, **common)
            show(gate=known.gate(), detection=plain(known.detections()), kept=known.kept(SIGNAL))
        else:
            print(said)
        return self._write(found, said)

    def _without(self, judge: bool, labels: bool) -> str:
        """Why nothing is said about outcomes, or nothing."""
        missing = ["--judge was not given"] * judge + [f"{self.data[0]}: field 'success': found no labels"] * labels
        return f"Imagined against real outcome is left out: {'; '.join(missing)}." if missing else ""

    def _write(self, found: dict[str, Any], said: str) -> int:
        if self.out is None:
            return 0
        if self.out.suffix == ".json":
            write_text(self.out, to_json(plain(found)))
        else:
            write_text(self.out, world_markdown(found, f"How far {self.world} can be trusted", [said] * bool(said)))
        return wrote(self.out)


def long_enough(episodes: EpisodeSet, length: int) -> tuple[EpisodeSet, int]:
    """The episodes of at least so many actions, and that length or a smaller one.

    It is lowered to what nine in ten episodes have; the shorter ones are left out, which is said.

    Raises:
        InputError: no episode has an action.
    """
    usable = np.sort(episodes.length[episodes.length > 0])
    if not len(usable):
        raise InputError(f"data: found {len(episodes)} episodes of one frame, expected longer ones")
    length = min(length, int(usable[len(usable) // 10]))
    keep = episodes.length >= length
    if not keep.all():
        print(f"{int((~keep).sum())} of {len(episodes)} episodes are shorter than {length} actions and are left out")
    return episodes.select(keep), length


@checked(kw_only=True)
class Report(Command):
    """One self-contained HTML page about a run: RUN/report.html, or another file.

    Attributes:
        run: the folder of reproduce, quickstart, rl or evaluate.
        markdown: also write the tables to this file.
        out: the page, where it should not lie in RUN, such as on a disk that cannot be written to.
    """

    run: Positional[Path]
    markdown: Weights = None
    out: Weights = None

    def __call__(self) -> int:
        """Writes the page."""
        page, place = collect(self.run), self.out or self.run / REPORT
        writable("--out", place)
        if self.markdown is not None:
            writable("--markdown", self.markdown)
            write_text(self.markdown, markdown(page))
        write(place, page)
        return wrote(place)
