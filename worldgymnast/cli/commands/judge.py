"""The commands about judges: judge calibrate, judge compare."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from worldgymnast.actions import converter
from worldgymnast.cli.command import Computing, Number, Watching, Weights, ending, labelled, read, sees, writable, wrote
from worldgymnast.cli.fitting import cameras_of, fps_of, frames_for, rate_of, same_cameras, size_of
from worldgymnast.cli.starters import is_metaworld
from worldgymnast.configs import Fraction, Positive, Seed, checked
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.evaluation.calibration import Measured, Worth, difference, enough, measure, rows_by_task, thresholds
from worldgymnast.evaluation.success import numbers
from worldgymnast.judges.combined import check
from worldgymnast.ledger import Ledger
from worldgymnast.measure.judge import Answers, Said, ask, first_actions, unknowns
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.registry import load_judge, load_world
from worldgymnast.report import tables
from worldgymnast.report.judge import KINDS, Compared, Found, compared, diagram, sheets
from worldgymnast.report.world import Sheet, page
from worldgymnast.weights import to_json, write_bytes, write_text

ERRORS = 0.1
"""Share of failed judgements above which a judge is not usable."""


def judge_of(path: Path, device: str) -> Judge:
    """The judge that a file holds or describes; what paid ones answer is kept beside it, and never paid for again."""
    if not path.name:
        raise InputError(f"{path}: found a folder, expected a judge's file")
    return load_judge(path, device, Ledger(path.with_suffix(".sqlite")))


@checked(kw_only=True)
class Judging(Computing, Watching):
    """A command that asks judges about labelled real rollouts and, with a world, about their imagined replays.

    Attributes:
        data: labelled data sets that no judge, and no world, was trained on.
        world: the world model's file; imagines the same actions from the same first frames.
        horizon: actions of an episode that are judged; it succeeded if it did so by then; left out, 24 in Meta-World,
            and whole episodes of other robots.
        stride: a judge sees every that many frames; the policy's chunk; left out, those of 0.15 seconds (2 in
            Meta-World).
        rows: clips that are imagined, and given to a judge, in one call.
        seed: of the imagination, the bootstrap and the folds.
        out: also write the tables to this .md file, or all numbers to this .json file.
    """

    data: tuple[Path, ...]
    world: Weights = None
    horizon: Number = None
    stride: Number = None
    rows: Positive = 32
    seed: Seed = 0
    out: Annotated[Weights, ending(".md", ".json")] = None

    def apart(self, **files: Path | None) -> None:
        """Raises where a file that is to be written is another of the command's, or cannot be written."""
        named = {name: path for name, path in {"world": self.world, **files, "out": self.out}.items() if path}
        for name in ("out", "plot", "save"):
            if name not in named:
                continue
            for other, path in named.items():
                if other != name and path.resolve() == named[name].resolve():
                    raise InputError(f"--{name}: found {path}, which is the {other}'s file, expected another")
            writable(f"--{name}", named[name])

    def clips(self, *judges: Path) -> tuple[EpisodeSet, WorldModel | None]:
        """The labelled rollouts and the world, or what is wrong with them; says what will stay unknown."""
        world = None if self.world is None else load_world(self.world, self.device)
        same_cameras(self.world, *judges, asked=self.image_key)
        episodes = read(
            self.data, size_of(self.world), self.cameras or cameras_of(self.world), self.fps, fps_of(self.world)
        )
        labelled(self.data, episodes)
        if self.horizon is None and not is_metaworld(episodes.spec):
            real = episodes.select(episodes.labelled)
        else:
            real = first_actions(episodes, self.horizon or 24)
        if world is not None:
            sees(world, episodes.size, "data convert SOURCE TARGET --size")
            converter(episodes.spec, world.action_spec)
        if left := len(episodes) - len(real):
            print(f"{left} of {len(episodes)} episodes have no labels and are left out")
        for line in unknowns(real):
            print(line)
        return real, world

    def answers(self, judges: Sequence[Judge], real: EpisodeSet, world: WorldModel | None) -> Answers:
        """What the judges say, and the reasons of those that failed; every judge looks first whether it can."""
        for judge in judges:
            check(judge, set(zip(real.task, real.instruction, strict=True)))
        stride = self.stride or frames_for(2, rate_of(real))
        found = ask(judges, real, world, stride=stride, seed=self.seed, rows=self.rows)
        for judge, said in zip(judges, found.said, strict=True):
            if errors := [reason for one in said.values() for reason in one.errors]:
                print(f"{judge.name}: {len(errors)} judgements failed, the first because: {errors[0]}")
        return found

    def write(self, shown: Sequence[Sheet], found: Any, title: str, notes: Sequence[str] = ()) -> None:
        """Prints the tables and writes them, or the numbers, where `out` says."""
        for sheet in shown:
            tables.show(tables.sheet(sheet))
        if self.out is None:
            return
        text = to_json(numbers(found)) if self.out.suffix == ".json" else page(shown, title, notes)
        write_text(self.out, text)
        wrote(self.out)


@checked(kw_only=True)
class JudgeCalibrate(Judging):
    """How far a judge can be trusted, against labels, and which thresholds on its belief it should have.

    The exit code is 0 where it is usable as a reward, 1 where it is not.

    Attributes:
        judge: the judge's file.
        usable: the balanced accuracy asked for, on imagined replays where there is a world, else on real frames.
        plot: also draw the reliability diagram into this .png file.
        save: also write the judge with the thresholds chosen here, by task where labels suffice, to this .json file.
    """

    judge: Positional[Path]
    usable: Fraction = 0.8
    plot: Annotated[Weights, ending(".png")] = None
    save: Annotated[Weights, ending(".json")] = None

    def __call__(self) -> int:
        """Prints the tables and the conclusion; 1 if the judge is not usable."""
        self.prepare()
        self.apart(judge=self.judge, plot=self.plot, save=self.save)
        judge = judge_of(self.judge, self.device)
        real, world = self.clips(self.judge)
        if self.save is not None and len(kinds := set(real.succeeded.tolist())) < 2:
            only, other = ("successes", "failures") if True in kinds else ("failures", "successes")
            raise InputError(f"--save: found only {only}, expected {other} too; add data that has some")
        answers = self.answers([judge], real, world)
        (said,) = answers.said
        found = {kind: _found(one, answers, self.seed) for kind, one in said.items()}
        kind = list(found)[-1]
        usable, conclusion = verdict(found[kind].measured, kind, self.usable)
        all_numbers = {"judge": judge.name, "usable": usable, "conclusion": conclusion, **found}
        self.write(sheets(found), all_numbers, f"How far {self.judge} can be trusted", [conclusion])
        if self.plot is not None:
            write_bytes(self.plot, diagram(found, f"{'/'.join(self.judge.parts[-2:])}: belief against truth"))
            wrote(self.plot)
        if self.save is not None:
            write_text(self.save, to_json(self.chosen(said[kind], answers)))
            wrote(self.save)
        print(conclusion)
        return int(not usable)

    def chosen(self, said: Said, answers: Answers) -> dict[str, Any]:
        """The judge's file and the thresholds that refuse most failures safely, as `save` writes them."""
        own = enough(said.beliefs, answers.truth, answers.task)
        found = thresholds(said.beliefs, answers.truth, answers.task, "safe", own)
        if math.isnan(found.overall):
            raise InputError(
                "--save: found no judged success, or no judged failure, expected both; see why the judge failed"
            )
        folder = (self.save or Path()).resolve().parent
        path = Path(os.path.relpath(self.judge.resolve(), folder)).as_posix()
        return {"kind": "CalibratedConfig", "judge": path, "threshold": found.overall, "by_task": dict(found.by_task)}


@checked(kw_only=True)
class JudgeCompare(Judging):
    """Two judges on the same clips: balanced accuracy of each, and the paired difference, by task.

    Attributes:
        a: a judge's file.
        b: another's.
    """

    a: Positional[Path]
    b: Positional[Path]

    def __call__(self) -> int:
        """Prints the tables."""
        self.prepare()
        self.apart(a=self.a, b=self.b)
        judges = [judge_of(path, self.device) for path in (self.a, self.b)]
        real, world = self.clips(self.a, self.b)
        answers = self.answers(judges, real, world)
        found = {kind: _compared(kind, answers, self.seed) for kind in answers.said[0]}
        self.write(compared(found, str(self.a), str(self.b)), found, f"{self.a} and {self.b} on the same clips")
        return 0


def verdict(found: Measured, kind: str, usable: float) -> tuple[bool, str]:
    """Whether a judge is usable by what was found on one kind of clips, and the sentence that says so."""
    overall, reasons = found.overall, []
    accuracy, clips = overall.worth.balanced_accuracy, overall.count + overall.errors
    said = f"balanced accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] on {KINDS[kind]}"
    if overall.errors > ERRORS * clips:
        reasons.append(f"{overall.errors} of {clips} judgements on {KINDS[kind]} failed, more than {ERRORS:.0%}")
    if math.isnan(accuracy.value):
        reasons.append(f"balanced accuracy on {KINDS[kind]} is unknown: no judged success, or no judged failure")
    elif accuracy.value < usable:
        reasons.append(f"{said} is below --usable {usable:g}")
    if reasons:
        return False, f"not usable: {'; '.join(reasons)}"
    return True, f"usable: {said} reaches --usable {usable:g}"


def _found(said: Said, answers: Answers, seed: int) -> Found:
    measured = measure(said.beliefs, said.outcomes, answers.truth, answers.task, seed)
    return Found(measured, said.seconds_a_clip, said.cost_a_clip)


def _compared(kind: str, answers: Answers, seed: int) -> Mapping[str | None, Compared]:
    """Both judges on the clips of a kind: on those of every task, and under None on all."""
    found = {}
    for name, rows in rows_by_task(answers.task).items():
        truth = answers.truth[rows]
        first, second = ([said[kind].outcomes[i] for i in rows] for said in answers.said)
        worth = [Worth.of(said, truth.tolist(), seed) for said in (first, second)]
        found[name] = Compared(worth[0], worth[1], difference(first, second, truth, seed))
    return found


def _ends(flag: str, path: Path | None, *endings: str) -> None:
    """Raises where a file to write has none of these endings."""
    if path is not None and path.suffix not in endings:
        raise InputError(f"--{flag}: found {path}, expected a file that ends in {' or '.join(endings)}")
