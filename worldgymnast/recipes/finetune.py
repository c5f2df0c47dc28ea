"""Finetunes a policy by RL in a world model or a simulator."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldgymnast import processes, video
from worldgymnast.actions import require_same
from worldgymnast.arguments import require_members, require_type
from worldgymnast.configs import checked
from worldgymnast.crew import leading
from worldgymnast.errors import FieldError, InputError
from worldgymnast.measure.real import Scorer, ScoringConfig
from worldgymnast.measure.support import Support
from worldgymnast.measure.world import rollout_uncertainty
from worldgymnast.protocols import Judge, Policy, RolloutPool, StartSampler, frame_size
from worldgymnast.records import read_metrics
from worldgymnast.registry import Manifest, origin_of, save_component, to_dict, weights_into
from worldgymnast.rl.collect import Uncertainty, Verify
from worldgymnast.rl.curriculum import LearnableStarts
from worldgymnast.rl.offload import Turns
from worldgymnast.rl.parallel import follow
from worldgymnast.rl.reinforce import PairedRollouts, ReinforceConfig, reinforce
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.rl.starts import check_frame_size
from worldgymnast.rl.trainer import copy_of
from worldgymnast.run import LogCallback, Run
from worldgymnast.surrogates.imagination import ImaginedSurrogate, Surrogate
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.verify import rollout_flips
from worldgymnast.types import Metrics, Rollout, require_frame_size
from worldgymnast.weights import identity, to_json, write_text

RESULT = "policy.safetensors"
FPS = 10.0
"""Frame rate of videos if the rate of the actions is unknown."""


MakePool = Callable[[Policy, Surrogate, ReinforceConfig], AbstractContextManager[RolloutPool]]
"""Opens a pool that rolls out copies of a policy in a surrogate; `ray_pool.workers` makes one."""


@checked
class FinetuneConfig:
    """RL in a surrogate, with evaluations in the real environment.

    Attributes:
        rl: the RL loop.
        scoring: the layouts of the evaluations, if there is a real environment.
    """

    rl: ReinforceConfig = ReinforceConfig()
    scoring: ScoringConfig = ScoringConfig()


@dataclass(frozen=True)
class FinetuneResult:
    """Result of a finished training.

    Attributes:
        policy: the trained policy.
        metrics: those of its last evaluation; empty without one.
        path: the run folder, which contains policy.safetensors.
    """

    policy: Policy
    metrics: Metrics
    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """Return the logged metrics of every step."""
        return read_metrics(self.path / "metrics.jsonl")


def finetune(
    policy: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    out: Path,
    config: ReinforceConfig,
    scorer: Scorer | None = None,
    audit: Judge | None = None,
    on_metrics: LogCallback | None = None,
    support: Support | None = None,
    make_pool: MakePool | None = None,
) -> FinetuneResult:
    """Finetune a copy of `policy` by RL in a surrogate.

    In several processes (torchrun), process 0 collects rollouts and writes; the others only take part in the updates.

    Writes OUT/policy.safetensors, and OUT/gallery.json with videos of the last evaluation.

    Args:
        policy: the initial policy. It is not changed; the copy is trained on the same device.
        surrogate: where it trains, up to the horizon of `config`.
        starts: samples the starts of each step.
        out: the run folder; the same call resumes a killed run.
        config: the training.
        scorer: evaluates the policy for real during training, which chooses the step to keep; without it, the last
            step is kept.
        audit: independent judge that re-checks judged successes; gives no reward.
        on_metrics: called with every step and its metrics.
        support: real episodes; the share of imagined rollouts outside of them is logged as "outside_rate".
        make_pool: opens the pool that rolls out; by default, this process does. It changes no result if
            `config.streams` is "group".

    Raises:
        InputError: components do not fit together, or the run folder belongs to another run.
        Paused: see `reinforce`; the same call resumes.
    """
    require_members(policy, Policy, "policy")
    require_members(starts, StartSampler, "starts")
    if scorer is not None:
        require_type(scorer, Scorer, "scorer", "Make one with wg.scorer(env)")
    if isinstance(surrogate, ImaginedSurrogate):
        if (executed := executed_per_look(policy, config.execute)) != surrogate.chunk:
            raise FieldError(
                "execute", f"found {executed} actions per look, but the surrogate executes {surrogate.chunk}"
            )
        check_frame_size(starts, surrogate.world.frame_size)
        if scorer is not None:
            size = frame_size(scorer.env)
            require_frame_size(size, surrogate.world.frame_size, "scorer")
    require_same(policy.action_spec, surrogate.action_spec, "policy and world model")
    if processes.rank() > 0:
        return _follow(policy, out)
    with leading() as crew:
        result = _lead(policy, surrogate, starts, out, config, scorer, audit, on_metrics, support, make_pool)
        if crew is not None:
            crew.finish(result.metrics)
    return result


def _follow(policy: Policy, out: Path) -> FinetuneResult:
    """Take part in the updates of process 0, and return its result."""
    metrics = follow(copy_of(policy), policy)
    trained = copy_of(policy)
    weights_into(trained, out / RESULT)
    return FinetuneResult(trained, metrics, out)


def _lead(
    policy: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    out: Path,
    config: ReinforceConfig,
    scorer: Scorer | None,
    audit: Judge | None,
    on_metrics: LogCallback | None,
    support: Support | None,
    make_pool: MakePool | None,
) -> FinetuneResult:
    """Train, and write the run folder."""
    result = out / RESULT
    inputs = {"policy": identity(policy), **surrogate.inputs(), "starts": starts.identity}
    inputs |= {} if audit is None else {"audit": identity(audit)}
    scoring = None if scorer is None else scorer.description()
    # Neither changes the result, so a run may resume with them or without.
    described = to_dict(replace(config, offload=False, trainer=replace(config.trainer, shard=False)))
    with (
        Run(out, {"rl": described, "scoring": scoring, "inputs": inputs}, on_log=on_metrics) as run,
        Turns(_only_for_rollouts(surrogate, audit, config), is_on=config.offload and run.summary is None) as turns,
    ):
        turns.give_to("update")  # so that the copy of the policy does not lie beside the world model
        trained = copy_of(policy)
        if run.summary is None:
            metrics = _train(trained, policy, surrogate, starts, config, run, scorer, audit, support, make_pool, turns)
            origin = dict(origin_of(policy) or {})
            if isinstance(surrogate, ImaginedSurrogate):
                origin["frame_size"] = list(surrogate.world.frame_size)
            save_component(result, trained, Manifest(run.command, config.seed, inputs["policy"], metrics, origin))
            run.finish(metrics)
        else:
            metrics = run.summary
            weights_into(trained, result)
    return FinetuneResult(trained, metrics, out)


def _train(
    policy: Policy,
    start: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    config: ReinforceConfig,
    run: Run,
    scorer: Scorer | None,
    audit: Judge | None,
    support: Support | None,
    make_pool: MakePool | None,
    turns: Turns,
) -> Metrics:
    """Train `policy` in place, save videos of every evaluation, and return the metrics of the last."""
    uncertainty = _uncertainty(surrogate, config)
    verify = _verify(surrogate, config)
    # Only the measurement of uncertainty needs the frames between two looks.
    rendered = surrogate.keyframes_only() if uncertainty is None else surrogate

    def evaluate(step: int) -> PairedRollouts | None:
        if scorer is None:
            return None
        pairs = scorer(policy, surrogate, step, horizon=config.horizon, rows=config.rows, execute=config.execute)
        save_gallery(run, pairs, policy.action_spec.rate or FPS)
        return pairs

    def watch(rollouts: Sequence[Rollout]) -> Metrics:
        return {} if support is None or not rollouts else {"outside_rate": float(support.outside(rollouts).mean())}

    try:
        sampler = LearnableStarts(starts, run.metrics) if config.curriculum else starts
        opened = make_pool or functools.partial(_local_pool, surrogate=surrogate)
        with opened(policy, rendered, config) as pool:
            metrics, _ = reinforce(
                policy, pool, sampler, evaluate, config, run, uncertainty, audit, verify, start, watch, turns
            )
        return metrics
    except BaseException:
        surrogate.cancel()
        raise
    finally:
        if scorer is not None:
            scorer.close()
        rendered.close()
        surrogate.close()


def _only_for_rollouts(surrogate: Surrogate, audit: Judge | None, config: ReinforceConfig) -> list[object]:
    """Components that no update needs; with prefetch a remote judge works during updates, too."""
    if not isinstance(surrogate, ImaginedSurrogate):
        return []
    judges = [judge for judge in (surrogate.judge, audit) if judge is not None]
    return [surrogate.world, *(judge for judge in judges if not (config.ahead and judge.is_remote))]


def _local_pool(
    policy: Policy, rendered: Surrogate, config: ReinforceConfig, *, surrogate: Surrogate
) -> AbstractContextManager[RolloutPool]:
    """Open the pool that rolls out in this process."""
    pool = LocalPool(
        copy_of(policy) if config.ahead else policy,
        rendered,
        surrogate.verdict_source,
        rows=config.rows,
        temperature=config.temperature,
        seed=config.seed,
        assign_rewards=surrogate.assign_rewards,
        streams=config.streams,
    )
    return nullcontext(pool)


def _uncertainty(surrogate: Surrogate, config: ReinforceConfig) -> Uncertainty | None:
    """Make the uncertainty measure that the config asks for."""
    if config.uncertainty == "off":
        return None
    if not isinstance(surrogate, ImaginedSurrogate):
        raise InputError(
            f"--rl.uncertainty is '{config.uncertainty}', but the surrogate has no world model to measure. Use off"
        )
    return rollout_uncertainty(surrogate.world, surrogate.judge, surrogate.chunk, config.jitter, config.rows)


def _verify(surrogate: Surrogate, config: ReinforceConfig) -> Verify | None:
    """Make the verification of successes that the config asks for."""
    if not config.verify.futures:
        return None
    if not isinstance(surrogate, ImaginedSurrogate):
        raise InputError(
            f"--rl.verify.futures is {config.verify.futures}, but the surrogate has no world model to imagine with. "
            "Use 0"
        )
    return rollout_flips(surrogate.keyframes_only(), config.verify, config.rows)


def save_gallery(run: Run, pairs: PairedRollouts, fps: float) -> None:
    """Save videos of the same starts imagined and real, and list them in RUN/gallery.json.

    For every task: the first start whose verdict is right, and the first whose verdict is wrong, if they exist. Without
    PyAV, only a warning is printed.
    """
    if not video.is_available():
        print(
            f"{run.path}: no videos of the last evaluation, because PyAV is missing. Run: pip install av",
            file=sys.stderr,
        )
        return
    chosen: dict[str, tuple[Rollout, Rollout]] = {}
    for imagined, real in zip(pairs.imagined, pairs.real, strict=True):
        kind = "right" if imagined.verdict.succeeded == real.verdict.succeeded else "wrong"
        chosen.setdefault(f"{real.start.task}-{kind}", (imagined, real))
    rows = []
    for name, (imagined, real) in sorted(chosen.items()):
        run.video(f"{name}-imagined", imagined.frames, fps)
        run.video(f"{name}-real", real.frames, fps)
        rows.append(
            {
                "name": name,
                "task": real.start.task,
                "instruction": real.start.instruction,
                "layout": real.start.layout,
                "fps": fps,
                "verdict": imagined.verdict.score,
                "probability": imagined.verdict.probability,
                "real_success": real.verdict.score == 1.0,
            }
        )
    write_text(run.path / "gallery.json", to_json(rows))
