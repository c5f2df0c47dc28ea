"""What eval-world measures, on worlds whose faults are planted, so that the right answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from episode_builders import SPEC, episode
from lamp import SIZE, BrightJudge, Lamp, lamp_episode
from places import DATA

from worldgymnast.actions import BRIDGE, WORLDGYM, jittered, motionless
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.evaluation.agreement import PSNR_CEILING, psnr, ssim
from worldgymnast.evaluation.fidelity import appearance, by_horizon, drift_statistics, frame_scores, nearest_psnr
from worldgymnast.evaluation.perceptual import lpips_distance
from worldgymnast.evaluation.uncertainty import (
    JitterConfig,
    detection,
    frame_distance,
    imagine_clips,
    imagine_futures,
    judge_probabilities,
    judge_uncertainty,
)
from worldgymnast.judges.classifier import SuccessClassifier
from worldgymnast.measure.gate import gate, truncate
from worldgymnast.measure.world import extend_actions, judge_outcomes, measure_drift, replay_fidelity, sample_clips
from worldgymnast.recipes.presets import debug
from worldgymnast.training.replay import replay
from worldgymnast.types import Clip, Verdict
from worldgymnast.worldmodel.autoencoder import AutoencoderConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.transformer import TransformerConfig


@pytest.fixture(scope="module")
def lamps() -> EpisodeSet:
    return from_episodes([lamp_episode(i, steps=8 + i % 3) for i in range(12)])


# ---------------------------------------------------------------- actions


def test_no_motion_keeps_the_gripper() -> None:
    rng = np.random.default_rng(0)
    acts = rng.uniform(-1, 1, (2, 5, 4)).astype(np.float32)
    still = motionless(SPEC, acts)
    assert (still[..., :3] == 0).all()
    assert (still[..., 3] == acts[:, :1, 3]).all()
    before = rng.uniform(-1, 1, (2, 4)).astype(np.float32)
    assert (motionless(SPEC, acts, before)[..., 3] == before[:, None, 3]).all()
    other = rng.uniform(0, 1, (3, 10)).astype(np.float32)
    assert (motionless(WORLDGYM, other)[:, [0, 1, 2, 3, 4, 5, 7, 8, 9]] == 0).all()


def test_jitter_is_in_ranges_and_leaves_gripper_and_padding_alone() -> None:
    acts = np.zeros((1000, 7), np.float32)
    noise = np.random.default_rng(0).standard_normal(acts.shape).astype(np.float32) * 0.1
    moved = jittered(BRIDGE, acts, noise)
    assert moved[:, :3].std() == pytest.approx(0.1 * 0.05, rel=0.1)
    assert moved[:, 3:6].std() == pytest.approx(0.1 * 0.25, rel=0.1)
    assert (moved[:, 6] == 0).all()
    most = jittered(WORLDGYM, np.full((1, 10), 1.0, np.float32), np.full((1, 10), 5.0, np.float32))[0]
    assert most[:3] == pytest.approx(1.75)
    assert most[6:].tolist() == [1.0] * 4


# ---------------------------------------------------------------- frames


def test_scores_in_pieces_are_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (3, 4, 16, 16, 3), dtype=np.uint8) for _ in range(2))
    monkeypatch.setattr("worldgymnast.evaluation.fidelity._PART_SIZE", 16 * 16 * 3 * 5)
    found = frame_scores(a, b)
    assert np.array_equal(found["psnr"], psnr(a, b))
    assert found["ssim"] == pytest.approx(ssim(a, b))
    assert (frame_scores(a, a)["psnr"] == PSNR_CEILING).all()
    assert "ssim" not in frame_scores(a[:, :, :8], b[:, :, :8])


def test_clips_are_spread_over_an_episode(lamps: EpisodeSet) -> None:
    clips, offset = sample_clips(lamps, 3, 4)
    assert offset[:9].tolist() == [0, 2, 4, 0, 2, 5, 0, 3, 6]
    assert (clips.length == 4).all()
    assert np.array_equal(clips.first - np.repeat(lamps.first, 3), offset)
    assert (clips.layout[offset > 0] == -1).all()
    assert sample_clips(lamps, 1, 8)[1].tolist() == [0] * 12
    with pytest.raises(InputError, match=r"--starts: found 3 starts of 7 actions .* expected at most 2"):
        sample_clips(lamps, 3, 7)


def test_a_world_that_is_right_reaches_the_ceiling_and_listens(lamps: EpisodeSet) -> None:
    found = replay_fidelity(Lamp(), lamps, starts=3, length=4, rows=5)
    assert found["psnr"]["world"]["mean"].tolist() == [PSNR_CEILING] * 4
    assert found["ssim"]["world"]["low"] == pytest.approx(1)
    # No motion is no change of brightness: the world without actions is the start frame copied, to the bit.
    assert np.array_equal(found["psnr"]["zero"]["mean"], found["psnr"]["copy"]["mean"])
    assert found["psnr"]["copy_first"]["mean"][0] < found["psnr"]["copy"]["mean"][0]
    for name in ("shuffled", "zero"):
        assert (found["following"][name]["low"] > 10).all()
        gained = PSNR_CEILING - found["psnr"][name]["mean"]
        assert found["following"][name]["mean"] == pytest.approx(gained)
    by_rows = replay_fidelity(Lamp(), lamps, starts=3, length=4, rows=36)
    assert np.array_equal(by_rows["psnr"]["shuffled"]["mean"], found["psnr"]["shuffled"]["mean"])


def test_the_first_frame_is_compared_only_where_clips_start_later(lamps: EpisodeSet) -> None:
    found = replay_fidelity(Lamp(), lamps, length=4)
    assert "copy_first" not in found["psnr"]
    alone = replay_fidelity(Lamp(), lamps.select([0]), length=4)
    assert set(alone["following"]) == {"zero"}  # one episode has no other whose actions could be taken


def test_a_fault_is_measured_in_decibels(lamps: EpisodeSet) -> None:
    dark = from_episodes([replace(lamp_episode(i), actions=np.zeros((8, 4), np.float32)) for i in range(3)])
    still = np.repeat(np.stack([dark.frames[f] for f in dark.first]), 9, axis=0)
    found = replay_fidelity(Lamp(fades=2), replace(dark, frames=still), length=3)
    expected = [20 * np.log10(255 / (2 * t)) for t in (1, 2, 3)]
    assert found["psnr"]["world"]["mean"] == pytest.approx(expected)
    assert found["following"]["zero"]["mean"] == pytest.approx([0, 0, 0])


def test_the_interval_is_over_episodes() -> None:
    scores = np.repeat(np.random.default_rng(0).normal(20, 1, (30, 1)), 5, axis=1)
    found = by_horizon(scores)
    half = 1.96 * scores[:, 0].std() / np.sqrt(30)
    assert found["mean"] == pytest.approx(scores[:, 0].mean())
    assert found["high"] - found["mean"] == pytest.approx(half, rel=0.1)


def test_imagining_in_pieces_is_the_replay_of_the_real_world_model() -> None:
    torch.manual_seed(0)
    config = debug().world.world
    world = LatentWorldModel(config, SPEC, 10.0).eval()
    with torch.no_grad():
        for p in world.transformer.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    episodes = from_episodes([episode(i, steps=19, size=64) for i in range(2)])
    expected = replay(world, episodes, seed=3).frames.reshape(2, 20, 64, 64, 3)
    acts = np.stack([episodes.episode(i).actions for i in range(2)])
    found = imagine_clips(world, expected[:, 0], acts, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1  # frames are decoded in other batches
    assert np.abs(np.diff(found.astype(int), axis=1)).mean() > 0.1


# ---------------------------------------------------------------- drift


def test_how_a_clip_departs_from_a_real_one() -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(50, 200, (6, SIZE, SIZE, 3), dtype=np.uint8)
    same = drift_statistics(real, real)
    assert same["sharpness"].mean() == pytest.approx(1)
    assert same["contrast"].mean() == pytest.approx(1)
    assert same["motion"][1:].mean() == pytest.approx(1)
    blurred = real.astype(float)
    for axis in (1, 2):
        blurred = (blurred + np.roll(blurred, 1, axis)) / 2
    assert drift_statistics(blurred.astype(np.uint8), real)["sharpness"].mean() < 0.5
    frozen = np.repeat(real[:1], 6, axis=0)
    assert (drift_statistics(frozen, real)["motion"] == 0).all()
    assert drift_statistics(real + np.uint8(20), real)["colour"].mean() == pytest.approx(20, abs=2)
    assert (appearance(np.full_like(real, 7))["contrast"] == 0).all()


def test_the_nearest_real_frame() -> None:
    bank = np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in (0, 100, 200)])
    frames = np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in (100, 190)])
    assert nearest_psnr(frames, bank) == pytest.approx([PSNR_CEILING, 20 * np.log10(25.5)])
    assert np.isnan(nearest_psnr(frames, bank[:0])).all()


def test_drift_shows_a_world_that_saturates(lamps: EpisodeSet) -> None:
    sound, fading = (measure_drift(Lamp(fades), lamps, frames=30, rows=5) for fades in (0.0, 12.0))
    assert sound["band"].tolist() == [[1, 10], [11, 25], [26, 30]]
    assert sound["starts"] == 12
    assert sound["contrast"]["mean"] == pytest.approx([1, 1, 1], abs=0.15)
    assert fading["contrast"]["mean"][-1] < 0.2
    assert fading["sharpness"]["mean"][-1] < 0.2
    assert fading["colour"]["mean"][-1] > 100 > sound["colour"]["mean"][-1]
    assert fading["nearest"]["high"][-1] < sound["nearest"]["low"][-1]


def test_a_drift_goes_on_with_the_actions_of_the_next_episodes_of_the_task() -> None:
    lit = from_episodes([replace(lamp_episode(i), task=("a", "b")[i % 2]) for i in range(4)])
    acts = [lit.episode(i).actions for i in range(4)]
    assert np.array_equal(extend_actions(lit, 0, 20), np.concatenate([acts[0], acts[2], acts[0]])[:20])
    assert np.array_equal(extend_actions(lit, 3, 20), np.concatenate([acts[3], acts[1], acts[3]])[:20])


# ---------------------------------------------------------------- signals


def test_doubt_by_hand() -> None:
    belief = np.array([[1.0, 0.0, 0.5, 1.0, np.nan, np.nan], [1.0, 0.0, 0.5, 0.0, 0.5, np.nan]])
    assert judge_uncertainty(belief)[:5] == pytest.approx([0, 0, 1, 1, 1])
    assert np.isnan(judge_uncertainty(belief)[5])
    assert judge_uncertainty(np.array([[0.9]])) == pytest.approx([0.36])


def test_detection_by_hand() -> None:
    wrong = np.array([False] * 20 + [True] * 10)
    perfect = detection(wrong.astype(float), wrong)
    assert (perfect.auroc.value, perfect.auroc.low, perfect.wrong, perfect.right) == (1, 1, 10, 20)
    noise = detection(np.random.default_rng(0).random(30), wrong)
    assert noise.auroc.low < 0.5 < noise.auroc.high
    assert noise.auroc.low < noise.auroc.value < noise.auroc.high
    with_gaps = detection(np.where(np.arange(30) < 5, np.nan, wrong.astype(float)), wrong)
    assert (with_gaps.auroc.value, with_gaps.right) == (1, 15)
    assert str(detection(np.zeros(3), np.zeros(3, bool))) == "unknown (0 wrong, 3 right)"


def test_futures_are_disturbed_as_asked_and_the_same_again(lamps: EpisodeSet) -> None:
    first, acts = lamps.frames[lamps.first], np.stack([lamps.episode(i).actions[:8] for i in range(12)])
    own = imagine_clips(Lamp(), first, acts, 0)

    def futures(config: JitterConfig, seed: int = 0) -> list[np.ndarray]:
        return list(imagine_futures(Lamp(), first, acts, config, seed))

    assert np.array_equal(futures(JitterConfig(1, 0, 0))[0], own)
    made = futures(JitterConfig(2, 4, 0))
    assert all((future[:, 0] == first).all() for future in made)
    assert frame_distance(own[:, 1:], made[0][:, 1:]) == pytest.approx(4, abs=0.4)
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(made[1], futures(JitterConfig(2, 4, 0))[1])
    assert not np.array_equal(made[1], futures(JitterConfig(2, 4, 0), seed=1)[1])
    pushed = futures(JitterConfig(1, 0, 0.1))[0]
    assert 0.2 < frame_distance(own[:, 1:], pushed[:, 1:]).mean() < 6


def test_a_judge_without_probability_is_taken_at_its_score() -> None:
    class Blunt:
        name = identity = "blunt"
        is_remote = False

        def score(self, clips: Sequence[Clip]) -> list[Verdict]:
            return [Verdict(1.0), Verdict(None, error="outage"), Verdict(0.0, 0.3)][: len(clips)]

    found = judge_probabilities(Blunt(), np.zeros((3, 5, 4, 4, 3), np.uint8), ["a"] * 3, 2)
    assert found[[0, 2]].tolist() == [1.0, 0.3]
    assert np.isnan(found[1])


def test_outcomes_of_a_right_and_of_a_fading_world(lamps: EpisodeSet) -> None:
    both = {"horizon": 8, "stride": 2, "jitter": JitterConfig(2, 4, 0.1), "rows": 5}
    truth = from_episodes([lamp_episode(i) for i in range(40)])
    sound = judge_outcomes(Lamp(), BrightJudge(), truth, **both)
    assert sound.gate()["imagined_balanced_accuracy"] == 1
    assert sound.detections()["judged futures"]["wrong"].wrong == 0
    fading = judge_outcomes(Lamp(fades=3), BrightJudge(), truth, **both)
    assert fading.gate()["real_balanced_accuracy"] == 1
    lied = int(((fading.truth == 0) & np.array(fading.imagined, bool)).sum())
    assert lied > 5
    found = fading.detections()["judged futures"]
    assert (found["wrong"].wrong, found["wrong"].right) == (lied, 40 - lied)
    assert found["false_success"].right == int(fading.truth.sum())
    assert found["wrong"].auroc.value > 0.6  # lies of this world are the rollouts that end near 128
    kept = fading.kept("judged futures")
    assert [row["count"] for row in kept] == [40, 36, 32, 28]
    assert kept[0]["wrong"] == lied / 40 > kept[-1]["wrong"]


def test_the_gate_is_the_same_number_by_both_ways() -> None:
    torch.manual_seed(0)
    recipe = debug()
    world, judge = LatentWorldModel(recipe.world.world, SPEC, 10.0).eval(), SuccessClassifier(recipe.judge.judge).eval()
    held = [replace(episode(i, steps=8, size=64), success=np.arange(9) > 8 - 4 * (i in (0, 1, 4))) for i in range(6)]
    episodes = from_episodes([replace(e, task="ab"[i // 3]) for i, e in enumerate(held)])
    judge.threshold.fill_(float(np.median([v.probability or 0 for v in judge.score(
        [Clip(e.frames[::2], e.instruction) for e in held])])))  # fmt: skip
    expected = gate(world, judge, episodes, horizon=8, stride=2, seed=0)
    found = judge_outcomes(world, judge, episodes, horizon=8, stride=2, jitter=JitterConfig(0)).gate()
    assert found == pytest.approx(expected, nan_ok=True)
    assert 0 < found["real_true_positive"] + found["real_true_negative"] < 2
    assert truncate(episodes, 4).succeeded.sum() == 0


@pytest.mark.skipif(find_spec("lpips") is None, reason="lpips is not installed: pip install 'worldgymnast[perceptual]'")
def test_lpips_grows_with_the_difference() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    found = lpips_distance()(frames, np.stack([frames[0], frames[1][::-1]]))
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] > 0.05


def test_real_frames_of_256_pixels_without_labels() -> None:
    if not (DATA / "bridge_worldgym").is_dir():
        pytest.skip(f"the real data {DATA / 'bridge_worldgym'} are not here")
    episodes = formats.read(DATA / "bridge_worldgym")
    config = WorldModelConfig(
        AutoencoderConfig(channels=4, widths=(4, 4, 8, 8, 8), blocks=(0, 0, 0, 0, 0)),
        TransformerConfig(channels=4, grid=(8, 8), patch=2, width=16, layers=1, heads=2, window=3, action_dim=10),
    )
    torch.manual_seed(0)
    world = LatentWorldModel(config, episodes.spec, episodes.fps).eval()
    found = replay_fidelity(world, episodes, starts=2, length=2, rows=4)
    assert (found["psnr"]["copy"]["mean"] > found["psnr"]["copy_first"]["mean"]).all()
    assert (found["psnr"]["copy"]["mean"] > 20).all()
    assert found["episodes"] == 7
    gone = measure_drift(world, episodes.select([0, 1]), frames=9)
    assert gone["starts"] == 2
    assert np.isfinite(gone["nearest"]["mean"]).all()


def test_one_episode_has_no_interval() -> None:
    curve = by_horizon(np.array([[20.0, 21.0]]))
    assert curve["mean"].tolist() == [20.0, 21.0]
    assert np.isnan(curve["low"]).all()
    assert np.isnan(curve["high"]).all()
