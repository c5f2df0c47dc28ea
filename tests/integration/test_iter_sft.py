"""Iterated imitation: judged successes beside demonstrations; killed and resumed; SFT on everything."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorld, MetaWorldConfig
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.measure.real import Scorer, ScoringConfig
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.recipes import iterated_sft as module
from worldgymnast.recipes.iterated_sft import IterSftConfig, combine_batches, iter_sft, label_successes
from worldgymnast.recipes.presets import debug
from worldgymnast.recipes.record import RecordConfig, record_to
from worldgymnast.report.collect import collect
from worldgymnast.rl.starts import FixedStarts
from worldgymnast.surrogates.imagination import Imagination
from worldgymnast.training.batches import imitation_batches
from worldgymnast.training.fit import FitConfig
from worldgymnast.training.policy import PolicyTraining, select_imitated
from worldgymnast.types import IMAGE, ActionChunk, Clip, Episode, Rollout, Start, Verdict
from worldgymnast.weights import identity
from worldgymnast.worldmodel.sampler import LatentWorldModel

ENV = MetaWorldConfig(tasks=("drawer-open", "door-close"), horizon=4)
CONFIG = IterSftConfig(
    rounds=2, starts=2, group_size=2, rows=4, horizon=4, batch=4, fit=FitConfig(steps=4, save_every=2)
)


class Every:
    """A judge that calls every second clip a success, from its second look on."""

    name, is_remote, identity = "every second", False, "every second"

    def __init__(self, never: bool = False):
        self.never = never

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        won = [i % 2 == 0 and not self.never for i in range(len(clips))]
        return [Verdict(float(w), success_frame=1 if w else None) for w in won]


def episode(source: str, succeeded: bool, task: str = "drawer-open") -> Episode:
    rng = np.random.default_rng(len(source) + succeeded)
    return Episode(
        frames=rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8),
        actions=rng.uniform(-1, 1, (4, 4)).astype(np.float32),
        instruction="open the drawer",
        task=task,
        fps=80 / 6,
        spec=ENV.action_spec,
        success=np.array([False, False, False, succeeded, succeeded]),
        source=source,
    )


@pytest.fixture
def policy() -> SmallVLA:
    torch.manual_seed(0)
    return SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), ENV.action_spec)


@pytest.fixture
def demos() -> EpisodeSet:
    return from_episodes([episode("expert", True)])


def imagine(policy: SmallVLA, judge: Every) -> Imagination:
    torch.manual_seed(1)
    return Imagination.of(policy, LatentWorldModel(debug().world.world, ENV.action_spec, 80 / 6).eval(), judge, 4)


STARTS = FixedStarts(
    [Start(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "open the drawer", "drawer-open")]
)


def test_only_judged_successes_are_kept_and_labelled_from_where_they_were_seen() -> None:
    frames = np.zeros((5, 4, 4, 3), np.uint8)
    chunks = ActionChunk(torch.zeros(2, 2, 4), torch.zeros(2, 2, 4, dtype=torch.int64), torch.zeros(2, 2, 4), 1.0)
    start = Start(frames[0], "open the drawer", "drawer-open")
    verdicts = [Verdict(1.0, success_frame=2), Verdict(0.0), Verdict(None, error="out"), Verdict(1.0), Verdict(0.5)]
    kept = list(label_successes(Rollout(start, {IMAGE: frames[:2]}, chunks, frames, v, 2) for v in verdicts))
    assert [r.success.tolist() for r in kept if r.success is not None] == [
        [False, False, True, True, True],
        [False, False, False, False, True],
    ]


@pytest.mark.usefixtures("gl")
def test_a_run_killed_in_a_round_comes_to_the_same_policy(
    policy: SmallVLA, demos: EpisodeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = identity(policy)
    whole = identity(iter_sft(policy, imagine(policy, Every()), STARTS, demos, tmp_path / "whole", CONFIG))
    assert whole != begun == identity(policy)
    fit = module.fit

    def dies(*words: object, **more: object) -> object:
        if "round 2" in str(words[-1]):
            raise KeyboardInterrupt
        return fit(*words, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        iter_sft(policy, imagine(policy, Every()), STARTS, demos, tmp_path / "killed", CONFIG)
    monkeypatch.setattr(module, "fit", fit)
    first = (tmp_path / "killed" / "round-1" / "policy.safetensors").stat().st_mtime_ns
    assert identity(iter_sft(policy, imagine(policy, Every()), STARTS, demos, tmp_path / "killed", CONFIG)) == whole
    assert (tmp_path / "killed" / "round-1" / "policy.safetensors").stat().st_mtime_ns == first


@pytest.mark.usefixtures("gl")
def test_a_round_without_a_success_is_refused(policy: SmallVLA, demos: EpisodeSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 4 imagined rollouts succeeded"):
        iter_sft(policy, imagine(policy, Every(never=True)), STARTS, demos, tmp_path / "run", CONFIG)


@pytest.mark.usefixtures("gl")
def test_the_round_that_is_best_for_real_is_kept(policy: SmallVLA, demos: EpisodeSet, tmp_path: Path) -> None:
    """An untrained policy fails for real in every round: a tie, which goes to the last one."""
    scorer = Scorer(MetaWorld(ENV), ScoringConfig(per_task=1, workers=1))
    kept = iter_sft(policy, imagine(policy, Every()), STARTS, demos, tmp_path / "run", CONFIG, scorer)
    assert identity(kept) != identity(policy)
    assert (tmp_path / "run" / "gallery.json").exists()


def test_imitation_of_two_sets_is_in_equal_parts(demos: EpisodeSet) -> None:
    other = from_episodes([replace(episode("imagined", True), instruction="slide the drawer out")])
    batch = combine_batches(imitation_batches(demos, 2, 3, 0, {}), imitation_batches(other, 2, 3, 0, {}))(0)
    assert batch["obs"].instruction == ["open the drawer"] * 3 + ["slide the drawer out"] * 3
    assert batch["actions"].shape == (6, 2, 4)
    assert batch["mask"].shape == (6, 2)


def test_sft_on_everything_imitates_all_other_successes() -> None:
    made = [("expert", True), ("expert", True), ("noisy", True), ("noisy", False), ("policy@1", True), ("play", False)]
    episodes = from_episodes([episode(source, won) for source, won in made])
    few = select_imitated(episodes, PolicyTraining(demonstrations=1))
    assert few.source == ("expert",)
    many = select_imitated(episodes, PolicyTraining(demonstrations=1, successes=True))
    assert many.source == ("expert", "expert", "noisy", "policy@1")
    assert many.succeeded.all()


@pytest.mark.usefixtures("gl", "one_process")
def test_the_commands_of_the_baselines_end_with_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ("drawer-close", "door-close")
    recorded = RecordConfig(expert=1, noisy=0, play=0, length=24, workers=1)
    record_to(tmp_path / "data", MetaWorld(MetaWorldConfig(tasks=tasks)), recorded)
    out, few = tmp_path / "iter-sft", ["--env.tasks", *tasks, "--threads", "1"]
    words = ["--data", str(tmp_path / "data"), "--demonstrations", "1", "--rounds", "1", "--starts", "8"]
    more = ["--group-size", "4", "--fit.steps", "2", "--scoring.per-task", "1", "--photographs", "1"]
    assert main(["iter-sft", *words, *more, *few, "--out", str(out)]) == 0
    assert "Success on the same starts" in (out / "report.html").read_text()
    page = collect(out)
    assert [row.real.count for row in page.gap] == [2, 2]
    assert page.budget["scoring episodes during RL (checkpoint selection)"] == 4
    out = tmp_path / "rl-simulator"
    brief = ["--rl.steps", "1", "--rl.starts", "2", "--rl.group-size", "2", "--scoring.per-task", "1"]
    assert main(["rl-simulator", "quickstart", *brief, *few, "--layouts", "2", "--out", str(out)]) == 0
    assert "was trained in a simulator of mismatch 1" in (out / "report.html").read_text()
    said = capsys.readouterr().out
    assert said.count("Report: ") == 2
