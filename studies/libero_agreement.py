"""Agreement of imagined and real success on LIBERO, over policies of different quality.

    python -m studies.libero_agreement imitate --out runs/libero --name few-3 --per-task 3 --steps 400
    python -m studies.libero_agreement recover --out runs/libero --name rl-0 --step 10
    python -m studies.libero_agreement recorded --out runs/libero --temperature 0.5
    python -m studies.libero_agreement compare --out runs/libero --names sft rl-0 few-3 ...

Policies learn from successful rollouts that `studies.from_nothing` has recorded. They act greedily in the same standard
states of every task, for real and in the world model of a round. The imitation policy, sampled, is also a policy: its
recorded held-out rollouts are the real outcomes, and it is imagined from their first frames. Outcomes are kept after
every policy, so the last command can be stopped and repeated, also with more policies.

    OUT/agreement/NAME/policy.safetensors, OUT/agreement/outcomes.json, agreement.md, agreement.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch.nn import Module

from studies.command import run
from studies.episodes import HELD_OUT, load
from studies.from_nothing import Part
from worldgymnast.environments import environment
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import InputError
from worldgymnast.measure.agreement import AgreeConfig, agreement_by_length, roll_out_policies
from worldgymnast.protocols import Policy
from worldgymnast.records import read_metrics, read_object
from worldgymnast.registry import Manifest, load_learned_judge, load_policy, save_component
from worldgymnast.report import tables
from worldgymnast.report.agree import agreement_sheets, scatter, success_rates
from worldgymnast.report.world import page
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.training.policy import PolicyTraining, train_policy
from worldgymnast.weights import write_bytes, write_text

_SETS = ("policy", HELD_OUT)
_SCORES = {"real": "real_success", "world": "imagined_success"}
OUTCOMES = "outcomes.json"


@dataclass(frozen=True)
class Study(Part):
    """What every part is given, with a folder for policies and results."""

    device: str = "cpu"

    def place(self, name: str) -> Path:
        """Folder of a policy."""
        return self.out / "agreement" / name

    def load(self, name: str) -> Policy:
        """A policy of this study, or the imitation policy "sft"."""
        folder = self.out / "sft" if name == "sft" else self.place(name)
        return load_policy(folder / "policy.safetensors", self.device)

    def keep(self, name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Keep outcomes of a policy, and print its rates."""
        file = self.out / "agreement" / OUTCOMES
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(read_object(file) | {name: rows}) + "\n")
        rates = {place: np.mean([row["success"][0] is True for row in each]) for place, each in rows.items()}
        print(name, {place: f"{rate:.2f}" for place, rate in rates.items()})

    def imagination(self, policy: Policy, number: int, horizon: int) -> Imagination:
        """World model and judge of a round."""
        judge = load_learned_judge(self.folder(number) / "judge" / "judge.safetensors", self.device)
        return Imagination.of(policy, self.world(number), judge, horizon, None)


@dataclass(frozen=True)
class Imitate(Study):
    """Train a policy on successful rollouts of the imitation policy.

    Attributes:
        name: of the policy.
        per_task: successes of each task to imitate.
        steps: training steps.
        seed: of the training and of the choice.
        further: begin with the imitation policy.
    """

    name: str = "few-3"
    per_task: int = 3
    steps: int = 400
    seed: int = 0
    further: bool = False

    def __call__(self) -> None:
        """Train."""
        episodes = concatenate([load(self.data, name) for name in _SETS])
        chosen = successes(episodes, self.per_task, self.seed)
        config: PolicyTraining = self.settings.policy
        config = replace(config, demonstrations=1, fit=replace(config.fit, steps=self.steps, seed=self.seed))
        start = self.policy() if self.further else None
        train_policy(chosen, self.place(self.name), config, self.device, start=start)


def successes(episodes: EpisodeSet, per_task: int, seed: int) -> EpisodeSet:
    """Choose at most `per_task` successful episodes of every task at random, as demonstrations."""
    rng, rows = np.random.default_rng(seed), list[int]()
    for task in sorted(set(episodes.task)):
        found = rng.permutation([e for e in np.flatnonzero(episodes.succeeded) if episodes.task[e] == task])
        rows += found[:per_task].tolist()
    chosen = episodes.select(np.array(rows, np.int64))
    return replace(chosen, source=("expert",) * len(chosen))


@dataclass(frozen=True)
class Recover(Study):
    """Write the policy of an RL checkpoint.

    Attributes:
        name: of the run and of the policy.
        step: of the checkpoint.
    """

    name: str = "rl-0"
    step: int = 10

    def __call__(self) -> None:
        """Write it."""
        policy = self.policy()
        file = self.out / self.name / "checkpoints" / f"step-{self.step:08d}" / "tensors.safetensors"
        prefix = "average."
        weights = {key.removeprefix(prefix): x for key, x in load_file(file).items() if key.startswith(prefix)}
        assert isinstance(policy, Module)
        policy.load_state_dict(weights)
        self.place(self.name).mkdir(parents=True, exist_ok=True)
        made = Manifest("studies/libero_agreement.py", 0, "", {"step": self.step})
        save_component(self.place(self.name) / "policy.safetensors", policy, made)


@dataclass(frozen=True)
class Recorded(Study):
    """Imagine the imitation policy from the first frames of its held-out rollouts at a temperature.

    Attributes:
        temperature: of sampling, one that was recorded.
        round: of the world model and the judge.
    """

    temperature: float = 0.5
    round: int = 1

    def __call__(self) -> None:
        """Imagine, and keep the outcomes."""
        held = load(self.data, HELD_OUT)
        held = held.select(held.where(source_prefix=f"policy@{self.temperature:g}"))
        horizon = environment(self.settings.env).horizon
        policy, surrogate = self.policy(), self.imagination(self.policy(), self.round, horizon).keyframes_only()
        starts = [held.episode(e).start() for e in range(len(held))]
        ends = np.minimum(held.length, horizon)
        real = [bool(held.success[first : first + end + 1].any()) for first, end in zip(held.first, ends, strict=True)]
        rollouts = score_in(surrogate, policy, starts, rows=60, temperature=self.temperature, seed=0)
        imagined = [rollout.verdict.succeeded for rollout in rollouts]

        pairs = {"real": zip(starts, real, strict=True), "world": zip(starts, imagined, strict=True)}
        rows = {place: [_row(s.task, s.layout, outcome) for s, outcome in each] for place, each in pairs.items()}
        self.keep(f"sft@{self.temperature:g}", rows)


@dataclass(frozen=True)
class Scored(Study):
    """Keep the scores that an RL run took of the imitation policy and of its last scored step.

    Only successes of each task are known, not in which states.

    Attributes:
        name: of the run.
        per_task: states of each task that it scored.
    """

    name: str = "rl-0"
    per_task: int = 12

    def __call__(self) -> None:
        """Keep the outcomes."""
        rows = [row for row in read_metrics(self.out / self.name / "metrics.jsonl") if "real_success" in row]
        for name, row in (("sft", rows[0]), (f"{self.name}, step {rows[-1]['step']:.0f}", rows[-1])):
            self.keep(name, {place: self._rows(row, key) for place, key in _SCORES.items()})

    def _rows(self, metrics: Mapping[str, float], key: str) -> list[dict[str, Any]]:
        rates = {k.removeprefix(f"{key}/"): x for k, x in metrics.items() if k.startswith(f"{key}/")}
        counts = {task: round(rate * self.per_task) for task, rate in rates.items()}
        return [_row(task, i, i < counts[task]) for task in sorted(counts) for i in range(self.per_task)]


@dataclass(frozen=True)
class Compare(Study):
    """Roll out policies for real and imagined; print and write the tables.

    Attributes:
        names: the policies.
        round: of the world model and the judge.
        per_task: standard states of each task, from state 0.
    """

    names: tuple[str, ...] = ("sft",)
    round: int = 1
    per_task: int = 4

    def __call__(self) -> None:
        """Compare."""
        if self.per_task > 25:
            raise InputError(
                f"--per-task: found {self.per_task}, expected at most 25. The other states are for the end"
            )
        env, folder = environment(self.settings.env), self.out / "agreement"
        policies = {name: self.load(name) for name in self.names}
        horizon = env.horizon
        config = AgreeConfig(per_task=self.per_task, first_layout=0, lengths=(horizon,), workers=self.workers)
        imagine = self.imagination(policies[self.names[0]], self.round, horizon)
        folder.mkdir(parents=True, exist_ok=True)
        roll_out_policies(policies, {"world": imagine}, env, folder / OUTCOMES, config)
        report(folder, config)


def report(folder: Path, config: AgreeConfig) -> None:
    """Print and write agreement over all policies, and over trainings: sampled ones and steps count once."""
    outcomes = read_object(folder / OUTCOMES)
    trainings = {name: name.partition("@")[0].partition(",")[0] for name in outcomes}
    groups = {
        f"all {len(outcomes)} policies": agreement_by_length(outcomes, config),
        f"{len(set(trainings.values()))} trainings": agreement_by_length(outcomes, config, trainings),
    }
    success = {name: success_rates(rows) for name, rows in outcomes.items()}
    tasks = {row["task"] for places in outcomes.values() for row in places["real"]}
    sheets = agreement_sheets(groups, success, len(tasks))
    for sheet in sheets:
        tables.show(tables.sheet(sheet))
    write_text(folder / "agreement.md", page(sheets, "Agreement of imagined and real success on LIBERO"))
    first, *_ = groups.values()
    write_bytes(folder / "agreement.png", scatter(first, success, outcomes))


@dataclass(frozen=True)
class Report(Study):
    """Print and write the tables of the outcomes that are kept."""

    def __call__(self) -> None:
        """Write them."""
        report(self.out / "agreement", AgreeConfig(lengths=(environment(self.settings.env).horizon,)))


def _row(task: str, layout: int | None, outcome: bool | None) -> dict[str, Any]:
    return {"task": task, "layout": layout or 0, "success": [outcome]}


COMMANDS = Imitate | Recover | Recorded | Scored | Compare | Report

if __name__ == "__main__":
    sys.exit(run(COMMANDS, __doc__))
