"""The world model: the cache is exact, forks are values, the transformer is causal, and it can learn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from small_worlds import SMALL, SPEC, frames, randomised

from worldgymnast.actions import WORLDGYM, ActionSpecMismatch
from worldgymnast.errors import InputError
from worldgymnast.precision import autocast
from worldgymnast.recipes.presets import WORLDS
from worldgymnast.registry import from_dict, to_dict
from worldgymnast.worldmodel.autoencoder import Autoencoder
from worldgymnast.worldmodel.objective import Diffusion, DiffusionConfig, Flow, FlowConfig, ddim_step, motion_weights
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.transformer import VideoTransformer

DIFFUSION = replace(SMALL, objective=DiffusionConfig(drop_action=0.0))


@pytest.mark.parametrize("slide", ["band", "recompute"])
@pytest.mark.parametrize(
    ("config", "steps", "context"), [(SMALL, 1, 2), (SMALL, 2, 0), (SMALL, 4, 1), (DIFFUSION, 4, 0), (DIFFUSION, 2, 2)]
)
def test_sampler_with_its_cache_equals_sampler_without_frame_by_frame(
    config: WorldModelConfig, steps: int, context: int, slide: str
) -> None:
    """Also beyond the window (5 frames), where it slides; the uncached one is banded, or forgets what has slid out."""
    transformer = replace(SMALL.transformer, context=context)
    config = replace(config, steps=steps, transformer=transformer, slide=slide, precision="fp32")  # type: ignore[arg-type]
    cached = randomised(config)
    plain = LatentWorldModel(replace(config, cached=False), SPEC, 10.0).eval()
    plain.load_state_dict(cached.state_dict())
    actions = torch.rand(3, 14, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    states = [w.start(frames(3)) for w in (cached, plain)]
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    for t in range(14):
        a = actions[:, t : t + 1]
        states[0], one = cached.imagine(states[0], a, generator=generators[0])
        states[1], two = plain.imagine(states[1], a, generator=generators[1])
        assert (one - two).abs().max() < 1e-4 * max(1.0, float(two.abs().max())), f"frame {t}"


def test_the_two_slides_differ_only_when_the_window_has_slid() -> None:
    config = replace(SMALL, precision="fp32", transformer=replace(SMALL.transformer, layers=2))
    band = randomised(config)
    exact = LatentWorldModel(replace(config, slide="recompute"), SPEC, 10.0).eval()
    exact.load_state_dict(band.state_dict())
    actions = torch.rand(1, 9, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    one, two = (w.imagine(w.start(frames(1)), actions, generator=torch.Generator())[1] for w in (band, exact))
    assert torch.allclose(one[:, :5], two[:, :5], atol=1e-5)
    assert not torch.allclose(one[:, 6:], two[:, 6:], atol=1e-5)


def test_forked_states_are_values() -> None:
    world = randomised()
    state = world.start(frames(2))
    state, _ = world.step(state, torch.zeros(2, 3, 4), generator=torch.Generator().manual_seed(0))
    before = [state.latent.clone(), *(c.clone() for c in state.cache)]
    fork = state.fork(torch.tensor([1, 1, 0]))
    assert fork.latent.shape[0] == 3
    one, _ = world.step(fork, torch.ones(3, 2, 4), generator=torch.Generator().manual_seed(5))
    two, _ = world.step(fork, torch.ones(3, 2, 4), generator=torch.Generator().manual_seed(5))
    assert torch.equal(one.latent, two.latent)
    for kept, now in zip(before, [state.latent, *state.cache], strict=True):
        assert torch.equal(kept, now)


def test_later_frames_do_not_change_earlier_ones() -> None:
    torch.manual_seed(0)
    net = randomised().transformer
    x, level, actions = torch.randn(1, 6, 8, 8, 4), torch.rand(1, 6) * 1000, torch.randn(1, 6, 4)
    one, _ = net(x, level, actions, torch.cat([x, x], -1))
    changed = x.clone()
    changed[:, 4:] += 1
    two, _ = net(changed, level, actions, torch.cat([changed, changed], -1))
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.equal(one[:, 4:], two[:, 4:])


def test_a_frame_sees_no_further_back_than_the_window() -> None:
    net = VideoTransformer(replace(SMALL.transformer, window=2, layers=1))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    x, level, actions = torch.randn(1, 5, 8, 8, 4), torch.rand(1, 5) * 1000, torch.randn(1, 5, 4)
    one, _ = net(x, level, actions, torch.cat([x, x], -1))
    changed = x.clone()
    changed[:, 0] += 1
    two, _ = net(changed, level, actions, torch.cat([changed, changed], -1))
    assert torch.allclose(one[:, 2:], two[:, 2:], atol=1e-6)


def test_action_width_is_checked() -> None:
    world = randomised()
    with pytest.raises(ActionSpecMismatch, match="7 wide, expected 4"):
        world.step(world.start(frames(1)), torch.zeros(1, 1, 7), generator=torch.Generator())


def test_levels_are_independent_per_frame_and_half_are_pure_noise() -> None:
    level = Flow(FlowConfig(pure_noise=0.5)).sample_levels((200, 50), torch.Generator().manual_seed(0))
    assert 0.47 < float((level == 0).float().mean()) < 0.53
    assert float(level.std(1).min()) > 100


@pytest.mark.parametrize("made", [Flow(FlowConfig()), Diffusion(DiffusionConfig())])
def test_denoising_with_the_true_prediction_ends_at_the_clean_frame(made: Flow | Diffusion) -> None:
    clean, noise, previous = torch.randn(3, 2, 5)
    schedule = [(level, *made.coefficients(torch.tensor(level))) for level in made.timesteps(4)]
    assert schedule[0][1] < 0.03
    assert schedule[-1][1:] == (1.0, 0.0)
    x = schedule[0][1] * clean + schedule[0][2] * noise
    for (_, signal, spread), (_, after, left) in itertools.pairwise(schedule):
        assert torch.allclose(x, signal * clean + spread * noise, atol=1e-5)
        prediction = made.target(clean, noise, signal, spread, previous)
        x = ddim_step(made.clean(prediction, x, signal, spread, previous), x, (signal, spread), (after, left))
    assert torch.allclose(x, clean, atol=1e-5)


def test_a_training_step_in_16_bits_reaches_every_weight() -> None:
    """The model imagines inside its own loss, without gradient; its casted weights must not be those of the step."""
    world = randomised(replace(SMALL, precision="bf16"))
    batch = {
        "latents": torch.randn(4, 5, 8, 8, 4),
        "actions": torch.randn(4, 4, 4),
        "mask": torch.ones(4, 4, dtype=torch.bool),
        "generator": torch.Generator().manual_seed(0),
        "progress": 1.0,
    }
    with autocast("bf16", world.device):
        loss, _ = world.loss(batch)
    loss.backward()
    assert [k for k, p in world.transformer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_moves_weighs_more_and_the_mean_stays_one() -> None:
    latents = torch.zeros(1, 3, 4, 4, 2)
    latents[:, 1:, :2, :2] = 1.0
    weight = motion_weights(latents, 2, 3.0)
    assert weight.mean().item() == pytest.approx(1.0, abs=1e-5)
    assert weight[0, 0, 0, 0, 0] > weight[0, 0, 3, 3, 0]


def test_a_few_steps_on_one_batch_lower_the_loss() -> None:
    torch.manual_seed(0)
    world = LatentWorldModel(SMALL, SPEC, 10.0)
    g = torch.Generator().manual_seed(0)
    batch = {
        "latents": torch.randn(2, 5, 8, 8, 4, generator=g),
        "actions": torch.rand(2, 4, 4, generator=g),
        "mask": torch.ones(2, 4, dtype=torch.bool),
        "progress": 0.9,
    }
    optimizer = torch.optim.Adam(world.transformer.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss, _ = world.loss({**batch, "generator": torch.Generator().manual_seed(step % 3)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_autoencoder_round_trip_has_the_right_shape_and_learns() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SMALL.autoencoder)
    images = frames(4) // 4 + 96
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        loss, _ = model.loss({"frames": images, "generator": torch.Generator().manual_seed(step)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    model.measure_latents([images])
    latents = model.encode(images)
    assert latents.shape == (4, 8, 8, 4)
    assert latents.mean().abs() < 1e-3
    assert model.decode(latents).shape == images.shape


@pytest.mark.parametrize("size", list(WORLDS))
def test_every_size_is_the_same_implementation_with_another_config(size: str) -> None:
    """Built without memory for its weights, as 600M would need 2.4 GB."""
    config = WORLDS[size]().world
    assert from_dict(WorldModelConfig, to_dict(config), size) == config
    spec = SPEC if config.transformer.action_dim == 4 else WORLDGYM
    with torch.device("meta"):
        transformer = VideoTransformer(config.transformer)
    count = sum(p.numel() for p in transformer.parameters()) / 1e6
    named = {"embedded": 7, "bridge-25m": 23, "bridge-25m-diffusion": 23, "bridge-150m": 149, "bridge-600m": 608}
    assert round(count) == pytest.approx(named[size], rel=0.05)
    assert config.frame_size == ((64, 64) if size == "embedded" else (256, 256))
    assert config.transformer.action_dim == spec.dim


def test_guidance_needs_an_action_that_can_stand_for_none() -> None:
    with pytest.raises(InputError, match="is not padding, so no null action exists"):
        LatentWorldModel(replace(SMALL, guidance=2.0), SPEC, 10.0)


def test_detail_gives_back_what_the_autoencoder_lost_where_nothing_moves() -> None:
    world = LatentWorldModel(replace(SMALL, detail=0.3, precision="fp32"), SPEC, 10.0).eval()  # untrained: no change
    seen = frames(2)
    state, shown = world.step(world.start(seen), torch.zeros(2, 4, 4), generator=torch.Generator())
    assert torch.equal(shown, seen[:, None].expand_as(shown))
    assert state.fork(torch.tensor([1, 1])).extra["detail"].shape == seen.shape
    moved = replace(state, latent=state.latent + 9)  # far from the start, nothing is given back
    latents = moved.latent[:, None]
    assert torch.equal(world._decode(moved, latents), world.autoencoder.decode(latents))


def test_frames_between_looks_are_imagined_but_not_decoded() -> None:
    world = randomised()
    actions = torch.rand(2, 6, 4) * 2 - 1
    start, seed = world.start(frames(2)), torch.Generator
    every, third = (world.step(start, actions, generator=seed().manual_seed(0), every=n)[1] for n in (1, 3))
    assert torch.equal(every[:, 2::3], third)
