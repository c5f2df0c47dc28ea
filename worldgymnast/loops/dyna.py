"""Dyna: the policy goes back to the robot, and world and judge learn from what it does there.

Each round records real rollouts of the newest policy, goes on training world and judge on old and new data together,
and then the policy in them (Sutton 1991; World-Gymnast, arXiv 2602.02454). It breaks the optimism that reinforcement
learning finds: where the world imagines successes that do not come, the next round has them on record as failures.
Each stage is a folder of its own and is skipped when it is finished.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldgymnast.config import to_dict
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.execution.surrogate import Imagination
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.loops.finetune import FinetuneConfig, finetune, from_photographs, photographs
from worldgymnast.loops.reinforce import ReinforceConfig, scorings
from worldgymnast.loops.reproduce import PolicyRecordConfig, Recipe, evaluate, record_policy_to, seeded, stage
from worldgymnast.loops.score import ScoreConfig
from worldgymnast.loops.train import Relearning, data_hash, relearn_judge, relearn_world
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.run import Run
from worldgymnast.types import InputError, in_range
from worldgymnast.weights import identity
from worldgymnast.worldmodel.sampler import LatentWorldModel


@dataclass(frozen=True)
class DynaConfig(Relearning):
    """Rounds, what a robot may do in them, and how world and judge learn from it.

    Attributes:
        rounds: how many.
        budget: real episodes in all rounds together, the scorings during RL included; evaluation is not.
        temperatures: at which the policy is recorded, in equal parts.
        length: actions in a recorded episode.
        layout: first layout of the recordings.
        finetune: RL and its scorings.
        photographs: new layouts a task that RL starts from.
        photograph_layout: first of these layouts.
        score: the final paired evaluation of every round's policy.
        seed: of everything.
    """

    rounds: int = 2
    budget: int = 480
    temperatures: tuple[float, ...] = (0.5, 1.0)
    length: int = 32
    layout: int = 8_000_000
    finetune: FinetuneConfig = FinetuneConfig(rl=ReinforceConfig(steps=12, evaluate_every=6, evaluate_starts=4))
    photographs: int = 30
    photograph_layout: int = 6_000_000
    score: ScoreConfig = ScoreConfig(per_task=20, first_layout=7_000_000)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, 1, "rounds", "photographs", "length")
        in_range(self, 0, "temperatures", "layout", "photograph_layout", "seed", "budget")
        if not self.temperatures:
            raise InputError("field 'temperatures': found none, expected at least one")
        if self.per_temperature < 1:
            raise InputError(
                f"field 'budget': found {self.budget} real episodes for {self.rounds} rounds, of which the scorings of "
                f"RL take {self.rounds * self.scored}; expected at least {self.rounds * (self.scored + self._least)}, "
                "one more for every round, task and temperature; raise it, or lower the rounds or their scorings"
            )

    @property
    def _least(self) -> int:
        return len(self.temperatures) * len(self.finetune.env.tasks)

    @property
    def scored(self) -> int:
        """Real episodes that the scorings of one round take."""
        rl = self.finetune.rl
        return len(scorings(rl)) * rl.evaluate_starts * len(self.finetune.env.tasks)

    @property
    def per_temperature(self) -> int:
        """Episodes recorded in a round of each task at each temperature."""
        return (self.budget // self.rounds - self.scored) // self._least


def dyna(
    policy: Path,
    begun: tuple[SmallVLA, LatentWorldModel, SuccessClassifier],
    old: EpisodeSet,
    out: Path,
    config: DynaConfig,
    device: str = "cpu",
) -> dict[str, Any]:
    """Rounds in OUT/data/round-N, OUT/world-N, OUT/judge-N and OUT/rl-N; returns OUT/evaluation.json.

    Args:
        policy: the file of the policy to begin with.
        begun: that policy, and the world model and the judge to begin with.
        old: what world and judge were trained on, with labels.
        out: the run folder.
        config: the rounds.
        device: where to train.
    """
    acting, world, judge = begun
    inputs = {"policy": identity(acting), "world": identity(world), "judge": identity(judge), "data": data_hash(old)}
    env, recorded, policies = config.finetune.env, [old], {"before": policy}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        photos = photographs(env, config.photographs, config.photograph_layout)
        for number in range(1, config.rounds + 1):
            folder = {name: out / f"{name}-{number}" for name in ("world", "judge", "rl")}
            seed = config.seed + number
            with stage(out, f"record {number}"):
                asked = PolicyRecordConfig(
                    config.temperatures, config.per_temperature, config.length, config.layout + 10_000 * number
                )
                recorded.append(record_policy_to(out / "data" / f"round-{number}", acting, env, asked))
            with stage(out, f"world {number}"):
                world = relearn_world(recorded, world, folder["world"], config, seed, device)
            with stage(out, f"judge {number}"):
                judge = relearn_judge(recorded, world, judge, folder["judge"], config, seed, device)
            with stage(out, f"reinforce {number}"):
                practice = seeded(config.finetune, seed)
                imagine = Imagination.of(acting, world, judge, practice.rl.horizon)
                acting = finetune(acting, imagine, from_photographs(photos), folder["rl"], practice, device)
            policies[f"round {number}"] = folder["rl"] / "policy.safetensors"
        with stage(out, "real evaluation"):
            recipe = replace(Recipe(), env=env, seeds=(config.seed,), score=config.score)
            found = evaluate(out / "evaluation.json", policies, recipe, device)
        run.finish({"real_episodes": float(config.rounds * (config.scored + config.per_temperature * config._least))})
    return found
