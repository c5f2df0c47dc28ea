"""World models whose next frame depends on the robot's predicted state."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_worlds import SMALL, SPEC, randomised

from worldgymnast.errors import FieldError
from worldgymnast.testing import check_world
from worldgymnast.worldmodel.objective import DiffusionConfig, FlowConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig

FED = replace(SMALL, state_dim=2, state_input=True, transformer=replace(SMALL.transformer, grid=(4, 4)))
UNFED = replace(FED, state_input=False)


def images(world: LatentWorldModel) -> torch.Tensor:
    shape = (2, *world.frame_size, 3)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def imagined(world: LatentWorldModel, known: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and last state of a rollout of seven actions."""
    actions = torch.rand((2, 7, SPEC.dim), generator=torch.Generator().manual_seed(2)) * 2 - 1
    state = world.start(images(world), known)
    state, frames = world.step(state, actions, generator=torch.Generator().manual_seed(0))
    predicted = world.predict_state(state)
    assert predicted is not None
    return frames, predicted


def batch(world: LatentWorldModel, clips: int, length: int, **changes: Any) -> dict[str, Any]:
    h, w = world.config.transformer.grid
    draw = torch.Generator().manual_seed(3)
    given = {
        "latents": torch.randn((clips, length + 1, h, w, world.config.transformer.channels), generator=draw),
        "actions": torch.rand((clips, length, SPEC.dim), generator=draw) * 2 - 1,
        "mask": torch.ones(clips, length, dtype=torch.bool),
        "state": torch.randn((clips, length + 1, 2), generator=draw),
        "generator": torch.Generator().manual_seed(4),
        "progress": 1.0,
    }
    return given | changes


def test_the_next_frame_depends_on_the_state_and_only_if_it_is_an_input() -> None:
    known = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    for config, differs in ((FED, True), (UNFED, False)):
        world = randomised(config)
        first, second = imagined(world, known)[0], imagined(world, known + 0.5)[0]
        assert torch.equal(first, second) != differs


def test_a_world_model_that_gets_the_input_imagines_as_before() -> None:
    before, after = randomised(UNFED), LatentWorldModel(FED, SPEC, 10.0).eval()
    missing, unexpected = after.load_state_dict(before.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("transformer.state_embedder.") for name in missing)
    assert torch.equal(imagined(before)[0], imagined(after)[0])


@pytest.mark.parametrize("slide", ["band", "recompute"])
@pytest.mark.parametrize("context", [0, 2])
def test_the_cache_holds_the_state_too(context: int, slide: Any) -> None:
    transformer = replace(FED.transformer, context=context)
    config = replace(FED, transformer=transformer, slide=slide, steps=2, precision="fp32")
    if not context:
        config = replace(config, objective=DiffusionConfig(drop_action=0.0))
    cached = randomised(config)
    plain = LatentWorldModel(replace(config, cached=False), SPEC, 10.0).eval()
    plain.load_state_dict(cached.state_dict())
    (frames, state), (expected, known) = imagined(cached), imagined(plain)
    torch.testing.assert_close(state, known, atol=1e-4, rtol=1e-4)
    assert (frames.int() - expected.int()).abs().max() <= 1


def test_the_state_is_fed_back() -> None:
    """Two steps of one action each give what one step of two actions does, and the state after them is the head's."""
    world = randomised(FED)
    actions = torch.zeros(2, 2, SPEC.dim)
    state = world.start(images(world), torch.zeros(2, 2))
    whole, _ = world.step(state, actions, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    first, _ = world.step(state, actions[:, :1], generator=generator)
    second, _ = world.step(first, actions[:, 1:], generator=generator)
    assert torch.equal(world.predict_state(whole), world.predict_state(second))
    assert not torch.equal(world.predict_state(first), world.predict_state(second))
    assert torch.equal(world.predict_state(state), torch.zeros(2, 2))


def test_it_keeps_the_contract() -> None:
    check_world(randomised(FED))


@pytest.mark.parametrize("unroll", [0.0, 1.0])
def test_it_learns_what_only_the_state_tells(unroll: float) -> None:
    """The next latents are those of the state's sign; the frames before say nothing of it."""
    objective = FlowConfig(pure_noise=1.0, unroll=unroll, unroll_from=0.0, corruption=0.0, motion=0.0)
    sign = torch.tensor([1.0, -1.0] * 8)[:, None, None]
    errors = {}
    for config in (FED, UNFED):
        torch.manual_seed(0)
        world = LatentWorldModel(replace(config, objective=objective), SPEC, 10.0).train()
        given = batch(world, 16, 1, state=sign.expand(16, 2, 2).contiguous(), actions=torch.zeros(16, 1, SPEC.dim))
        given["latents"] = torch.stack([torch.zeros_like(given["latents"][:, 0])] * 2, 1)
        given["latents"][:, 1] = sign[..., None].expand_as(given["latents"][:, 1])
        optimizer = torch.optim.Adam(world.transformer.parameters(), 3e-3)
        metrics: dict[str, float] = {}
        for step in range(60):
            loss, metrics = world.loss(given | {"generator": torch.Generator().manual_seed(step)})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[config.state_input] = metrics["relative_error"]
    assert errors[False] > 0.7
    assert errors[True] < (0.1 if unroll == 0 else 0.45), "with unrolled clips, a quarter of the starts is estimated"


@pytest.mark.parametrize("self_rollout", [0.0, 0.5])
@pytest.mark.parametrize("unroll", [0.0, 0.5])
def test_every_weight_learns(unroll: float, self_rollout: float) -> None:
    objective = FlowConfig(unroll=unroll, unroll_from=0.0, self_rollout=self_rollout, self_rollout_from=0.0)
    world = randomised(replace(FED, objective=objective)).train()
    loss, metrics = world.loss(batch(world, 4, 6))
    loss.backward()
    assert np.isfinite(metrics["state_loss"])
    without = [n for n, p in world.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(FieldError, match="without a state head"):
        LatentWorldModel(WorldModelConfig(state_input=True), SPEC, 10.0)
    padded = replace(SPEC, axes=(*SPEC.axes[:-1], "pad"))
    with pytest.raises(FieldError, match="no null state"):
        LatentWorldModel(replace(FED, guidance=2.0), padded, 10.0)
