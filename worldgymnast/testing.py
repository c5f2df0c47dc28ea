"""Contract checks for custom policies, world models, judges and environments.

They verify behavior, not names, like `gymnasium.utils.env_checker`. Each check takes seconds, and raises
`ContractError` with the violation, its consequence and the fix.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from worldgymnast import sight
from worldgymnast.arguments import missing_members
from worldgymnast.environments import OptionalMembers
from worldgymnast.envs.anygym import Gymnasium
from worldgymnast.envs.inspection import Inspection, horizon_problem, inspect_description, inspect_episode
from worldgymnast.errors import InputError
from worldgymnast.protocols import (
    Actor,
    Demonstrates,
    Judge,
    Policy,
    RealEnvironment,
    WorldModel,
    frame_size,
    predicts_state,
)
from worldgymnast.registry import Manifest, class_of, load_policy, save_component, weights_into
from worldgymnast.types import ActionChunk, Clip, Observation, Verdict
from worldgymnast.weights import identity

_ROWS = 4
"""Batch size; above one to detect swapped axes."""
_SENTENCES = ("open the drawer", "close the door")
_ROUNDING = 1e-3
"""Tolerance of log-probabilities of the same chunk, in nats."""


class ContractError(AssertionError):
    """A component violates its contract."""


def _require(is_met: bool, violation: str, consequence: str, fix: str) -> None:
    if not is_met:
        raise ContractError(f"{violation}. {consequence}. {fix}")


def _has_members(component: object, protocol: type[Any]) -> None:
    missing = missing_members(component, protocol)
    _require(
        not missing,
        f"{type(component).__name__} has no {', '.join(missing)}",
        f"It is not a {protocol.__name__}, so no recipe can use it",
        "Add these members, see worldgymnast.protocols",
    )


def _has_identity(component: object) -> None:
    first, second = identity(component), identity(component)
    _require(
        first == second != "",
        f"{type(component).__name__}.identity gives {first!r}, then {second!r}",
        "A resumed run would be refused, or would not detect an exchanged component",
        "Return a text that depends only on the config and the weights",
    )


def observation(
    actor: Actor, frame_size: tuple[int, int] = (64, 64), state_size: int = 0, seed: int = 0
) -> Observation:
    """Random observation of 4 rows for an actor.

    Args:
        actor: the actor, whose cameras are used.
        frame_size: height and width of the frames.
        state_size: numbers of proprioception; 0 for none.
        seed: random seed.

    >>> import worldgymnast as wg
    >>> observation(wg.load_policy(wg.starter("policy"))).image.shape
    torch.Size([4, 64, 64, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (_ROWS, *frame_size, 3)
    images = {name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for name in actor.cameras}
    state = torch.randn(_ROWS, state_size, generator=generator) if state_size else None
    return Observation(images, [_SENTENCES[i % 2] for i in range(_ROWS)], state, images)


# ---------------------------------------------------------------- policies


def check_sight(actor: Any, state_size: int = 0) -> None:
    """Check that the output of a policy changes when the image does.

    Published checkpoints are tested so when they are loaded. One pass of a black, a white and a shuffled image.

    Args:
        actor: the policy, or any other actor.
        state_size: numbers of proprioception that it needs; 0 for none.

    Raises:
        ContractError: the actor is blind, or its output is not finite.

    >>> import worldgymnast as wg
    >>> wg.testing.check_sight(wg.load_policy(wg.starter("policy")))
    """
    try:
        sight.check_sight(actor, type(actor).__name__, state_size=state_size)
    except InputError as error:
        raise ContractError(str(error)) from error


def check_policy(policy: Any, frame_size: tuple[int, int] = (64, 64), state_size: int = 0) -> None:
    """Check that a policy can be rolled out, trained by reinforcement learning, saved and resumed.

    Args:
        policy: the policy; its weights stay unchanged.
        frame_size: height and width of its frames.
        state_size: numbers of proprioception that it needs; 0 for none.

    Raises:
        ContractError: the policy violates its contract.

    >>> import worldgymnast as wg
    >>> wg.testing.check_policy(wg.load_policy(wg.starter("policy")))
    """
    _has_members(policy, Policy)
    _has_identity(policy)
    obs = observation(policy, frame_size, state_size)
    chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))
    _check_chunk(policy, chunk)
    _check_draws(policy, obs, chunk)
    _check_logprobs(policy, obs, chunk)
    _check_training(policy, obs, chunk)
    _check_saving(policy)


def _check_chunk(policy: Policy, chunk: ActionChunk) -> None:
    name, shape = type(policy).__name__, (_ROWS, policy.chunk, policy.action_spec.dim)
    _require(
        tuple(chunk.actions.shape) == shape and chunk.actions.dtype == torch.float32,
        f"{name}.act gives {chunk.actions.dtype} actions {list(chunk.actions.shape)}, expected float32 {list(shape)}",
        "Environments execute arrays [rows, chunk, action]",
        "Return actions [b k a], with k = chunk and a = action_spec.dim",
    )
    _require(
        not (chunk.logprobs.requires_grad or chunk.actions.requires_grad),
        f"{name}.act gives tensors with a gradient",
        "Every rollout would keep its autograd graph, and the second update would fail",
        "Decorate act with torch.no_grad()",
    )
    _require(
        len(chunk.logprobs) == _ROWS and bool(torch.isfinite(chunk.logprobs).all()),
        f"{name}.act gives log-probabilities {list(chunk.logprobs.shape)}, or non-finite ones",
        "The update could not compute the probability ratio",
        "Return finite log-probabilities [b ...]",
    )


def _same(one: ActionChunk, other: ActionChunk) -> bool:
    return bool(torch.allclose(one.actions, other.actions, atol=1e-5))


def _check_draws(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name = type(policy).__name__
    again = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))
    _require(
        _same(chunk, again),
        f"{name}.act with the same generator gives other actions",
        "A resumed run would differ from an uninterrupted one",
        "Draw every random number from the given generator",
    )
    other = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(1))
    _require(
        not _same(chunk, other),
        f"{name}.act at temperature 1 gives the same actions from another generator",
        "All rollouts of a group would be equal, so there would be no learning signal",
        "Sample if the temperature is above 0",
    )
    greedy = [policy.act(obs, temperature=0.0, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    _require(
        _same(*greedy),
        f"{name}.act at temperature 0 depends on the generator",
        "Evaluations would not be reproducible",
        "Return the most likely action if the temperature is 0",
    )


def _check_logprobs(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name, fresh = type(policy).__name__, policy.logprobs(obs, chunk)
    difference = np.inf
    if fresh.shape == chunk.logprobs.shape:
        difference = float((fresh.detach().cpu() - chunk.logprobs.cpu()).abs().max())
    _require(
        difference <= _ROUNDING,
        f"{name}.logprobs differs from the log-probabilities of act by {difference:.2g} nats",
        "The ratio would not be 1 before the first update, so the first gradient would be wrong",
        "Score chunk.sample by the same path as act, at chunk.temperature, with dropout off",
    )
    _require(
        fresh.requires_grad,
        f"{name}.logprobs has no gradient",
        "The policy would not learn",
        "Compute it without torch.no_grad(), from parameters that require a gradient",
    )
    rows = torch.tensor([2, 0])
    part = policy.logprobs(obs.rows(rows), chunk.rows(rows)).detach()
    difference = float((part - fresh.detach()[rows.to(fresh.device)]).abs().max())
    _require(
        difference <= _ROUNDING,
        f"{name}.logprobs of two rows differs from the same rows of a batch by {difference:.2g} nats",
        "Micro-batches would change the update",
        "Keep rows independent (no batch normalization), with the batch first in every tensor of chunk.sample",
    )


def _check_training(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name = type(policy).__name__
    trained, state = copy.deepcopy(policy), {k: v.detach().clone() for k, v in policy.trainable_state().items()}
    parameters = [weight for weight in trained.parameters() if weight.requires_grad]
    _require(
        bool(parameters),
        f"{name} has no parameter that requires a gradient",
        "It cannot be trained",
        "Unfreeze some parameters",
    )
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    (-trained.logprobs(obs, chunk).mean()).backward()
    optimizer.step()
    _require(
        identity(trained) != identity(policy),
        f"{name}.identity is unchanged after an update",
        "A run could not distinguish the trained policy from the initial one",
        "Compute it from the weights (worldgymnast.weights.module_identity)",
    )
    trained.load_trainable(state)
    difference = float((trained.logprobs(obs, chunk) - policy.logprobs(obs, chunk)).detach().abs().max())
    _require(
        difference <= _ROUNDING,
        f"{name}.load_trainable(trainable_state()) does not restore the policy: {difference:.2g} nats off",
        "The best step could not be restored, and checkpoints would lose weights",
        "Return every tensor that training changes, and restore all of them",
    )


def _check_saving(policy: Policy) -> None:
    name = type(policy).__name__
    is_registered = class_of("policies", name) is type(policy)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        save_component(path, policy, Manifest())
        restored = copy.deepcopy(policy)
        for weight in restored.parameters():
            nn.init.zeros_(weight)
        weights_into(restored, path)
        copies = [restored, load_policy(path)] if is_registered else [restored]
    for each in copies:
        _require(
            identity(each) == identity(policy),
            f"{name} has another identity after saving and loading",
            "A run could not be resumed, and the file would contain another policy",
            "Put every weight into state_dict(), and build only from the config in from_config",
        )


# ---------------------------------------------------------------- world models


def check_world(world: Any) -> None:
    """Check that a world model is reproducible and keeps its state in the returned value.

    Raises:
        ContractError: the world model violates its contract.

    >>> import worldgymnast as wg
    >>> wg.testing.check_world(wg.load_world(wg.starter("world")))
    """
    _has_members(world, WorldModel)
    _has_identity(world)
    name, (height, width) = type(world).__name__, world.frame_size
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8))
    spec = world.action_spec
    actions = torch.from_numpy(rng.uniform(spec.low, spec.high, (2, 4, spec.dim)).astype(np.float32))

    def imagine(state: Any, every: int = 1, seed: int = 0) -> np.ndarray:
        return world.step(state, actions, generator=torch.Generator().manual_seed(seed), every=every)[1].cpu().numpy()

    state = world.start(frames)
    imagined = imagine(state)
    shape = (2, 4, height, width, 3)
    _require(
        imagined.shape == shape and imagined.dtype == np.uint8,
        f"{name}.step gives frames {list(imagined.shape)} of {imagined.dtype}, expected {list(shape)} uint8",
        "Judges and policies need uint8 RGB frames, one per action",
        "Return frames [b k h w 3] in 0..255",
    )
    _require(
        bool(np.array_equal(imagined, imagine(state))),
        f"{name}.step from the same state and generator gives other frames",
        "A start could not be continued in several ways, and a resumed run would differ",
        "Store no state on the module: put it into WorldState, and draw only from the generator",
    )
    _require(
        bool(np.array_equal(imagined[:, 3:], imagine(state, every=4))),
        f"{name}.step(every=4) does not give the last of the 4 frames",
        "Rollouts with keyframes only would be judged on other frames",
        "Imagine every action, and return the last frame of each `every`",
    )
    forked = state.fork(torch.tensor([1, 0]))
    difference = np.abs(imagine(state).astype(int) - imagine(world.start(frames)).astype(int)).max()
    _require(
        bool(difference <= 1) and len(imagine(forked)) == 2,
        f"{name}: stepping one state changes another",
        "The rollouts of a group would influence each other",
        "Return a new WorldState, and never modify the given one",
    )
    if predicts_state(world):
        _check_state(world, frames, actions)


def _check_state(world: Any, frames: torch.Tensor, actions: torch.Tensor) -> None:
    """Check the predictions of a world model with a state head."""
    name, known = type(world).__name__, torch.arange(2.0 * world.state_dim).reshape(2, world.state_dim)
    state = world.start(frames, known)
    first = world.predict_state(state)
    _require(
        first is not None and bool(torch.allclose(first.cpu(), known, atol=1e-3)),
        f"{name}.predict_state at the start differs from the state that start was given",
        "A policy would begin with a wrong state",
        "Keep the given state in WorldState.extra, and return it until the first step",
    )
    known[1] = torch.nan
    for given in (None, known):
        state, _ = world.step(world.start(frames, given), actions, generator=torch.Generator().manual_seed(0))
        predicted = world.predict_state(state)
        _require(
            predicted is not None and predicted.shape == known.shape and bool(torch.isfinite(predicted).all()),
            f"{name}.predict_state without a known start gives {None if predicted is None else list(predicted.shape)}, "
            f"or non-finite numbers",
            "Photographs have no state, so no policy with state could start from them",
            "Estimate the state from the start frame where it is None or NaN",
        )


# ---------------------------------------------------------------- judges


def check_judge(judge: Any, frame_size: tuple[int, int] = (64, 64)) -> None:
    """Check that a judge gives one verdict per clip, in order.

    Args:
        judge: the judge; a remote judge gets three requests.
        frame_size: height and width of the frames.

    Raises:
        ContractError: the judge violates its contract.

    >>> import worldgymnast as wg
    >>> wg.testing.check_judge(wg.load_judge(wg.starter("judge")))
    """
    _has_members(judge, Judge)
    _has_identity(judge)
    name, rng = type(judge).__name__, np.random.default_rng(0)
    clips = [
        Clip(rng.integers(0, 256, (3 + i, *frame_size, 3), dtype=np.uint8), _SENTENCES[i % 2], "drawer-open", True)
        for i in range(3)
    ]
    verdicts = judge.score(clips)
    _require(
        len(verdicts) == 3 and all(isinstance(verdict, Verdict) for verdict in verdicts),
        f"{name}.score gives {len(verdicts)} verdicts for 3 clips",
        "Verdicts would be assigned to the wrong rollouts",
        "Return one Verdict per clip, in order; Verdict(None, error=REASON) if it failed",
    )
    for clip, verdict in zip(clips, verdicts, strict=True):
        _check_verdict(name, clip, verdict)
    if judge.is_remote:
        return
    reversed_verdicts = judge.score(clips[::-1])[::-1]
    _require(
        [one.score for one in reversed_verdicts] == [one.score for one in verdicts],
        f"{name}.score gives other verdicts for another order of the clips",
        "A rollout's reward would depend on other rollouts",
        "Judge each clip independently",
    )
    _require(
        list(judge.score([])) == [],
        f"{name}.score of no clips gives verdicts",
        "An empty batch would fail",
        "Return an empty list",
    )


def _check_verdict(name: str, clip: Clip, verdict: Verdict) -> None:
    _require(
        verdict.score is None or 0 <= verdict.score <= 1,
        f"{name}.score gives a score of {verdict.score}",
        "Scores are compared with 0 and 1",
        "Return 1 for success, less for partial success, None if the judge failed",
    )
    _require(
        verdict.success_frame is None or 0 <= verdict.success_frame < len(clip.frames),
        f"{name}.score gives frame {verdict.success_frame} of a clip of {len(clip.frames)} frames",
        "Actions after success get no gradient, so the policy would learn from the wrong ones",
        "Return the index of a frame of the clip, or None",
    )


# ---------------------------------------------------------------- environments


def check_environment(env: Any, chunk: int = 2, rows: int = 2) -> None:
    """Check that a real environment rebuilds layouts and reports every frame and success.

    Args:
        env: the environment; the check runs two episodes of two looks, and a few random actions.
        chunk: actions per look.
        rows: parallel rows.

    Raises:
        ContractError: the environment violates its contract; the message has one line per problem.

    >>> import worldgymnast as wg
    >>> wg.testing.check_environment(wg.metaworld(tasks=("door-close",)))  # doctest: +SKIP
    """
    if problems := inspect_environment(env, chunk, rows).problems:
        raise ContractError("\n".join(problems))


def inspect_environment(env: Any, chunk: int = 2, rows: int = 2) -> Inspection:
    """Look at a real environment; see `check_environment` for the arguments.

    Returns:
        All problems, one line each, with notes and what was found.
    """
    result = Inspection()
    if isinstance(env, Gymnasium):
        result = inspect_description(env, chunk)
        if result.problems:
            with contextlib.suppress(InputError):
                _ = env.facts  # raises what is missing
                result.found = describe_environment(env) | result.found
            return result
    checks: list[Callable[[], None]] = [
        lambda: _has_members(env, RealEnvironment),
        lambda: _has_identity(env),
        lambda: result.found.update(describe_environment(env)),
    ]
    _collect(result, checks)
    if result.problems:
        return result
    _collect(result, [lambda: _check_layouts(env), lambda: _check_horizon(env, chunk)])
    _collect(result, [lambda: _check_photographs(env), lambda: _check_single(env, result)])
    _collect(result, [lambda: _check_vector(env, chunk, rows)])
    return result


def _collect(result: Inspection, checks: Sequence[Callable[[], None]]) -> None:
    """Run checks; a violation becomes a problem, once."""
    for check in checks:
        try:
            check()
        except (ContractError, InputError) as error:
            if str(error) not in result.problems:
                result.problems.append(str(error))


def describe_environment(env: Any) -> dict[str, str]:
    """What a real environment is, as names and values."""
    (height, width), spec = frame_size(env), env.action_spec
    cameras = ", ".join(f"{name} {h}x{w}" for name, (h, w) in env.cameras.items())
    found = {
        "actions": str(spec),
        "bounds": " ".join(f"{low:g}..{high:g}" for low, high in zip(spec.low, spec.high, strict=True)),
        "cameras": f"{cameras}; frame {height}x{width}",
    }
    if names := OptionalMembers.of(env).state_names:
        found["state"] = f"{len(names)} numbers ({', '.join(names)})"
    rate = spec.rate
    seconds = f" ({env.horizon / rate:.3g} s)" if rate else ""
    found["horizon"] = f"{env.horizon} actions{seconds}"
    found["tasks"] = "; ".join(f"{task}: {' / '.join(env.instructions(task))}" for task in env.tasks)
    if isinstance(env, Demonstrates):
        found["expert"] = "yes" if OptionalMembers.of(env).has_expert else "no"
    return found


def _check_layouts(env: RealEnvironment) -> None:
    name, layouts = type(env).__name__, env.layouts(2, 7)
    _require(
        [(one.task, one.seed) for one in layouts] == [(task, 7 + i) for task in env.tasks for i in range(2)],
        f"{name}.layouts(2, 7) gives {[(one.task, one.seed) for one in layouts]}",
        "Policies could not be compared on the same layouts",
        "Return consecutive seeds for every task, from the given first seed",
    )
    _require(
        all(any(sentence.strip() for sentence in env.instructions(task)) for task in env.tasks)
        and all(one.instruction.strip() for one in layouts),
        f"{name}: a task has no instruction",
        "The policy could not distinguish tasks",
        "Return at least one sentence per task",
    )


def _check_horizon(env: RealEnvironment, chunk: int) -> None:
    if env.horizon % chunk:
        raise ContractError(horizon_problem(env.horizon, chunk))


def _check_photographs(env: RealEnvironment) -> None:
    name, layouts = type(env).__name__, env.layouts(2, 7)
    start, again = env.photograph(layouts[:1])[0], env.photograph(layouts[:1])[0]
    _require(
        start.frame.shape == (*frame_size(env), 3)
        and start.frame.dtype == np.uint8
        and start.layout == layouts[0].seed,
        f"{name}.photograph gives a frame {list(start.frame.shape)} of {start.frame.dtype}, layout {start.layout}",
        "Starts would not match the world model, or could not be rebuilt",
        "Return layout.start(frame) with a uint8 frame [h w 3] of the size in `cameras`",
    )
    _require(
        bool(np.array_equal(start.frame, again.frame)),
        f"{name}.photograph gives two frames for one layout",
        "Paired comparisons would compare different scenes",
        "Determine the scene by the seed alone",
    )


def _check_single(env: RealEnvironment, result: Inspection) -> None:
    """Play a few actions, if the environment can be opened as a single one."""
    if not isinstance(env, Demonstrates) or isinstance(env, Gymnasium):
        return  # a Gymnasium was played before
    scene = env.open()
    try:
        played = inspect_episode(scene, env.action_spec, env.layouts(2, 7)[:2], env.horizon)
    finally:
        scene.close()
    result.problems += played.problems
    result.notes += played.notes
    result.found |= played.found


def _check_vector(env: RealEnvironment, chunk: int, rows: int) -> None:
    name, layouts = type(env).__name__, env.layouts(2, 7)
    full, keyframes = (_run_episode(env, layouts, chunk, rows, only) for only in (False, True))
    _require(
        bool(np.array_equal(full[0][:, chunk - 1 :: chunk], keyframes[0])),
        f"{name}.vector(keyframes_only=True) gives other frames than the keyframes of a full run",
        "Evaluations would be judged on other frames than training",
        "Render the last frame of each chunk",
    )
    _require(
        bool(np.array_equal(full[1], keyframes[1], equal_nan=True)),
        f"{name}.vector gives other successes with keyframes only",
        "Success would depend on rendering",
        "Report success from the robot, not from rendered frames",
    )


def _run_episode(
    env: RealEnvironment, layouts: Sequence[Any], chunk: int, rows: int, keyframes_only: bool
) -> tuple[np.ndarray, list[float]]:
    """Frames [b t h w 3] and scores of an episode of two looks without motion."""
    name, spec = type(env).__name__, env.action_spec
    vector = env.vector(rows, chunk, horizon=2 * chunk, keyframes_only=keyframes_only)
    still = np.clip(np.zeros((rows, chunk, spec.dim)), spec.low, spec.high).astype(np.float32)
    frames, info = [], dict[str, Any]()
    try:
        vector.reset(options={"starts": [layouts[i % len(layouts)] for i in range(rows)]})
        for look in range(2):
            _, _, terminated, truncated, info = vector.step(still)
            frames.append(np.asarray(info["frames"]))
            is_over = bool(np.all(np.logical_or(terminated, truncated)))
            _require(
                is_over == (look == 1),
                f"{name}.vector reports end={is_over} after look {look + 1}, with a horizon of 2 looks",
                "Rollouts would be truncated, or never end",
                "Truncate all rows after `horizon` actions",
            )
    finally:
        vector.close()
    missing = [key for key in ("score", "success_frame", "probability") if key not in info]
    _require(
        not missing,
        f"{name}.vector's last info lacks {', '.join(missing)}",
        "Success would be unknown",
        "Report them at the last look, see worldgymnast.envs.wrappers",
    )
    return np.concatenate(frames, 1), [float(score) for score in info["score"]]
