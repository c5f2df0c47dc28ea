"""The whole method for another robot, from nothing, on a machine with a GPU and many cores.

    python -m studies.from_nothing record --recipe libero --out runs/libero --name logged --workers 15

It is `worldgymnast reproduce PRESET` in parts that run side by side, with the world model's training as in
`studies.graphed` and data as plain files. studies/from_nothing.sh calls the parts in order.

    OUT/data/SET.safetensors    logged, policy, held_out, explored-N, planned-N
    OUT/sft, OUT/round-N/{world,judge,explorer-M}, OUT/rl-SEED
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from studies.command import run
from studies.episodes import EXPLORED, HELD_OUT, PLANNED, find, keep, load, load_shared, load_training, some
from studies.graphed import train_clips, train_frames
from studies.pack import imitation, pack_parts
from studies.worlds import HALVED, device_name, imagined_per_second
from worldgymnast.environments import environment
from worldgymnast.episodes.shares import share_weights
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.measure.diagnosis import diagnose
from worldgymnast.measure.evaluate import Contender, evaluate
from worldgymnast.measure.real import Scorer
from worldgymnast.protocols import Demonstrates, Policy
from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.presets import preset
from worldgymnast.recipes.record import PolicyRecordConfig, explorer_config, policy_episodes, record
from worldgymnast.recipes.reproduce import Recipe, adaptation
from worldgymnast.registry import Manifest, load_learned_judge, load_policy, load_trainable_world, save_component
from worldgymnast.report.collect import recorded
from worldgymnast.rl.starts import EpisodeStarts
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.text import save_sentences
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.judge import train_judge
from worldgymnast.training.policy import train_policy
from worldgymnast.training.world import train_world
from worldgymnast.types import Episode
from worldgymnast.weights import to_json, write_text
from worldgymnast.worldmodel.sampler import LatentWorldModel

_PLANS = PolicyRecordConfig((0.0, 0.5), 12, seed=2_500_000)
"""Recording of planned-N."""


@dataclass(frozen=True)
class Part:
    """What every part is given.

    Attributes:
        recipe: name of the recipe.
        out: the run folder.
        device: of training and imagination.
        workers: processes of the real environment.
    """

    recipe: str = "libero"
    out: Path = Path("runs/libero")
    device: str = "cuda"
    workers: int = 2

    @property
    def settings(self) -> Recipe:
        """The preset of that name."""
        return preset(self.recipe)

    @property
    def data(self) -> Path:
        """Folder of the recordings."""
        return self.out / "data"

    def policy(self) -> Policy:
        """Imitation policy."""
        return load_policy(imitation(self.out) / "policy.safetensors", self.device)

    def world(self, number: int) -> LatentWorldModel:
        """World model of a round."""
        return load_trainable_world(self.folder(number) / "world" / "world.safetensors", self.device)

    def folder(self, number: int) -> Path:
        """Folder of a round."""
        return self.out / f"round-{number}"


@dataclass(frozen=True)
class Sentences(Part):
    """Write OUT/sentences.safetensors, for a machine without the sentence encoder."""

    def __call__(self) -> None:
        """Write it."""
        env = environment(self.settings.env)
        self.out.mkdir(parents=True, exist_ok=True)
        save_sentences(self.out / "sentences.safetensors", [s for task in env.tasks for s in env.instructions(task)])


@dataclass(frozen=True)
class Record(Part):
    """Record one set; skipped if it exists.

    Attributes:
        name: the set: logged, policy, held_out, explored-N with the explorer's number, or planned-N: what a policy
            does in a world model, executed for real.
        round: round of the explorer, or of the world model of planned-N.
        actor: policy file of planned-N, if not that of imitation.
    """

    name: str = "logged"
    round: int = 1
    actor: Path | None = None

    def __call__(self) -> None:
        """Record."""
        self.data.mkdir(parents=True, exist_ok=True)
        if not find(self.data, self.name):
            count, episodes = self._episodes()
            keep(self.data, self.name, count, episodes)

    def _episodes(self) -> tuple[int, Iterator[Episode]]:
        recipe = self.settings
        env = environment(recipe.env)
        if self.name == "logged":
            assert isinstance(env, Demonstrates)
            return recipe.record.per_task * len(env.tasks), record(env, replace(recipe.record, workers=self.workers))
        config: PolicyRecordConfig = {"policy": recipe.rollouts, HELD_OUT: recipe.held_out}.get(
            self.name, recipe.explored
        )
        policy: Callable[[], Policy] = self.policy
        world = None
        if self.name.startswith(PLANNED):
            config = explorer_config(replace(_PLANS, length=recipe.finetune.rl.horizon), int(self.name[len(PLANNED) :]))
            world, actor = self.world(self.round), self.actor
            policy = self.policy if actor is None else lambda: load_policy(actor, self.device)
        if self.name.startswith(EXPLORED):
            number = int(self.name.removeprefix(EXPLORED))
            config = explorer_config(config, number)
            file = self.folder(self.round) / f"explorer-{number}" / "policy.safetensors"
            policy = lambda: load_policy(file, self.device)  # noqa: E731
        config = replace(config, workers=self.workers)
        count = len(config.temperatures) * len(env.tasks) * config.per_temperature
        return count, policy_episodes(policy(), env, config, world)


@dataclass(frozen=True)
class Imitate(Part):
    """Train the imitation policy on set "logged"."""

    def __call__(self) -> None:
        """Train."""
        train_policy(load(self.data, "logged"), self.out / "sft", self.settings.policy, self.device)


@dataclass(frozen=True)
class Adapt(Part):
    """Train the imitation policy further, also on its demonstrations as the world model of a round imagines them.

    Attributes:
        round: number of the world model.
    """

    round: int = 1

    def __call__(self) -> None:
        """Train."""
        start = load_policy(self.out / "sft" / "policy.safetensors", self.device)
        data, config = load(self.data, "logged"), adaptation(self.settings)
        train_policy(data, self.out / "adapted", config, self.device, start=start, world=self.world(self.round))


@dataclass(frozen=True)
class World(Part):
    """Train the world model of a round, from that of the round before; on a GPU for a fixed time.

    Attributes:
        round: number, from 1; the first also trains the autoencoder.
        steps: if given, train for so many steps instead, with the library's loop, as a CPU does.
        start: world model of another robot that the first round starts from; only with `steps`.
        forced: with `steps`, the share of them before those on its own rollouts, which take several times as long.
        seconds: total time.
        frames: of it, seconds of the autoencoder.
        clips: clips per step.
        lr: peak learning rate.
        explored: share of clips from the sets of explorers and of executed plans.
    """

    round: int = 1
    steps: int | None = None
    start: Path | None = None
    forced: float = 0.0
    seconds: float = 300.0
    frames: float = 60.0
    clips: int = 96
    lr: float = 1e-3
    explored: float = 0.4

    def __call__(self) -> None:
        """Train, unless already done."""
        folder = self.folder(self.round)
        if (folder / "plan.json").exists():
            return
        began = time.monotonic()
        sets, shares = load_shared(self.data, self.explored)
        if self.steps is not None:
            self._train_steps(sets, shares, self.steps)
            return
        torch.backends.cuda.matmul.allow_tf32 = True
        config = replace(self.settings.world, clips=self.clips, frames=128)
        data, weights = concatenate(sets), share_weights(sets, shares)
        if self.round == 1:
            torch.manual_seed(config.fit.seed)
            world = LatentWorldModel(config.world, data.spec, data.fps, data.tiling).to(self.device)
            train_frames(world, data, weights, config, self.frames)
        else:
            world = self.world(self.round - 1)
            objective = replace(world.config.objective, unroll_from=0.0)
            world.config = replace(world.config, objective=objective)
        left = self.seconds - (time.monotonic() - began)
        steps, metrics = train_clips(world, data, weights, config, left, self.lr)
        made = Manifest("studies/from_nothing.py", config.fit.seed, data_hash(data), metrics)
        (folder / "world").mkdir(parents=True, exist_ok=True)
        save_component(folder / "world" / "world.safetensors", world, made)
        save_component(folder / HALVED, world, made, half=True)
        spent = {"seconds": self.seconds, "device": device_name(self.device), "steps": steps, "clips": self.clips}
        write_text(folder / "plan.json", to_json(spent | {"episodes": len(data), "lr": self.lr, "last": metrics}))

    def _train_steps(self, sets: list[EpisodeSet], shares: tuple[float, ...], steps: int) -> None:
        recipe = self.settings.world
        config = replace(recipe, clips=self.clips, fit=replace(recipe.fit, steps=steps, lr=self.lr, save_every=100))
        start = None
        if self.round > 1:
            start = self.world(self.round - 1)
        elif self.start is not None:
            start = load_trainable_world(self.start, self.device)
            frames = replace(config.autoencoder, steps=config.autoencoder.steps // 2, lr=config.autoencoder.lr / 2)
            config = replace(config, new_robot=True, thaw=True, autoencoder=frames)
        if start is not None:
            start.config = replace(start.config, objective=replace(start.config.objective, unroll_from=self.forced))
        train_world(sets, self.folder(self.round) / "world", config, self.device, shares, start=start)


@dataclass(frozen=True)
class Judge(Part):
    """Train the judge of a round in its world model, from that of the round before if there is one.

    Attributes:
        round: number, from 1.
        steps: training steps.
        episodes: most episodes to imagine.
    """

    round: int = 1
    steps: int = 1500
    episodes: int = 2000

    def __call__(self) -> None:
        """Train."""
        config, start = self.settings.judge, None
        before = self.folder(self.round - 1) / "judge" / "judge.safetensors"
        if before.exists():
            start = load_learned_judge(before, self.device)
        learning = FitConfig(self.steps, lr=1e-3 if start is None else 5e-4, save_every=self.steps)
        data = some(load_training(self.data), self.episodes)
        folder = self.folder(self.round) / "judge"
        settings = replace(config, fit=learning)
        train_judge(data, self.world(self.round), folder, settings, self.device, start=start, require_both=False)


@dataclass(frozen=True)
class Rl(Part):
    """Finetune the imitation policy in the world model of a round: an explorer, or with real scorings.

    Attributes:
        round: number of the world model.
        seed: of RL; for an explorer also its number.
        explorer: without scorings.
        steps: RL steps, if not the recipe's.
    """

    round: int = 1
    seed: int = 0
    explorer: bool = False
    steps: int | None = None

    def __call__(self) -> None:
        """Finetune."""
        recipe, policy = self.settings, self.policy()
        env = environment(recipe.env)
        rl = replace(recipe.explore if self.explorer else recipe.finetune.rl, seed=self.seed)
        rl = replace(rl, steps=self.steps or rl.steps)
        judge = load_learned_judge(self.folder(self.round) / "judge" / "judge.safetensors", self.device)
        imagine = Imagination.of(policy, self.world(self.round), judge, rl.horizon, rl.execute)
        starts = EpisodeStarts(load_training(self.data), env.tasks, rl.middle)
        scorer = None
        if not self.explorer:
            scorer = Scorer(env, replace(recipe.finetune.scoring, workers=self.workers))
        folder = self.folder(self.round) / f"explorer-{self.seed}" if self.explorer else self.out / f"rl-{self.seed}"
        finetune(policy, imagine, starts, folder, rl, scorer)


@dataclass(frozen=True)
class Diagnose(Part):
    """Diagnose world model and judge of a round on held-out rollouts: OUT/round-N/numbers.json.

    Attributes:
        round: number.
        episodes: most episodes.
    """

    round: int = 1
    episodes: int = 240

    def __call__(self) -> None:
        """Measure."""
        world, held = self.world(self.round), load(self.data, HELD_OUT)
        judge = load_learned_judge(self.folder(self.round) / "judge" / "judge.safetensors", self.device)
        results = {"plan": json.loads((self.folder(self.round) / "plan.json").read_text())}
        horizon = self.settings.finetune.rl.horizon
        results["held_out"] = diagnose(world, judge, some(held, self.episodes), horizon=horizon)
        results["frames_per_second"] = imagined_per_second(world, held)
        write_text(self.folder(self.round) / "numbers.json", to_json(results))
        for source, found in results["held_out"]["all"]["sources"].items():
            print(source, {name: found[name] for name in ("auroc", "strict", "brier") if name in found})


@dataclass(frozen=True)
class Evaluate(Part):
    """Evaluate the imitation policy and finetuned ones on the layouts of the final evaluation.

    Attributes:
        round: of the world model that imagines the same layouts.
        seeds: of the finetuned policies.
    """

    round: int = 1
    seeds: tuple[int, ...] = (0,)

    def __call__(self) -> None:
        """Evaluate."""
        recipe = self.settings
        policies = {"sft": Contender(imitation(self.out) / "policy.safetensors", (0,))}
        policies |= {f"rl-{s}": Contender(self.out / f"rl-{s}" / "policy.safetensors", (0,)) for s in self.seeds}
        judge = load_learned_judge(self.folder(self.round) / "judge" / "judge.safetensors", self.device)
        score, file = replace(recipe.score, workers=self.workers), self.out / "evaluation.json"
        evaluate(file, policies, environment(recipe.env), score, self.device, self.world(self.round), judge)


@dataclass(frozen=True)
class Pack(Part):
    """Write policy, world model and judge of a round as starter components: 16-bit weights, and manifest.json.

    Attributes:
        round: number.
        to: folder of the components.
    """

    round: int = 1
    to: Path = Path("worldgymnast/starter/libero")

    def __call__(self) -> None:
        """Write them."""
        self.to.mkdir(parents=True, exist_ok=True)
        folder = self.folder(self.round)
        sources = {"policy": imitation(self.out), "world": folder / "world", "judge": folder / "judge"}
        parts = pack_parts(sources, self.to)
        manifest = {"recipe": "studies/from_nothing.py", "budget": recorded(self.out), "parts": parts}
        write_text(self.to / "manifest.json", to_json(manifest))


COMMANDS = Sentences | Record | Imitate | Adapt | World | Judge | Rl | Diagnose | Evaluate | Pack

if __name__ == "__main__":
    sys.exit(run(COMMANDS, __doc__))
