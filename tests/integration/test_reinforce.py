"""The loop: killed and resumed equals never killed, an outage changes no reward, success is reinforced."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from servers import Faulty, faulty

import worldgymnast.training.fit as fit_module
from worldgymnast.actions import metaworld_spec
from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.errors import InputError, Paused
from worldgymnast.judges.vlm import VLMConfig, VLMJudge
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.progress import SaveClock
from worldgymnast.protocols import Judge
from worldgymnast.records import read_metrics
from worldgymnast.rl.judging import JudgeVerdicts
from worldgymnast.rl.reinforce import PairedRollouts, ReinforceConfig, reinforce
from worldgymnast.rl.rollout import group, roll_out
from worldgymnast.rl.trainer import Trainer, TrainerConfig, stack
from worldgymnast.run import Run, weights_hash
from worldgymnast.surrogates.pool import LocalPool, MakeEnv
from worldgymnast.text import SentenceEncoder
from worldgymnast.training.fit import FitConfig, fit
from worldgymnast.types import Clip, RolloutGroup, Start, Verdict
from worldgymnast.worldmodel.autoencoder import AutoencoderConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.transformer import TransformerConfig

SPEC = metaworld_spec(6)
TEXT = SentenceEncoder()
TINY = WorldModelConfig(
    autoencoder=AutoencoderConfig(channels=4, widths=(8, 8, 16), blocks=(0, 0, 0)),
    transformer=TransformerConfig(channels=4, grid=(8, 8), patch=2, width=16, layers=1, heads=2, window=3),
    steps=1,
)


class BrightnessJudge:
    """A real, if silly, reward: whether the last frame is redder than the first."""

    name = identity = "redder-v1"
    is_remote = False

    def __init__(self, fail: bool = False):
        self.fail = fail

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        verdicts = []
        for i, clip in enumerate(clips):
            change = float(clip.frames[-1, ..., 0].mean()) - float(clip.frames[0, ..., 0].mean())
            broken = self.fail and i % 3 == 0
            score = None if broken else float(change > 0)
            verdicts.append(Verdict(score, None if broken else 0.5, error="outage" if broken else None))
        return verdicts


@pytest.fixture
def policy() -> SmallVLA:
    torch.manual_seed(0)
    return SmallVLA(SmallVLAConfig(width=16, blocks=1, hidden=32), SPEC, TEXT)


@pytest.fixture
def world() -> LatentWorldModel:
    torch.manual_seed(1)
    made = LatentWorldModel(TINY, SPEC, 10.0).eval()
    with torch.no_grad():
        for p in made.transformer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return made


def starts(rng: np.random.Generator, count: int) -> list[Start]:
    return [Start(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), "open the drawer", "t") for _ in range(count)]


CONFIG = ReinforceConfig(steps=4, starts=2, group_size=4, horizon=4, rows=8, evaluate_every=100, save_every=1)


def imagine(world: LatentWorldModel) -> MakeEnv:
    """Imagined environments that leave judging to the pool."""

    def env(rows: int, generator: torch.Generator) -> ImaginedVectorEnv:
        return ImaginedVectorEnv(world, None, rows=rows, chunk=2, horizon=4, generator=generator)

    return env


def learn(
    policy: SmallVLA,
    world: LatentWorldModel,
    out: Path,
    stop_after: int | None = None,
    config: ReinforceConfig = CONFIG,
    judge: Judge | None = None,
) -> str:
    """Runs the loop on a copy of `policy`, killed while it collects for the first time after that many syncs."""
    trained = copy.deepcopy(policy)

    class Pool(LocalPool):
        def begin(self, starts: Sequence[Start], group_size: int) -> Callable[[], list[RolloutGroup]]:
            if stop_after is not None and self.version > stop_after:
                raise KeyboardInterrupt
            return super().begin(starts, group_size)

    judging = JudgeVerdicts(judge or BrightnessJudge(), 2)
    pool = Pool(copy.deepcopy(policy), imagine(world), judging, rows=8, temperature=1.0, seed=0)
    with Run(out, {"steps": 4}) as run:
        reinforce(trained, pool, starts, lambda step: None, config, run)
    return weights_hash(trained.state_dict())


@pytest.mark.parametrize("average", [0.0, 0.7])
def test_rl_killed_and_resumed_equals_the_run_never_killed(
    policy: SmallVLA, world: LatentWorldModel, tmp_path: Path, average: float
) -> None:
    config = replace(CONFIG, trainer=replace(CONFIG.trainer, average=average))
    whole = learn(policy, world, tmp_path / "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        learn(policy, world, tmp_path / "killed", stop_after=1, config=config)
    assert learn(policy, world, tmp_path / "killed", config=config) == whole
    assert whole != weights_hash(policy.state_dict())


def test_averaged_weights_are_scored_and_handed_out_while_the_newest_go_on_learning(
    policy: SmallVLA, world: LatentWorldModel
) -> None:
    groups = groups_of(policy, world, fail=False)
    trainer = Trainer(policy, TrainerConfig(lr=1e-2, warmup=0, average=0.75))
    newest = [trainer.weights()]
    for step in range(2):
        trainer.update(groups, torch.Generator().manual_seed(step))
        newest.append(trainer.weights())
    expected = {k: 0.75**2 * newest[0][k] + 0.25 * 0.75 * newest[1][k] + 0.25 * newest[2][k] for k in newest[0]}
    with trainer.averaged():
        trainer.keep(2)
        torch.testing.assert_close(trainer.weights(), expected)
    torch.testing.assert_close(trainer.weights(), newest[2], rtol=0, atol=0)
    assert trainer.kept is not None
    torch.testing.assert_close(trainer.kept.weights, expected)
    trainer.finish(kept=False)
    torch.testing.assert_close(trainer.weights(), expected)


@pytest.mark.parametrize("are_steps_slow", [False, True])
def test_fit_killed_and_resumed_equals_the_run_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_steps_slow: bool
) -> None:
    """Also where a checkpoint is due by the clock, long before `save_every` steps."""
    config = FitConfig(steps=9, save_every=500 if are_steps_slow else 3, log_every=1)
    monkeypatch.setattr(fit_module, "SaveClock", lambda: SaveClock(0.0 if are_steps_slow else 300.0))
    first: list[int] = []

    def train(out: Path, stop: int | None = None) -> str:
        torch.manual_seed(0)
        world = LatentWorldModel(TINY, SPEC, 10.0)

        def batches(step: int) -> dict[str, torch.Tensor]:
            first.append(step)
            if step == stop:
                raise KeyboardInterrupt
            g = torch.Generator().manual_seed(step)
            return {
                "latents": torch.randn(2, 5, 8, 8, 4, generator=g),
                "actions": torch.rand(2, 4, 4, generator=g),
                "mask": torch.ones(2, 4, dtype=torch.bool),
            }

        with Run(out, {}) as run:
            fit(world, batches, config, run, "test")
        return weights_hash(world.state_dict())

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", stop=7)
    first.clear()
    assert train(tmp_path / "killed") == whole
    assert first[0] == (7 if are_steps_slow else 6), "the step after the newest checkpoint"


def groups_of(policy: SmallVLA, world: LatentWorldModel, fail: bool) -> list[RolloutGroup]:
    env = ImaginedVectorEnv(
        world, BrightnessJudge(fail), rows=24, chunk=2, horizon=4, generator=torch.Generator().manual_seed(0)
    )
    wanted = [s for s in starts(np.random.default_rng(0), 4) for _ in range(6)]
    return group(roll_out(env, policy, wanted, temperature=1.0, generator=torch.Generator().manual_seed(0)), 6)


def test_a_judge_outage_in_the_middle_of_training_changes_no_reward(policy: SmallVLA, world: LatentWorldModel) -> None:
    """What was judged keeps its score, and the update equals one on groups that never held the failed rollouts."""
    sound, broken = groups_of(policy, world, fail=False), groups_of(policy, world, fail=True)
    for one, two in zip(sound, broken, strict=True):
        for a, b in zip(one.rollouts, two.rollouts, strict=True):
            assert b.verdict.score is None or b.verdict.score == a.verdict.score
    assert sum(g.judge_errors for g in broken) == 8
    without = [RolloutGroup(g.start, tuple(r for r in g.rollouts if r.verdict.score is not None)) for g in broken]
    hashes = []
    for groups in (broken, without):
        trained = copy.deepcopy(policy)
        metrics = Trainer(trained, TrainerConfig()).update(groups, torch.Generator().manual_seed(0))
        hashes.append(weights_hash(trained.state_dict()))
        assert metrics["zero_advantage_groups"] < 1
    assert hashes[0] == hashes[1]


def test_an_outage_is_no_failure_in_the_scoring(policy: SmallVLA, world: LatentWorldModel) -> None:
    sound, broken = ([r for g in groups_of(policy, world, fail) for r in g.rollouts] for fail in (False, True))
    metrics = PairedRollouts(broken, sound).metrics()
    judged = [r.verdict.score for r in broken if r.verdict.score is not None]
    assert metrics["imagined_success"] == pytest.approx(np.mean(judged))
    assert metrics["agreement"] == 1


@pytest.mark.parametrize("same", [True, False])
def test_a_run_without_any_signal_says_so(
    same: bool, policy: SmallVLA, world: LatentWorldModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every rollout fails: nothing can be learned, and the weights are those it began with."""

    class Never(BrightnessJudge):
        def score(self, clips: Sequence[Clip]) -> list[Verdict]:
            return [Verdict(0.0, 0.0) for _ in clips]

    found = learn(policy, world, tmp_path, judge=Never() if same else None)
    said = capsys.readouterr().out
    assert (found == weights_hash(policy.state_dict())) == same
    line = f"No group had both successes and failures in any of {CONFIG.steps} steps. The policy is unchanged."
    assert (f"{line} policy.safetensors has the weights of the start policy." in said) == same


def test_too_many_judge_errors_stop_the_run(policy: SmallVLA, world: LatentWorldModel, tmp_path: Path) -> None:
    judging = JudgeVerdicts(BrightnessJudge(fail=True), 2)
    pool = LocalPool(copy.deepcopy(policy), imagine(world), judging, rows=8, temperature=1.0, seed=0)
    with Run(tmp_path / "run", {}) as run, pytest.raises(InputError, match="judge failed on"):
        reinforce(policy, pool, starts, lambda step: None, CONFIG, run)


def test_ratio_is_one_before_the_first_update(policy: SmallVLA, world: LatentWorldModel) -> None:
    groups = groups_of(policy, world, fail=False)
    metrics = Trainer(policy, TrainerConfig(updates=1)).update(groups, torch.Generator().manual_seed(0))
    assert metrics["ratio_error"] < 2e-5
    assert metrics["clip_fraction"] == 0
    assert metrics["kl_to_start"] == pytest.approx(0, abs=1e-6)


def test_an_update_makes_the_successful_rollouts_likelier(policy: SmallVLA, world: LatentWorldModel) -> None:
    groups = groups_of(policy, world, fail=False)
    rollouts = [r for g in groups for r in g.rollouts if 0 < g.scores.mean() < 1]
    won = torch.tensor([r.verdict.score == 1 for r in rollouts])
    obs, chunk, _ = stack(rollouts)
    before = policy.logprobs(obs, chunk).detach().unflatten(0, (len(rollouts), -1)).sum((1, 2, 3))
    Trainer(policy, replace(TrainerConfig(), lr=1e-3)).update(groups, torch.Generator().manual_seed(0))
    after = policy.logprobs(obs, chunk).detach().unflatten(0, (len(rollouts), -1)).sum((1, 2, 3))
    change = after - before
    assert change[won].mean() > change[~won].mean()


def test_imagined_environment_refuses_a_horizon_that_is_no_multiple_of_the_chunk(world: LatentWorldModel) -> None:
    with pytest.raises(InputError, match="multiple"):
        ImaginedVectorEnv(world, BrightnessJudge(), rows=1, chunk=2, horizon=5, generator=torch.Generator())


# ---------------------------------------------------------------- judges that are slow, or out


class Slow:
    """Another judge, each call of which takes its own time in a thread, so that answers overtake one another."""

    name, is_remote, identity = "slow", True, "slow"

    def __init__(self, judge: Judge):
        self.judge, self.calls = judge, 0

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        self.calls += 1
        time.sleep(0.05 * (self.calls % 3))
        return self.judge.score(clips)


def test_verdicts_that_arrive_late_and_in_any_order_change_nothing(
    policy: SmallVLA, world: LatentWorldModel, tmp_path: Path
) -> None:
    batches = replace(CONFIG, starts=4)
    at_once = learn(policy, world, tmp_path / "at-once", config=batches)
    assert learn(policy, world, tmp_path / "late", config=batches, judge=Slow(BrightnessJudge())) == at_once


@pytest.mark.parametrize("resample", [0, 2])
def test_imagining_one_step_ahead_is_killed_and_resumed_alike(
    policy: SmallVLA, world: LatentWorldModel, tmp_path: Path, resample: int
) -> None:
    ahead = replace(CONFIG, ahead=1, steps=5, resample=resample)
    whole = learn(policy, world, tmp_path / "whole", config=ahead)
    rows = read_metrics(tmp_path / "whole/metrics.jsonl")
    assert [row["staleness"] for row in rows if "reward" in row] == [0, 1, 1, 1, 1]
    with pytest.raises(KeyboardInterrupt):
        learn(policy, world, tmp_path / "killed", stop_after=2, config=ahead)
    assert learn(policy, world, tmp_path / "killed", config=ahead) == whole
    assert whole != learn(policy, world, tmp_path / "in-step", config=replace(ahead, ahead=0))
    errors = [row["ratio_error"] for row in Run(tmp_path / "whole", {"steps": 4}).metrics() if "ratio_error" in row]
    assert errors[0] < 2e-5
    assert max(errors[1:]) > 1e-3, "from the second step on, the policy that acted is one update older"


class Out(BrightnessJudge):
    """A judge that is out from its `first`-th call on."""

    def __init__(self, first: int):
        super().__init__()
        self.first, self.calls = first, 0

    def score(self, clips: Sequence[Clip]) -> list[Verdict]:
        self.calls += 1
        found = super().score(clips)
        return found if self.calls <= self.first else [Verdict(None, error="no connection") for _ in found]


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_that_an_outage_stopped_goes_on_as_if_there_had_been_none(
    policy: SmallVLA, world: LatentWorldModel, tmp_path: Path, ahead: int
) -> None:
    config = replace(CONFIG, ahead=ahead, resample=0, save_every=100)
    whole = learn(policy, world, tmp_path / "whole", config=config)
    with pytest.raises(Paused, match=r"step 2: .*failed on 100% of 8 rollouts.*8x.: no connection.*rerun the same"):
        learn(policy, world, tmp_path / "out", config=config, judge=Out(2))
    assert learn(policy, world, tmp_path / "out", config=config) == whole


@pytest.mark.server
def test_an_outage_behind_a_real_server_leaves_the_other_groups_their_update(
    policy: SmallVLA, world: LatentWorldModel
) -> None:
    """Two of four starts get no verdict, whatever is tried: the update is that of the two others alone."""
    named = [replace(s, instruction=f"question {i}") for i, s in enumerate(starts(np.random.default_rng(10), 4))]
    wanted, generator = [s for s in named for _ in range(6)], torch.Generator().manual_seed(0)
    acted = roll_out(imagine(world)(24, generator), policy, wanted, temperature=1.0, generator=generator)

    def judged(out: Sequence[int], server: Faulty) -> list[RolloutGroup]:
        """The groups, with no verdict to be had on the starts `out`."""
        fates = [" doomed" if i // 6 in out else "" for i in range(24)]
        asked = [
            replace(r, start=replace(r.start, instruction=r.start.instruction + fate))
            for r, fate in zip(acted, fates, strict=True)
        ]
        judge = VLMJudge(VLMConfig(server.endpoint(timeout=1.0), pixels=8, frames=3))
        return group(JudgeVerdicts(judge, 2).begin(asked)(), 6)

    with faulty(0.3) as server:
        sound, broken = judged([], server), judged([1, 2], server)
    assert [len(g.scores) for g in broken] == [6, 0, 0, 6]
    assert [broken[i].scores.tolist() for i in (0, 3)] == [sound[i].scores.tolist() for i in (0, 3)]
    hashes = set()
    for used in (broken, [sound[0], sound[3]]):
        trained = copy.deepcopy(policy)
        metrics = Trainer(trained, TrainerConfig()).update(used, torch.Generator().manual_seed(0))
        assert metrics["zero_advantage_groups"] < 1
        hashes.add(weights_hash(trained.state_dict()))
    assert len(hashes) == 1
