"""The commands that evaluate judges: judge calibrate, judge compare."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from worldgymnast.actions import converter
from worldgymnast.cli.checks import check_frame_size, check_same_rate, require_labels, require_writable
from worldgymnast.cli.command import (
    DeviceCommand,
    LabelledCommand,
    OptionalPath,
    OptionalPositive,
    file_suffix,
    print_written,
)
from worldgymnast.cli.data_defaults import frames_for, rate_of
from worldgymnast.cli.environment import default_horizon
from worldgymnast.cli.inputs import read, state_for
from worldgymnast.cli.origins import cameras_of, check_same_cameras, check_same_state, fps_of, rule_of, size_of
from worldgymnast.configs import Fraction, Positive, Seed, checked
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.evaluation.calibration import (
    TaskCalibrations,
    VerdictQuality,
    difference,
    measure,
    rows_by_task,
    tasks_with_enough,
    thresholds,
)
from worldgymnast.evaluation.success import numbers
from worldgymnast.judges.combined import check
from worldgymnast.ledger import Ledger
from worldgymnast.measure.judge import Answers, JudgeRun, run_judges, truncate_labeled, undetermined_tasks
from worldgymnast.protocols import Judge, WorldModel
from worldgymnast.registry import load_judge, load_world
from worldgymnast.report import tables
from worldgymnast.report.judge import KINDS, Comparison, JudgeResult, comparison_sheets, diagram, sheets
from worldgymnast.report.world import Sheet, page
from worldgymnast.weights import to_json, write_bytes, write_text

MAX_ERRORS = 0.1
"""Share of failed judgements above which a judge is not usable."""


def load_judge_with_ledger(path: Path, device: str) -> Judge:
    """Load a judge, with a ledger of paid answers beside its file."""
    if not path.name:
        raise InputError(f"{path}: is a folder. Give a judge file")
    return load_judge(path, device, Ledger(path.with_suffix(".sqlite")))


@checked(kw_only=True)
class JudgeEvaluationCommand(DeviceCommand, LabelledCommand):
    """A command that asks judges about real rollouts and imagined replays.

    Attributes:
        data: labelled data sets that neither judge nor world model was trained on.
        world: world-model file, to also judge imagined replays of the same actions.
        horizon: actions per episode to judge; it counts as a success if it succeeded by then; default 24 in Meta-World,
            else whole episodes.
        stride: frames between two that a judge sees, normally the policy's chunk; default 0.15 seconds (2 frames in
            Meta-World).
        rows: clips per batch, for imagination and judge.
        seed: random seed of imagination, bootstrap and folds.
        out: also write the tables to this .md file, or all numbers to this .json file.
    """

    data: tuple[Path, ...]
    world: OptionalPath = None
    horizon: OptionalPositive = None
    stride: OptionalPositive = None
    rows: Positive = 32
    seed: Seed = 0
    out: Annotated[OptionalPath, file_suffix(".md", ".json")] = None

    def check_outputs(self, **files: Path | None) -> None:
        """Require output files that are writable and not also inputs."""
        named = {name: path for name, path in {"world": self.world, **files, "out": self.out}.items() if path}
        for name in ("out", "plot", "save"):
            if name not in named:
                continue
            for other, path in named.items():
                if other != name and path.resolve() == named[name].resolve():
                    argument = other.upper() if other in ("judge", "a", "b") else f"--{other}"
                    raise InputError(f"--{name}: {path} is also the file of {argument}. Give another file")
            require_writable(f"--{name}", named[name])

    def clips(self, *judges: Path) -> tuple[EpisodeSet, WorldModel | None]:
        """Load labelled rollouts and world model; print unknown results."""
        world = None if self.world is None else load_world(self.world, self.device)
        check_same_cameras(self.world, *judges, requested=self.image_key)
        episodes = read(
            self.data,
            size_of(self.world),
            self.cameras or cameras_of(self.world),
            self.fps,
            fps_of(self.world),
            self.labels,
            rule_of(self.world, *judges, requested=self.resize),
            state_for(world),
        )
        check_same_state(self.world, names=episodes.state_names)
        require_labels(self.data, episodes)
        horizon = self.horizon or default_horizon(episodes.spec)
        real = episodes.select(episodes.labelled) if horizon is None else truncate_labeled(episodes, horizon)
        if world is not None:
            check_frame_size(world.frame_size, episodes.size, "data convert SOURCE TARGET --size")
            if self.world is not None:
                check_same_rate(self.data[0], episodes.fps, self.world, world.fps, is_data=True)
            converter(episodes.spec, world.action_spec)
        if skipped := len(episodes) - len(real):
            print(f"{skipped} of {len(episodes)} episodes have no label and are skipped")
        for line in undetermined_tasks(real):
            print(line)
        return real, world

    def answers(self, judges: Sequence[Judge], real: EpisodeSet, world: WorldModel | None) -> Answers:
        """Ask the judges about all clips, after a preflight check."""
        for judge in judges:
            check(judge, set(zip(real.task, real.instruction, strict=True)))
        stride = self.stride or frames_for(2, rate_of(real))
        answers = run_judges(judges, real, world, stride=stride, seed=self.seed, rows=self.rows)
        for judge, by_kind in zip(judges, answers.runs, strict=True):
            if errors := [error for judgements in by_kind.values() for error in judgements.errors]:
                print(f"{judge.name}: {len(errors)} judgements failed. First error: {errors[0]}")
        return answers

    def write(self, shown: Sequence[Sheet], results: Any, title: str, notes: Sequence[str] = ()) -> None:
        """Print the tables; write them, or all numbers, to `out` if given."""
        for sheet in shown:
            tables.show(tables.sheet(sheet))
        if self.out is None:
            return
        text = to_json(numbers(results)) if self.out.suffix == ".json" else page(shown, title, notes)
        write_text(self.out, text)
        print_written(self.out)


@checked(kw_only=True)
class JudgeCalibrate(JudgeEvaluationCommand):
    """Measure a judge against labels, and choose its thresholds.

    The exit code is 0 if the judge is usable as a reward, else 1.

    Attributes:
        judge: judge file.
        usable: required balanced accuracy, on imagined replays with --world, else on real frames.
        plot: also write the reliability diagram to this .png file.
        save: also write the judge with the chosen thresholds, per task if there are enough labels, to this .json file.
    """

    judge: Positional[Path]
    usable: Fraction = 0.8
    plot: Annotated[OptionalPath, file_suffix(".png")] = None
    save: Annotated[OptionalPath, file_suffix(".json")] = None

    def __call__(self) -> int:
        """Print tables and conclusion; return 1 unless the judge is usable."""
        self.check_outputs(judge=self.judge, plot=self.plot, save=self.save)
        self.prepare()
        judge = load_judge_with_ledger(self.judge, self.device)
        real, world = self.clips(self.judge)
        if self.save is not None and len(outcomes := set(real.succeeded.tolist())) < 2:
            present, missing = ("successes", "failures") if True in outcomes else ("failures", "successes")
            raise InputError(f"--save: the data have only {present}. Add data with {missing}")
        answers = self.answers([judge], real, world)
        (by_kind,) = answers.runs
        results = {kind: _calibrate(judgements, answers, self.seed) for kind, judgements in by_kind.items()}
        kind = list(results)[-1]
        is_usable, conclusion = verdict(results[kind].measured, kind, self.usable)
        all_numbers = {"judge": judge.name, "usable": is_usable, "conclusion": conclusion, **results}
        self.write(sheets(results), all_numbers, f"Calibration of {self.judge}", [conclusion])
        if self.plot is not None:
            write_bytes(self.plot, diagram(results, f"{'/'.join(self.judge.parts[-2:])}: reliability"))
            print_written(self.plot)
        if self.save is not None:
            write_text(self.save, to_json(self._description(by_kind[kind], answers)))
            print_written(self.save)
        print(conclusion)
        return int(not is_usable)

    def _description(self, judgements: JudgeRun, answers: Answers) -> dict[str, Any]:
        """Describe the judge with thresholds that safely reject failures."""
        tasks = tasks_with_enough(judgements.beliefs, answers.truth, answers.task)
        chosen = thresholds(judgements.beliefs, answers.truth, answers.task, "safe", tasks)
        if math.isnan(chosen.overall):
            raise InputError("--save: the judge scored no success, or no failure. See the errors of the judge above")
        folder = (self.save or Path()).resolve().parent
        path = Path(os.path.relpath(self.judge.resolve(), folder)).as_posix()
        by_task = dict(chosen.by_task)
        return {"kind": "CalibratedConfig", "judge": path, "threshold": chosen.overall, "by_task": by_task}


@checked(kw_only=True)
class JudgeCompare(JudgeEvaluationCommand):
    """Compare two judges on the same clips, by task.

    Attributes:
        a: judge file.
        b: judge file to compare with it.
    """

    a: Positional[Path]
    b: Positional[Path]

    def __call__(self) -> int:
        """Print the tables."""
        self.check_outputs(a=self.a, b=self.b)
        self.prepare()
        judges = [load_judge_with_ledger(path, self.device) for path in (self.a, self.b)]
        real, world = self.clips(self.a, self.b)
        answers = self.answers(judges, real, world)
        results = {kind: _compare(kind, answers, self.seed) for kind in answers.runs[0]}
        shown = comparison_sheets(results, str(self.a), str(self.b))
        self.write(shown, results, f"{self.a} and {self.b} on the same clips")
        return 0


def verdict(measured: TaskCalibrations, kind: str, usable: float) -> tuple[bool, str]:
    """Decide whether a judge is usable, with the reason."""
    overall, reasons = measured.overall, []
    accuracy, clips = overall.worth.balanced_accuracy, overall.count + overall.errors
    line = f"balanced accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] on {KINDS[kind]}"
    if overall.errors > MAX_ERRORS * clips:
        reasons.append(f"{overall.errors} of {clips} judgements on {KINDS[kind]} failed (limit {MAX_ERRORS:.0%})")
    if math.isnan(accuracy.value):
        reasons.append(f"balanced accuracy on {KINDS[kind]} is unknown: no judged success, or no judged failure")
    elif accuracy.value < usable:
        reasons.append(f"{line} is below --usable {usable:g}")
    if reasons:
        return False, f"not usable: {'; '.join(reasons)}"
    return True, f"usable: {line} reaches --usable {usable:g}"


def _calibrate(judgements: JudgeRun, answers: Answers, seed: int) -> JudgeResult:
    measured = measure(judgements.beliefs, judgements.outcomes, answers.truth, answers.task, seed)
    return JudgeResult(measured, judgements.seconds_a_clip, judgements.cost_a_clip)


def _compare(kind: str, answers: Answers, seed: int) -> Mapping[str | None, Comparison]:
    """Compare both judges per task, and on all tasks under None."""
    results = {}
    for name, rows in rows_by_task(answers.task).items():
        truth = answers.truth[rows]
        first, second = ([by_kind[kind].outcomes[i] for i in rows] for by_kind in answers.runs)
        accuracies = [VerdictQuality.of(outcomes, truth.tolist(), seed) for outcomes in (first, second)]
        results[name] = Comparison(accuracies[0], accuracies[1], difference(first, second, truth, seed))
    return results
