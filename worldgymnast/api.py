"""The public API: what `import worldgymnast as wg` gives, loaded when it is first used.

Paths may be text. Without an output folder a temporary one is taken, so everything works in a notebook.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from worldgymnast import registry
from worldgymnast.envs.metaworld import MetaWorld, MetaWorldConfig
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import SuccessTable
from worldgymnast.measure import evaluate as evaluation
from worldgymnast.measure.real import ScoreConfig, Scorer, ScoringConfig
from worldgymnast.protocols import Judge, Policy, RealEnvironment, StartSampler, TrainableJudge, WorldModel
from worldgymnast.recipes import finetune as recipe
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import Manifest, register
from worldgymnast.report import collect as reports
from worldgymnast.report import report as pages
from worldgymnast.report import tables
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import EpisodeStarts, FixedStarts, PhotographedStarts
from worldgymnast.surrogates.imagination import Imagination, score_in
from worldgymnast.training import judge as judges
from worldgymnast.training import policy as policies
from worldgymnast.training import world as worlds
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import WorldTraining
from worldgymnast.types import Metrics, Start

__all__ = [
    "Evaluation",
    "Result",
    "evaluate",
    "finetune",
    "imagine",
    "load_judge",
    "load_policy",
    "load_world",
    "metaworld",
    "read",
    "register",
    "save",
    "scorer",
    "starter",
    "starts",
    "train_judge",
    "train_policy",
    "train_world",
]

AnyPath = str | Path


def _folder(out: AnyPath | None) -> Path:
    return Path(tempfile.mkdtemp(prefix="worldgymnast-")) if out is None else Path(out)


# ---------------------------------------------------------------- files


def load_policy(path: AnyPath, device: str = "cpu") -> Policy:
    """A policy of any known kind from its file.

    Raises:
        InputError: there is no such file, or it is not a policy's.

    >>> import worldgymnast as wg
    >>> wg.load_policy(wg.starter("policy")).chunk
    2
    """
    return registry.load_policy(Path(path), device)


def load_world(path: AnyPath, device: str = "cpu") -> WorldModel:
    """A world model of any known kind from its file.

    Raises:
        InputError: there is no such file, or it is not a world model's.

    >>> import worldgymnast as wg
    >>> wg.load_world(wg.starter("world")).frame_size
    (64, 64)
    """
    return registry.load_world(Path(path), device)


def load_judge(path: AnyPath, device: str = "cpu") -> Judge:
    """A judge from its file: the weights of a learned one, or the description (.json) of another.

    Raises:
        InputError: there is no such file, or it is not a judge's.

    >>> import worldgymnast as wg
    >>> wg.load_judge(wg.starter("judge")).waits
    False
    """
    return registry.load_judge(Path(path), device)


def save(component: Any, path: AnyPath) -> Path:
    """Write a policy, world model or learned judge as one file; returns its path.

    >>> import tempfile, worldgymnast as wg
    >>> policy = wg.load_policy(wg.starter("policy"))
    >>> wg.save(policy, tempfile.mkdtemp() + "/policy.safetensors").name
    'policy.safetensors'
    """
    registry.save_component(Path(path), component, Manifest())
    return Path(path)


def read(
    path: AnyPath, size: int | tuple[int, int] | None = None, cameras: str | Sequence[str] | None = None
) -> EpisodeSet:
    """The episodes of a folder: LeRobot v3.0 or v2.1, RLDS or WorldGym.

    Args:
        path: the folder.
        size: height and width, or both, to resize the frames to; as they are where left out.
        cameras: names of the cameras, where there are several; more than one are put side by side.

    Raises:
        InputError: the folder is in no known format, or damaged.
    """
    names = tuple(cameras) if isinstance(cameras, list | tuple) else cameras
    return formats.read(path, size=size, image_key=names)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- starts and environments


def metaworld(**options: Any) -> RealEnvironment:
    """Meta-World (MuJoCo) as the real environment.

    Args:
        **options: fields of `MetaWorldConfig`: tasks, size, hold, horizon, distractors.

    >>> import worldgymnast as wg
    >>> wg.metaworld(tasks=("door-close",)).cameras
    {'image': (64, 64)}
    """
    return MetaWorld(MetaWorldConfig(**options))


def starts(
    source: EpisodeSet | Sequence[Start] | RealEnvironment,
    *,
    tasks: Sequence[str] = (),
    middle: float = 0.0,
    per_task: int = 30,
    first_layout: int = 6_000_000,
) -> StartSampler:
    """What reinforcement learning begins from.

    Args:
        source: logged episodes, whose first frames are drawn; pictures with sentences; or a real environment, whose
            new layouts are photographed.
        tasks: of the episodes; all where left out.
        middle: share of starts shortly before a success in the episodes.
        per_task: photographs of each task.
        first_layout: seed of the first one.

    Raises:
        InputError: there is nothing to start from.

    >>> import numpy as np, worldgymnast as wg
    >>> scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door", "door-close")
    >>> len(wg.starts([scene])(np.random.default_rng(0), 3))
    3
    """
    if isinstance(source, EpisodeSet):
        return EpisodeStarts(source, tasks or sorted(set(source.task)), middle)
    if isinstance(source, RealEnvironment):
        return PhotographedStarts(source, per_task, first_layout)
    return FixedStarts(list(source))


def scorer(env: RealEnvironment, per_task: int = 8, first_layout: int = 5_000_000, workers: int = 2) -> Scorer:
    """Scores a policy in the real environment while it is trained, and so chooses the step that is kept.

    Args:
        env: the real environment.
        per_task: layouts of each task.
        first_layout: seed of the first; nothing else should use them.
        workers: processes that run it.

    >>> import worldgymnast as wg
    >>> wg.scorer(wg.metaworld(), per_task=4).config.per_task
    4
    """
    return Scorer(env, ScoringConfig(per_task, first_layout, workers))


# ---------------------------------------------------------------- finetuning


@dataclass(frozen=True)
class Result:
    """A finished finetuning.

    Attributes:
        policy: the object that was trained.
        metrics: a row for each step, as it was logged.
        summary: metrics of the last scoring of the weights that are kept; empty without a scorer.
        path: the run folder, with policy.safetensors, metrics.jsonl and checkpoints.
    """

    policy: Policy
    metrics: Sequence[Mapping[str, float]] = field(repr=False)
    summary: Metrics
    path: Path

    def report(self) -> Path:
        """Write the run's HTML page; returns its path."""
        target = self.path / "report.html"
        pages.write(target, reports.collect(self.path))
        return target

    def __str__(self) -> str:
        rewards = [row["reward"] for row in self.metrics if np.isfinite(row.get("reward", np.nan))]
        practiced = f"imagined reward {rewards[0]:.2f} to {rewards[-1]:.2f}" if rewards else "nothing was imagined"
        real = self.summary.get("real_success")
        scored = "not scored for real" if real is None else f"real success {real:.0%} at the step that is kept"
        return f"{practiced} in {len(rewards)} steps; {scored}; {self.path}"


def finetune(
    policy: Policy | AnyPath,
    world: WorldModel | AnyPath,
    judge: Judge | AnyPath,
    *,
    starts: StartSampler,
    steps: int = 24,
    horizon: int = 24,
    out: AnyPath | None = None,
    scorer: Scorer | None = None,
    on_metrics: Callable[[int, Mapping[str, float]], None] | None = None,
    device: str = "cpu",
    config: ReinforceConfig | None = None,
) -> Result:
    """Finetune a policy by reinforcement learning inside a world model.

    Args:
        policy: a policy or its file; it is not changed, a copy is trained.
        world: a world model or its file.
        judge: a judge or its file.
        starts: what each step begins from, see `starts`.
        steps: updates.
        horizon: actions in a rollout; a multiple of the policy's chunk.
        out: the run folder; the same call resumes a killed run there. A temporary folder where left out.
        scorer: scores it for real and chooses the step that is kept; without one the last step is kept.
        on_metrics: called with every step and what was logged there.
        device: where files are loaded to.
        config: everything else of the loop; `steps` and `horizon` come before its own.

    Raises:
        InputError: parts do not fit one another, or `out` holds another run.
        Paused: the judge failed too often; the same call resumes.

    >>> import numpy as np, worldgymnast as wg
    >>> scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door", "door-close")
    >>> files = [wg.starter(name) for name in ("policy", "world", "judge")]
    >>> brief = wg.ReinforceConfig(starts=2, group_size=2, rows=4, resample=0)
    >>> result = wg.finetune(*files, starts=wg.starts([scene]), steps=1, horizon=2, config=brief)  # doctest: +ELLIPSIS
    no group had both successes and failures in the one step...
    >>> len(result.metrics), result.policy.chunk
    (2, 2)
    """
    acting = load_policy(policy, device) if isinstance(policy, str | Path) else policy
    imagines = load_world(world, device) if isinstance(world, str | Path) else world
    judging = load_judge(judge, device) if isinstance(judge, str | Path) else judge
    loop = replace(config or ReinforceConfig(), steps=steps, horizon=horizon)
    imagination = Imagination.of(acting, imagines, judging, horizon)
    done = recipe.finetune(acting, imagination, starts, _folder(out), loop, scorer, on_metrics=on_metrics)
    return Result(done.policy, done.rows(), done.metrics, done.path)


def imagine(
    policy: Policy, world: WorldModel, start: Start, horizon: int = 24, seed: int = 0
) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames of one imagined rollout, uint8 [horizon + 1, h, w, 3], the start's frame first.

    Args:
        policy: acts greedily.
        world: imagines.
        start: where it begins.
        horizon: actions.
        seed: of the world's draws.

    >>> import numpy as np, worldgymnast as wg
    >>> scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door")
    >>> wg.imagine(wg.load_policy(wg.starter("policy")), wg.load_world(wg.starter("world")), scene, 4).shape
    (5, 64, 64, 3)
    """
    unjudged = Imagination(world, _Silent(), policy.chunk, horizon)
    return score_in(unjudged, policy, [start], rows=1, temperature=0.0, seed=seed)[0].frames


class _Silent:
    """A judge that says nothing."""

    name = identity = "silent"
    waits = False

    def score(self, clips: Sequence[Any]) -> list[Any]:
        """No verdicts."""
        from worldgymnast.types import Verdict

        return [Verdict(None, error="not judged") for _ in clips]


# ---------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Evaluation:
    """Real outcomes of policies on the same layouts.

    Attributes:
        rows: by policy, a row an episode: task, layout, seed, success.
        table: success per task before and after with intervals, of the first policy and the last.
        path: the folder.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(repr=False)
    table: SuccessTable | None
    path: Path

    def show(self) -> None:
        """Print the table."""
        if self.table is not None:
            tables.show(tables.success(self.table))


def evaluate(
    policies: Mapping[str, Policy | AnyPath],
    env: RealEnvironment,
    *,
    per_task: int = 20,
    seeds: Sequence[int] = (0,),
    out: AnyPath | None = None,
    config: ScoreConfig | None = None,
) -> Evaluation:
    """Play policies in the real environment, all on the same layouts.

    Args:
        policies: by name; objects or files.
        env: the real environment.
        per_task: layouts of each task and seed.
        seeds: of the layouts and the sampling.
        out: where outcomes are kept policy by policy; a temporary folder where left out.
        config: everything else; `per_task` comes before its own.

    Raises:
        InputError: a policy does not act as the environment does.
    """
    folder, score = _folder(out), replace(config or ScoreConfig(), per_task=per_task)
    contenders = {
        name: evaluation.Contender(Path(one) if isinstance(one, str) else one, tuple(seeds))
        for name, one in policies.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    rows = evaluation.evaluate(folder / "evaluation.json", contenders, env, score)
    return Evaluation(rows, reports.success(rows), folder)


# ---------------------------------------------------------------- training


def train_policy(
    episodes: EpisodeSet, out: AnyPath | None = None, config: PolicyTraining | None = None, device: str = "cpu"
) -> Policy:
    """Train a policy by imitation of demonstrations.

    Args:
        episodes: with the demonstrations.
        out: the run folder; the same call resumes. A temporary folder where left out.
        config: the training.
        device: where to train.

    Raises:
        InputError: there are too few demonstrations.
    """
    return policies.train_policy(episodes, _folder(out), config or PolicyTraining(), device)


def train_world(
    episodes: EpisodeSet, out: AnyPath | None = None, config: WorldTraining | None = None, device: str = "cpu"
) -> WorldModel:
    """Train a world model on everything logged.

    Args:
        episodes: demonstrations, failures and play.
        out: the run folder; the same call resumes. A temporary folder where left out.
        config: the training.
        device: where to train.
    """
    return worlds.train_world(episodes, _folder(out), config or WorldTraining(), device)


def train_judge(
    episodes: EpisodeSet,
    world: WorldModel,
    out: AnyPath | None = None,
    config: JudgeTraining | None = None,
    device: str = "cpu",
) -> TrainableJudge:
    """Train a success classifier on labeled episodes and on their imagined replays.

    Args:
        episodes: labeled ones, successes and failures of each task.
        world: imagines the replays.
        out: the run folder; the same call resumes. A temporary folder where left out.
        config: the training.
        device: where to train.

    Raises:
        InputError: labels are missing.
    """
    if not episodes.labelled.any():
        raise InputError("episodes: none says whether it succeeded, so no judge can be trained. Label some")
    with torch.random.fork_rng(devices=[]):
        return judges.train_judge(episodes, world, _folder(out), config or JudgeTraining(), device)
