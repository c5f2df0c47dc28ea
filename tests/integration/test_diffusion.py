"""The published world model: our cached sampler against the published arithmetic, written here from its formulas."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldgymnast.actions import WORLDGYM
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.protocols import WorldModel
from worldgymnast.registry import load_world
from worldgymnast.worldmodel.objective import DiffusionConfig, sigmoid_schedule
from worldgymnast.worldmodel.published import read_checkpoint, transformer_config
from worldgymnast.worldmodel.sampler import LatentWorldModel, WorldModelConfig
from worldgymnast.worldmodel.transformer import TransformerConfig
from worldgymnast.worldmodel.vae import ImageVAE, VAEConfig

pytest.importorskip("diffusers")

D, HEADS, LAYERS, PATCH, CHANNELS, GRID, A, MAX_FRAMES = 32, 2, 2, 2, 4, (8, 8), 10, 5
KL = (
    '{"block_out_channels": [8, 8], "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1, '
    '"down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "scaling_factor": 1.5305, '
    '"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "shift_factor": 0.0609, '
    '"use_quant_conv": false, "use_post_quant_conv": false}'
)
TINY = (
    '{"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1], '
    '"num_decoder_blocks": [1, 1], "latent_channels": 4}'
)


def world(rotary: str = "standard", guidance: float = 3.0, **options: Any) -> LatentWorldModel:
    """A tiny random one of the published layout; modulations are random too, or nothing would depend on anything."""
    torch.manual_seed(0)
    transformer = TransformerConfig(
        CHANNELS, GRID, PATCH, D, LAYERS, HEADS, MAX_FRAMES, A, context=0, learned_positions=False, rotary=rotary
    )  # type: ignore[arg-type]
    options = {"steps": 10, "slide": "recompute", "precision": "fp32", **options}
    config = WorldModelConfig(VAEConfig(KL), transformer, DiffusionConfig(), guidance=guidance, **options)
    made = LatentWorldModel(config, WORLDGYM, 5.0)
    for name, parameter in made.transformer.named_parameters():
        if parameter.ndim > 1 and ("adaLN" in name or "final" in name):
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


# ------------------------------------------------------------- the published arithmetic, from WorldGym's formulas


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """x [... p dim] by angles [p dim/2]: neighbouring entries turn together."""
    out = torch.empty_like(x)
    cos, sin = angles.cos(), angles.sin()
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 1::2] * cos + x[..., 0::2] * sin
    return out


def attend(w: dict[str, Tensor], x: Tensor, angles: Tensor, causal: bool) -> Tensor:
    """x [p D] of one sequence."""
    parts = (x @ w["attn.qkv_proj.weight"].T).chunk(3, -1)
    q, k, v = (y.view(len(x), HEADS, -1).transpose(0, 1) for y in parts)
    scores = rotated(q, angles) @ rotated(k, angles).transpose(1, 2) / math.sqrt(D // HEADS)
    if causal:
        scores = scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), D)
    return mixed @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def block(w: dict[str, Tensor], x: Tensor, condition: Tensor, angles: Tensor, temporal: bool) -> Tensor:
    """x [t n D], condition [t D]."""
    six = F.silu(condition) @ w["adaLN_modulation.1.weight"].T + w["adaLN_modulation.1.bias"]
    shift, scale, gate, shift2, scale2, gate2 = (y[:, None] for y in six.chunk(6, -1))
    y = norm(x) * (1 + scale) + shift
    if temporal:
        mixed = torch.stack([attend(w, y[:, i], angles, True) for i in range(y.shape[1])], 1)
    else:
        mixed = torch.stack([attend(w, y[i], angles, False) for i in range(y.shape[0])])
    x = x + gate * mixed
    y = norm(x) * (1 + scale2) + shift2
    y = F.gelu(y @ w["ffwd.0.weight"].T + w["ffwd.0.bias"], approximate="tanh")
    return x + gate2 * (y @ w["ffwd.2.weight"].T + w["ffwd.2.bias"])


def published_v(w: dict[str, Tensor], x: Tensor, level: Tensor, actions: Tensor, rotary: str) -> Tensor:
    """v of frames x [t h w c] at integer levels [t] with actions [t a]."""
    t, (h, width) = len(x), GRID
    gh, gw, head = h // PATCH, width // PATCH, D // HEADS
    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angles = level[:, None].float() * frequencies
    condition = torch.cat([angles.cos(), angles.sin()], -1) @ w["timestep_mlp.0.weight"].T + w["timestep_mlp.0.bias"]
    condition = F.silu(condition) @ w["timestep_mlp.2.weight"].T + w["timestep_mlp.2.bias"]
    condition = condition + actions @ w["action_embedder.weight"].T + w["action_embedder.bias"]
    tokens = torch.zeros(t, gh * gw, D)
    for i in range(gh):
        for j in range(gw):
            patch = x[:, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH]
            tokens[:, i * gw + j] = torch.einsum("tpqc,dcpq->td", patch, w["x_proj.weight"]) + w["x_proj.bias"]
    half = head // 4
    if rotary == "pixel":
        rows, columns = torch.linspace(-1, 1, gh), torch.linspace(-1, 1, gw)
        space = math.pi * torch.linspace(1, 128, half)
    else:
        rows, columns = torch.arange(gh), torch.arange(gw)
        space = 10000.0 ** (-torch.arange(half) / half)
    spatial = torch.stack([torch.cat([r * space, c * space]) for r in rows for c in columns])
    temporal = torch.arange(t)[:, None] * 10000.0 ** (-torch.arange(head // 2) / (head // 2))
    for i in range(LAYERS):
        for kind, turn in (("s_block", spatial), ("t_block", temporal)):
            prefix = f"blocks.{i}.{kind}."
            own = {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}
            tokens = block(own, tokens, condition, turn, kind == "t_block")
    two = F.silu(condition) @ w["final_layer.adaLN_modulation.1.weight"].T + w["final_layer.adaLN_modulation.1.bias"]
    shift, scale = (y[:, None] for y in two.chunk(2, -1))
    y = (norm(tokens) * (1 + scale) + shift) @ w["final_layer.linear.weight"].T + w["final_layer.linear.bias"]
    out = torch.zeros_like(x)
    for i in range(gh):
        for j in range(gw):
            patch = y[:, i * gw + j].view(t, PATCH, PATCH, CHANNELS)
            out[:, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH] = patch
    return out


def published_powers() -> Tensor:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    raw = [(sigmoid(3) - sigmoid(6 * i / 1000 - 3)) / (sigmoid(3) - sigmoid(-3)) for i in range(1001)]
    raw = [x / raw[0] for x in raw]
    powers, product = [], 1.0
    for before, after in itertools.pairwise(raw):
        product *= 1 - min(0.999, 1 - after / before)
        powers.append(product)
    return torch.tensor(powers)


def published_rollout(
    w: dict[str, Tensor], first: Tensor, actions: Tensor, noises: Tensor, rotary: str, guidance: float, steps: int
) -> Tensor:
    """Latents [k h w c] after `first` [h w c]: the whole window is computed for every step of every frame."""
    power = published_powers()
    frames, taken = [first], [torch.zeros(A)]
    for action, noise in zip(actions, noises, strict=True):
        taken.append(action)
        x = noise
        walk = [int(v) for v in torch.linspace(-1, 999, steps + 1)]
        context, given = frames[-(MAX_FRAMES - 1) :], torch.stack(taken[-min(len(taken), MAX_FRAMES) :])
        null = torch.zeros_like(given)
        null[:, -1] = 1
        for now, then in itertools.pairwise(walk[::-1]):
            window = torch.stack([*(power[14].sqrt() * c for c in context), x])
            level = torch.tensor([14] * len(context) + [now])
            v = published_v(w, window, level, given, rotary)[-1]
            if guidance != 1:
                v = (1 - guidance) * published_v(w, window, level, null, rotary)[-1] + guidance * v
            clean = power[now].sqrt() * x - (1 - power[now]).sqrt() * v
            noise_now = (x - power[now].sqrt() * clean) / (1 - power[now]).sqrt()
            after = power[then] if then >= 0 else torch.tensor(1.0)
            x = after.sqrt() * clean + (1 - after).sqrt() * noise_now
        frames.append(x)
    return torch.stack(frames[1:])


@pytest.mark.parametrize(("rotary", "guidance"), [("standard", 3.0), ("pixel", 3.0), ("standard", 1.0)])
@torch.no_grad()
def test_the_cached_sampler_gives_the_published_frames_also_beyond_the_window(rotary: str, guidance: float) -> None:
    made = world(rotary, guidance=guidance)
    weights = dict(made.transformer.state_dict())
    k = MAX_FRAMES + 2
    first, actions = torch.randn(2, *GRID, CHANNELS), torch.rand(2, k, A) * 2 - 1
    generator = torch.Generator().manual_seed(3)
    noises = torch.stack([torch.randn(first.shape, generator=generator) for _ in range(k)], 1)
    generator.manual_seed(3)
    _, ours = made.imagine(made.start_latent(first), actions, generator=generator)
    for row in range(2):
        theirs = published_rollout(weights, first[row], actions[row], noises[row], rotary, guidance, made.config.steps)
        assert (ours[row] - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_the_schedule_is_the_published_one() -> None:
    assert torch.allclose(sigmoid_schedule(), published_powers(), atol=1e-6)
    assert sigmoid_schedule().diff().max() < 0


@torch.no_grad()
def test_band_differs_from_recompute_only_when_the_window_has_slid() -> None:
    first, actions = torch.randn(1, *GRID, CHANNELS), torch.rand(1, MAX_FRAMES + 1, A) * 2 - 1
    exact, band = (
        made.imagine(made.start_latent(first), actions, generator=torch.Generator().manual_seed(1))[1]
        for made in (world(), world(slide="band"))
    )
    assert torch.equal(exact[:, : MAX_FRAMES - 1], band[:, : MAX_FRAMES - 1])
    assert not torch.allclose(exact[:, MAX_FRAMES:], band[:, MAX_FRAMES:], atol=1e-5)
    assert torch.isfinite(band).all()


@torch.no_grad()
def test_it_is_a_world_model_whose_state_is_a_value() -> None:
    made = world()
    assert isinstance(made, WorldModel)
    frames = torch.randint(0, 256, (2, *made.frame_size, 3), dtype=torch.uint8)
    assert made.frame_size == (16, 16)
    state = made.start(frames)
    one, two = torch.rand(2, 1, A), torch.rand(2, 1, A)

    def after(state, action):  # type: ignore[no-untyped-def]
        return made.step(state, action, generator=torch.Generator().manual_seed(0))[1]

    left = after(state.fork(torch.tensor([1])), two[1:])
    after(state, one)
    assert torch.equal(left, after(state.fork(torch.tensor([1])), two[1:]))
    assert left.shape == (1, 1, 16, 16, 3)
    with pytest.raises(Exception, match="action"):
        made.step(state, torch.full((2, 1, A), float("nan")), generator=torch.Generator())


def test_it_learns_one_batch() -> None:
    made = world()
    generator = torch.Generator().manual_seed(0)
    batch = {
        "latents": torch.randn(2, 4, *GRID, CHANNELS, generator=generator),
        "actions": torch.rand(2, 3, A, generator=generator),
        "mask": torch.ones(2, 3, dtype=torch.bool),
    }
    optimizer = torch.optim.Adam(made.transformer.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss, metrics = made.loss({**batch, "generator": torch.Generator().manual_seed(5), "progress": 0.0})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["loss"])
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_the_vae_scales_and_does_not_shift_and_the_tiny_one_gets_the_shift_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = ImageVAE(VAEConfig(KL, TINY))
    assert vae.tiny is not None
    vae.kl.save_pretrained(tmp_path / "pipeline" / "vae")
    vae.tiny.save_pretrained(tmp_path / "tiny")  # type: ignore[operator]
    read = ImageVAE.pretrained(str(tmp_path / "pipeline"), str(tmp_path / "tiny"))
    frames = torch.randint(0, 256, (1, 2, 16, 16, 3), dtype=torch.uint8)
    latents = read.encode(frames)
    pixels = frames[0].permute(0, 3, 1, 2).float() / 255 * 2 - 1
    assert torch.allclose(latents[0].permute(0, 3, 1, 2), vae.kl.encode(pixels).latent_dist.mean * 1.5305, atol=1e-5)
    shown = vae.tiny.decode(latents[0].permute(0, 3, 1, 2) - 0.0609 * 1.5305).sample  # type: ignore[operator]
    expected = ((shown.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(read.decode(latents)[0], expected)
    with pytest.raises(InputError, match="AutoencoderKL"):
        ImageVAE.pretrained(str(tmp_path / "nothing"))


def test_checkpoints_are_read_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    made = world()
    weights = made.transformer.state_dict()
    torch.save({"ema": weights, "model": {}, "optimizer": {"lr": 1.0}}, tmp_path / "good.pt")
    tensors = read_checkpoint(tmp_path / "good.pt")
    sizes = {"grid": GRID, "window": MAX_FRAMES, "rotary": "standard", "heads": HEADS}
    assert transformer_config(tensors, tmp_path, **sizes) == made.config.transformer  # type: ignore[arg-type]

    broken = {k: v for k, v in tensors.items() if k != "timestep_mlp.2.bias"} | {"blocks.0.extra": torch.zeros(1)}
    broken["final_layer.linear.bias"] = torch.zeros(3)
    with pytest.raises(InputError, match="3 keys do not fit") as error:
        transformer_config(broken, tmp_path, **sizes)  # type: ignore[arg-type]
    for name in ("timestep_mlp.2.bias", "blocks.0.extra", "final_layer.linear.bias"):
        assert name in str(error.value)

    torch.save({"model": made}, tmp_path / "code.pt")
    with pytest.raises(InputError, match="pickled code"):
        read_checkpoint(tmp_path / "code.pt")
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint" * 100)
    with pytest.raises(InputError, match="junk"):
        read_checkpoint(tmp_path / "junk.pt")
    with pytest.raises(InputError, match="found no file"):
        read_checkpoint(tmp_path / "missing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="no dict of tensors"):
        read_checkpoint(tmp_path / "list.pt")


def test_the_window_is_part_of_the_config() -> None:
    made = world()
    wider = replace(made.config, transformer=replace(made.config.transformer, window=9))
    other = LatentWorldModel(wider, WORLDGYM, 5.0)
    other.load_state_dict(made.state_dict())


def test_import_world_writes_a_world_model_that_every_command_can_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = world(precision="auto")
    torch.save({"ema": made.transformer.state_dict()}, tmp_path / "bridge.pt")
    made.autoencoder.kl.save_pretrained(tmp_path / "vae")
    words = ["import-world", str(tmp_path / "bridge.pt"), "--vae", str(tmp_path / "vae"), "--window", str(MAX_FRAMES)]
    words += ["--heads", str(HEADS), "--out", str(tmp_path / "world.safetensors")]
    assert main([*words, "--size", "16", "16", "--guidance", "3"]) == 0
    read = load_world(tmp_path / "world.safetensors")
    assert (read.action_spec, read.fps, read.frame_size) == (WORLDGYM, 5.0, (16, 16))
    frames, actions = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8), torch.rand(1, 3, A)
    ours, theirs = (
        w.step(w.start(frames), actions, generator=torch.Generator().manual_seed(1))[1] for w in (read, made)
    )
    assert torch.equal(ours, theirs)

    capsys.readouterr()
    assert main([*words, "--size", "16", "16"]) == 2
    assert "already exists" in capsys.readouterr().err
    (tmp_path / "world.safetensors").unlink()
    other = ImageVAE(VAEConfig(KL.replace('"latent_channels": 4', '"latent_channels": 2')))
    other.kl.save_pretrained(tmp_path / "vae")
    assert main([*words, "--size", "16", "16"]) == 2
    said = capsys.readouterr().err
    assert "field 'latent_channels': found 2, expected 4" in said
    assert len(said.splitlines()) == 1
    assert main([*words, "--size", "17", "16"]) == 2
    assert "expected multiples of 2" in capsys.readouterr().err
    assert not (tmp_path / "world.safetensors").exists()
