"""SmolVLA, pi0 and pi0.5 answer what the original code answers on tiny checkpoints (tests/data/vla)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_vla import DATA, KINDS, PI0, SMOLVLA, with_weights
from torch import Tensor

from worldgymnast.policies.experts import Inputs
from worldgymnast.policies.flow_chain import (
    ALL_STEPS,
    Gaussian,
    NoiseNet,
    Transition,
    chain_logprobs,
    flow_step,
    one_step_logprobs,
    sample_chain,
    sde_step,
    stochastic_steps,
    times,
)
from worldgymnast.policies.letterbox import letterbox
from worldgymnast.policies.pi0_network import Pi0Network, Pi0Sizes
from worldgymnast.policies.smolvla_network import SmolVLANetwork, SmolVLASizes

STEPS, NOISE, DEVIATIONS = 4, 0.5, (0.08, 0.16)
close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


NETWORKS: dict[str, Callable[[], Any]] = {
    "smolvla": lambda: SmolVLANetwork(SMOLVLA),
    "pi0": lambda: Pi0Network(PI0, is_adaptive=False),
    "pi05": lambda: Pi0Network(PI0, is_adaptive=True),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def network(kind: str) -> Any:
    return with_weights(NETWORKS[kind](), kind).requires_grad_(False)


def vectors(kind: str) -> dict[str, Tensor]:
    return load_file(DATA / kind / "share_vectors.safetensors")


def inputs_of(v: dict[str, Tensor]) -> Inputs:
    return Inputs([v[f"image{i}"] for i in range(3)], v["image_masks"], v["tokens"], v["token_mask"], v["state"])


def noise_net(kind: str) -> NoiseNet:
    stored = load_file(DATA / kind / "share_noise_net.safetensors")
    first, second = (stored[f"mlp_logvar.moduleList.{i}.linear_1.weight"] for i in (0, 1))
    net = NoiseNet(first.shape[1], 32, (len(first), len(second)))
    names = [(i, name) for i in range(3) for name in ("weight", "bias")]
    net.load_state_dict({f"layers.{i}.{n}": stored[f"mlp_logvar.moduleList.{i}.linear_1.{n}"] for i, n in names})
    return net.requires_grad_(False)


def transition(kind: str, v: dict[str, Tensor], method: str) -> Transition:
    net, deviations = network(kind), noise_net(kind)
    context = net.context(inputs_of(v))

    def step(x: Tensor, index: Tensor, level: Tensor) -> Gaussian:
        hidden = net.hidden(context, x, times(index, STEPS))
        velocity = net.velocity(hidden)
        if method == "fn":
            deviation = deviations(hidden, *DEVIATIONS) * level[:, None, None]
            return Gaussian(flow_step(x, velocity, index, STEPS), deviation)
        return sde_step(x, velocity, index, STEPS, NOISE * level)

    return step


@kinds
def test_images_are_resized_and_padded_as_in_the_original(kind: str) -> None:
    v = vectors(kind)
    resize = "corner" if kind == "smolvla" else "center"
    for i in (0, 1):
        close(letterbox(v[f"raw_image{i}"], v["image0"].shape[-1], resize), v[f"image{i}"], atol=1e-6, rtol=0)
    assert bool((v["image2"] == -1).all())


def test_antialiased_images_are_those_of_pillow() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(frame).resize((56, 42), Image.Resampling.BILINEAR)).astype(int)
    image = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    found = ((letterbox(image, 56, "antialiased")[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(found[7:49] - wanted).max() <= 1
    assert not found[:7].any()
    assert not found[49:].any()


@kinds
def test_the_prefix_is_that_of_the_original(kind: str) -> None:
    v = vectors(kind)
    embedded, blocks, mask = network(kind).embed(inputs_of(v))
    close(embedded, v["prefix_embs"])
    assert torch.equal(mask, v["prefix_pad"])
    assert torch.equal(blocks, v["prefix_att"][0].bool())


@kinds
def test_velocities_and_actions_of_the_flow_are_those_of_the_original(kind: str) -> None:
    v, net = vectors(kind), network(kind)
    context, x = net.context(inputs_of(v)), v["noise"]
    assert torch.equal(times(torch.arange(STEPS + 1), STEPS), v["timesteps"])
    for i in range(STEPS):
        index = torch.full((2,), i)
        velocity = net.velocity(net.hidden(context, x, times(index, STEPS)))
        close(velocity, v["ode_velocities"][:, i])
        x = flow_step(x, velocity, index, STEPS)
    close(x, v["ode_actions"])


@kinds
def test_the_training_loss_is_that_of_the_original(kind: str) -> None:
    v, net = vectors(kind), network(kind)
    time = v["train_time"][:, None, None]
    noisy = time * v["train_noise"] + (1 - time) * v["train_actions"]
    velocity = net.velocity(net.hidden(net.context(inputs_of(v)), noisy, v["train_time"]))
    close(velocity, v["train_velocity"])
    close((v["train_noise"] - v["train_actions"] - velocity) ** 2, v["train_loss"])


METHODS = {"sde_all": ALL_STEPS, "sde_one": 1, "fn": ALL_STEPS}


@kinds
@pytest.mark.parametrize("method", METHODS)
def test_means_deviations_and_densities_of_a_chain_are_those_of_the_original(kind: str, method: str) -> None:
    v, step = vectors(kind), torch.full((2,), METHODS[method])
    move, chain, level = transition(kind, v, method), v[f"{method}_chain"], stochastic_steps(step, STEPS).float()
    for i in range(STEPS):
        found = move(chain[:, i], torch.full((2,), i), level[:, i])
        close(found.mean, v[f"{method}_mean"][:, i])
        close(found.deviation, v[f"{method}_std"][:, i], atol=1e-6)
        close(found.logprob(chain[:, i + 1]), v[f"{method}_logprob"][:, i], atol=2e-5)
    close(chain_logprobs(move, chain, step, 1.0), v[f"{method}_logprob"], atol=2e-5)
    if method == "sde_one":
        close(one_step_logprobs(move, chain, step, 1.0)[:, 0], v["sde_one_logprob"][:, 1], atol=2e-5)


@kinds
@pytest.mark.parametrize("method", METHODS)
def test_a_chain_drawn_with_the_noise_of_the_original_is_its_chain(kind: str, method: str) -> None:
    v, step = vectors(kind), torch.full((2,), METHODS[method])
    chain, mean, deviation = (v[f"{method}_{name}"] for name in ("chain", "mean", "std"))
    z = (chain[:, 1:] - mean) / torch.where(deviation > 0, deviation, 1.0)
    noise = torch.cat([chain[:, :1], z], 1).transpose(0, 1)
    found, logprobs = sample_chain(transition(kind, v, method), noise, step, 1.0)
    close(found, chain, atol=5e-5)
    close(logprobs, v[f"{method}_logprob"], atol=2e-4)


@kinds
def test_a_missing_camera_can_be_left_out(kind: str) -> None:
    v, net = vectors(kind), network(kind)
    full = inputs_of(v)
    assert not bool(full.image_mask[:, 2].any())
    shown = replace(full, images=full.images[:2], image_mask=full.image_mask[:, :2])
    velocity = net.velocity(net.hidden(net.context(shown), v["noise"], torch.ones(2)))
    close(velocity, v["ode_velocities"][:, 0])


PUBLISHED: dict[str, tuple[Callable[[], Any], float, dict[str, tuple[int, ...]]]] = {
    "smolvla": (
        lambda: SmolVLANetwork(SmolVLASizes()),
        0.40e9,
        {
            "state_proj.weight": (960, 32),
            "action_time_mlp_in.weight": (720, 1440),
            "vlm_with_expert.vlm.model.connector.modality_projection.proj.weight": (960, 12288),
            "vlm_with_expert.lm_expert.layers.0.self_attn.k_proj.weight": (320, 720),
            "vlm_with_expert.lm_expert.layers.15.self_attn.k_proj.weight": (320, 320),
            "vlm_with_expert.lm_expert.layers.15.mlp.gate_proj.weight": (2048, 720),
        },
    ),
    "pi0": (
        lambda: Pi0Network(Pi0Sizes(), is_adaptive=False),
        3.24e9,
        {
            "state_proj.weight": (1024, 32),
            "action_time_mlp_in.weight": (1024, 2048),
            "paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight": (2048, 1152),
            "paligemma_with_expert.paligemma.model.language_model.layers.17.self_attn.k_proj.weight": (256, 2048),
            "paligemma_with_expert.gemma_expert.model.layers.17.self_attn.q_proj.weight": (2048, 1024),
        },
    ),
    "pi05": (
        lambda: Pi0Network(Pi0Sizes(), is_adaptive=True),
        3.35e9,
        {
            "time_mlp_in.weight": (1024, 1024),
            "paligemma_with_expert.gemma_expert.model.layers.0.input_layernorm.dense.weight": (3072, 1024),
            "paligemma_with_expert.gemma_expert.model.norm.dense.bias": (3072,),
        },
    ),
}


@kinds
def test_default_sizes_are_those_of_the_published_checkpoints(kind: str) -> None:
    build, count, shapes = PUBLISHED[kind]
    with torch.device("meta"):
        state = build().state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert sum(tensor.numel() for tensor in state.values()) == pytest.approx(count, rel=0.02)
