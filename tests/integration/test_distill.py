"""Distillation: a student's beliefs are what sampling sees, and it learns to end where its teacher's walk ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_worlds import SMALL, frames

from worldgymnast.actions import WORLDGYM
from worldgymnast.cli.main import main
from worldgymnast.episodes import worldgym
from worldgymnast.registry import Manifest, load_world, save_component
from worldgymnast.types import Episode
from worldgymnast.worldmodel.consistency import Consistency
from worldgymnast.worldmodel.objective import DiffusionConfig, FlowConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig

TRANSFORMER = replace(SMALL.transformer, action_dim=10, context=0)
TEACHER = replace(
    SMALL,
    transformer=TRANSFORMER,
    objective=DiffusionConfig(),
    steps=5,
    guidance=2.0,
    slide="recompute",
    precision="fp32",
)
FLOW = replace(
    TEACHER, transformer=replace(TRANSFORMER, context=2), objective=FlowConfig(drop_action=0.1), slide="band"
)


def randomised(config: WorldModelConfig) -> LatentWorldModel:
    torch.manual_seed(0)
    world = LatentWorldModel(config, WORLDGYM, 5.0).eval()
    with torch.no_grad():
        for p in world.transformer.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return world


def batch(length: int = 4) -> dict:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(2, length + 1, 8, 8, 4, generator=generator),
        "actions": torch.rand(2, length, 10, generator=generator) * 2 - 1,
        "mask": torch.ones(2, length, dtype=torch.bool),
        "generator": torch.Generator().manual_seed(2),
        "progress": 0.0,
    }


@torch.no_grad()
def test_parallel_predictions_equal_those_of_the_sampler_frame_by_frame() -> None:
    """One step from pure noise after true frames, by the sampler and by `predict_clean`, also beyond the window (5)."""
    world = randomised(replace(TEACHER, steps=1))
    given = batch(7)
    clip = world.training_clips(given)
    noise = torch.randn(clip.clean.shape, generator=torch.Generator().manual_seed(3))
    level = torch.full(clip.mask.shape, world.objective.timesteps(1)[0])
    predicted = world.predict_clean(clip, noise, level, 2.0)
    for t in (1, 3, 4):
        state = world.start_latent(given["latents"][:, 0])
        for i in range(1, t):  # the true frames enter the window as imagined ones do
            inputs = world._clean_inputs(state, given["latents"][:, i], given["actions"][:, i - 1])
            state = replace(world._window.append(state, inputs, None), latent=given["latents"][:, i], frame=i)
        following = world._imagine_frame(state, given["actions"][:, t - 1], noise[:, t])
        assert torch.allclose(following.latent, predicted[:, t], atol=1e-4), f"frame {t}"


@pytest.mark.parametrize("config", [TEACHER, FLOW], ids=["diffusion", "flow"])
def test_a_student_learns_to_end_where_its_teachers_walk_ends(config: WorldModelConfig) -> None:
    teacher = randomised(config)
    student = LatentWorldModel(replace(config, steps=1, guidance=1.0, slide="band"), WORLDGYM, 5.0)
    student.load_state_dict(teacher.state_dict())
    both = Consistency(teacher, student)
    optimizer = torch.optim.Adam([p for p in both.parameters() if p.requires_grad], lr=2e-3)

    def apart() -> float:
        given = batch()
        ends = [
            w.imagine(w.start_latent(given["latents"][:, 0]), given["actions"][:, :1], generator=torch.Generator())[1]
            for w in (teacher, student)
        ]
        return float((ends[0] - ends[1]).square().mean())

    before = apart()
    for step in range(40):
        loss, _ = both.loss({**batch(), "generator": torch.Generator().manual_seed(step)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is None for p in teacher.parameters())
    assert apart() < 0.5 * before


def test_distill_writes_a_world_of_one_step_and_refuses_one_that_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8),
            np.zeros((5, 10), np.float32) - 0.5,
            "",
            "",
            5.0,
            WORLDGYM,
        )
        for _ in range(2)
    ]
    for episode in episodes:
        episode.actions[:, 6:] = (-1, 0, 0, 0)
    worldgym.write(tmp_path / "data", episodes)
    save_component(tmp_path / "teacher.safetensors", randomised(TEACHER), Manifest())
    words = ["distill", str(tmp_path / "data"), "--clips", "2", "--length", "3", "--fit.steps", "2"]
    run = tmp_path / "run"
    assert main([*words, "--world", str(tmp_path / "teacher.safetensors"), "--out", str(run)]) == 0
    made = load_world(run / "world.safetensors")
    assert (made.config.steps, made.config.guidance, made.config.slide) == (1, 1.0, "band")
    _, imagined = made.step(made.start(frames(1)), torch.zeros(1, 2, 10), generator=torch.Generator())
    assert imagined.shape == (1, 2, 64, 64, 3)
    capsys.readouterr()
    assert main([*words, "--world", str(run / "world.safetensors"), "--out", str(tmp_path / "again")]) == 2
    assert "There is nothing to distill" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
