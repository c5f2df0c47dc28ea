"""Imitation learning of a policy; resumable."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldgymnast.actions import require_same
from worldgymnast.arguments import check_pictures, implements
from worldgymnast.configs import LATER, Count, Positive, checked
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash, state_hash, warn_out_of_range
from worldgymnast.errors import FieldError, InputError
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.protocols import ComponentInfo, Policy, TrainablePolicy, WorldModel
from worldgymnast.registry import DEFAULT_POLICY, Manifest, PolicyConfig, load_policy, make, save_component, to_dict
from worldgymnast.rl.trainer import copy_of
from worldgymnast.run import Run
from worldgymnast.tiling import picture_sizes
from worldgymnast.training.batches import imitation_batches
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.training.replay import replay
from worldgymnast.training.world import Origin
from worldgymnast.types import STATE
from worldgymnast.weights import identity

IMAGINED_LENGTH = 40
"""Most actions that are imagined again from one recorded frame, by default."""


@checked
class PolicyTraining:
    """Imitation of demonstrations.

    Attributes:
        policy: kind and sizes.
        demonstrations: expert episodes per task to imitate; the first ones logged.
        successes: also imitate every other successful episode, from any source (SFT on all successes).
        batch: looks per step.
        fit: the training loop.
        after_success: actions imitated after the first frame of success. What follows, such as a retreat, is not
            imitated; 10000 imitates whole episodes. If omitted, `sft` scales it to the data's rate: 7 at 30 frames per
            second.
    """

    policy: PolicyConfig = DEFAULT_POLICY
    demonstrations: Positive = 5
    successes: bool = False
    batch: Positive = 64
    fit: FitConfig = FitConfig(steps=800, lr=1e-3)
    after_success: Count = field(default=3, metadata=LATER)


def config_reads_state(config: Any) -> bool:
    """Whether a policy of this config reads the state."""
    return bool(getattr(config, "state_dim", 0))


def select_demonstrations(episodes: EpisodeSet, per_task: int) -> EpisodeSet:
    """Select the first `per_task` expert episodes of every task.

    Raises:
        InputError: a task has fewer.
    """
    tasks = sorted(set(episodes.task))
    chosen = [episodes.where(task=task, source_prefix="expert")[:per_task] for task in tasks]
    missing = [task for task, rows in zip(tasks, chosen, strict=True) if len(rows) < per_task]
    if missing:
        raise FieldError(
            "demonstrations",
            f"found fewer than {per_task} expert episodes for {', '.join(missing)}, expected that many per task. "
            "Record more, or lower --demonstrations (in Python: PolicyTraining(demonstrations=...))",
        )
    return episodes.select(np.concatenate(chosen))


def select_imitated(episodes: EpisodeSet, config: PolicyTraining) -> EpisodeSet:
    """Select the episodes to imitate: demonstrations, and all other successes if configured."""
    demos = select_demonstrations(episodes, config.demonstrations)
    if not config.successes:
        return demos
    other_successes = episodes.succeeded & ~np.isin(episodes.first, demos.first)
    return concatenate([demos, episodes.select(other_successes)])


def with_replays(demos: EpisodeSet, world: WorldModel, seed: int, length: int = IMAGINED_LENGTH) -> EpisodeSet:
    """Add every episode as a world model imagines it from recorded frames and the recorded actions.

    A policy that has seen only real pictures acts worse on imagined ones. RL in the world model then first teaches it
    what imagined pictures look like, at the cost of real ones. Robot states stay those recorded.

    Args:
        demos: the episodes.
        world: the world model.
        seed: of the imagination.
        length: most actions to imagine from one recorded frame; longer episodes are imagined in pieces.
    """
    parts = _pieces(demos, length)
    again = replay(world, parts, seed=seed, label="imagining the demonstrations")
    if parts.state is not None:
        again = replace(again, state=parts.state[parts.rows], state_names=parts.state_names)
    return concatenate([demos, again])


def _pieces(episodes: EpisodeSet, length: int) -> EpisodeSet:
    """Split episodes into pieces of at most `length` actions, up to the one in which they succeed."""
    index, offsets = [], []
    for e, (first, actions) in enumerate(zip(episodes.first.tolist(), episodes.length.tolist(), strict=True)):
        successes = np.flatnonzero(episodes.success[first : first + actions + 1])
        end = min(actions, int(successes[0]) + 1) if len(successes) else actions
        starts = range(0, max(end, 1), length)
        index += [e] * len(starts)
        offsets += starts
    parts, offset = episodes.select(index), np.array(offsets, np.int64)
    return replace(parts, first=parts.first + offset, length=np.minimum(parts.length - offset, length))


def with_image_sizes(config: Any, episodes: EpisodeSet) -> Any:
    """Config of a policy that refuses pictures of another size than those of the episodes, if its kind can do so."""
    if getattr(config, "image_sizes", None) != ():
        return config
    return replace(config, image_sizes=picture_sizes(config.cameras, episodes.size, episodes.tiling))


def _is_on(weight: Tensor, device: str) -> bool:
    wanted = torch.device(device)
    return weight.device.type == wanted.type and wanted.index in (None, weight.device.index)


def _trained(start: TrainablePolicy | None, config: Any, stored: ComponentInfo, device: str) -> Any:
    """Policy to train: with new weights, or a copy of `start`."""
    if start is not None and config == start.config and _is_on(next(iter(start.parameters())), device):
        copied: Any = copy_of(start)  # shares the weights that training does not change
        return copied.train()
    policy = make("policies", config, stored).to(device)
    if start is not None:
        policy.load_state_dict(start.state_dict())
    return policy


def train_policy(
    episodes: EpisodeSet,
    out: Path,
    config: PolicyTraining,
    device: str = "cpu",
    *,
    start: Policy | None = None,
    world: WorldModel | None = None,
    imagined_length: int = IMAGINED_LENGTH,
    origin: Origin = None,
) -> Policy:
    """Train a policy by imitation; write OUT/policy.safetensors.

    Args:
        episodes: contain the demonstrations.
        out: the run folder.
        config: the training; its sizes are ignored if `start` is given.
        device: of the training.
        start: a policy to finetune.
        world: world model whose replays of the demonstrations are imitated too; see `with_replays`.
        imagined_length: most actions in a replay.
        origin: see `Manifest.origin`.

    Raises:
        InputError: `start` cannot be trained by imitation, or does not fit the episodes.
    """
    result = out / "policy.safetensors"
    inputs = {"data": data_hash(episodes)}
    if start is not None:
        if not implements(start, TrainablePolicy):
            raise InputError(
                f"{type(start).__name__} has no imitation loss, so it cannot be trained by imitation. Omit it"
            )
        require_same(start.action_spec, episodes.spec, "policy and demonstrations")
        warn_out_of_range(episodes, start.action_spec, "policy")
        check_pictures(start, episodes.size, episodes.tiling, "policy", "the data set")
        inputs["start"] = identity(start)
        config = replace(config, policy=start.config)
    if config_reads_state(config.policy):
        inputs["state"] = state_hash(episodes)
    if world is not None:
        inputs |= {"world": identity(world), "imagined_length": imagined_length}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.summary is None:
            demos = select_imitated(episodes, config)
            if world is not None:
                demos = with_replays(demos, world, config.fit.seed, imagined_length)
            torch.manual_seed(config.fit.seed)
            stored = ComponentInfo(action_spec=episodes.spec if start is None else start.action_spec)
            policy = _trained(start, with_image_sizes(config.policy, demos), stored, device)
            needs_state = STATE in policy.needs
            if needs_state and start is None and demos.state is not None:
                policy.measure_state(demos.state[demos.rows])
            batches = imitation_batches(
                demos,
                policy.chunk,
                config.batch,
                config.fit.seed,
                INSTRUCTIONS,
                after_success=config.after_success,
                cameras=policy.cameras,
                needs_state=needs_state,
            )
            metrics = fit(policy, batches, config.fit, run, "imitation")
            save_component(result, policy, Manifest(run.command, config.fit.seed, data_hash(demos), metrics, origin))
            run.finish(metrics)
    return load_policy(result, device)
