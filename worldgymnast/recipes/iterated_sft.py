"""Iterated imitation: a baseline that learns only from judged successes of its own imagined rollouts.

In every round the policy is rolled out in the surrogate, and imitates the judged successes, in equal parts with its
demonstrations (Iter-SFT of World-Gymnast, arXiv 2602.02454; filtered behavior cloning, as in STaR, arXiv 2203.14465,
and ReST, arXiv 2308.08998). It sees the same data as RL, but only the successes. The round with the highest real
success is the result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float

from worldgymnast.actions import require_same
from worldgymnast.arguments import implements
from worldgymnast.configs import Between, Executed, Positive, Seed, checked
from worldgymnast.episodes.windows import EpisodeSet, data_hash, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.measure.real import Scorer
from worldgymnast.phrases import INSTRUCTIONS
from worldgymnast.progress import Progress
from worldgymnast.protocols import Policy, StartSampler, TrainablePolicy
from worldgymnast.recipes.finetune import FPS, save_gallery
from worldgymnast.recipes.record import to_episodes
from worldgymnast.registry import Manifest, load_policy, save_component, to_dict
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.run import Run
from worldgymnast.run_folder import checkpoint_errors_as_input_errors
from worldgymnast.surrogates.imagination import Surrogate, score_in
from worldgymnast.training.batches import imitation_batches
from worldgymnast.training.fit import Batches, FitConfig, fit
from worldgymnast.types import STATE, Metrics, Observation, Rollout
from worldgymnast.weights import identity


@checked
class IterSftConfig:
    """Rounds of imagination and imitation.

    Attributes:
        rounds: number of rounds.
        starts: starts per round.
        group_size: rollouts per start.
        temperature: sampling temperature.
        rows: most rollouts imagined in parallel.
        horizon: actions per imagined rollout. If omitted, nine in ten successful demonstrations end within it.
        execute: actions to execute of each predicted chunk; all by default.
        batch: looks per step of imitation, half of them demonstrations.
        fit: the training loop of every round.
        seed: random seed.
    """

    rounds: Positive = 5
    starts: Positive = 64
    group_size: Positive = 8
    temperature: Annotated[float, Between(1e-3)] = 1.0
    rows: Positive = 96
    horizon: Positive = 24
    execute: Executed = None
    batch: Annotated[int, Between(2)] = 64
    fit: FitConfig = FitConfig(steps=300, lr=5e-4)
    seed: Seed = 0


def iter_sft(
    policy: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    demonstrations: EpisodeSet,
    out: Path,
    config: IterSftConfig,
    scorer: Scorer | None = None,
    device: str = "cpu",
) -> Policy:
    """Train rounds in OUT/round-N; write the best policy to OUT/policy.safetensors.

    Finished rounds are skipped, so the same call resumes.

    Args:
        policy: the initial policy.
        surrogate: imagines and judges.
        starts: samples the starts of each round.
        demonstrations: imitated along with the successes.
        out: the run folder.
        config: the rounds.
        scorer: evaluates the policy before the first round and after each, which chooses the best. Without it, the
            last round is the result.
        device: of the training.

    Raises:
        InputError: a round has no success to imitate, or the policy cannot be trained by imitation.
    """
    if not implements(policy, TrainablePolicy):
        raise InputError(f"{type(policy).__name__} has no imitation loss, so it cannot be trained by imitation")
    require_same(policy.action_spec, surrogate.action_spec, "policy and surrogate")
    require_same(policy.action_spec, demonstrations.spec, "policy and demonstrations")
    result = out / "policy.safetensors"
    inputs = {
        "policy": identity(policy),
        **surrogate.inputs(),
        "starts": starts.identity,
        "data": data_hash(demonstrations),
    }
    scoring = None if scorer is None else scorer.description()
    with Run(out, to_dict(config) | {"scoring": scoring, "inputs": inputs}) as run:
        if run.summary is None:
            kept, metrics = _rounds(policy, surrogate, starts, demonstrations, run, config, scorer, device)
            save_component(result, kept, Manifest(run.command, config.seed, inputs["policy"], metrics))
            run.finish(metrics)
    return load_policy(result, device)


def _rounds(
    initial: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    demonstrations: EpisodeSet,
    run: Run,
    config: IterSftConfig,
    scorer: Scorer | None,
    device: str,
) -> tuple[Policy, Metrics]:
    """Run the remaining rounds; return the policy of the best round, and its metrics."""
    policy = initial
    checkpoint = run.load()
    with checkpoint_errors_as_input_errors(run.path):
        first, best = (checkpoint.step, int(checkpoint.state["best"])) if checkpoint else (0, 0)
    if first > 1:
        policy = load_policy(_policy_file(run.path, first - 1), device)
    try:
        for number in range(first, config.rounds + 1):
            metrics: Metrics = {}
            if number:
                policy, metrics = _round(policy, surrogate, starts, demonstrations, run.path, config, number, device)
            pairs = None
            if scorer is not None:
                pairs = scorer(
                    policy, surrogate, number, horizon=config.horizon, rows=config.rows, execute=config.execute
                )
                metrics |= pairs.metrics() | pairs.task_metrics(number)
            run.log(number, metrics)
            rates = {int(row["step"]): row.get("real_success", 0.0) for row in run.metrics()}
            best = max(rates, key=lambda i: (rates[i], i))
            if pairs is not None:
                save_gallery(run, pairs, policy.action_spec.rate or FPS)
            run.save(number + 1, {}, {"best": best})
    except BaseException:
        surrogate.cancel()
        raise
    finally:
        if scorer is not None:
            scorer.close()
        surrogate.close()
    row = next((row for row in run.metrics() if row["step"] == best), {})
    metrics = {k: v for k, v in row.items() if k not in ("step", "time")} | {"best_step": float(best)}
    return initial if best == 0 else load_policy(_policy_file(run.path, best), device), metrics


def _policy_file(out: Path, number: int) -> Path:
    return out / f"round-{number}" / "policy.safetensors"


def _round(
    policy: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    demonstrations: EpisodeSet,
    out: Path,
    config: IterSftConfig,
    number: int,
    device: str,
) -> tuple[Policy, Metrics]:
    """Run one round; return the trained policy and its metrics."""
    result = _policy_file(out, number)
    folder = result.parent
    with Run(folder, {"round": number, "inputs": {"policy": identity(policy)}}) as run:
        if run.summary is None:
            seed = config.seed * 1_000_003 + number
            rollouts = _rollouts(policy, surrogate, starts, config, number)
            won = [_with_state(rollout) for rollout in label_successes(rollouts)]
            if not won:
                raise InputError(
                    f"{folder}: none of {len(rollouts)} imagined rollouts succeeded, so there is nothing to imitate. "
                    "Use easier starts, a better policy, or more --starts"
                )
            spec = policy.action_spec
            episodes = from_episodes(list(to_episodes(won, "imagined", spec, spec.rate or FPS)))
            metrics: Metrics = {
                "reward": len(won) / len(rollouts),
                "imitated": float(len(won)),
                "judge_error_rate": sum(r.verdict.score is None for r in rollouts) / len(rollouts),
                "imagined_frames": float(sum(len(r.frames) - 1 for r in rollouts)),
            }
            k, half = policy.chunk, config.batch // 2
            seen: Any = {"cameras": policy.cameras, "needs_state": STATE in policy.needs}
            looks = executed_per_look(policy, config.execute) if STATE in policy.needs else 1
            episodes = replace(episodes, tiling=demonstrations.tiling)
            batches = combine_batches(
                imitation_batches(demonstrations, k, config.batch - half, seed, INSTRUCTIONS, **seen),
                imitation_batches(episodes, k, half, seed + 1, INSTRUCTIONS, **seen, every=looks),
            )
            learner: Any = copy.deepcopy(policy)
            metrics |= fit(learner, batches, replace(config.fit, seed=seed), run, f"imitation, round {number}")
            save_component(result, learner, Manifest(run.command, seed, data_hash(episodes), metrics))
            run.finish(metrics)
        metrics = dict(run.summary or {})
    return load_policy(result, device), metrics


def _rollouts(
    policy: Policy, surrogate: Surrogate, starts: StartSampler, config: IterSftConfig, number: int
) -> list[Rollout]:
    """Imagine and judge the rollouts of a round."""
    chosen = starts(np.random.default_rng([config.seed, number]), config.starts)
    repeated = [start for start in chosen for _ in range(config.group_size)]
    rollouts: list[Rollout] = []
    with Progress(f"imagining, round {number}", len(repeated)) as progress:
        for i in range(0, len(repeated), config.rows):
            part = repeated[i : i + config.rows]
            seed = (config.seed * 1_000_003 + number) * 1_000 + i // config.rows
            rollouts += score_in(surrogate, policy, part, rows=config.rows, temperature=config.temperature, seed=seed)
            progress.advance(len(part))
    return rollouts


def label_successes(rollouts: Iterable[Rollout]) -> Iterator[Rollout]:
    """Yield the judged successes, labeled from the frame of the judged success on."""
    for rollout in rollouts:
        if rollout.verdict.succeeded:
            last = len(rollout.frames) - 1
            frame = last if rollout.verdict.success_frame is None else min(rollout.verdict.success_frame, last)
            yield replace(rollout, success=np.arange(last + 1) >= frame)


def _with_state(rollout: Rollout) -> Rollout:
    """Rollout with the state at each frame, if the policy reads it; between two looks that of the look before."""
    if rollout.state is None or rollout.frame_state is not None:
        return rollout
    return replace(rollout, frame_state=state_by_frame(rollout.state, len(rollout.frames)))


def state_by_frame(state: Float[np.ndarray, "n s"], frames: int) -> Float[np.ndarray, "t s"]:
    """State at each of t = n k + 1 frames from those at n looks, k actions apart.

    >>> state_by_frame(np.array([[1.0], [2.0]]), 5)[:, 0]
    array([1., 1., 2., 2., 2.])
    """
    at = np.arange(frames) // ((frames - 1) // len(state))
    return state[at.clip(max=len(state) - 1)]


def combine_batches(first: Batches, second: Batches) -> Batches:
    """Concatenate the imitation batches of both."""

    def make(step: int) -> Mapping[str, Any]:
        a, b = first(step), second(step)
        images = {name: torch.cat([a["obs"].images[name], b["obs"].images[name]]) for name in a["obs"].images}
        states: Any = [part["obs"].state for part in (a, b)]
        return {
            "obs": Observation(
                images,
                [*a["obs"].instruction, *b["obs"].instruction],
                None if states[0] is None else torch.cat(states),
            ),
            "actions": torch.cat([a["actions"], b["actions"]]),
            "mask": torch.cat([a["mask"], b["mask"]]),
        }

    return make
