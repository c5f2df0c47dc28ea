"""Finetuning a policy in a world model or a simulator: starts in, a better policy out."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldgymnast import video
from worldgymnast.actions import require_same
from worldgymnast.configs import checked
from worldgymnast.errors import InputError
from worldgymnast.measure.real import Scorer, ScoringConfig
from worldgymnast.measure.world import rollout_doubt
from worldgymnast.protocols import Judge, Policy, StartSampler
from worldgymnast.records import read_metrics
from worldgymnast.registry import Manifest, save_component, to_dict, weights_into
from worldgymnast.rl.curriculum import LearnableStarts
from worldgymnast.rl.reinforce import ReinforceConfig, Scored, reinforce
from worldgymnast.run import OnLog, Run
from worldgymnast.surrogates.imagination import Imagines, Surrogate
from worldgymnast.surrogates.pool import LocalPool
from worldgymnast.surrogates.verify import rollout_flips
from worldgymnast.types import Metrics, Rollout
from worldgymnast.weights import identity, to_json, write_text

FPS = 10.0
"""Of videos where the rate of the actions is not known."""


@checked
class FinetuneConfig:
    """Reinforcement learning in a surrogate, and its scorings against the real environment.

    Attributes:
        rl: the loop.
        scoring: the layouts of the scorings, where there is a real environment.
    """

    rl: ReinforceConfig = ReinforceConfig()
    scoring: ScoringConfig = ScoringConfig()


@dataclass(frozen=True)
class Finetuned:
    """A finished training.

    Attributes:
        policy: the object that was trained.
        metrics: those of its last scoring; empty where there was none.
        path: the run folder; policy.safetensors is in it.
    """

    policy: Policy
    metrics: Metrics
    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """What was logged at every step."""
        return read_metrics(self.path / "metrics.jsonl")


def finetune(
    policy: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    out: Path,
    config: ReinforceConfig,
    scorer: Scorer | None = None,
    audit: Judge | None = None,
    on_metrics: OnLog | None = None,
) -> Finetuned:
    """RL of a copy of `policy`; OUT/policy.safetensors, and OUT/gallery.json with videos of the last scoring.

    Args:
        policy: where it begins; it is not changed, and the copy is trained on the same device.
        surrogate: where it practises, to the horizon of `config`.
        starts: what each step starts from.
        out: the run folder; the same call goes on where a killed one stopped.
        config: the training.
        scorer: scores it for real as it goes, and so chooses the step that is kept; without one the last is kept.
        audit: another judge, which gives no reward and looks at what the surrogate's calls a success.
        on_metrics: called with every step and what was logged there.

    Raises:
        InputError: parts do not fit one another, or the run folder is of another run.
        Paused: see `reinforce`; the same call goes on.
    """
    require_same(policy.action_spec, surrogate.action_spec, "policy and world model")
    result = out / "policy.safetensors"
    inputs = {"policy": identity(policy), **surrogate.inputs(), "starts": starts.identity}
    inputs |= {} if audit is None else {"audit": identity(audit)}
    scoring = None if scorer is None else scorer.description()
    with Run(out, {"rl": to_dict(config), "scoring": scoring, "inputs": inputs}, on_log=on_metrics) as run:
        trained = copy.deepcopy(policy)
        if run.finished is None:
            metrics = _learn(trained, policy, surrogate, starts, config, run, scorer, audit)
            save_component(result, trained, Manifest(run.command, config.seed, inputs["policy"], metrics))
            run.finish(metrics)
        else:
            metrics = run.finished
            weights_into(trained, result)
    return Finetuned(trained, metrics, out)


def _learn(
    policy: Policy,
    start: Policy,
    surrogate: Surrogate,
    starts: StartSampler,
    config: ReinforceConfig,
    run: Run,
    scorer: Scorer | None,
    audit: Judge | None,
) -> Metrics:
    doubt, verify, sparse = None, None, surrogate.hasty()  # nobody sees the frames between two looks
    if config.uncertainty != "off":
        if not isinstance(surrogate, Imagines):
            raise InputError(
                f"--rl.uncertainty: found '{config.uncertainty}' and no world model to doubt, expected off"
            )
        doubt = rollout_doubt(surrogate.world, surrogate.judge, policy.chunk, config.jitter, config.rows)
        sparse = surrogate
    if config.verify.futures:
        if not isinstance(surrogate, Imagines):
            raise InputError(f"--rl.verify.futures: found {config.verify.futures} and no world model, expected 0")
        verify = rollout_flips(surrogate.hasty(), config.verify, config.rows)
    pool = LocalPool(
        copy.deepcopy(policy) if config.ahead else policy,
        sparse,
        surrogate.judging,
        rows=config.rows,
        temperature=config.temperature,
        seed=config.seed,
        rewarded=surrogate.rewarded,
    )

    def score(step: int) -> Scored | None:
        if scorer is None:
            return None
        return scorer(policy, surrogate, step, horizon=config.horizon, rows=config.rows)

    try:
        chosen = LearnableStarts(starts, run.metrics) if config.curriculum else starts
        metrics, scored = reinforce(policy, pool, chosen, score, config, run, doubt, audit, verify, start)
        if scored is not None:
            save_gallery(run, scored, policy.action_spec.rate or FPS)
        return metrics
    except BaseException:
        surrogate.abandon()
        raise
    finally:
        if scorer is not None:
            scorer.close()
        sparse.close()
        surrogate.close()


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
