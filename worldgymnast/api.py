"""Public API of `import worldgymnast as wg`, loaded on first use.

Paths can be strings. Without an output folder, functions use a temporary one: everything works in a notebook.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldgymnast import environments, registry
from worldgymnast.arguments import check_device, check_policies, require_members, require_type
from worldgymnast.episodes import formats
from worldgymnast.episodes.labels import Labels
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.success import SuccessTable
from worldgymnast.measure import evaluate as evaluation
from worldgymnast.measure.real import ScoreConfig, Scorer, ScoringConfig
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.preprocessing import Resize
from worldgymnast.protocols import Judge, Policy, RealEnvironment, StartSampler, TrainableJudge, WorldModel
from worldgymnast.publishing import push_to_hub
from worldgymnast.recipes import finetune as recipe
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import Manifest, register
from worldgymnast.report import collect as reports
from worldgymnast.report import report as pages
from worldgymnast.report import tables
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.starts import StartSource, sampler_of
from worldgymnast.surrogates.imagination import Imagination, imagine
from worldgymnast.training import judge as judges
from worldgymnast.training import policy as policies
from worldgymnast.training import world as worlds
from worldgymnast.training.judge import JudgeTraining
from worldgymnast.training.policy import PolicyTraining
from worldgymnast.training.world import WorldTraining
from worldgymnast.types import Metrics

__all__ = [
    "Evaluation",
    "Result",
    "environment",
    "evaluate",
    "finetune",
    "imagine",
    "load_judge",
    "load_policy",
    "load_world",
    "metaworld",
    "push_to_hub",
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
    """Load a policy of any known kind.

    Args:
        path: the file, or hf:OWNER/NAME on the Hugging Face Hub.
        device: device of the weights.

    Raises:
        InputError: the file is missing, or is not a policy's.

    >>> import worldgymnast as wg
    >>> wg.load_policy(wg.starter("policy")).chunk
    2
    """
    return registry.load_policy(Path(path), device)


def load_world(path: AnyPath, device: str = "cpu") -> WorldModel:
    """Load a world model of any known kind.

    Args:
        path: the file, or hf:OWNER/NAME on the Hugging Face Hub.
        device: device of the weights.

    Raises:
        InputError: the file is missing, or is not a world model's.

    >>> import worldgymnast as wg
    >>> wg.load_world(wg.starter("world")).frame_size
    (64, 64)
    """
    return registry.load_world(Path(path), device)


def load_judge(path: AnyPath, device: str = "cpu") -> Judge:
    """Load a judge from its weights, or from a description (.json).

    Args:
        path: the file, or hf:OWNER/NAME on the Hugging Face Hub.
        device: device of the weights.

    Raises:
        InputError: the file is missing, or is not a judge's.

    >>> import worldgymnast as wg
    >>> wg.load_judge(wg.starter("judge")).is_remote
    False
    """
    return registry.load_judge(Path(path), device)


def save(component: Any, path: AnyPath) -> Path:
    """Save a policy, world model or learned judge as one file; returns its path.

    Raises:
        InputError: the component has no weights, or the file cannot be written.

    >>> import tempfile, worldgymnast as wg
    >>> policy = wg.load_policy(wg.starter("policy"))
    >>> wg.save(policy, tempfile.mkdtemp() + "/policy.safetensors").name
    'policy.safetensors'
    """
    registry.save_component(Path(path), component, Manifest())
    return Path(path)


def read(
    path: AnyPath,
    size: int | tuple[int, int] | None = None,
    cameras: str | Sequence[str] | None = None,
    fps: float | None = None,
    resize: Resize = "squash",
    labels: AnyPath | Sequence[AnyPath] = (),
) -> EpisodeSet:
    """Read the episodes of a folder: LeRobot v3.0 or v2.1, RLDS or WorldGym.

    Args:
        path: the folder.
        size: frame size, as (height, width) or one number for both; by default frames are not resized.
        cameras: names of the cameras to use; several are tiled side by side.
        fps: frames per second, for data that do not state it (RLDS other than BridgeData V2).
        resize: how a picture of another shape becomes a frame of `size`: "squash", "crop" (central) or "pad" (black
            bars).
        labels: files with success labels of the episodes, as `worldgymnast label` writes them.

    Raises:
        InputError: the folder has no known format, or is damaged; or a file of labels is, or has none of its episodes.
    """
    names = tuple(cameras) if isinstance(cameras, list | tuple) else cameras
    files = [labels] if isinstance(labels, str | Path) else labels
    found = Labels([Path(file) for file in files]) if files else None
    key: Any = names
    episodes = formats.read(path, size=size, image_key=key, fps=fps, resize=resize, labels=found)
    if found is not None:
        found.require_used(str(path))
    return episodes


# ---------------------------------------------------------------- starts and environments


def metaworld(**options: Any) -> RealEnvironment:
    """Meta-World (MuJoCo) as the real environment.

    Args:
        **options: fields of `MetaWorldConfig`: tasks, size, hold, horizon, distractors.

    Raises:
        InputError: an option or a task is unknown, or a value is invalid.

    >>> import worldgymnast as wg
    >>> wg.metaworld(tasks=("door-close",)).cameras
    {'image': (64, 64)}
    """
    if isinstance(tasks := options.get("tasks"), str | list):
        options["tasks"] = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    config = type(environments.DEFAULT_ENVIRONMENT)(**options)
    env: Any = environments.environment(config)
    if not set(INSTRUCTIONS).issuperset(config.tasks):
        env.check()
    return env


def environment(reference: Any, **fields: Any) -> Any:
    """Real environment of a reference, a class or a function.

    Args:
        reference: `metaworld`, `gym:ID`, `module:factory`, FILE.json, see `environments.environment_config`;
            a config; or in Python the class of a Gymnasium environment or a function that makes one.
        **fields: fields of the config, such as `instruction`, `image_key`, `spec`, `success_key`.

    Raises:
        InputError: the reference is unknown, or a field is invalid.

    >>> import worldgymnast as wg
    >>> wg.environment("metaworld", tasks=("door-close",)).tasks
    ('door-close',)
    """
    if isinstance(reference, str | Path):
        return environments.environment(environments.environment_config(reference, **fields))
    if callable(reference):
        return environments.made_environment(reference, fields)
    return environments.environment(replace(reference, **fields))


def starts(
    source: StartSource,
    *,
    tasks: Sequence[str] = (),
    middle: float = 0.0,
    per_task: int = 30,
    first_layout: int = 6_000_000,
) -> StartSampler:
    """Create a sampler of starts for reinforcement learning.

    Args:
        source: logged episodes, whose first frames are sampled; one start or several; or a real environment, whose
            layouts are photographed.
        tasks: tasks of the episodes; all by default.
        middle: share of starts shortly before a success, for episodes.
        per_task: photographs per task, for an environment.
        first_layout: seed of the first photographed layout.

    Raises:
        InputError: the source has no starts, or none shortly before a success although `middle` asks for them.

    >>> import numpy as np, worldgymnast as wg
    >>> scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door", "door-close")
    >>> len(wg.starts([scene])(np.random.default_rng(0), 3))
    3
    """
    return sampler_of(source, tasks, middle, per_task, first_layout)


def scorer(env: RealEnvironment, per_task: int = 8, first_layout: int = 5_000_000, workers: int = 1) -> Scorer:
    """Create a scorer that selects the best training step in the real environment.

    Args:
        env: the real environment.
        per_task: layouts per task.
        first_layout: seed of the first layout; use these layouts for nothing else.
        workers: rows that run at once; more than one are processes, which need a script's code under
            `if __name__ == "__main__":`.

    Raises:
        InputError: `env` is no real environment, or a number is invalid.

    >>> import worldgymnast as wg
    >>> wg.scorer(wg.metaworld(), per_task=4).config.per_task
    4
    """
    require_members(env, RealEnvironment, "env")
    return Scorer(env, ScoringConfig(per_task, first_layout, workers))


# ---------------------------------------------------------------- finetuning


@dataclass(frozen=True)
class Result:
    """Result of `finetune`.

    Attributes:
        policy: the finetuned policy.
        metrics: logged metrics, one row per step.
        summary: metrics of the last scoring of the selected weights; empty without a scorer.
        path: run folder with policy.safetensors, metrics.jsonl and checkpoints.
    """

    policy: Policy
    metrics: Sequence[Mapping[str, float]] = field(repr=False)
    summary: Metrics
    path: Path

    def save(self, path: AnyPath) -> Path:
        """Save the policy as one file; returns its path.

        >>> Result(load_policy(starter("policy")), [], {}, Path("rl")).save(tempfile.mkdtemp() + "/better.pt").name
        'better.pt'
        """
        return save(self.policy, path)

    def report(self) -> Path:
        """Write the run's HTML page; returns its path."""
        target = self.path / "report.html"
        pages.write(target, reports.collect(self.path))
        return target

    def __str__(self) -> str:
        rewards = [row["reward"] for row in self.metrics if np.isfinite(row.get("reward", np.nan))]
        imagined = f"imagined reward {rewards[0]:.2f} to {rewards[-1]:.2f}" if rewards else "no imagined rollouts"
        success = self.summary.get("real_success")
        real = "not scored for real" if success is None else f"real success {success:.0%} at the selected step"
        return f"{imagined} in {len(rewards)} steps; {real}; {self.path}"


def finetune(
    policy: Policy | AnyPath,
    world: WorldModel | AnyPath,
    judge: Judge | AnyPath,
    *,
    starts: StartSampler | StartSource,
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
        policy: a policy or its file; a copy is trained.
        world: a world model or its file.
        judge: a judge or its file.
        starts: source of the starts of each step, see `starts`; episodes, a list of starts and a real environment are
            accepted as they are.
        steps: number of updates.
        horizon: actions in a rollout; a multiple of the policy's chunk.
        out: run folder, in which the same call resumes a killed run; by default a temporary folder.
        scorer: selects the best step by real success; by default the last step is kept.
        on_metrics: called with the number and the metrics of every step.
        device: device of components that are loaded from files.
        config: all other settings; `steps` and `horizon` override its own.

    Raises:
        InputError: a component lacks members, components do not match, or `out` contains another run.
        Paused: the judge failed too often; the same call resumes the run.

    >>> import numpy as np, worldgymnast as wg
    >>> scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door", "door-close")
    >>> files = [wg.starter(name) for name in ("policy", "world", "judge")]
    >>> brief = wg.ReinforceConfig(starts=2, group_size=2, rows=4, resample=0)
    >>> result = wg.finetune(*files, starts=wg.starts([scene]), steps=1, horizon=2, config=brief)  # doctest: +ELLIPSIS
    No group had both successes and failures in the only step...
    >>> len(result.metrics), result.policy.chunk
    (2, 2)
    """
    check_device(device)
    policy = load_policy(policy, device) if isinstance(policy, str | Path) else policy
    world = load_world(world, device) if isinstance(world, str | Path) else world
    judge = load_judge(judge, device) if isinstance(judge, str | Path) else judge
    require_members(policy, Policy, "policy")
    sampler = sampler_of(starts)
    require_type(config := config or ReinforceConfig(), ReinforceConfig, "config", "Its fields are the settings")
    settings = replace(config, steps=steps, horizon=horizon)
    imagination = Imagination.of(policy, world, judge, horizon, settings.execute)
    done = recipe.finetune(policy, imagination, sampler, _folder(out), settings, scorer, on_metrics=on_metrics)
    return Result(done.policy, done.rows(), done.metrics, done.path)


# ---------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Evaluation:
    """Real success of several policies on the same layouts.

    Attributes:
        rows: one row per episode (task, layout, seed, success), by policy.
        table: success per task of the first and the last policy, with intervals; None of one policy.
        path: the folder.
    """

    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(repr=False)
    table: SuccessTable | None
    path: Path

    def show(self) -> None:
        """Print the table; of one policy, its success alone."""
        if self.table is not None:
            tables.show(tables.success(self.table))
        elif (sheet := reports.alone(self.rows)) is not None:
            tables.show(tables.sheet(sheet))


def evaluate(
    policies: Mapping[str, Policy | AnyPath],
    env: RealEnvironment,
    *,
    per_task: int = 20,
    seeds: Sequence[int] = (0,),
    out: AnyPath | None = None,
    config: ScoreConfig | None = None,
) -> Evaluation:
    """Evaluate policies in the real environment, all on the same layouts.

    Args:
        policies: policies or their files, by name.
        env: the real environment.
        per_task: layouts per task and seed.
        seeds: seeds of layouts and sampling.
        out: folder of the outcomes; by default a temporary folder.
        config: all other settings, by default with one worker; `per_task` overrides its own.

    Raises:
        InputError: `policies` or `env` is none, or the actions of a policy do not match the environment.
    """
    require_members(env, RealEnvironment, "env")
    check_policies(policies)
    folder, score = _folder(out), replace(config or ScoreConfig(workers=1), per_task=per_task)
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
        episodes: episodes with demonstrations.
        out: run folder, in which the same call resumes; by default a temporary folder.
        config: settings of the training.
        device: device of the training.

    Raises:
        InputError: there are too few demonstrations.
    """
    check_device(device)
    require_type(episodes, EpisodeSet, "episodes", "Read a folder with wg.read")
    return policies.train_policy(episodes, _folder(out), config or PolicyTraining(), device)


def train_world(
    episodes: EpisodeSet, out: AnyPath | None = None, config: WorldTraining | None = None, device: str = "cpu"
) -> WorldModel:
    """Train a world model on logged episodes.

    Args:
        episodes: demonstrations, failures and play data.
        out: run folder, in which the same call resumes; by default a temporary folder.
        config: settings of the training.
        device: device of the training.
    """
    check_device(device)
    require_type(episodes, EpisodeSet, "episodes", "Read a folder with wg.read")
    return worlds.train_world(episodes, _folder(out), config or WorldTraining(), device)


def train_judge(
    episodes: EpisodeSet,
    world: WorldModel,
    out: AnyPath | None = None,
    config: JudgeTraining | None = None,
    device: str = "cpu",
) -> TrainableJudge:
    """Train a success classifier on labeled episodes and their imagined replays.

    Args:
        episodes: labeled successes and failures of every task.
        world: world model of the replays.
        out: run folder, in which the same call resumes; by default a temporary folder.
        config: settings of the training.
        device: device of the training.

    Raises:
        InputError: no episode is labeled, or all of them have the same outcome.
    """
    check_device(device)
    require_type(episodes, EpisodeSet, "episodes", "Read a folder with wg.read")
    require_members(world, WorldModel, "world")
    with torch.random.fork_rng(devices=[]):
        return judges.train_judge(episodes, world, _folder(out), config or JudgeTraining(), device)
