"""Test-time training: one start and its replay, the KL anchor, what is too strange, what was forgotten."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studies.new_scenes import REMEDIES, NewScenesConfig
from worldgymnast.cli.main import main
from worldgymnast.envs.metaworld import MetaWorld, MetaWorldConfig
from worldgymnast.errors import InputError
from worldgymnast.recipes.adapt import AdaptConfig, ReplayStarts
from worldgymnast.recipes.quickstart import starter
from worldgymnast.registry import load_policy
from worldgymnast.rl.objective import ObjectiveConfig, divergence
from worldgymnast.rl.trainer import Trainer, TrainerConfig
from worldgymnast.types import IMAGE, ActionChunk, Observation, Rollout, RolloutGroup, Start, Verdict


def start(instruction: str = "open the drawer", value: int = 90) -> Start:
    return Start(np.full((64, 64, 3), value, np.uint8), instruction, "drawer-open")


def test_a_share_of_every_step_begins_elsewhere() -> None:
    own, other = start(), start("close the door")
    draws: list[int] = []

    def others(rng: np.random.Generator, count: int) -> list[Start]:
        draws.append(count)
        return [other] * count

    others.identity = "others"  # pyright: ignore[reportFunctionMemberAccess] - a sampler has one
    drawn = ReplayStarts(own, others, 0.25)(np.random.default_rng(0), 8)
    assert drawn == [own] * 6 + [other] * 2
    assert ReplayStarts(own, others, 0.0)(np.random.default_rng(0), 8) == [own] * 8
    assert draws == [2]
    with pytest.raises(InputError, match="replay"):
        AdaptConfig(replay=1.0)


def test_the_estimate_of_the_divergence_is_unbiased_and_never_negative() -> None:
    torch.manual_seed(0)
    p, q = (torch.randn(6).log_softmax(0) for _ in range(2))
    tokens = torch.multinomial(p.exp(), 200_000, replacement=True)
    found = divergence(p[tokens], q[tokens])
    assert float(found.min()) >= 0
    assert float(found.mean()) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=0.02)
    assert float(divergence(p, p).abs().max()) == 0


def test_an_anchored_policy_stays_nearer_to_where_it_began() -> None:
    policy = load_policy(starter("policy"))
    image = torch.from_numpy(np.stack([np.full((64, 64, 3), v, np.uint8) for v in (60, 120)]))
    obs = Observation.of(image, ["open the drawer"] * 2)

    def group(seed: int) -> RolloutGroup:
        rollouts = []
        for i in range(4):
            with torch.no_grad():
                chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(seed * 10 + i))
            looks = ActionChunk(chunk.actions, chunk.sample, chunk.logprobs, 1.0)
            rollouts.append(Rollout(start(), {IMAGE: image.numpy()}, looks, image.numpy(), Verdict(float(i % 2)), 2))
        return RolloutGroup(start(), tuple(rollouts))

    groups, moved = [group(seed) for seed in range(3)], {}
    for kl in (0.0, 10.0):
        trainer = Trainer(copy.deepcopy(policy), TrainerConfig(updates=6, objective=ObjectiveConfig(kl=kl)))
        moved[kl] = trainer.update(groups, torch.Generator().manual_seed(0))
        with torch.no_grad():
            chunk = groups[0].rollouts[0].chunks
            away = divergence(trainer.policy.logprobs(obs, chunk), policy.logprobs(obs, chunk))
        moved[kl] = float(away.mean())
    assert 0 < moved[10.0] < 0.8 * moved[0.0]


def test_a_remedy_is_an_anchor_or_other_scenes_or_both() -> None:
    config = NewScenesConfig()
    found = {remedy: config.with_remedy(remedy) for remedy in REMEDIES}
    kl = config.adapt.rl.trainer.objective.kl
    assert kl > 0
    assert config.adapt.replay > 0
    assert {name: (one.rl.trainer.objective.kl, one.replay) for name, one in found.items()} == {
        "none": (0, 0), "replay": (0, config.adapt.replay), "anchor": (kl, 0), "both": (kl, config.adapt.replay)
    }  # fmt: skip


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "neither is given. Give a picture, or a layout of --task"),
        (["--frame", "a.png", "--layout", "3", "--task", "drawer-open"], "both are given"),
        (["--layout", "3"], "--layout: --task is missing"),
        (["--frame", "a.png"], "--instruction: missing"),
        (["--frame", "a.png", "--instruction", "  "], "--instruction: missing"),
        (["--frame", "missing.png", "--instruction", "open the drawer"], "missing.png: found no file"),
        (["--frame", "wide.png", "--instruction", "open the drawer"], "found 80x64 pixels, expected a square picture"),
        (["--frame", "text.png", "--instruction", "open the drawer"], "not a readable picture"),
        (["--layout", "3", "--task", "drawer-ope"], "resembles 'drawer-open'"),
        (["--layout", "3", "--task", "drawer-open", "--replay", "1"], "replay"),
        (["--layout", "3", "--task", "drawer-open", "--rl.middle", "0.5"], "--rl.middle has no effect in this command"),
    ],
)
def test_what_cannot_be_adapted_to_is_refused_at_once(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save("wide.png")
    Path("text.png").write_text("no picture")
    assert main(["adapt", *words, "--out", "run"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert expected in said[-1]
    assert not Path("run").exists()


@pytest.mark.usefixtures("gl", "one_process")
def test_a_scene_is_adapted_to_and_what_was_forgotten_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    brief = ["--rl.steps", "1", "--rl.starts", "2", "--rl.group-size", "2", "--rl.horizon", "4", "--trials", "2"]
    few = ["--photographs", "1", "--others", "1", "--threads", "1", "--out", "run"]
    robot = MetaWorld(MetaWorldConfig(tasks=("door-close",)))
    photo = robot.photograph(robot.layouts(1, 9_100_000))[0]
    Image.fromarray(photo.frame.repeat(3, 0).repeat(3, 1)).save("scene.png")
    words = ["adapt", "--frame", "scene.png", "--instruction", "close the door", *brief, *few]
    assert main(["adapt", "--frame", "scene.png", "--instruction", "schließe die Tür", *brief, *few]) == 2
    assert "add --anyway" in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "This scene, imagined, sampled: before" in said
    assert "Imagined success in other scenes" in said
    assert "run/policy.safetensors" in said
    written = Path("run/policy.safetensors").stat().st_mtime_ns
    assert main(words) == 0
    assert Path("run/policy.safetensors").stat().st_mtime_ns == written
