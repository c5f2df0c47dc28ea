"""Rolls out a policy from starts, in a real or an imagined vector environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from worldgymnast.errors import FieldError, InputError
from worldgymnast.protocols import Actor, RealEnvironment, tiling_of
from worldgymnast.tiling import Tiling
from worldgymnast.types import (
    IMAGE,
    STATE,
    ActionChunk,
    Observation,
    Rollout,
    RolloutGroup,
    Start,
    StartOrLayout,
    Verdict,
)


def roll_out(
    env: VectorEnv[Any, Any, Any],
    policy: Actor,
    starts: Sequence[StartOrLayout],
    *,
    temperature: float,
    generator: torch.Generator,
    version: int = 0,
) -> list[Rollout]:
    """Roll out `policy` from every start; see `batches`."""
    rolled = batches(env, policy, starts, temperature=temperature, generator=generator, version=version)
    return [rollout for batch in rolled for rollout in batch]


def batches(
    env: VectorEnv[Any, Any, Any],
    policy: Actor,
    starts: Sequence[StartOrLayout],
    *,
    temperature: float,
    generator: torch.Generator,
    version: int = 0,
) -> Iterator[list[Rollout]]:
    """Yield one rollout per start, in the order of `starts`, `env.num_envs` at a time.

    The environment decides how many actions of each chunk are executed: those of one of its steps. The policy is asked
    again afterwards, and the rest of its chunk is discarded.

    Args:
        env: a vector environment of `envs.wrappers` or `envs.imagined`.
        policy: acts.
        starts: where the rollouts begin.
        temperature: of sampling; 0 is greedy.
        generator: of sampling.
        version: version of the weights, recorded in the rollouts.

    Raises:
        InputError: the policy needs an input that the environment does not provide, or predicts fewer actions than the
            environment executes.
    """
    executed = _executed(env, policy)
    check_provided(env, policy)
    for first in range(0, len(starts), env.num_envs):
        batch = list(starts[first : first + env.num_envs])
        yield _run_batch(env, policy, batch, executed, temperature, generator, version)


def _executed(env: VectorEnv[Any, Any, Any], policy: Actor) -> int:
    """Return how many actions of each of the policy's chunks the environment executes."""
    space = env.single_action_space
    executed = space.shape[0] if space.shape is not None and len(space.shape) == 2 else policy.chunk
    if executed > policy.chunk:
        raise InputError(
            f"environment: executes {executed} actions per look, but the policy predicts {policy.chunk}. Execute at "
            f"most {policy.chunk}"
        )
    return executed


def open_vector(
    env: RealEnvironment, rows: int, chunk: int, *, horizon: int, keyframes_only: bool = False
) -> VectorEnv[Any, Any, Any]:
    """Vector environment of a real one, with its tiling; see `RealEnvironment.vector`."""
    vector = env.vector(rows, chunk, horizon=horizon, keyframes_only=keyframes_only)
    if tiling_of(vector) is None and (tiling := tiling_of(env)) is not None:
        with_tiling: Any = vector
        with_tiling.tiling = tiling
    return vector


def check_provided(env: VectorEnv[Any, Any, Any], policy: Actor) -> None:
    """Raise InputError unless an environment provides all inputs of a policy."""
    space = env.single_observation_space
    provided = set(space.spaces) if isinstance(space, gym.spaces.Dict) else set()
    tiling = tiling_of(env)
    cameras = {name for name in policy.cameras if name in provided or (tiling is not None and tiling.find(name))}
    missing = (policy.needs | set(policy.cameras)) - provided - cameras
    if not missing:
        return
    shown = sorted(provided | set(() if tiling is None else tiling.cameras))
    advice = "Choose another policy or environment"
    if missing == {STATE}:
        advice = (
            "Train a world model with a state head on data with the state (train-world DATA --state), or use a policy "
            "without state (sft without --state)"
        )
    raise InputError(
        f"policy needs {', '.join(sorted(missing))}, but the environment only provides {', '.join(shown)}. {advice}"
    )


def _run_batch(
    env: VectorEnv[Any, Any, Any],
    policy: Actor,
    starts: list[StartOrLayout],
    executed: int,
    temperature: float,
    generator: torch.Generator,
    version: int,
) -> list[Rollout]:
    """Roll out one batch; missing rows are filled with copies of the last start."""
    padded = starts + [starts[-1]] * (env.num_envs - len(starts))
    sentences, tiling = [start.instruction for start in padded], tiling_of(env)
    observed, _ = env.reset(options={"starts": padded})
    first, looks, chunks, frames, success = observed[IMAGE], list[Observation](), [], [], []
    initial, states = observed.get(STATE), list[np.ndarray]()
    info: dict[str, Any] = {}
    done = False
    while not done:
        obs = observe(policy, observed, sentences, looks[0].images if looks else None, tiling)
        chunk = policy.act(obs, temperature=temperature, generator=generator).execute(executed)
        looks.append(obs)
        chunks.append(chunk)
        observed, _, terminated, truncated, info = env.step(chunk.actions.cpu().numpy())
        frames.append(np.asarray(info["frames"]))
        states += [np.asarray(info["states"], np.float32)] if "states" in info else []
        success.append(np.asarray(info.get("success", np.zeros((env.num_envs, 0), bool))))
        done = bool(np.all(np.logical_or(terminated, truncated)))
    seen = np.concatenate([first[:, None], *frames], axis=1)
    labels = np.concatenate([np.zeros((env.num_envs, 1), bool), *success], axis=1)
    verdicts = [_verdict(info, row) for row in range(len(starts))]
    ended = info.get("executed")
    known = initial is not None and len(states) == len(frames)
    robot = np.concatenate([np.asarray(initial, np.float32)[:, None], *states], axis=1) if known else None
    k = chunks[0].actions.shape[1]

    def first_state(row: int) -> np.ndarray | None:
        return None if initial is None else np.asarray(initial[row], np.float32)

    return [
        Rollout(
            start=start if isinstance(start, Start) else start.start(first[row], first_state(row)),
            images={name: np.stack([look.images[name][row].numpy() for look in looks]) for name in looks[0].images},
            chunks=_row(chunks, row),
            frames=seen[row],
            verdict=verdicts[row],
            looks_until_success=_looks_until_success(info, row, k, len(chunks)),
            policy_version=version,
            success=labels[row] if labels.shape == seen.shape[:2] and verdicts[row].score is not None else None,
            foreseen=info["foreseen"][row] if "foreseen" in info else None,
            state=_state(looks, row),
            executed=None if ended is None else int(ended[row]),
            frame_state=None if robot is None else robot[row],
        )
        for row, start in enumerate(starts)
    ]


def observe(
    policy: Actor,
    observed: Mapping[str, np.ndarray],
    sentences: Sequence[str],
    first: Mapping[str, Tensor] | None,
    tiling: Tiling | None = None,
) -> Observation:
    """Return what the policy sees: its cameras, untiled from the frame unless observed alone; the state if needed.

    Args:
        policy: its `cameras` and `needs` decide.
        observed: arrays of the environment by name, batch first.
        sentences: one per row.
        first: images of the first look; None at that look.
        tiling: where each camera lies in the frame "image"; None for a frame of one camera.
    """
    seen = {name: observed[name] for name in policy.cameras if name in observed}
    if tiling is not None and tuple(policy.cameras) != (IMAGE,):
        seen = tiling.untile(np.asarray(observed[IMAGE]), policy.cameras)
    images = {name: torch.from_numpy(np.ascontiguousarray(seen[name])) for name in policy.cameras}
    state = torch.from_numpy(np.asarray(observed[STATE], np.float32)) if STATE in policy.needs else None
    return Observation(images, sentences, state, first or images)


def _row(chunks: list[ActionChunk], row: int) -> ActionChunk:
    """Return the looks of one row as one `ActionChunk`, [n ...]."""
    one = [chunk.map(lambda tensor: tensor[row : row + 1].detach()) for chunk in chunks]
    return ActionChunk.join(one, torch.cat).cpu()


def _state(looks: Sequence[Observation], row: int) -> np.ndarray | None:
    """Return the proprioception of one row at each look, [n s]."""
    states = [look.state for look in looks]
    return np.stack([state[row].numpy() for state in states if state is not None]) if states[0] is not None else None


def _verdict(info: dict[str, Any], row: int) -> Verdict:
    """Return the environment's own verdict; without a score if it reports none."""
    if "score" not in info:
        return Verdict(None, error="not judged yet")
    score, frame = float(info["score"][row]), int(info["success_frame"][row])
    probability = float(info["probability"][row])
    errors = info.get("judge_error")
    if errors is None and np.isnan(score):
        return Verdict(None, error="the environment reports no success")
    return Verdict(
        score=None if np.isnan(score) else score,
        probability=None if np.isnan(probability) else probability,
        success_frame=None if frame < 0 else frame,
        error=None if errors is None else errors[row],
    )


def _looks_until_success(info: dict[str, Any], row: int, chunk: int, looks: int) -> int:
    """Return the number of looks before the reported success (frame f follows action f - 1)."""
    frame = int(info["success_frame"][row]) if "success_frame" in info else -1
    return looks_until(None if frame < 0 else -(-frame // chunk), looks)


def looks_until(success_look: int | None, looks: int) -> int:
    """Return the number of looks whose actions precede the success, `looks` without a success.

    >>> looks_until(3, 8), looks_until(0, 8), looks_until(None, 8)
    (3, 1, 8)
    """
    return looks if success_look is None else min(looks, max(1, success_look))


def executed_per_look(policy: Actor, execute: int | None) -> int:
    """Return the number of actions executed per look: the policy's chunk, or `execute` of it.

    Raises:
        FieldError: the policy predicts fewer actions.
    """
    if execute is not None and execute > policy.chunk:
        raise FieldError("execute", f"found {execute}, expected at most the policy's chunk ({policy.chunk})")
    return policy.chunk if execute is None else execute


def group(rollouts: Sequence[Rollout], size: int) -> list[RolloutGroup]:
    """Group consecutive rollouts of the same start, `size` at a time."""
    groups = [rollouts[i : i + size] for i in range(0, len(rollouts), size)]
    return [RolloutGroup(members[0].start, tuple(members)) for members in groups]


def densify_rewards(group: RolloutGroup) -> RolloutGroup:
    """Reward a group without a success by progress; return any other group unchanged.

    Progress is the verdict's probability, as reported by the environment. It is scaled to [0.2, 0.5]: no rollout counts
    as a success, and no group is dropped because of its mean. Advantages are normalized, so the scale has no effect.
    """
    if np.any(group.scores > 0):
        return group
    verdicts = [r.verdict for r in group.rollouts]
    scores = [v.score if v.score is None or v.probability is None else 0.2 + 0.3 * v.probability for v in verdicts]
    shaped = [replace(v, score=s) for v, s in zip(verdicts, scores, strict=True)]
    members = zip(group.rollouts, shaped, strict=True)
    return RolloutGroup(group.start, tuple(r.with_verdict(v, r.looks_until_success) for r, v in members))


def drop_uncertain(
    groups: Sequence[RolloutGroup], uncertainty: Float[np.ndarray, " r"], threshold: float
) -> tuple[list[RolloutGroup], int]:
    """Remove the rollouts whose uncertainty exceeds `threshold`.

    Args:
        groups: the groups; one that becomes empty stays in its place.
        uncertainty: of each rollout, in the order of the groups. NaN keeps the rollout: its judge failed, and that is
            counted elsewhere.
        threshold: largest uncertainty to keep.

    Returns:
        The groups, and the number of removed rollouts.

    Raises:
        ValueError: `uncertainty` does not have one entry per rollout.
    """
    count = sum(len(g.rollouts) for g in groups)
    if len(uncertainty) != count:
        raise ValueError(f"uncertainty has {len(uncertainty)} entries, expected one for each of {count} rollouts")
    is_uncertain = iter((uncertainty > threshold).tolist())
    kept = [RolloutGroup(g.start, tuple(r for r in g.rollouts if not next(is_uncertain))) for g in groups]
    return kept, int((uncertainty > threshold).sum())
