"""One round of Dyna from episodes that somebody else recorded, without a real environment.

World model and judge are finetuned on old and recorded episodes, then the policy is trained in them, starting from
frames of all episodes. Without real rollouts of the new policy no test can decide which policy is better. So neither
replaces the other: both are kept, and the round says that nothing was verified for real.

What can be known is measured: how well world model and judge, before and after, predict the outcomes of recorded
episodes that were held out from both trainings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from worldgymnast.configs import to_dict as plain
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import Rate, numbers
from worldgymnast.measure.gate import gate
from worldgymnast.protocols import Judge, Policy, TrainableJudge, WorldModel
from worldgymnast.recipes.finetune import finetune
from worldgymnast.recipes.relearn import RelearnConfig, relearn_judge, relearn_world
from worldgymnast.records import DECISIONS
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.rl.rollout import executed_per_look
from worldgymnast.rl.starts import EpisodeStarts
from worldgymnast.run import Run, stage
from worldgymnast.staging import atomic_path
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.types import Metrics
from worldgymnast.weights import identity, to_json, write_text

BEFORE = "before.safetensors"
"""Copy of the initial policy in the run folder."""
PREDICTIONS = "predictions.json"
"""Quality of the predictions of outcomes, before and after."""


@dataclass(frozen=True)
class RecordedRound:
    """Result of a round.

    Attributes:
        before: file of the initial policy.
        after: file of the trained policy.
        predictions: rates of `gate` with the components before and after; empty without held-out labels.
        said: the conclusion.
    """

    before: Path
    after: Path
    predictions: dict[str, Metrics]
    said: str


def dyna_recorded(
    policy: Path,
    initial: tuple[Policy, WorldModel, TrainableJudge],
    old: Sequence[EpisodeSet],
    recorded: Sequence[EpisodeSet],
    held_out: EpisodeSet | None,
    out: Path,
    config: RelearnConfig,
    rl: ReinforceConfig,
    seed: int = 0,
    device: str = "cpu",
) -> RecordedRound:
    """Run the round in OUT/world-1, OUT/judge-1 and OUT/rl-1; finished stages are skipped.

    Args:
        policy: file of the initial policy.
        initial: the initial policy, world model and judge.
        old: training data of world model and judge, as one set.
        recorded: new episodes to learn from.
        held_out: labeled recorded episodes to measure the predictions on, or None.
        out: the run folder.
        config: finetuning of world model and judge.
        rl: the reinforcement learning.
        seed: of all trainings.
        device: of the training.

    Raises:
        InputError: there is nothing to learn from.
    """
    if not recorded or not sum(map(len, recorded)):
        raise InputError("--from: found no episodes. Give a data set with recorded rollouts")
    kept, world, judge = initial
    sets, folder = [*old, *recorded], {name: out / f"{name}-1" for name in ("world", "judge", "rl")}
    inputs = {"policy": identity(kept), "world": identity(world), "judge": identity(judge)}
    inputs |= {"data": data_hash(sets[0]), "recorded": " ".join(data_hash(part) for part in recorded)}
    settings = {"relearn": plain(config), "rl": plain(rl), "seed": seed}
    with Run(out, settings | {"inputs": inputs, "recorded": True}) as run:
        with stage(out, "world 1"):
            new_world = relearn_world(sets, world, folder["world"], config, seed + 1, device)
        with stage(out, "judge 1"):
            new_judge = relearn_judge(sets, new_world, judge, folder["judge"], config, seed + 1, device)
        with stage(out, "predictions 1"):
            stride = executed_per_look(kept, rl.execute)
            predictions = _predictions(held_out, (world, judge), (new_world, new_judge), rl, stride, seed)
            write_text(out / PREDICTIONS, to_json(numbers(predictions)))
        with stage(out, "reinforce 1"):
            starts = EpisodeStarts(concatenate(sets), sorted({task for part in sets for task in part.task}), rl.middle)
            imagine = Imagination.of(kept, new_world, new_judge, rl.horizon, rl.execute)
            finetune(kept, imagine, starts, folder["rl"], replace(rl, seed=seed + 1), None)
        before, after = out / BEFORE, folder["rl"] / "policy.safetensors"
        if not before.is_file():
            with atomic_path(before) as temporary:
                shutil.copyfile(policy, temporary)
        said = _conclusion(before, after, recorded)
        row = {"round": 1, "replaced": False, "verified": False, "said": said}
        write_text(out / DECISIONS, json.dumps([row], indent=2) + "\n")
        if run.summary is None:
            run.finish({"recorded_episodes": float(sum(map(len, recorded)))})
    return RecordedRound(before, after, predictions, said)


def _predictions(
    held_out: EpisodeSet | None,
    before: tuple[WorldModel, Judge],
    after: tuple[WorldModel, Judge],
    rl: ReinforceConfig,
    stride: int,
    seed: int,
) -> dict[str, Metrics]:
    """Rates of `gate` on the held-out episodes, with the old and the new components."""
    if held_out is None or not held_out.labelled.any():
        return {}
    known = held_out.select(held_out.labelled)
    horizon = min(rl.horizon, int(known.length.min()))
    if horizon < 1:
        return {}
    pairs = {"before": before, "after": after}
    return {
        name: gate(world, judge, known, horizon=horizon, stride=stride, seed=seed)
        for name, (world, judge) in pairs.items()
    }


def _conclusion(before: Path, after: Path, recorded: Sequence[EpisodeSet]) -> str:
    outcomes = [won for part in recorded for won, known in zip(part.succeeded, part.labelled, strict=True) if known]
    success = f" (success in them: {Rate.of(map(bool, outcomes))})" if outcomes else ""
    return (
        f"Round 1: learned from {sum(map(len, recorded))} recorded episodes{success}. Nothing was verified for real, "
        f"so no policy replaces the other: both are kept, {before} and {after}. Record episodes of both, or compare "
        "them in a real environment (evaluate), before you trust the new one."
    )
