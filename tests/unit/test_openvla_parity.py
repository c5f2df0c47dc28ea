"""OpenVLA gives what the original code gave for the same tiny checkpoint; see tests/support/openvla_folder.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from openvla_folder import COMMON, ONE_BY_ONE, PARALLEL, facts, vectors, write_folder
from torch import Tensor

from worldgymnast.policies import vla_images, vla_jpeg
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint
from worldgymnast.policies.openvla_prompt import left_padded
from worldgymnast.policies.openvla_tokens import decode, encode
from worldgymnast.types import ActionChunk, Observation

TEMPERATURE = 1.6


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.to(expected.dtype), expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("openvla"))


@pytest.fixture(scope="module")
def oft(folder: Path) -> OpenVLA:
    return OpenVLACheckpoint(checkpoint=str(folder), **COMMON, **PARALLEL).load()


@pytest.fixture(scope="module")
def original(folder: Path) -> OpenVLA:
    return OpenVLACheckpoint(checkpoint=str(folder), **COMMON, **ONE_BY_ONE).load()


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> OpenVLA:
    folder = write_folder(tmp_path_factory.mktemp("regression"), heads=True)
    cameras = {"head": "l1", "cameras": ("image", "wrist")}
    return OpenVLACheckpoint(checkpoint=str(folder), **COMMON, **PARALLEL, **cameras).load()


def look() -> Observation:
    return Observation.of(vectors()["frames"], facts()["prompt_instructions"])


def chunk_of(tokens: Tensor, temperature: float) -> ActionChunk:
    sample = tokens.unflatten(1, (-1, 7))
    return ActionChunk(torch.zeros(sample.shape), sample, torch.zeros(sample.shape), temperature)


# ---------------------------------------------------------------- images


def test_the_crop_is_bit_exact() -> None:
    assert torch.equal(vla_images.center_crop(vectors()["frames"][:2], 0.9, 224), vectors()["crop224"])


def test_the_processor_alone_is_bit_exact(folder: Path) -> None:
    plain = OpenVLACheckpoint(checkpoint=str(folder), **{**COMMON, "crop": "none"}, **PARALLEL).load()
    pixels = plain.pixels(Observation.of(vectors()["frames"][:1], ["x"]))
    assert torch.equal(pixels[:, :, ::16], vectors()["frame0_bicubic_pixel_values_rows16"])


def test_pixels_after_the_crop(oft: OpenVLA) -> None:
    pixels = oft.pixels(look())
    assert torch.equal(pixels[:, :, 100], vectors()["pixel_values_row100"])
    close(pixels.double().sum((2, 3)), vectors()["pixel_values_sum"], 1e-2)


def test_the_lanczos_resize_is_bit_exact() -> None:
    rows = vla_images.lanczos(vectors()["frames"][:1], 224)[0, ::4]
    assert torch.equal(rows, vectors()["frame0_lanczos224_rows4"])


def test_the_jpeg_round_trip_is_bit_exact() -> None:
    rows = vla_images.lanczos(vla_jpeg.round_trip(vectors()["frames"][:1]), 224)[0, ::4]
    assert torch.equal(rows, vectors()["frame0_jpeg_lanczos224_rows4"])


def test_a_jpeg_of_any_size_is_near_its_frame() -> None:
    rows, columns = torch.meshgrid(torch.arange(50), torch.arange(70), indexing="ij")
    frame = torch.stack([2 * rows, 3 * columns, rows + columns], -1)[None].to(torch.uint8)
    assert vla_jpeg.round_trip(frame).shape == frame.shape
    assert (vla_jpeg.round_trip(frame).int() - frame.int()).abs().max() <= 8


def test_the_evaluation_recipe_is_both_and_the_crop(folder: Path) -> None:
    policy = OpenVLACheckpoint(checkpoint=str(folder), **{**COMMON, "crop": "jpeg_lanczos_center"}, **PARALLEL).load()
    frames = vla_images.lanczos(vla_jpeg.round_trip(vectors()["frames"][:1]), 224)
    expected = vla_images.normalized(vla_images.center_crop(frames, 0.9, 224), (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(policy.pixels(Observation.of(vectors()["frames"][:1], ["x"]))[:, 3:], expected)


# ---------------------------------------------------------------- parts


def test_prompts(oft: OpenVLA) -> None:
    ids = [oft.tokenizer.ids(text) for text in facts()["prompt_instructions"]]
    assert ids == [[*prompt, 29871] for prompt in facts()["prompts"]]
    padded, valid = left_padded(ids)
    expected, mask = vectors()["input_ids_left_padded"], vectors()["attention_mask"].bool()
    assert [row[row_mask].tolist() for row, row_mask in zip(padded, valid, strict=True)] == [
        row[row_mask].tolist() for row, row_mask in zip(expected, mask, strict=True)
    ]


@torch.no_grad()
def test_patches(oft: OpenVLA) -> None:
    pixels = oft.pixels(look())[:1]
    dino = oft.vision_backbone.featurizer(pixels[:, :3])
    siglip = oft.vision_backbone.fused_featurizer(pixels[:, 3:])
    close(dino, vectors()["dino_patches"], 1e-5)
    close(siglip, vectors()["siglip_patches"], 1e-5)
    close(oft.projector(oft.vision_backbone(pixels)), vectors()["projected"], 1e-5)


def test_the_two_largest_bins_are_one_value() -> None:
    first, second = decode(torch.tensor([31744, 31745]), 32000)
    assert first == second
    assert encode(torch.tensor([1.0, 0.9999]), 32000).tolist() == [31744, 31745]


# ---------------------------------------------------------------- parallel decoding


@torch.no_grad()
def test_logits_of_parallel_decoding(oft: OpenVLA) -> None:
    close(oft.logits(look()), vectors()["action_logits"], 1e-5)


@torch.no_grad()
def test_attention_in_one_direction_is_another_policy(folder: Path) -> None:
    causal = OpenVLACheckpoint(checkpoint=str(folder), **COMMON, **{**PARALLEL, "attention": "causal"}).load()
    assert (causal.logits(look()) - vectors()["action_logits"]).abs().max() > 0.3


def test_greedy_actions_of_parallel_decoding(oft: OpenVLA) -> None:
    chunk = oft.act(look(), temperature=0.0, generator=None)
    assert isinstance(chunk.sample, Tensor)
    assert torch.equal(chunk.sample.flatten(1), vectors()["greedy_tokens"])
    normalized = decode(chunk.sample, 32000)
    close(normalized, vectors()["greedy_normalised"], 1e-12)
    close(oft.config.statistics.unnormalize(normalized), vectors()["greedy_actions"], 1e-12)
    close(chunk.actions, vectors()["greedy_actions"].float(), 1e-7)


def test_sampled_actions_of_parallel_decoding(oft: OpenVLA) -> None:
    tokens = vectors()["sampled_tokens"].unflatten(1, (5, 7))
    normalized = decode(tokens, 32000)
    close(normalized, vectors()["sampled_normalised"], 1e-12)
    close(oft.config.statistics.unnormalize(normalized), vectors()["sampled_actions"], 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["greedy", "sampled"])
def test_logprobs_of_parallel_decoding(oft: OpenVLA, kind: str) -> None:
    found = oft.logprobs(look(), chunk_of(vectors()[f"{kind}_tokens"], TEMPERATURE))
    close(found.flatten(1), vectors()[f"{kind}_logprobs_t"], 1e-5)


@torch.no_grad()
def test_logprobs_at_temperature_1_are_those_of_the_published_logits(oft: OpenVLA) -> None:
    tokens = vectors()["sampled_tokens"]
    expected = F.log_softmax(vectors()["action_logits"], -1).gather(-1, (tokens - 31744)[..., None])[..., 0]
    close(oft.logprobs(look(), chunk_of(tokens, 1.0)).flatten(1), expected, 1e-5)


@torch.no_grad()
def test_entropy_of_parallel_decoding(oft: OpenVLA) -> None:
    logprobs = F.log_softmax(oft.logits(look()) / TEMPERATURE, -1)
    close(-(logprobs.exp() * logprobs).sum(-1), vectors()["entropy_t"], 1e-5)


@torch.no_grad()
def test_batches_do_not_change_logits(oft: OpenVLA) -> None:
    single = [oft.logits(look().rows(torch.tensor([row]))) for row in range(3)]
    close(torch.cat(single), vectors()["action_logits"], 1e-5)


# ---------------------------------------------------------------- autoregressive decoding


def test_greedy_actions_of_autoregressive_decoding(original: OpenVLA) -> None:
    chunk = original.act(look(), temperature=0.0, generator=None)
    assert isinstance(chunk.sample, Tensor)
    assert torch.equal(chunk.sample[:, 0], vectors()["ar_tokens"])
    actions = original.config.statistics.unnormalize(decode(chunk.sample, 32000))
    close(actions[:, 0], vectors()["ar_actions"], 1e-12)


@torch.no_grad()
def test_logits_of_autoregressive_decoding(original: OpenVLA) -> None:
    logits = original.logits(look(), vectors()["ar_tokens"][:, None])
    close(logits[..., 31744:32000], vectors()["ar_step_logits"], 1e-5)


@torch.no_grad()
def test_logprobs_of_autoregressive_decoding(original: OpenVLA) -> None:
    found = original.logprobs(look(), chunk_of(vectors()["ar_tokens"], TEMPERATURE))
    close(found[:, 0], vectors()["ar_logprobs_fullvocab_t"], 1e-5)


# ---------------------------------------------------------------- regression head


def regression_look(policy: OpenVLA) -> Observation:
    """Frames 0 and 1 as two cameras; the state that gives the normalized one of the vectors."""
    statistics, normalized = policy.config.statistics, vectors()["l1_proprio_normalised"].double()
    low, high = torch.tensor(statistics.state_low).double(), torch.tensor(statistics.state_high).double()
    state = ((normalized + 1) / 2 * (high - low + 1e-8) + low)[None].float()
    frames = vectors()["frames"]
    images = {"image": frames[:1], "wrist": frames[1:2]}
    return Observation(images, facts()["prompt_instructions"][:1], state)


@torch.no_grad()
def test_the_regression_head(regression: OpenVLA) -> None:
    obs = regression_look(regression)
    close(regression._state(obs)[0], vectors()["l1_proprio_normalised"], 1e-6)
    hidden = regression.slots(*regression.prefix(obs), None)[:, :35]
    close(hidden, vectors()["l1_action_hidden"], 1e-5)
    actions = regression.act(obs, temperature=0.0, generator=None).actions[0]
    close(actions, vectors()["l1_actions"].float(), 1e-5)
