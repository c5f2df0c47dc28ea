"""The evaluation commands: evaluate, eval-world, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import check_frame_size, check_same_actions, check_same_rate, require_writable
from worldgymnast.cli.command import (
    REPORT,
    Command,
    DeviceCommand,
    EvaluationCommand,
    HeldOut,
    LabelledCommand,
    OptionalPath,
    OptionalPositive,
    file_suffix,
    print_written,
)
from worldgymnast.cli.data_defaults import frames_for, rate_of
from worldgymnast.cli.environment import check_policy, check_tasks, default_horizon, fitted, require_environment
from worldgymnast.cli.inputs import check_one_state, choose_held_out, load_components, open_ledger, read_each
from worldgymnast.cli.origins import (
    cameras_of,
    check_same_cameras,
    check_same_state,
    fps_of,
    held_out_keys,
    rule_of,
    size_in,
)
from worldgymnast.cli.results import print_results
from worldgymnast.cli.starters import component_files, refuse_unknown_tasks, robot_of
from worldgymnast.configs import Count, Positive, Seed, Seeds, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment, environment_dict
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.evaluation.perceptual import lpips_distance
from worldgymnast.evaluation.uncertainty import JitterConfig
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import ScoreConfig
from worldgymnast.measure.state import state_fidelity
from worldgymnast.measure.world import SIGNAL, comparison_rows, judge_outcomes, measure_drift, replay_fidelity, to_plain
from worldgymnast.preprocessing import compact
from worldgymnast.protocols import Judge, Policy, WorldModel, frame_size, predicts_state
from worldgymnast.registry import is_published, load_judge, load_policy, load_world, to_dict
from worldgymnast.report import tables
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import write
from worldgymnast.report.world import markdown as world_markdown
from worldgymnast.report.world import sheets
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.run import Run
from worldgymnast.video import contact_sheet, png
from worldgymnast.weights import identity, load_weights, to_json, weights_hash, write_bytes, write_text

_INSTEAD = (
    "run both policies on the robot, label the episodes, and compare the counts (docs/how-to/no-robot.md); or let the "
    "report of rl show what is known"
)


@checked(kw_only=True)
class Evaluate(EvaluationCommand):
    """Score a policy for real, or compare two on the same real layouts, task by task.

    Attributes:
        before: policy file.
        after: policy file to compare with it; the first is scored alone if omitted.
        env: real environment.
        score: episodes and layouts of the evaluation.
        seeds: random seeds of the sampling; each has its own layouts.
        world: world-model file, to also imagine the same layouts; with --imagined, the starter world model if omitted.
        judge: judge file for the imagined layouts; the starter judge if omitted.
        out: run folder.
    """

    before: Positional[Path]
    after: Positional[Annotated[Path | None, tyro.conf.arg(metavar="[AFTER]")]] = None
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    score: ScoreConfig = ScoreConfig()
    seeds: Seeds = (0,)
    world: OptionalPath = None
    judge: OptionalPath = None
    out: Path

    def __call__(self) -> int:
        """Evaluate, print the table and write the report."""
        self.prepare(self.out)
        policies = {"policy": self.before} if self.after is None else {"before": self.before, "after": self.after}
        loaded = {path: load_policy(path, is_tested=False) for path in policies.values()}
        for path, policy in loaded.items():
            require_environment("evaluate", path, policy.action_spec, self.given_flags, _INSTEAD)
        newest = self.after or self.before
        size = size_in(self.world) or size_in(newest) or size_in(self.before)
        env = fitted(self.env, self.given_flags, size, executed_per_look(loaded[newest], self.score.execute))
        for path, policy in loaded.items():
            check_policy(path, policy, env)
        check_tasks(env)
        hashes = {name: _hash(path, loaded[path]) for name, path in policies.items()}
        loaded.clear()  # a large policy would lie in memory twice
        robot = environment(env)
        score = self.score.resolved(robot)
        config = {"policies": hashes, "env": environment_dict(env), "score": to_dict(score), "seeds": self.seeds}
        world, judge = self._world_and_judge(env)
        config |= {name: identity(part) for name, part in (("world", world), ("judge", judge)) if part is not None}
        with Run(self.out, config) as run:
            file = self.out / "evaluation.json"
            contenders = {name: Contender(path, self.seeds) for name, path in policies.items()}
            rows = evaluate(file, contenders, robot, score, self.device, world, judge, self.imagined)
            run.finish({"frame_size": list(frame_size(robot))})
        print_results(self.out, rows)
        return 0

    def _world_and_judge(self, env: EnvironmentConfig) -> tuple[WorldModel | None, Judge | None]:
        """Load and check world model and judge if layouts are imagined."""
        if not (self.imagined or self.world or self.judge):
            return None, None
        starter = robot_of(env)
        files = component_files(starter, world=self.world, judge=self.judge)
        refuse_unknown_tasks(self.judge, environment(env).tasks, starter)
        parts = {"policy": self.before, **files}
        loaded = load_components(parts, self.device, open_ledger(self.out), env, self.given_flags)
        if self.after is not None:
            after = load_policy(self.after, is_tested=False).action_spec
            check_same_actions(self.after, after, files["world"], loaded.world.action_spec)
        check_same_cameras(self.before, self.after, *files.values())
        return loaded.world, loaded.judge


def _hash(path: Path, policy: Policy) -> str:
    """Hash of a policy in a file of weights, or of a published one."""
    return identity(policy) if is_published(path) else weights_hash(load_weights(path)[0])


@checked(kw_only=True)
class EvalWorld(DeviceCommand, LabelledCommand):
    """Measure a world model: fidelity, action-following, drift and, with a judge, outcomes.

    Attributes:
        world: world-model file.
        judge: judge file; outcomes are not measured if omitted.
        data: data sets that neither was trained on; outcomes need labelled ones.
        held_out: use only the episodes that train-world or distill held out with this number per task, or "auto".
        trained: with --held-out, use the training episodes instead.
        starts: start frames per episode, evenly spaced.
        length: frames to imagine from each start; default 2.25 seconds (30 frames in Meta-World).
        drift: frames to imagine far beyond the data; 0 to skip; default 15 seconds (200 frames in Meta-World).
        perceptual: also measure LPIPS; needs the extra "perceptual".
        horizon: actions per episode to judge; default 24 in Meta-World, else whole episodes.
        stride: frames between two that the judge sees, normally the policy's chunk; default 0.15 seconds (2 frames in
            Meta-World).
        jitter: perturbed futures whose disagreement is the uncertainty.
        rows: clips imagined per batch; fewer need less memory.
        seed: random seed of the imagination.
        sheet: also write a .png file with real frames above imagined ones, two rows per episode.
        out: also write the tables to this .md file, or all numbers to this .json file.
    """

    world: Positional[Path]
    judge: OptionalPath = None
    data: tuple[Path, ...]
    held_out: HeldOut = None
    trained: bool = False
    starts: Positive = 1
    length: OptionalPositive = None
    drift: Annotated[Count | None, tyro.conf.arg(metavar="N")] = None
    perceptual: bool = False
    horizon: OptionalPositive = None
    stride: OptionalPositive = None
    jitter: JitterConfig = JitterConfig()
    rows: Positive = 32
    seed: Seed = 0
    sheet: Annotated[OptionalPath, file_suffix(".png")] = None
    out: Annotated[OptionalPath, file_suffix(".md", ".json")] = None

    def __post_init__(self) -> None:
        if self.trained and not self.held_out:
            raise InputError("--trained: --held-out is missing. Give the same as in training")

    def __call__(self) -> int:
        """Measure, and print each table as soon as possible."""
        if self.out is not None:
            require_writable("--out", self.out)
        self.prepare()
        distance = lpips_distance(self.device) if self.perceptual else None
        world = load_world(self.world, self.device)
        judge = None if self.judge is None else load_judge(self.judge, self.device)
        check_same_cameras(self.world, self.judge, requested=self.image_key)
        sets = read_each(
            self.data,
            compact(world.frame_size),
            cameras=self.cameras or cameras_of(self.world),
            fps=self.fps,
            assumed_fps=fps_of(self.world),
            labels=self.labels,
            resize=rule_of(self.world, self.judge, requested=self.resize),
            state=predicts_state(world),
        )
        check_one_state(self.data, sets)
        check_same_state(self.world, names=sets[0].state_names)
        episodes = concatenate(choose_held_out(self.data, sets, self.held_out, self.trained, held_out_keys(self.world)))
        check_frame_size(world.frame_size, episodes.size, "data convert SOURCE TARGET --size")
        check_same_rate(self.data[0], episodes.fps, self.world, world.fps, is_data=True)
        rate = rate_of(episodes)
        results: dict[str, Any] = {}

        def show(**new: Any) -> None:
            results.update(new)
            for sheet in sheets(new):
                tables.show(tables.sheet(sheet))

        episodes, length = drop_short(episodes, self.length or frames_for(30, rate))
        if self.sheet is not None:
            write_bytes(self.sheet, png(contact_sheet(comparison_rows(world, episodes, length, self.seed))))
            print_written(self.sheet)
        common = {"seed": self.seed, "rows": self.rows}
        show(
            fidelity=replay_fidelity(world, episodes, starts=self.starts, length=length, perceptual=distance, **common)
        )
        if predicts_state(world):
            show(state=state_fidelity(world, episodes, starts=self.starts, length=length, **common))
        if frames := frames_for(200, rate) if self.drift is None else self.drift:
            show(drift=measure_drift(world, episodes, frames=frames, **common))
        labelled = episodes.select(episodes.labelled)
        notes = self._notes(judge is not None, len(labelled) > 0)
        if judge is not None and len(labelled):
            horizon = self.horizon or default_horizon(episodes.spec) or int(labelled.length.max())
            stride = self.stride or frames_for(2, rate)
            known = judge_outcomes(world, judge, labelled, horizon=horizon, stride=stride, jitter=self.jitter, **common)
            show(gate=known.gate(), detection=to_plain(known.detections()), kept=known.kept(SIGNAL))
        for note in notes:
            print(note)
        return self._write(results, notes)

    def _notes(self, has_judge: bool, has_labels: bool) -> list[str]:
        """Explain why outcomes are not measured, if so."""
        reasons = list[str]()
        if not has_judge:
            reasons.append("--judge was not given")
        if not has_labels:
            reasons.append(f"{self.data[0]}: field 'success': no episode has a label")
        return [f"Outcomes were not measured: {'; '.join(reasons)}."] if reasons else []

    def _write(self, results: dict[str, Any], notes: list[str]) -> int:
        if self.out is None:
            return 0
        if self.out.suffix == ".json":
            write_text(self.out, to_json(to_plain(results)))
        else:
            write_text(self.out, world_markdown(results, f"Evaluation of {self.world}", notes))
        return print_written(self.out)


def drop_short(episodes: EpisodeSet, length: int) -> tuple[EpisodeSet, int]:
    """Drop episodes with fewer than `length` actions, and print how many.

    The length is first lowered to what nine in ten episodes have.

    Returns:
        The episodes, and the length.

    Raises:
        InputError: no episode has an action.
    """
    usable = np.sort(episodes.length[episodes.length > 0])
    if not len(usable):
        raise InputError(f"--data: all {len(episodes)} episodes have a single frame. Give longer episodes")
    length = min(length, int(usable[len(usable) // 10]))
    is_kept = episodes.length >= length
    if not is_kept.all():
        print(f"{int((~is_kept).sum())} of {len(episodes)} episodes have fewer than {length} actions and are skipped")
    return episodes.select(is_kept), length


@checked(kw_only=True)
class Report(Command):
    """Write a self-contained HTML report of a run.

    Attributes:
        run: run folder of reproduce, quickstart, rl, evaluate or another command that runs policies.
        markdown: also write the tables to this Markdown file.
        out: HTML file to write; RUN/report.html if omitted.
    """

    run: Positional[Path]
    markdown: OptionalPath = None
    out: OptionalPath = None

    def __call__(self) -> int:
        """Write the report."""
        page, file = collect(self.run), self.out or self.run / REPORT
        require_writable("--out", file)
        if self.markdown is not None:
            require_writable("--markdown", self.markdown)
            write_text(self.markdown, markdown(page))
        write(file, page)
        return print_written(file)
