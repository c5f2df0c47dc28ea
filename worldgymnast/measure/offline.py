"""What can be known of a training without a real environment.

Nothing is scored for real. Four things can be measured, and one can be computed:

1. Fidelity: imagined replays of real episodes against their frames.
2. The judge: its verdicts on real frames and on imagined replays, against the labels.
3. Doubt: how unsure the judge is about imagined rollouts of the policy.
4. Coverage: the share of imagined rollouts that leave the data (`support`).
5. The real episodes that it would take to show a gain (`evaluation.power`).

The cost is bounded: at most `MAX_EPISODES` replays and about `ROLLOUTS` rollouts of each policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.evaluation.power import episodes_needed
from worldgymnast.evaluation.recall import corrected_rate
from worldgymnast.evaluation.success import Rate, numbers, paired_difference
from worldgymnast.evaluation.uncertainty import judge_uncertainty, success_probability
from worldgymnast.measure.diagnosis import diagnose
from worldgymnast.measure.support import EXPECTED, Support, evenly_spaced
from worldgymnast.measure.world import replay_fidelity, to_plain
from worldgymnast.protocols import Policy, WorldModel
from worldgymnast.surrogates.imagination import ImaginedSurrogate, score_in
from worldgymnast.types import Rollout, Start

MAX_EPISODES = 32
"""Most real episodes that are imagined again."""
ROLLOUTS = 32
"""Imagined rollouts of each policy; a few more if the number of starts does not divide it."""
GAIN = 0.1
"""Gain in real success that the power calculation is for."""
UNSURE = 0.8
"""Uncertainty above which a verdict is called unsure: a success probability between 28 % and 72 %."""
_MIN_LENGTH = 2
"""Fewest frames of a replay that are compared."""


@dataclass(frozen=True)
class References:
    """Real episodes to compare with.

    Attributes:
        test: episodes to imagine again; best those that no component was trained on.
        data: episodes that the components were trained on.
        seen_by: components that were trained on `test`, such as ("judge",).
    """

    test: EpisodeSet
    data: EpisodeSet
    seen_by: tuple[str, ...] = ()


def measure_offline(
    policies: tuple[Policy, Policy],
    surrogate: ImaginedSurrogate,
    starts: Sequence[Start],
    references: References | None,
    *,
    horizon: int,
    temperature: float,
    rows: int = 96,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what can be known without a real environment, as plain JSON.

    Args:
        policies: before and after the training.
        surrogate: world model and judge.
        starts: where both policies are imagined; best those that the training did not use.
        references: real episodes, or None without data.
        horizon: actions per rollout.
        temperature: of sampling.
        rows: most rollouts imagined in parallel.
        seed: of every draw.

    Returns:
        "imagined": success of both policies and their difference. "doubt" and "outside" of both. "needed": real
        episodes for a gain of `GAIN`. With `references`: "fidelity", "judge" (None without labels), "episodes",
        "labelled" and "seen_by".
    """
    repeats = -(-ROLLOUTS // len(starts)) if starts else 0
    chosen = [start for start in _spread(starts, ROLLOUTS) for _ in range(repeats)]
    both = [
        score_in(surrogate, policy, chosen, rows=rows, temperature=temperature, seed=seed, label=f"imagining {name}")
        for policy, name in zip(policies, ("the start policy", "the trained policy"), strict=True)
    ]
    support = None if references is None else _support(references.data, surrogate)
    results: dict[str, Any] = {
        "rollouts": len(chosen),
        "horizon": horizon,
        "imagined": _success(both, seed),
        "doubt": {name: _doubt(each) for name, each in zip(("before", "after"), both, strict=True)},
        "outside": {"expected": EXPECTED}
        | {
            name: None if support is None else numbers(Rate.of(support.outside(each).tolist()))
            for name, each in zip(("before", "after"), both, strict=True)
        },
    }
    real = _against_reality(surrogate, references, horizon, rows, seed) if references else {}
    return results | {"needed": _needed(both, real.get("judge"))} | real


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Choose at most `count` items, evenly spaced."""
    return [items[i] for i in evenly_spaced(len(items), count).tolist()]


def _support(data: EpisodeSet, surrogate: ImaginedSurrogate) -> Support | None:
    """Make the reference of the data, or None with too few episodes."""
    try:
        return Support(data, surrogate.action_spec, surrogate.chunk)
    except ValueError:
        return None


def _success(both: Sequence[Sequence[Rollout]], seed: int) -> dict[str, Any]:
    """Return imagined success before and after, and the difference over the same starts."""
    before, after = ([r.verdict.succeeded for r in each] for each in both)
    change = paired_difference(before, after, [r.start.task for r in both[0]], seed)
    return {"before": numbers(Rate.of(before)), "after": numbers(Rate.of(after)), "difference": numbers(change)}


def _doubt(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return the judge's mean uncertainty about rollouts, and the share above `UNSURE`."""
    beliefs = np.array([success_probability(r.verdict) for r in rollouts])
    doubt = judge_uncertainty(beliefs[None])
    known = doubt[np.isfinite(doubt)]
    mean = float(known.mean()) if len(known) else float("nan")
    return {"mean": numbers(mean), "unsure": numbers(Rate.of((known > UNSURE).tolist()))}


def _needed(both: Sequence[Sequence[Rollout]], judge: dict[str, Any] | None) -> dict[str, Any]:
    """Return the real episodes that would show a gain of `GAIN`, from imagined success.

    In "paired", scenes are lost as often as imagined; in "independent", outcomes do not depend on the scene.
    "corrected" has the same for imagined success without the errors of world model and judge on labelled replays;
    None without labels.
    """
    pairs = [(a.verdict.succeeded, b.verdict.succeeded) for a, b in zip(*both, strict=True)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known:
        nothing = {"before": None, "paired": None, "independent": None, "unpaired": None}
        return {"gain": GAIN, **nothing, "corrected": None}
    judged = Rate.of(a for a, _ in known)
    lost = (sum(a and not b for a, b in known) + 0.5) / (len(known) + 1)  # never zero from a few rollouts
    results = {"gain": GAIN, "before": judged.value, "lost": lost} | _episodes(judged.value, lost)
    return results | {"corrected": None if judge is None else _corrected(judged, judge["imagined"], lost)}


def _episodes(before: float, lost: float) -> dict[str, int | None]:
    """Return the scenes or episodes per policy that show a gain of `GAIN`."""
    paired, independent = episodes_needed(before, GAIN, lost), episodes_needed(before, GAIN)
    return {
        "paired": None if paired is None else paired.paired,
        "independent": None if independent is None else independent.paired,
        "unpaired": None if independent is None else independent.unpaired,
    }


def _corrected(judged: Rate, errors: dict[str, Any], lost: float) -> dict[str, Any] | None:
    """Return imagined success corrected by the errors on imagined replays, and the episodes needed from there."""
    known, refused = (Rate(errors[key]["successes"], errors[key]["count"]) for key in ("known", "refused"))
    rate = corrected_rate(judged, known, refused)
    if np.isnan(rate.value):
        return None
    return {"before": rate.value, "low": rate.low, "high": rate.high} | _episodes(rate.value, lost)


def _against_reality(
    surrogate: ImaginedSurrogate, references: References, horizon: int, rows: int, seed: int
) -> dict[str, Any]:
    """Measure fidelity and judge on imagined replays of real episodes."""
    test = _replayable(references.test, MAX_EPISODES)
    results: dict[str, Any] = {
        "episodes": len(test),
        "labelled": int(test.labelled.sum()),
        "seen_by": list(references.seen_by),
        "fidelity": None,
        "judge": None,
    }
    if len(test):
        results["fidelity"] = _fidelity(surrogate.world, test, horizon, rows, seed)
    if test.labelled.any():
        diagnosis = diagnose(
            surrogate.world,
            surrogate.judge,
            test,
            horizon=horizon,
            stride=surrogate.chunk,
            rows=min(rows, 32),
            seed=seed,
        )
        group = diagnosis["all"]
        counts = {name: group[name] for name in ("episodes", "successes", "failures")}
        results["judge"] = counts | {name: _rates(each) for name, each in group["sources"].items()}
    return results


def measure_fidelity(
    world: WorldModel, test: EpisodeSet, *, horizon: int, episodes: int = 8, rows: int = 32, seed: int = 0
) -> dict[str, Any] | None:
    """Return the PSNR of imagined replays of a few episodes and of its baselines, by frame; None without episodes.

    The same as "fidelity" of `measure_offline`, in seconds, before a training.
    """
    chosen = _replayable(test, episodes)
    return _fidelity(world, chosen, horizon, rows, seed) if len(chosen) else None


def _replayable(test: EpisodeSet, most: int) -> EpisodeSet:
    """Return at most so many episodes that have frames to compare, evenly spread."""
    long_enough = test.select(test.length >= _MIN_LENGTH)
    return long_enough.select(np.array(_spread(range(len(long_enough)), most), np.int64))


def _fidelity(world: WorldModel, test: EpisodeSet, horizon: int, rows: int, seed: int) -> dict[str, Any]:
    length = min(horizon, int(np.sort(test.length)[len(test) // 10]))
    long_enough = test.select(test.length >= length)
    fidelity = replay_fidelity(world, long_enough, length=length, rows=min(rows, 32), seed=seed)
    return numbers(to_plain({name: fidelity[name] for name in ("horizon", "episodes", "psnr")}))


def _rates(recall: dict[str, Any]) -> dict[str, Any]:
    return {name: recall[name] for name in ("known", "refused", "auroc")}
