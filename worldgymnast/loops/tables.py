"""Everything that docs/results.md compares, cell by cell: a policy's training and its real evaluation.

A cell is a folder OUT/cells/NAME that a loop of its own fills, and a file OUT/evaluations-N-T/NAME.json; both are kept,
so the same command goes on where it was stopped, and another seed or mismatch adds cells. All methods begin with the
starter policy, practise equally long, and choose what they keep by equally many real scorings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldgymnast.config import load_judge, load_policy, load_world, to_dict
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.execution.surrogate import Imagination, Simulation
from worldgymnast.loops.agree import AgreeConfig, outcomes
from worldgymnast.loops.finetune import FinetuneConfig, finetune, from_photographs, photographs
from worldgymnast.loops.iter_sft import IterSftConfig, iter_sft
from worldgymnast.loops.quickstart import QuickstartConfig, starter
from worldgymnast.loops.record import RecordConfig
from worldgymnast.loops.reproduce import PolicyRecordConfig, Recipe, evaluate, record_policy_to, record_to, stage
from worldgymnast.loops.score import ScoreConfig, layouts
from worldgymnast.loops.supervised import FitConfig
from worldgymnast.loops.train import PolicyTraining, demonstrations, train_policy
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.run import Run
from worldgymnast.types import in_range

SFT, EVERYTHING, ITERATED, SIMULATED, IMAGINED = "sft", "sft-everything", "iter-sft", "rl-simulator", "rl-world"
"""The methods, by the first word of their cells' names."""


@dataclass(frozen=True)
class TablesConfig:
    """How many cells, and how much each.

    Attributes:
        env: the real environment.
        seeds: of every method; each has evaluation layouts of its own.
        record: the demonstrations and the other episodes that world and judge learned from, recorded again.
        rollouts: the policy's own.
        finetune: RL, in the world model and in the simulator.
        everything: SFT on everything.
        iter_sft: Iter-SFT.
        mismatch: of the simulator in the comparison of methods.
        mismatches: of the others, for one seed each.
        randomisation: the simulators' own.
        score: the real evaluation of a cell.
        agree: the agreement over all policies.
    """

    env: MetaWorldConfig = MetaWorldConfig()
    seeds: tuple[int, ...] = (0, 1, 2)
    record: RecordConfig = RecordConfig()
    rollouts: PolicyRecordConfig = PolicyRecordConfig()
    finetune: FinetuneConfig = QuickstartConfig().finetune
    everything: PolicyTraining = PolicyTraining(successes=True, fit=FitConfig(steps=3000))
    iter_sft: IterSftConfig = IterSftConfig()
    mismatch: float = 1.0
    mismatches: tuple[float, ...] = (0.0, 0.5, 2.0)
    randomisation: float = 1.0
    score: ScoreConfig = ScoreConfig(per_task=50)
    agree: AgreeConfig = AgreeConfig(per_task=10)

    def __post_init__(self) -> None:
        in_range(self, 0, "seeds", "mismatch", "mismatches", "randomisation")

    def quick(self) -> TablesConfig:
        """The same tables with wide intervals: one seed, ten layouts a task, two mismatches."""
        return replace(
            self,
            seeds=self.seeds[:1],
            mismatches=(0.0,),
            score=replace(self.score, per_task=10),
            agree=replace(self.agree, per_task=4),
        )


def evaluations(out: Path, config: TablesConfig) -> Path:
    """The folder of the real evaluations; one for every number of layouts and temperature, lest one spoil another."""
    return out / f"evaluations-{config.score.per_task}-{config.score.temperature:g}"


def agreement(out: Path, config: TablesConfig) -> Path:
    """The folder of the agreement."""
    return out / f"agreement-{config.agree.per_task}-{config.agree.temperature:g}"


def tables(out: Path, config: TablesConfig, device: str = "cpu") -> None:
    """Fills every cell that is not there: OUT/cells, and what is measured in `evaluations` and `agreement`."""
    out.mkdir(parents=True, exist_ok=True)
    for folder, measure in ((evaluations(out, config), config.score), (agreement(out, config), config.agree)):
        Run(folder, {"env": to_dict(config.env), "measure": to_dict(measure)}).close()  # refuses other measurements
    policy = load_policy(starter("policy"), device)
    with stage(out, "record"):
        logged = record_to(out / "data" / "logged", config.record)
        own = record_policy_to(out / "data" / "policy", policy, config.env, config.rollouts)
    for name, seed, make in _cells(out, policy, concatenate([logged, own]), config, device):
        with stage(out, name):
            make()
            _evaluate(out, name, out / "cells" / name / "policy.safetensors", seed, config, device)
    with stage(out, SFT):
        for seed in config.seeds:
            _evaluate(out, f"{SFT}-{seed}", starter("policy"), seed, config, device)
    with stage(out, "agreement"):
        files = {SFT: starter("policy")}
        files |= {path.parent.name: path for path in sorted((out / "cells").glob("*/policy.safetensors"))}
        loaded = {name: load_policy(file, device) for name, file in files.items()}
        horizon = max(config.agree.lengths)
        world, judge = load_world(starter("world"), device), load_judge(starter("judge"), device)
        places = {
            "world": Imagination.of(policy, world, judge, horizon),
            "simulator": _simulation(policy, config, config.mismatch, horizon),
        }
        outcomes(loaded, places, agreement(out, config) / "outcomes.json", config.agree)


def _cells(
    out: Path, policy: SmallVLA, logged: EpisodeSet, config: TablesConfig, device: str
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Name, seed and training of every cell."""
    start = QuickstartConfig()
    photos = from_photographs(photographs(config.env, start.photographs, start.photograph_layout))
    scenes = from_photographs(layouts(config.env, 1000, start.photograph_layout))
    demos = demonstrations(logged, config.everything.demonstrations)
    horizon = config.finetune.rl.horizon

    def imagine() -> Imagination:
        world, judge = load_world(starter("world"), device), load_judge(starter("judge"), device)
        return Imagination.of(policy, world, judge, horizon)

    def practice(seed: int) -> FinetuneConfig:
        return replace(config.finetune, rl=replace(config.finetune.rl, seed=seed))

    def simulate(name: str, seed: int, mismatch: float) -> Callable[[], Any]:
        place = _simulation(policy, config, mismatch, horizon)
        return lambda: finetune(policy, place, scenes, out / "cells" / name, practice(seed), device, "1000 layouts")

    for seed in config.seeds:
        name = f"{IMAGINED}-{seed}"
        yield name, seed, lambda n=name, s=seed: finetune(
            policy, imagine(), photos, out / "cells" / n, practice(s), device
        )
        name = f"{SIMULATED}-{seed}"
        yield name, seed, simulate(name, seed, config.mismatch)
        name = f"{ITERATED}-{seed}"
        yield name, seed, lambda n=name, s=seed: iter_sft(
            policy, imagine(), photos, demos, out / "cells" / n, replace(config.iter_sft, seed=s), device
        )
        name = f"{EVERYTHING}-{seed}"
        learning = replace(config.everything, fit=replace(config.everything.fit, seed=seed))
        yield name, seed, lambda n=name, c=learning: train_policy(logged, out / "cells" / n, c, device)
    for mismatch in config.mismatches:
        name = f"{SIMULATED}-mismatch-{mismatch:g}"
        yield name, config.seeds[0], simulate(name, config.seeds[0], mismatch)


def _simulation(policy: SmallVLA, config: TablesConfig, mismatch: float, horizon: int) -> Simulation:
    """The simulator of that mismatch; one that is right has no reason to randomise."""
    width = config.randomisation if mismatch else 0.0
    simulator = SimulatorConfig(replace(config.env, horizon=horizon), mismatch, width)
    return Simulation(simulator, policy.config.chunk, config.finetune.workers)


def _evaluate(out: Path, name: str, policy: Path, seed: int, config: TablesConfig, device: str) -> None:
    recipe = replace(Recipe(), env=config.env, seeds=(seed,), score=config.score)
    evaluate(evaluations(out, config) / f"{name}.json", {"policy": policy}, recipe, device)
