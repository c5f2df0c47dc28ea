"""The world model's own opinion of success, and training through its own imagination."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lamp import SIZE, BrightJudge, Lamp, Seer, lamp_episode
from small_worlds import SMALL, randomised
from trainable import Trainable

from worldgymnast.envs.imagined import ImaginedVectorEnv
from worldgymnast.episodes.windows import concatenate, from_episodes
from worldgymnast.protocols import PredictsSuccess, WorldModel
from worldgymnast.rl.judging import judge_clip
from worldgymnast.rl.rollout import roll_out
from worldgymnast.training.replay import episode_clips, replay
from worldgymnast.types import ActionChunk, Start
from worldgymnast.worldmodel.objective import FlowConfig, motion_weights, weighted_error
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.transformer import _attend

HEAD = replace(SMALL, success_head=16, precision="fp32")


def batch(world: LatentWorldModel, b: int = 4, t: int = 6, seed: int = 0) -> dict[str, Any]:
    """Clips whose first latent channel says at every frame whether it is a success."""
    g = torch.Generator().manual_seed(seed)
    channels, grid = world.config.transformer.channels, world.config.transformer.grid
    success = torch.rand(b, t + 1, generator=g) > 0.5
    latents = torch.randn(b, t + 1, *grid, channels, generator=g) * 0.3
    latents[..., 0] = success.float()[:, :, None, None] * 2 - 1
    return {
        "latents": latents,
        "actions": torch.cat([success[:, 1:, None].float() * 2 - 1, torch.zeros(b, t, 3)], -1),
        "mask": torch.ones(b, t, dtype=torch.bool),
        "success": success,
        "labelled": torch.ones(b, dtype=torch.bool),
        "instruction": ("open the drawer",) * b,
        "generator": torch.Generator().manual_seed(seed),
        "progress": 1.0,
    }


def objective(**changes: Any) -> WorldModelConfig:
    return replace(HEAD, objective=replace(FlowConfig(), **changes))


def test_the_unrolled_loss_is_the_error_of_what_is_imagined() -> None:
    world = randomised(objective(unroll=1.0, success=0.0))
    clip = batch(world)
    loss, metrics = world.loss(clip)
    state = world.start_latent(clip["latents"][:, 0])
    _, imagined = world.imagine(state, clip["actions"], generator=torch.Generator().manual_seed(0))
    weight = world.autoencoder.latent_weight * motion_weights(clip["latents"], 2, FlowConfig().motion)
    expected = weighted_error(imagined, clip["latents"][:, 1:], weight, clip["mask"])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_last_frames_error_reaches_the_first_action() -> None:
    """The gradient runs through the imagination: no frame is cut off from what led to it."""
    world = randomised(objective(unroll=1.0, success=0.0))
    clip = batch(world)
    clip["actions"].requires_grad_()
    clip["mask"] = torch.arange(6)[None].expand(4, 6) == 5
    world.loss(clip)[0].backward()
    reached = clip["actions"].grad
    assert reached is not None
    assert (reached[:, 0].abs().sum(-1) > 0).all()


def test_half_of_the_clips_unrolled_is_the_mean_of_both() -> None:
    clip = batch(randomised(HEAD))
    halves = []
    for share, rows in ((1.0, slice(2)), (0.0, slice(2, 4))):
        world = randomised(objective(unroll=share, pure_noise=1.0, corruption=0.0, self_rollout=0.0))
        part = {k: v[rows] if isinstance(v, torch.Tensor | tuple) else v for k, v in clip.items()}
        halves.append(float(world.loss(part | {"generator": torch.Generator().manual_seed(0)})[0]))
    world = randomised(objective(unroll=0.5, pure_noise=1.0, corruption=0.0, self_rollout=0.0))
    both = float(world.loss(clip | {"generator": torch.Generator().manual_seed(0)})[0])
    assert both == pytest.approx(np.mean(halves), rel=0.02), "weights of motion are relative within a part"


@pytest.mark.parametrize("unroll", [0.0, 1.0])
def test_the_head_learns_one_batch(unroll: float) -> None:
    world = randomised(objective(unroll=unroll, success=1.0))
    clip = batch(world)
    optimizer = torch.optim.Adam([*world.transformer.parameters(), *world.success_head.parameters()], lr=3e-3)  # type: ignore[union-attr]
    losses = []
    for step in range(60):
        loss, metrics = world.loss(clip | {"generator": torch.Generator().manual_seed(step)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["success_loss"])
    assert losses[0] > 0.4
    assert losses[-1] < 0.1


def test_frames_without_a_label_teach_the_head_nothing() -> None:
    world = randomised(objective(unroll=0.5))
    clip = batch(world)
    hidden = clip | {"labelled": torch.zeros(4, dtype=torch.bool)}
    assert world.loss(hidden)[1]["success_loss"] == 0
    one = clip | {"labelled": torch.tensor([True, False, False, False])}
    other = one | {"success": torch.cat([clip["success"][:1], ~clip["success"][1:]])}
    first, second = (world.loss(c | {"generator": torch.Generator().manual_seed(0)})[1] for c in (one, other))
    assert first["success_loss"] == second["success_loss"] > 0


def test_without_a_head_nothing_is_foreseen() -> None:
    world = randomised()
    state = world.start(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    state, _ = world.step(state, torch.zeros(2, 1, 4), generator=torch.Generator())
    assert world.predict_success(state, ["a", "b"]) is None


class Still(Trainable):
    """A policy that makes it brighter by a tenth a look."""

    def __init__(self, spec: Any):
        super().__init__()
        self.action_spec = spec

    def act(self, obs: Any, *, temperature: float, generator: Any) -> ActionChunk:
        b = len(obs.image)
        actions = torch.zeros(b, 2, self.action_spec.dim)
        actions[..., 0] = 0.1
        return ActionChunk(actions, torch.zeros_like(actions).long(), torch.zeros_like(actions), temperature)

    def logprobs(self, obs: Any, chunk: ActionChunk) -> torch.Tensor:
        return chunk.logprobs

    def loss(self, batch: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("world", [Lamp(), Seer()])
def test_what_a_world_foresees_goes_with_its_rollouts(world: WorldModel) -> None:
    knows = isinstance(world, PredictsSuccess)
    env = ImaginedVectorEnv(world, BrightJudge(), rows=2, chunk=2, horizon=6, generator=torch.Generator())
    start = Start(np.full((SIZE, SIZE, 3), 100, np.uint8), "brighter")
    policy: Any = Still(world.action_spec)
    for rollout in roll_out(env, policy, [start, start], temperature=0.0, generator=torch.Generator()):
        assert (rollout.foreseen is not None) == knows == (judge_clip(rollout).foreseen is not None)
        assert judge_clip(rollout).imagined
        if rollout.foreseen is not None:
            assert rollout.foreseen[0] == 0, "at the start nothing is done"
            assert rollout.foreseen[1:] * 255 == pytest.approx([102, 104, 106], abs=1e-3)
            assert judge_clip(rollout).until(2).foreseen == pytest.approx([0, 102 / 255])


def test_replays_hold_what_was_foreseen_frame_by_frame_and_clips_the_frames_that_are_seen() -> None:
    episodes = from_episodes([lamp_episode(i, steps) for i, steps in enumerate((8, 5, 8))])
    assert replay(Lamp(), episodes, seed=0).foreseen is None
    made = replay(Seer(), episodes, seed=0)
    assert made.foreseen is not None
    for e in range(3):
        frames = np.asarray(made.episode(e).frames)
        foreseen = made.foreseen[made.first[e] : made.first[e] + made.length[e] + 1]
        assert foreseen[1:] * 255 == pytest.approx(frames[1:].mean((1, 2, 3)), abs=0.5)
    shown = episode_clips(made, 3)
    assert [len(clip.frames) for clip in shown] == [len(clip.foreseen) for clip in shown]  # type: ignore[arg-type]
    assert all(clip.imagined for clip in shown)
    assert not any(clip.imagined for clip in episode_clips(episodes, 3))
    again = concatenate([made.select([2]), made.select([0])])
    assert again.foreseen is not None
    assert (episode_clips(again, 3)[1].foreseen == shown[0].foreseen).all()
    assert concatenate([made, episodes]).foreseen is None


@pytest.mark.parametrize("masked", [False, True])
def test_attention_on_a_cpu_is_the_same_in_both_precisions(masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(6, 4, 12, 16, generator=g, requires_grad=True) for _ in range(3))
    mask = torch.ones(12, 12, dtype=torch.bool).tril() if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        out = _attend(q, k, v, mask)
        half = _attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
    assert out.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert torch.allclose(out, half.float(), atol=0.05)
