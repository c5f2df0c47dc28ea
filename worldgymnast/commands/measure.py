"""The commands that measure: evaluate, eval-world, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from worldgymnast.commands.command import REPORT, Command, Computing, Weights, conclude, drives, read, sees, wrote
from worldgymnast.config import load_judge, load_policy, load_world, to_dict
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.loops import reproduce
from worldgymnast.loops.score import ScoreConfig, fidelity, gate
from worldgymnast.report import tables
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import write
from worldgymnast.run import Run
from worldgymnast.types import InputError, in_range
from worldgymnast.weights import load_weights, weights_hash, write_text


@dataclass(frozen=True, kw_only=True)
class Evaluate(Computing):
    """Two policies on the same real layouts: success per task with intervals, and the paired difference.

    Attributes:
        before: a policy's file.
        after: another's.
        env: the real environment.
        score: how many episodes, on which layouts.
        seeds: of the sampling; each has layouts of its own.
        out: the run folder.
    """

    before: Positional[Path]
    after: Positional[Path]
    env: MetaWorldConfig = MetaWorldConfig()
    score: ScoreConfig = ScoreConfig()
    seeds: tuple[int, ...] = (0,)
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, 0, "seeds")
        if not self.seeds:
            raise InputError("--seeds: found none, expected at least one")

    def __call__(self) -> int:
        """Evaluates, prints the table and writes the report."""
        self.prepare()
        policies = {"before": self.before, "after": self.after}
        for path in policies.values():
            drives(path, load_policy(path), self.env)
        check_tasks(self.env.tasks)
        hashes = {name: weights_hash(load_weights(path)[0]) for name, path in policies.items()}
        recipe = replace(reproduce.Recipe(), env=self.env, score=self.score, seeds=self.seeds)
        config = {"policies": hashes, "env": to_dict(self.env), "score": to_dict(self.score), "seeds": self.seeds}
        with Run(self.out, config) as run:
            found = reproduce.evaluate(self.out / "evaluation.json", policies, recipe, self.device)
            run.finish({})
        conclude(self.out, found)
        return 0


@dataclass(frozen=True, kw_only=True)
class EvalWorld(Computing):
    """How far world and judge can be trusted: the fidelity of imagined replays, and the gate before RL.

    Attributes:
        world: the world model's file.
        judge: the judge's file.
        data: labelled data sets that neither was trained on.
        horizon: actions of an episode that are judged.
        stride: the judge sees every that many frames; the policy's chunk.
        length: frames of the fidelity.
        seed: of the imagination.
    """

    world: Positional[Path]
    judge: Path
    data: tuple[Path, ...]
    horizon: int = 24
    stride: int = 2
    length: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, 1, "horizon", "stride", "length")
        in_range(self, 0, "seed")

    def __call__(self) -> int:
        """Prints both tables."""
        self.prepare()
        world, judge = load_world(self.world, self.device), load_judge(self.judge, self.device)
        episodes = read(self.data, None)
        sees(world, episodes.size, "data convert SOURCE TARGET --size")
        shortest = int(episodes.length.min())
        length, horizon = min(self.length, shortest), min(self.horizon, shortest)
        tables.show(tables.fidelity(fidelity(world, episodes, length, self.seed)))
        labelled = episodes.select(episodes.labelled)
        if len(labelled) == 0:
            raise InputError(f"{self.data[0]}: field 'success': found no labels, the gate needs some; label episodes")
        tables.show(tables.gate(gate(world, judge, labelled, horizon=horizon, stride=self.stride, seed=self.seed)))
        return 0


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """One self-contained HTML page about a run: RUN/report.html.

    Attributes:
        run: the folder of reproduce, quickstart, rl or evaluate.
        markdown: also write the tables to this file.
    """

    run: Positional[Path]
    markdown: Weights = None

    def __call__(self) -> int:
        """Writes the page."""
        page = collect(self.run)
        if self.markdown is not None:
            write_text(self.markdown, markdown(page))
        write(self.run / REPORT, page)
        return wrote(self.run / REPORT)
