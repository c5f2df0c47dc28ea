"""All cells of the tables in docs/results.md: the training of a policy and its real evaluation.

Five tables: methods, also over the simulator's mismatch; diverse training; test-time training on new scenes; Dyna by
round; agreement. A cell is a run folder OUT/cells/NAME and a file with its real evaluation. Both are kept, so the same
command resumes, and another seed or mismatch adds cells. The methods of the first table start from the starter policy,
train equally long, and choose the step to keep by equally many real evaluations.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from studies.diverse import VARIANTS, DiverseConfig, check_diverse, try_out, variant, widen
from studies.new_scenes import ROWS, NewScenesConfig, new_scenes
from worldgymnast.configs import NonEmpty, NonNegative, Once, Positive, Seeds, checked
from worldgymnast.environments import environment
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.envs.simulator import SimulatorConfig
from worldgymnast.episodes.lerobot import read
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.measure.agreement import AgreeConfig, Outcomes, find_duplicates, roll_out_policies
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import ScoreConfig, Scorer
from worldgymnast.protocols import Policy
from worldgymnast.recipes.dyna import DynaConfig, dyna, recording_folders
from worldgymnast.recipes.finetune import FinetuneConfig, finetune
from worldgymnast.recipes.iterated_sft import IterSftConfig, iter_sft
from worldgymnast.recipes.quickstart import QuickstartConfig, starter, starter_explorers
from worldgymnast.recipes.record import PolicyRecordConfig, RecordConfig, record_explorers, record_policy_to, record_to
from worldgymnast.recipes.relearn import with_seed
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import load_judge, load_learned_judge, load_policy, load_world, to_dict
from worldgymnast.rl.starts import FixedStarts, ParaphrasedStarts, PhotographedStarts
from worldgymnast.run import Run, stage
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.surrogates.simulation import Simulation
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.policy import PolicyTraining, select_demonstrations, train_policy

Table = Literal["methods", "diverse", "scenes", "dyna", "agreement"]
TABLES: tuple[Table, ...] = get_args(Table)
SFT, EVERYTHING, ITERATED, SIMULATED, IMAGINED = "sft", "sft-everything", "iter-sft", "rl-simulator", "rl-world"
"""Methods, by the prefix of their cells' names."""


@checked
class TablesConfig:
    """Number and size of the cells.

    Attributes:
        env: the real environment.
        seeds: of every method; each has its own evaluation layouts.
        record: demonstrations and other training episodes of world model and judge, recorded again.
        rollouts: rollouts of the starter policy.
        explored: rollouts of each explorer of the starter.
        photographs: new layouts per task, whose first frames RL in a world model starts from.
        finetune: RL, in the world model and in the simulator.
        everything: SFT on all successes.
        iter_sft: Iter-SFT.
        mismatch: of the simulator in the comparison of methods.
        mismatches: of further simulators, with one seed each.
        randomisation: domain randomization of the simulators.
        score: the real evaluation of a cell.
        imitators: demonstrations per task of further imitation policies, so weak policies are compared too.
        imitation: training of the imitators.
        agree: the agreement over all these policies.
        diverse: diverse training.
        scenes: test-time training on new scenes.
        dyna: rounds, from a policy that was finetuned in the starter world model.
        beside: imitation of the recordings of Dyna's rounds, a baseline with the same real episodes.
        which: tables to fill.
    """

    env: MetaWorldConfig = MetaWorldConfig()
    seeds: Seeds = (0, 1, 2)
    record: RecordConfig = RecordConfig()
    rollouts: PolicyRecordConfig = PolicyRecordConfig()
    explored: PolicyRecordConfig = Recipe().explored
    photographs: Positive = QuickstartConfig().photographs
    finetune: FinetuneConfig = QuickstartConfig().finetune
    everything: PolicyTraining = PolicyTraining(successes=True, fit=FitConfig(steps=3000))
    iter_sft: IterSftConfig = IterSftConfig()
    mismatch: NonNegative = 1.0
    mismatches: Annotated[tuple[NonNegative, ...], Once] = (0.0, 2.0)
    randomisation: NonNegative = 1.0
    score: ScoreConfig = ScoreConfig(per_task=50)
    imitators: Annotated[tuple[Positive, ...], Once] = (1, 2, 10, 20)
    imitation: PolicyTraining = PolicyTraining()
    agree: AgreeConfig = AgreeConfig(per_task=30)
    diverse: DiverseConfig = DiverseConfig()
    scenes: NewScenesConfig = NewScenesConfig()
    dyna: DynaConfig = DynaConfig()
    beside: PolicyTraining = PolicyTraining(successes=True, fit=FitConfig(steps=600, lr=5e-4))
    which: Annotated[tuple[Table, ...], NonEmpty] = TABLES

    def quick(self) -> TablesConfig:
        """Return the same tables with short trainings and few episodes, without reliable numbers."""
        rl = replace(self.finetune.rl, steps=4, evaluate_every=2)
        short = FinetuneConfig(rl, replace(self.finetune.scoring, per_task=4))
        diverse, scenes, dyna = self.diverse, self.scenes, self.dyna
        return replace(
            self,
            seeds=self.seeds[:1],
            record=replace(self.record, noisy=10, play=6),
            rollouts=replace(self.rollouts, per_temperature=6),
            explored=replace(self.explored, per_temperature=2),
            finetune=short,
            everything=replace(self.everything, fit=replace(self.everything.fit, steps=1000)),
            iter_sft=replace(self.iter_sft, rounds=1, starts=48),
            mismatches=self.mismatches[:1],
            score=replace(self.score, per_task=10),
            imitators=(),
            agree=replace(self.agree, per_task=6),
            diverse=replace(
                diverse,
                rounds=0,
                play=24,
                world=replace(
                    diverse.world,
                    autoencoder=replace(diverse.world.autoencoder, steps=120),
                    fit=replace(diverse.world.fit, steps=200),
                ),
                judge=replace(diverse.judge, fit=replace(diverse.judge.fit, steps=300), late=0),
                per_task=3,
            ),
            scenes=replace(
                scenes,
                adapt=replace(scenes.adapt, rl=replace(scenes.adapt.rl, steps=3)),
                remedies=("none", "anchor"),
                trials=10,
                others=2,
            ),
            dyna=replace(
                dyna,
                rounds=1,
                budget=198,
                pairs=4,
                world=replace(dyna.world, fit=replace(dyna.world.fit, steps=100)),
                judge=replace(dyna.judge, fit=replace(dyna.judge.fit, steps=200), late=0),
                finetune=short,
            ),
        )


def evaluations(out: Path, config: TablesConfig) -> Path:
    """Return the folder of the real evaluations, separate for every number of layouts and temperature."""
    return out / f"evaluations-{config.score.per_task}-{config.score.temperature:g}"


def agreement(out: Path, config: TablesConfig) -> Path:
    """Return the folder of the agreement."""
    return out / f"agreement-{config.agree.per_task}-{config.agree.temperature:g}"


def places(out: Path, config: TablesConfig) -> Path:
    """Return the folder of the tests of diverse policies."""
    return out / f"places-{config.diverse.per_task}"


def scenes_file(out: Path, config: TablesConfig) -> Path:
    """Return the file with the outcomes of policies adapted to a scene."""
    return out / f"scenes-{config.scenes.trials}-{config.scenes.others}" / ROWS


def tables(out: Path, config: TablesConfig, device: str = "cpu") -> None:
    """Fill every missing cell of `config.which`."""
    if "diverse" in config.which:
        check_diverse(config.env, config.diverse)
    out.mkdir(parents=True, exist_ok=True)
    for folder, measure in (
        (evaluations(out, config), config.score),
        (agreement(out, config), config.agree),
        (places(out, config), config.diverse),
    ):
        Run(
            folder, {"env": to_dict(config.env), "measure": to_dict(measure)}
        ).close()  # raises if other settings were used
    policy, env = load_policy(starter("policy"), device), environment(config.env)
    with stage(out, "record"):
        logged = record_to(out / "data" / "logged", env, config.record)
        own = record_policy_to(out / "data" / "policy", policy, env, config.rollouts)
        explorers = [load_policy(path, device) for path in starter_explorers()]
        explored = record_explorers(out / "data", explorers, [env], config.explored)
    old = concatenate([logged, own, *explored])
    fill: dict[Table, Callable[[], None]] = {
        "methods": functools.partial(_methods, out, policy, old, config, device),
        "diverse": functools.partial(_diverse, out, policy, old, config, device),
        "scenes": functools.partial(_scenes, out, policy, config, device),
        "dyna": functools.partial(_dyna, out, policy, old, config, device),
        "agreement": functools.partial(_agreement, out, policy, old, config, device),
    }
    for name in TABLES:
        if name in config.which:
            fill[name]()


def _methods(out: Path, policy: Policy, old: EpisodeSet, config: TablesConfig, device: str) -> None:
    """Fill table 1: the methods, and the simulator by its mismatch."""
    for name, seed, make in _cells(out, policy, old, config, device):
        with stage(out, name):
            make()
            _evaluate(out, name, _result(out, name), seed, config, device)
    with stage(out, SFT):
        for seed in config.seeds:
            _evaluate(out, f"{SFT}-{seed}", starter("policy"), seed, config, device)


def _diverse(out: Path, policy: Policy, old: EpisodeSet, config: TablesConfig, device: str) -> None:
    """Fill table 2: diverse training, tested in every place."""
    wide, diverse = out / "wide", config.diverse
    with stage(out, "wide world"):
        widen(wide, policy, old, config.env, diverse, device)
    for seed in config.seeds:
        _imagined(out, policy, seed, config, device)
        practice = replace(config.finetune.rl, seed=seed), config.finetune.scoring
        for name in VARIANTS:
            with stage(out, f"{name}-{seed}"):
                variant(
                    name,
                    policy,
                    wide,
                    _cell(out, f"{name}-{seed}"),
                    practice,
                    config.env,
                    diverse,
                    device,
                )
        tested = {SFT: starter("policy")} | {name: _result(out, f"{name}-{seed}") for name in (IMAGINED, *VARIANTS)}
        with stage(out, f"diverse-{seed} tested"):
            files = {places(out, config) / f"{name}-{seed}.json": file for name, file in tested.items()}
            try_out(files, config.env, diverse, seed, device)


def _scenes(out: Path, policy: Policy, config: TablesConfig, device: str) -> None:
    """Fill table 3: test-time training of a policy that was finetuned in the starter world model."""
    _imagined(out, policy, config.seeds[0], config, device)
    with stage(out, "new scenes"):
        initial = _result(out, f"{IMAGINED}-{config.seeds[0]}")
        new_scenes(initial, scenes_file(out, config).parent, config.env, config.scenes, device)


def _dyna(out: Path, policy: Policy, old: EpisodeSet, config: TablesConfig, device: str) -> None:
    """Fill table 4: Dyna by round, and imitation of the successes among the same real episodes."""
    demos = select_demonstrations(old, config.beside.demonstrations)
    for seed in config.seeds:
        _imagined(out, policy, seed, config, device)
        initial, folder = _result(out, f"{IMAGINED}-{seed}"), out / "dyna" / str(seed)
        finetuned = load_policy(initial, device)
        with stage(out, f"dyna-{seed}"):
            world, judge = load_world(starter("world"), device), load_learned_judge(starter("judge"), device)
            rounds = replace(config.dyna, seed=seed, score=config.score)
            dyna(initial, (finetuned, world, judge), old, folder, rounds, device)
        with stage(out, f"imitation beside dyna-{seed}"):
            recorded = [
                concatenate(list(map(read, recording_folders(folder, n + 1)))) for n in range(config.dyna.rounds)
            ]
            for n in range(config.dyna.rounds):
                name = f"beside-{n + 1}-{seed}"
                learning = with_seed(config.beside, seed)
                known = concatenate([demos, *recorded[: n + 1]])
                train_policy(known, _cell(out, name), learning, device, start=finetuned)
                _evaluate(out, name, _result(out, name), seed, config, device)


def _agreement(out: Path, policy: Policy, old: EpisodeSet, config: TablesConfig, device: str) -> None:
    """Fill table 5: agreement of world model and simulator with reality, over policies of all methods."""
    for count in config.imitators:
        name = f"{SFT}-from-{count}"
        with stage(out, name):
            learning = with_seed(replace(config.imitation, demonstrations=count), count)
            train_policy(old, _cell(out, name), learning, device)
    names = [f"{method}-{seed}" for method in (IMAGINED, SIMULATED, ITERATED, EVERYTHING) for seed in config.seeds]
    names += [f"{SIMULATED}-mismatch-{mismatch:g}" for mismatch in config.mismatches]
    names += [f"{SFT}-from-{count}" for count in config.imitators]
    files = {SFT: starter("policy")} | {path.stem: path for path in starter_explorers()}
    files |= {name: file for name in names if (file := _result(out, name)).exists()}
    horizon = max(config.agree.lengths)
    surrogates = {
        "world": _imagination(policy, horizon, device),
        "simulator": _simulation(policy, config, config.mismatch, horizon),
    }
    with stage(out, "agreement"):
        loaded = {name: load_policy(file, device) for name, file in files.items()}
        duplicates = find_duplicates(loaded)  # a training may keep its start policy
        for name, other in duplicates.items():
            print(f"agreement: {name} has the weights of {other}; they count once.", file=sys.stderr)
        loaded = {name: policy for name, policy in loaded.items() if name not in duplicates}
        roll_out_policies(
            loaded, surrogates, environment(config.env), agreement(out, config) / "outcomes.json", config.agree
        )


def compared_groups(found: Outcomes) -> dict[str, Outcomes]:
    """Return groups of policies: all, those not trained in a simulator, and of both those never recorded."""
    recorded = {SFT, *(path.stem for path in starter_explorers())}
    real = [name for name in found if not name.startswith(SIMULATED)]
    groups = {
        "all": list(found),
        "not trained in a simulator": real,
        "nor ever recorded": [name for name in real if name not in recorded],
        "never recorded": [name for name in found if name not in recorded],
    }
    return {
        f"{name}: {len(group)}": {policy: found[policy] for policy in group}
        for name, group in groups.items()
        if len(group) > 2 or name == "all"
    }


def _cell(out: Path, name: str) -> Path:
    return out / "cells" / name


def _result(out: Path, name: str) -> Path:
    return _cell(out, name) / "policy.safetensors"


def _imagination(policy: Policy, horizon: int, device: str) -> Imagination:
    """Return the starter world model and judge."""
    world, judge = load_world(starter("world"), device), load_judge(starter("judge"), device)
    return Imagination.of(policy, world, judge, horizon)


def _imagined(out: Path, policy: Policy, seed: int, config: TablesConfig, device: str) -> Policy:
    """Run RL in the starter world model, the start of most tables."""
    rl = replace(config.finetune.rl, seed=seed)
    imagine, scorer = _imagination(policy, rl.horizon, device), _scorer(config)
    return finetune(policy, imagine, _photographs(config), _cell(out, f"{IMAGINED}-{seed}"), rl, scorer).policy


def _photographs(config: TablesConfig) -> PhotographedStarts:
    """Return the starts of RL and Iter-SFT."""
    return PhotographedStarts(environment(config.env), config.photographs, QuickstartConfig().photograph_layout)


def _scorer(config: TablesConfig) -> Scorer:
    """Return the real evaluations during training, the same for every method."""
    return Scorer(environment(config.env), config.finetune.scoring)


def _cells(
    out: Path, policy: Policy, old: EpisodeSet, config: TablesConfig, device: str
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Yield name, seed and training of every cell of the first table."""
    env = environment(config.env)
    layouts = FixedStarts(env.layouts(1000, QuickstartConfig().photograph_layout))
    scenes = ParaphrasedStarts(layouts, env.instructions)
    demos = select_demonstrations(old, config.everything.demonstrations)
    horizon = config.finetune.rl.horizon

    def simulate(name: str, seed: int, mismatch: float) -> Callable[[], Any]:
        surrogate = _simulation(policy, config, mismatch, horizon)
        rl = replace(config.finetune.rl, seed=seed)
        return lambda: finetune(policy, surrogate, scenes, _cell(out, name), rl, _scorer(config))

    def iterate(name: str, seed: int) -> Policy:
        folder, imagine = _cell(out, name), _imagination(policy, config.iter_sft.horizon, device)
        learning, starts = replace(config.iter_sft, seed=seed), _photographs(config)
        return iter_sft(policy, imagine, starts, demos, folder, learning, _scorer(config), device)

    for seed in config.seeds:
        yield f"{IMAGINED}-{seed}", seed, functools.partial(_imagined, out, policy, seed, config, device)
        name = f"{SIMULATED}-{seed}"
        yield name, seed, simulate(name, seed, config.mismatch)
        name = f"{ITERATED}-{seed}"
        yield name, seed, functools.partial(iterate, name, seed)
        name = f"{EVERYTHING}-{seed}"
        learning = with_seed(config.everything, seed)
        yield name, seed, functools.partial(train_policy, old, _cell(out, name), learning, device)
    for mismatch in config.mismatches:
        name = f"{SIMULATED}-mismatch-{mismatch:g}"
        yield name, config.seeds[0], simulate(name, config.seeds[0], mismatch)


def _simulation(policy: Policy, config: TablesConfig, mismatch: float, horizon: int) -> Simulation:
    """Return the simulator of that mismatch; without mismatch there is no domain randomization.

    It has more processes than an evaluation, because the policy acts for all of them at once.
    """
    width = config.randomisation if mismatch else 0.0
    simulator = SimulatorConfig(replace(config.env, horizon=horizon), mismatch, width)
    return Simulation(simulator, policy.chunk, 2 * config.finetune.scoring.workers)


def _evaluate(out: Path, name: str, policy: Path, seed: int, config: TablesConfig, device: str) -> None:
    file, contender = evaluations(out, config) / f"{name}.json", Contender(policy, (seed,))
    evaluate(file, {"policy": contender}, environment(config.env), config.score, device)
