"""Checks that a policy, world model, judge or environment of one's own keeps its contract.

They verify behavior, not names, as `gymnasium.utils.env_checker` does for environments. Each takes seconds, raises
`ContractError` with what happened, what follows from it and what to do, and returns nothing.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import get_protocol_members

from worldgymnast.protocols import Actor, Judge, Policy, RealEnvironment, WorldModel
from worldgymnast.registry import Manifest, class_of, load_policy, save_component, weights_into
from worldgymnast.types import ActionChunk, Clip, Observation, Verdict
from worldgymnast.weights import identity

_ROWS = 4
"""Rows of a batch; more than one, so that a mixed-up axis is seen."""
_SENTENCES = ("open the drawer", "close the door")
_ROUNDING = 1e-3
"""Nats by which log-probabilities of the same chunk may differ."""


class ContractError(AssertionError):
    """A component does not keep its contract."""


def _require(holds: bool, happened: str, consequence: str, fix: str) -> None:
    if not holds:
        raise ContractError(f"{happened}. {consequence}. {fix}")


def _has_members(component: object, protocol: type[Any]) -> None:
    missing = [name for name in sorted(get_protocol_members(protocol)) if not hasattr(component, name)]
    _require(
        not missing,
        f"{type(component).__name__} has no {', '.join(missing)}",
        f"It is no {protocol.__name__}, so no recipe can use it",
        "Add these members, see worldgymnast.protocols",
    )


def _has_identity(component: object) -> None:
    first, second = identity(component), identity(component)
    _require(
        first == second != "",
        f"{type(component).__name__}.identity gives {first!r}, then {second!r}",
        "A resumed run would be refused, or would not notice an exchanged component",
        "Return a text that depends on the config and the weights alone",
    )


def observation(
    actor: Actor, frame_size: tuple[int, int] = (64, 64), state_size: int = 0, seed: int = 0
) -> Observation:
    """A random observation of 4 rows with the cameras that `actor` names.

    Args:
        actor: names its cameras.
        frame_size: height and width of the frames.
        state_size: numbers of proprioception; 0 for none.
        seed: of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (_ROWS, *frame_size, 3)
    images = {name: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for name in actor.cameras}
    state = torch.randn(_ROWS, state_size, generator=generator) if state_size else None
    return Observation(images, [_SENTENCES[i % 2] for i in range(_ROWS)], state, images)


# ---------------------------------------------------------------- policies


def check_policy(policy: Any, frame_size: tuple[int, int] = (64, 64), state_size: int = 0) -> None:
    """Check that a policy can be rolled out, trained by reinforcement learning, saved and resumed.

    Args:
        policy: the policy; its weights are as before when this returns.
        frame_size: height and width of its frames.
        state_size: numbers of proprioception that it needs; 0 for none.

    Raises:
        ContractError: it cannot.

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
    name, wanted = type(policy).__name__, (_ROWS, policy.chunk, policy.action_spec.dim)
    _require(
        tuple(chunk.actions.shape) == wanted and chunk.actions.dtype == torch.float32,
        f"{name}.act gives {chunk.actions.dtype} actions {list(chunk.actions.shape)}, expected float32 {list(wanted)}",
        "Environments execute [rows, chunk, action] numbers",
        "Return actions [b k a], with k = chunk and a = action_spec.dim",
    )
    _require(
        not (chunk.logprobs.requires_grad or chunk.actions.requires_grad),
        f"{name}.act gives tensors with a gradient",
        "Every rollout would keep its whole graph, and the second update would fail",
        "Decorate act with torch.no_grad()",
    )
    _require(
        len(chunk.logprobs) == _ROWS and bool(torch.isfinite(chunk.logprobs).all()),
        f"{name}.act gives log-probabilities {list(chunk.logprobs.shape)}, or some that are not finite",
        "The probability ratio of the update could not be computed",
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
        "A resumed run would not continue as the run that was never stopped",
        "Draw every random number from the generator that is given",
    )
    other = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(1))
    _require(
        not _same(chunk, other),
        f"{name}.act at temperature 1 gives the same actions from another generator",
        "All rollouts of a group would be alike, so there would be nothing to learn from",
        "Sample where the temperature is above 0",
    )
    greedy = [policy.act(obs, temperature=0.0, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    _require(
        _same(*greedy),
        f"{name}.act at temperature 0 depends on the generator",
        "Evaluations would not be reproducible",
        "Return the likeliest action where the temperature is 0",
    )


def _check_logprobs(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name, fresh = type(policy).__name__, policy.logprobs(obs, chunk)
    away = (
        float((fresh.detach().cpu() - chunk.logprobs.cpu()).abs().max())
        if fresh.shape == chunk.logprobs.shape
        else np.inf
    )
    _require(
        away <= _ROUNDING,
        f"{name}.logprobs differs from what act recorded by {away:.2g} nats",
        "The ratio would not be 1 before the first update, so the first gradient would be wrong",
        "Score chunk.sample by the same path as act, at chunk.temperature, with dropout off",
    )
    _require(
        fresh.requires_grad,
        f"{name}.logprobs has no gradient",
        "Nothing would be learned",
        "Compute it without torch.no_grad(), from parameters that require a gradient",
    )
    rows = torch.tensor([2, 0])
    part = policy.logprobs(obs.rows(rows), chunk.rows(rows)).detach()
    away = float((part - fresh.detach()[rows.to(fresh.device)]).abs().max())
    _require(
        away <= _ROUNDING,
        f"{name}.logprobs of two rows alone differs from those rows of a batch by {away:.2g} nats",
        "Micro-batches would change the update",
        "Keep rows apart (no batch normalization), and put the batch first in every tensor of chunk.sample",
    )


def _check_training(policy: Policy, obs: Observation, chunk: ActionChunk) -> None:
    name = type(policy).__name__
    trained, state = copy.deepcopy(policy), {k: v.detach().clone() for k, v in policy.trainable_state().items()}
    parameters = [weight for weight in trained.parameters() if weight.requires_grad]
    _require(
        bool(parameters), f"{name} has no parameter that requires a gradient", "Nothing can be trained", "Unfreeze some"
    )
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    (-trained.logprobs(obs, chunk).mean()).backward()
    optimizer.step()
    _require(
        identity(trained) != identity(policy),
        f"{name}.identity is the same after an update",
        "A run could not tell the trained policy from the one it began with",
        "Let it depend on the weights (worldgymnast.weights.module_identity)",
    )
    trained.load_trainable(state)
    away = float((trained.logprobs(obs, chunk) - policy.logprobs(obs, chunk)).detach().abs().max())
    _require(
        away <= _ROUNDING,
        f"{name}.load_trainable(trainable_state()) does not bring an earlier policy back: {away:.2g} nats away",
        "The step that is kept could not be handed out, and checkpoints would lose weights",
        "Return every tensor that training changes, and copy all of them back",
    )


def _check_saving(policy: Policy) -> None:
    name, found = type(policy).__name__, class_of("policies", type(policy).__name__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        save_component(path, policy, Manifest())
        again = copy.deepcopy(policy)
        for weight in again.parameters():
            nn.init.zeros_(weight)
        weights_into(again, path)
        loaded = [again] if found is not type(policy) else [again, load_policy(path)]
    for each in loaded:
        _require(
            identity(each) == identity(policy),
            f"{name} has another identity after it was saved and loaded",
            "A run could not be resumed, and the file would be another policy",
            "Keep every weight in state_dict(), and build from the config alone in from_stored",
        )


# ---------------------------------------------------------------- world models


def check_world(world: Any) -> None:
    """Check that a world model imagines reproducibly and keeps its state in the value that it returns.

    Raises:
        ContractError: it does not.

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

    def imagined(state: Any, every: int = 1, seed: int = 0) -> np.ndarray:
        return world.step(state, actions, generator=torch.Generator().manual_seed(seed), every=every)[1].cpu().numpy()

    state = world.start(frames)
    shown = imagined(state)
    wanted = (2, 4, height, width, 3)
    _require(
        shown.shape == wanted and shown.dtype == np.uint8,
        f"{name}.step gives frames {list(shown.shape)} of {shown.dtype}, expected {list(wanted)} uint8",
        "Judge and policy look at uint8 RGB frames, one an action",
        "Return frames [b k h w 3] in 0..255",
    )
    _require(
        bool(np.array_equal(shown, imagined(state))),
        f"{name}.step from the same state and generator gives other frames",
        "A start could not be continued in several ways, and a resumed run would differ",
        "Keep nothing on the module: put the whole state into WorldState, and draw from the generator alone",
    )
    _require(
        bool(np.array_equal(shown[:, 3:], imagined(state, every=4))),
        f"{name}.step(every=4) does not give the last of the 4 frames",
        "Rollouts that show only the frames at looks would be judged on other frames",
        "Imagine every action, and return the last frame of each `every`",
    )
    forked = state.fork(torch.tensor([1, 0]))
    _require(
        bool(np.abs(imagined(state).astype(int) - imagined(world.start(frames)).astype(int)).max() <= 1)
        and len(imagined(forked)) == 2,
        f"{name}: stepping one state changes another",
        "The rollouts of a group would influence one another",
        "Return a new WorldState, and never write into the one that is given",
    )


# ---------------------------------------------------------------- judges


def check_judge(judge: Any, frame_size: tuple[int, int] = (64, 64)) -> None:
    """Check that a judge gives one verdict for each clip, in order.

    Args:
        judge: the judge; one behind a server is asked about three clips.
        frame_size: height and width of the frames.

    Raises:
        ContractError: it does not.

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
        f"{name}.score gives {len(verdicts)} answers about 3 clips",
        "Verdicts would be given to the wrong rollouts",
        "Return one Verdict for each clip, in their order; Verdict(None, error=WHY) where it failed",
    )
    for clip, verdict in zip(clips, verdicts, strict=True):
        _check_verdict(name, clip, verdict)
    if judge.waits:
        return
    back = judge.score(clips[::-1])[::-1]
    _require(
        [one.score for one in back] == [one.score for one in verdicts],
        f"{name}.score gives other verdicts where the clips come in another order",
        "A rollout's reward would depend on the rollouts beside it",
        "Judge each clip by itself",
    )
    _require(
        list(judge.score([])) == [],
        f"{name}.score of no clips gives verdicts",
        "Nothing was asked",
        "Return an empty list",
    )


def _check_verdict(name: str, clip: Clip, verdict: Verdict) -> None:
    _require(
        verdict.score is None or 0 <= verdict.score <= 1,
        f"{name}.score gives a score of {verdict.score}",
        "Scores are compared with 0 and 1",
        "Return 1 for success, less for a part of it, None where it failed",
    )
    _require(
        verdict.success_frame is None or 0 <= verdict.success_frame < len(clip.frames),
        f"{name}.score gives frame {verdict.success_frame} of a clip of {len(clip.frames)} frames",
        "What follows success gets no gradient, so the wrong actions would be learned",
        "Return the index of a frame of the clip, or None",
    )


# ---------------------------------------------------------------- environments


def check_environment(env: Any, chunk: int = 2, rows: int = 2) -> None:
    """Check that a real environment builds the same layouts again and reports every frame and success.

    Args:
        env: the environment; two episodes of two looks are run.
        chunk: actions a look.
        rows: rows side by side.

    Raises:
        ContractError: it does not.

    >>> import worldgymnast as wg
    >>> wg.testing.check_environment(wg.metaworld(tasks=("door-close",)))  # doctest: +SKIP
    """
    _has_members(env, RealEnvironment)
    _has_identity(env)
    name = type(env).__name__
    layouts = env.layouts(2, 7)
    _require(
        [(one.task, one.seed) for one in layouts] == [(task, 7 + i) for task in env.tasks for i in range(2)],
        f"{name}.layouts(2, 7) gives {[(one.task, one.seed) for one in layouts]}",
        "Policies could not be compared on the same layouts",
        "Return consecutive seeds of every task, the first with the seed that is asked for",
    )
    _require(
        all(env.instructions(task) for task in env.tasks) and all(one.instruction for one in layouts),
        f"{name}: a task has no sentence",
        "A policy that hears nothing cannot be told tasks apart",
        "Return at least one sentence a task",
    )
    seen, again = env.photograph(layouts[:1])[0], env.photograph(layouts[:1])[0]
    size = next(iter(env.cameras.values()))
    _require(
        seen.frame.shape == (*size, 3) and seen.frame.dtype == np.uint8 and seen.layout == layouts[0].seed,
        f"{name}.photograph gives a frame {list(seen.frame.shape)} of {seen.frame.dtype}, layout {seen.layout}",
        "Starts would not fit the world model, or could not be built again",
        "Return layout.start(frame) with a uint8 frame [h w 3] of the size that `cameras` says",
    )
    _require(
        bool(np.array_equal(seen.frame, again.frame)),
        f"{name}.photograph gives two pictures of one layout",
        "Paired comparisons would compare different scenes",
        "Let the seed alone decide the scene",
    )
    full, sparse = (_episode(env, layouts, chunk, rows, only) for only in (False, True))
    _require(
        bool(np.array_equal(full[0][:, chunk - 1 :: chunk], sparse[0])),
        f"{name}.vector(keyframes_only=True) gives other frames than those at the looks",
        "Evaluations would be judged on other frames than training",
        "Render the last frame of each chunk",
    )
    _require(
        full[1] == sparse[1],
        f"{name}.vector gives other successes where only frames at looks are rendered",
        "Success would depend on what is looked at",
        "Report success from the robot, not from the frames that are rendered",
    )


def _episode(
    env: RealEnvironment, layouts: Sequence[Any], chunk: int, rows: int, keyframes_only: bool
) -> tuple[np.ndarray, list[float]]:
    """Frames [b t h w 3] of an episode of two looks without motion, and its scores."""
    name, spec = type(env).__name__, env.action_spec
    vector = env.vector(rows, chunk, horizon=2 * chunk, keyframes_only=keyframes_only)
    still = np.clip(np.zeros((rows, chunk, spec.dim)), spec.low, spec.high).astype(np.float32)
    frames, ended, info = [], False, dict[str, Any]()
    try:
        vector.reset(options={"starts": [layouts[i % len(layouts)] for i in range(rows)]})
        for look in range(2):
            _, _, terminated, truncated, info = vector.step(still)
            frames.append(np.asarray(info["frames"]))
            ended = bool(np.all(np.logical_or(terminated, truncated)))
            _require(
                ended == (look == 1),
                f"{name}.vector ends after look {look + 1} is {ended}, with a horizon of 2 looks",
                "Rollouts would be cut off, or never end",
                "Truncate all rows after `horizon` actions",
            )
    finally:
        vector.close()
    missing = [key for key in ("score", "success_frame", "probability") if key not in info]
    _require(
        not missing, f"{name}.vector's last info lacks {', '.join(missing)}", "Success would be unknown",
        "Report them at the last look, see worldgymnast.envs.wrappers",
    )  # fmt: skip
    return np.concatenate(frames, 1), [float(score) for score in info["score"]]
