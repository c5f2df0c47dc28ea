"""The command agree: whether a world model orders policies as reality does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from worldgymnast.cli.command import LENT, Computing, Weights, drives, ledger, sees, wrote
from worldgymnast.cli.command import agree as same_actions
from worldgymnast.cli.fitting import same_cameras
from worldgymnast.cli.starters import parts, refuse_starters, refuse_tasks, spec_in
from worldgymnast.configs import Once, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.errors import InputError
from worldgymnast.evaluation.closed_loop import of_agreement
from worldgymnast.measure.agreement import AgreeConfig, Outcomes, agreements, outcomes, twins
from worldgymnast.registry import environment, load_judge, load_policy, load_world, to_dict
from worldgymnast.report import tables
from worldgymnast.report.agree import scatter, seen, sheets
from worldgymnast.report.diagnosis import closed_loop_sheet, plain_loops
from worldgymnast.report.world import Sheet, page
from worldgymnast.run import Run
from worldgymnast.surrogates.imagination import Imagination, Surrogate
from worldgymnast.surrogates.simulation import Simulation
from worldgymnast.weights import identity, write_bytes, write_text

ENOUGH = 12
"""Policies below which an agreement says little."""


@checked(kw_only=True)
class Agree(Computing):
    """Many policies, real and imagined, from the same starts: correlation, rank violation, a picture.

    Attributes:
        policies: their files; a dozen or more, of trainings that do not depend on one another.
        trainings: a word for each policy, in the same order: those with the same word come from one training, such as
            its checkpoints, and count once; left out, each is a training of its own.
        config: on how much, and by which horizons.
        env: the real environment.
        world: the world model's file; the starter's if left out.
        judge: the judge's file; the starter's if left out.
        beside: also a software simulator, which is wrong.
        simulator: which simulator, and how wrong.
        out: the run folder.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",), SimulatorConfig: ("env",)}
    instead: ClassVar[str] = "use --lengths, and --env for what the simulator simulates"
    policies: Annotated[
        Positional[tuple[Path, ...]], Once, tyro.conf.arg(metavar="POLICY...", help_behavior_hint="(required)")
    ]
    config: Annotated[AgreeConfig, LENT] = AgreeConfig()
    env: MetaWorldConfig = MetaWorldConfig()
    trainings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD...")] = ()
    world: Weights = None
    judge: Weights = None
    beside: bool = False
    simulator: SimulatorConfig = SimulatorConfig()
    out: Path

    def __post_init__(self) -> None:
        if len(self.policies) < 2:
            raise InputError(f"policies: found {len(self.policies)}, expected at least 2, better {ENOUGH} or more")
        if self.trainings and len(self.trainings) != len(self.policies):
            raise InputError(
                f"--trainings: found {len(self.trainings)} words for {len(self.policies)} policies, expected one for "
                "each; repeat the word of policies that come from one training"
            )

    def __call__(self) -> int:
        """Rolls all out, prints the tables, and writes them and the picture."""
        self.prepare()
        env = replace(self.env, horizon=max(self.config.lengths))
        given = {"world": self.world, "judge": self.judge}
        for path in self.policies:
            if (spec := spec_in(path)) is not None:
                refuse_starters(given, path, spec)
        files = parts(**given)
        world = load_world(files["world"], self.device)
        judge = load_judge(files["judge"], self.device, ledger(self.out))
        sees(world, (env.size, env.size), "--env.size")
        check_tasks(env.tasks)
        refuse_tasks(self.judge, env.tasks)
        loaded = {str(path): load_policy(path, self.device) for path in self.policies}
        for path, other in twins(loaded).items():
            raise InputError(f"{path}: found the weights of {other}, expected every policy once")
        for path, policy in loaded.items():
            same_actions(Path(path), policy.action_spec, files["world"], world.action_spec)
            drives(Path(path), policy, env)
        same_cameras(*files.values(), *self.policies)
        first = next(iter(loaded.values()))
        if odd := [path for path, policy in loaded.items() if policy.chunk != first.chunk]:
            raise InputError(f"{odd[0]}: found another chunk than in {self.policies[0]}, expected one for all")
        surrogates: dict[str, Surrogate] = {"world": Imagination.of(first, world, judge, env.horizon)}
        if self.beside:
            simulator = replace(self.simulator, env=env)
            surrogates["simulator"] = Simulation(simulator, first.chunk, self.config.workers)
        inputs = {name: surrogate.inputs() for name, surrogate in surrogates.items()}
        inputs |= {"policies": {path: identity(policy) for path, policy in loaded.items()}}
        with Run(self.out, to_dict(self.config) | {"env": to_dict(self.env), "inputs": inputs}) as run:
            found = outcomes(loaded, surrogates, environment(env), self.out / "outcomes.json", self.config)
            run.finish({})
        trainings = (
            dict(zip(loaded, self.trainings, strict=True)) if self.trainings else {name: name for name in loaded}
        )
        shown, drawn = compared({f"all {len(found)}": found}, self.config, trainings)
        for sheet in shown:
            tables.show(tables.sheet(sheet))
        count = len(set(trainings.values()))
        few = f"{count} trainings say little: expected {ENOUGH} or more that do not depend on one another."
        notes = [few] if count < ENOUGH else []
        print("\n".join(notes), end="\n" * len(notes))
        write_text(self.out / "agreement.md", page(shown, "How far imagined success agrees with real success", notes))
        write_bytes(self.out / "agreement.png", drawn)
        wrote(self.out / "agreement.md")
        return wrote(self.out / "agreement.png")


def compared(
    groups: Mapping[str, Outcomes], config: AgreeConfig, trainings: Mapping[str, str] | None = None
) -> tuple[list[Sheet], bytes]:
    """The tables and the picture (a PNG file's content) of groups of policies.

    Args:
        groups: outcomes by name of the group; the first has all policies, and the last one's agreement is drawn.
        config: how they came about.
        trainings: the training of each policy; left out, each is one of its own.
    """
    by_policies = {name: agreements(group, config, trainings) for name, group in groups.items()}
    everybody, *_ = groups.values()
    *_, (last, shown) = groups.items()
    each = {name: seen(rows) for name, rows in everybody.items()}
    drawn = scatter(by_policies[last], each, shown)
    loops = [closed_loop_sheet(place, plain_loops(own)) for place, own in of_agreement(everybody).items()]
    tasks = {row["task"] for places in everybody.values() for rows in places.values() for row in rows}
    return [*sheets(by_policies, each, len(tasks)), *loops], drawn
