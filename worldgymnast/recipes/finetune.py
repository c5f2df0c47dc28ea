"""Finetuning a policy in a world model or a simulator: starts in, a better policy out."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from worldgymnast import video
from worldgymnast.actions import require_same
from worldgymnast.configs import Count, Positive, checked
from worldgymnast.envs.metaworld import MetaWorldConfig
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.measure.real import layouts, real_env, score_real
from worldgymnast.measure.world import rollout_doubt
from worldgymnast.policies.small_vla import SmallVLA
from worldgymnast.protocols import Judge
from worldgymnast.registry import Manifest, load_policy, save_component, to_dict
from worldgymnast.rl.collect import Sample
from worldgymnast.rl.curriculum import by_learnability
from worldgymnast.rl.reinforce import ReinforceConfig, Scored, reinforce
from worldgymnast.run import Run
from worldgymnast.surrogates.imagination import Imagination, Surrogate, score_in
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.verify import rollout_flips
from worldgymnast.types import Metrics, Rollout, Start
from worldgymnast.weights import identity, to_json, write_text

FPS = 10.0
"""Of videos where the rate of the actions is not known."""
_LEAST_LEFT, _MOST_LEFT = 2, 12
"""Actions before its success from which on an episode is begun in the middle."""


@checked
class FinetuneConfig:
    """Reinforcement learning in imagination, scored against the real environment as it goes.

    Attributes:
        env: the real environment of the scorings.
        rl: the loop.
        score_layout: first layout of the scorings; never recorded ones, and not those of the final evaluation.
        workers: processes of the real environment.
    """

    env: MetaWorldConfig = MetaWorldConfig()
    rl: ReinforceConfig = ReinforceConfig()
    score_layout: Count = 5_000_000
    workers: Positive = 2


def finetune(
    policy: SmallVLA,
    surrogate: Surrogate,
    starts: Sample,
    out: Path,
    config: FinetuneConfig,
    device: str = "cpu",
    data: str = "",
    audit: Judge | None = None,
) -> SmallVLA:
    """RL of `policy` from `starts`; OUT/policy.safetensors, and OUT/gallery.json with videos of the last scoring.

    Args:
        policy: where it begins.
        surrogate: where it practises, to the horizon of `config.rl`.
        starts: draws them.
        out: the run folder.
        config: the training.
        device: where to train.
        data: says where the starts come from: with the identities of the parts it tells this run from another.
        audit: another judge, which gives no reward and looks at what the surrogate's calls a success.
    """
    require_same(policy.action_spec, surrogate.action_spec, "policy and world model")
    if config.rl.evaluate_starts:
        require_same(policy.action_spec, config.env.action_spec, "policy and real environment")
    result = out / "policy.safetensors"
    inputs = {"policy": identity(policy), **surrogate.inputs(), "starts": data}
    inputs |= {} if audit is None else {"audit": identity(audit)}
    with Run(out, to_dict(config) | {"inputs": inputs}) as run:
        if run.finished is None:
            trained = copy.deepcopy(policy).to(device)
            metrics = _learn(trained, surrogate, starts, config, run, audit)
            save_component(result, trained, Manifest(run.command, config.rl.seed, inputs["policy"], metrics))
            run.finish(metrics)
    return load_policy(result, device)


def _learn(
    policy: SmallVLA,
    surrogate: Surrogate,
    starts: Sample,
    config: FinetuneConfig,
    run: Run,
    audit: Judge | None,
) -> Metrics:
    rl, chunk = config.rl, policy.config.chunk
    doubt, verify, sparse = None, None, surrogate.hasty()  # nobody sees the frames between two looks
    if rl.uncertainty != "off":
        if not isinstance(surrogate, Imagination):
            raise InputError(f"--rl.uncertainty: found '{rl.uncertainty}' and no world model to doubt, expected off")
        doubt, sparse = rollout_doubt(surrogate.world, surrogate.judge, chunk, rl.jitter, rl.rows), surrogate
    if rl.verify.futures:
        if not isinstance(surrogate, Imagination):
            raise InputError(f"--rl.verify.futures: found {rl.verify.futures} and no world model, expected 0")
        verify = rollout_flips(surrogate.hasty(), rl.verify, rl.rows)
    pool = LocalPool(
        copy.deepcopy(policy), sparse, surrogate.judging, rows=rl.rows, temperature=rl.temperature, seed=rl.seed,
        rewarded=surrogate.rewarded,
    )  # fmt: skip
    real = real_env(replace(config.env, horizon=rl.horizon), chunk, config.workers) if rl.evaluate_starts else None
    try:
        scored_on = layouts(config.env, rl.evaluate_starts, config.score_layout)
        score = scorer(policy, surrogate, real, scored_on, rl.rows)
        starts = by_learnability(starts, run.metrics) if rl.curriculum else starts
        metrics, scored = reinforce(policy, pool, starts, score, rl, run, doubt, audit, verify)
        if scored is not None:
            save_gallery(run, scored, policy.action_spec.rate or FPS)
        return metrics
    except BaseException:
        surrogate.abandon()
        raise
    finally:
        if real is not None:
            real.close()
        sparse.close()
        surrogate.close()


def from_episodes(episodes: EpisodeSet, tasks: Sequence[str], middle: float) -> Sample:
    """Draws starts from logged episodes, tasks in equal parts; a share `middle` from frames shortly before a success.

    So a task that the policy cannot do yet first succeeds where little is left to do (Florensa et al. 2017, arXiv
    1707.05300; Salimans and Chen 2018, arXiv 1812.03381). Of a task that never succeeds they are from the first half.
    """
    by_task = [episodes.where(task=task) for task in tasks if len(episodes.where(task=task))]
    if not by_task:
        raise InputError(f"starts: found episodes of {sorted(set(episodes.task))}, expected some of {list(tasks)}")

    succeeded = [own[episodes.succeeded[own]] for own in by_task]

    def sample(rng: np.random.Generator, count: int) -> list[Start]:
        order = rng.permutation(len(by_task))
        starts = []
        for i in range(count):
            task = order[i % len(order)]
            late = rng.random() < middle
            e = int(rng.choice(succeeded[task] if late and len(succeeded[task]) else by_task[task]))
            index = 0
            if late:
                first, length = int(episodes.first[e]), int(episodes.length[e])
                hit = np.flatnonzero(episodes.success[first : first + length + 1])
                back = int(rng.integers(_LEAST_LEFT, _MOST_LEFT + 1))
                index = max(0, int(hit[0]) - back) if len(hit) else int(rng.integers(0, max(1, length // 2)))
            frame = np.asarray(episodes.frames[int(episodes.first[e]) + index])
            starts.append(Start(frame, episodes.instruction[e], episodes.task[e]))
        return starts

    return sample


def scorer(
    policy: SmallVLA, surrogate: Surrogate, real: VectorEnv[Any, Any, Any] | None, starts: Sequence[Start], rows: int
) -> Callable[[int], Scored | None]:
    """Scores the greedy policy on the same starts in the surrogate and for real; nothing where there are none."""

    def score(step: int) -> Scored | None:
        if real is None or not starts:
            return None
        truly = score_real(policy, real, starts, temperature=0.0, seed=step)
        seen = [r.start for r in truly]
        dreamt = score_in(surrogate, policy, seen, rows=rows, temperature=0.0, seed=step)
        return Scored(dreamt, truly)

    return score


def save_gallery(run: Run, scored: Scored, fps: float) -> None:
    """Videos of the same starts imagined and real, and RUN/gallery.json about them.

    Of every task the first start whose verdict is right and the first whose verdict is wrong, where there are both.
    Without PyAV there are none.
    """
    if not video.available():
        print(f"{run.path}: no videos of the last scoring: PyAV is not installed; pip install av", file=sys.stderr)
        return
    chosen: dict[str, tuple[Rollout, Rollout]] = {}
    for dreamt, real in zip(scored.imagined, scored.real, strict=True):
        kind = "right" if dreamt.verdict.succeeded == real.verdict.succeeded else "wrong"
        chosen.setdefault(f"{real.start.task}-{kind}", (dreamt, real))
    rows = []
    for name, (dreamt, real) in sorted(chosen.items()):
        task = real.start.task
        run.video(f"{name}-imagined", dreamt.frames, fps)
        run.video(f"{name}-real", real.frames, fps)
        rows.append(
            {
                "name": name,
                "task": task,
                "instruction": real.start.instruction,
                "layout": real.start.layout,
                "fps": fps,
                "verdict": dreamt.verdict.score,
                "probability": dreamt.verdict.probability,
                "real_success": real.verdict.score == 1.0,
            }
        )
    write_text(run.path / "gallery.json", to_json(rows))
