"""The command agree: correlation of imagined and real success over policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import check_frames, check_observed, check_same_actions
from worldgymnast.cli.command import NO_PREFIX, EvaluationCommand, OptionalPath, print_written
from worldgymnast.cli.environment import (
    HIDDEN_HORIZON,
    check_policy,
    check_tasks,
    fitted,
    require_environment,
    simulated,
)
from worldgymnast.cli.inputs import open_ledger
from worldgymnast.cli.origins import check_same_cameras
from worldgymnast.cli.starters import component_files, refuse_starters, refuse_unknown_tasks, robot_of, spec_in
from worldgymnast.configs import Once, checked
from worldgymnast.environments import (
    DEFAULT_ENVIRONMENT,
    EnvironmentConfig,
    environment,
    environment_dict,
    with_horizon,
)
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import agreement_episodes
from worldgymnast.measure.agreement import (
    AgreeConfig,
    Outcomes,
    agreement_by_length,
    find_duplicates,
    imagine_more,
    powered_by_policy,
    roll_out_policies,
)
from worldgymnast.registry import load_judge, load_policy, load_world, to_dict
from worldgymnast.report import tables
from worldgymnast.report.agree import agreement_sheets, scatter, success_rates
from worldgymnast.report.diagnosis import closed_loop_sheet, plain_loops
from worldgymnast.report.powered import policies_sheet
from worldgymnast.report.world import Sheet, page
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.run import Run
from worldgymnast.surrogates.imagination import Imagination, Surrogate
from worldgymnast.surrogates.simulation import Simulation
from worldgymnast.weights import identity, write_bytes, write_text

_WORLD = "world"
"""Place of the outcomes of the world model."""
_INSTEAD = (
    "agreement is a correlation with real outcomes, so it cannot be measured. diagnose DATA compares world model and "
    "judge with recorded episodes"
)
MIN_TRAININGS = 12
"""Independent trainings below which a correlation says little."""


@checked(kw_only=True)
class Agree(EvaluationCommand):
    """Correlate imagined with real success of many policies from the same starts.

    Attributes:
        policies: policy files; a dozen or more, from independent trainings.
        trainings: one word per policy, in the same order. Policies with the same word come from one training, such as
            its checkpoints, and count once. If omitted, each policy is a training of its own.
        config: number of starts, and rollout lengths.
        env: real environment.
        world: world-model file; the starter world model if omitted.
        judge: judge file; the starter judge if omitted.
        beside: also evaluate a perturbed simulator.
        simulator: simulator and its perturbation.
        out: run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {**HIDDEN_HORIZON, SimulatorConfig: ("env",)}
    hidden_hint: ClassVar[str] = "Use --lengths for the horizon, and --env for what is simulated"
    policies: Annotated[
        Positional[tuple[Path, ...]], Once, tyro.conf.arg(metavar="POLICY...", help_behavior_hint="(required)")
    ]
    config: Annotated[AgreeConfig, NO_PREFIX] = AgreeConfig()
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    trainings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = ()
    world: OptionalPath = None
    judge: OptionalPath = None
    beside: bool = False
    simulator: SimulatorConfig = SimulatorConfig()
    out: Path

    def __post_init__(self) -> None:
        if len(self.policies) < 2:
            raise InputError(
                f"POLICY: found {len(self.policies)}, expected at least 2; {MIN_TRAININGS} or more are recommended"
            )
        if self.trainings and len(self.trainings) != len(self.policies):
            raise InputError(
                f"--trainings: found {len(self.trainings)} words for {len(self.policies)} policies, expected one each. "
                "Repeat a word for policies from the same training"
            )

    def __call__(self) -> int:
        """Roll out all policies, print the tables, and write tables and figure."""
        self.prepare(self.out)
        given, starter = {"world": self.world, "judge": self.judge}, robot_of(self.env)
        for path in self.policies:
            if (spec := spec_in(path)) is not None:
                refuse_starters(given, path, spec, starter)
        files = component_files(starter, **given)
        world = load_world(files["world"], self.device)
        judge = load_judge(files["judge"], self.device, open_ledger(self.out))
        env = with_horizon(fitted(self.env, self.given_flags, world.frame_size), max(self.config.lengths))
        check_frames(world.frame_size, env)
        check_tasks(env)
        refuse_unknown_tasks(self.judge, environment(env).tasks, starter)
        loaded = {str(path): load_policy(path, self.device) for path in self.policies}
        for path, other in find_duplicates(loaded).items():
            raise InputError(f"{path}: has the same weights as {other}. Give each policy once")
        for path, policy in loaded.items():
            check_same_actions(Path(path), policy.action_spec, files["world"], world.action_spec)
            require_environment("agree", Path(path), policy.action_spec, self.given_flags, _INSTEAD)
            check_observed(Path(path), policy, files["world"], world)
            check_policy(Path(path), policy, env)
        check_same_cameras(*files.values(), *self.policies)
        first = next(iter(loaded.values()))
        for path, policy in loaded.items():
            if policy.chunk != first.chunk:
                raise InputError(
                    f"{path}: chunk is {policy.chunk}, but {first.chunk} in {self.policies[0]}. Give policies with one "
                    "chunk size"
                )
        imagination = Imagination.of(first, world, judge, max(self.config.lengths), self.config.execute)
        surrogates: dict[str, Surrogate] = {_WORLD: imagination}
        if self.beside:
            simulator = replace(self.simulator, env=simulated(env, "--beside"))
            executed = executed_per_look(first, self.config.execute)
            surrogates["simulator"] = Simulation(simulator, executed, self.config.workers)
        inputs = {name: surrogate.inputs() for name, surrogate in surrogates.items()}
        inputs |= {"policies": {path: identity(policy) for path, policy in loaded.items()}}
        with Run(self.out, to_dict(self.config) | {"env": environment_dict(env), "inputs": inputs}) as run:
            robot, file = environment(env), self.out / "outcomes.json"
            results = roll_out_policies(loaded, surrogates, robot, file, self.config)
            more = {}
            if self.imagined:
                more = imagine_more(loaded, imagination, robot, file, self.config, self.imagined)
            run.finish({"frame_size": list(world.frame_size)})
        trainings = dict(zip(loaded, self.trainings or loaded, strict=True))
        sheets, figure = compare({f"all {len(results)}": results}, self.config, trainings)
        sheets.append(policies_sheet(powered_by_policy(results, more, _WORLD)))
        for sheet in sheets:
            tables.show(tables.sheet(sheet))
        count = len(set(trainings.values()))
        notes = list[str]()
        if count < MIN_TRAININGS:
            notes.append(f"Only {count} trainings: {MIN_TRAININGS} or more independent ones are recommended.")
        for note in notes:
            print(note)
        write_text(self.out / "agreement.md", page(sheets, "Agreement of imagined and real success", notes))
        write_bytes(self.out / "agreement.png", figure)
        print_written(self.out / "agreement.md")
        return print_written(self.out / "agreement.png")


def compare(
    groups: Mapping[str, Outcomes], config: AgreeConfig, trainings: Mapping[str, str] | None = None
) -> tuple[list[Sheet], bytes]:
    """Make the tables and the figure (PNG) of groups of policies.

    Args:
        groups: outcomes by group name; the first group has all policies, the last one is drawn.
        config: settings of the rollouts.
        trainings: training of each policy; if None, each is a training of its own.
    """
    results = {name: agreement_by_length(group, config, trainings) for name, group in groups.items()}
    all_outcomes, *_ = groups.values()
    *_, (last, drawn) = groups.items()
    success = {name: success_rates(rows) for name, rows in all_outcomes.items()}
    figure = scatter(results[last], success, drawn)
    loops = [closed_loop_sheet(place, plain_loops(own)) for place, own in agreement_episodes(all_outcomes).items()]
    tasks = {row["task"] for places in all_outcomes.values() for rows in places.values() for row in rows}
    return [*agreement_sheets(results, success, len(tasks)), *loops], figure
