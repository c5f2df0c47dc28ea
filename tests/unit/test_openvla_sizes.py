"""Published OpenVLA folders that could be misread unnoticed: sizes, rotary positions, masks, several weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openvla_folder import COMMON, PARALLEL, vectors, weights, write_folder
from safetensors.torch import save_file
from test_openvla_parity import close, look
from torch import Tensor

from worldgymnast.errors import InputError
from worldgymnast.policies.openvla import OpenVLA
from worldgymnast.policies.openvla_checkpoint import OpenVLACheckpoint

DINO, SIGLIP = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "checkpoint")


def loaded(folder: Path, **changes: Any) -> OpenVLA:
    return OpenVLACheckpoint(checkpoint=str(folder), **{**COMMON, **PARALLEL, **changes}).load()


def rewritten(folder: Path, change: Callable[[Tensors], Any]) -> Path:
    """The folder with other tensors."""
    tensors = dict(weights())
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def configured(folder: Path, *path: str, value: Any, file: str = "config.json") -> Path:
    """The folder with another value at a path of a JSON file."""
    data = json.loads((folder / file).read_text())
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (folder / file).write_text(json.dumps(data))
    return folder


def without(part: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (f"{DINO}blocks.3.", "found 3 blocks.*expected 4"),
        (f"{SIGLIP}blocks.4.", "found 4 blocks.*expected 5"),
        (f"{DINO}blocks.1.", "found 3 blocks.*expected 4"),
        (f"{DINO}reg_token", "missing: .*reg_token"),
        (".ls1.", "missing: .*ls1.scale_factor"),
    ],
)
def test_a_tower_that_lacks_a_part_is_not_a_smaller_tower(folder: Path, part: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(rewritten(folder, without(part)))


def test_parts_without_effect_may_lack(folder: Path) -> None:
    def change(tensors: Tensors) -> None:
        for part in (f"{DINO}norm.", f"{SIGLIP}norm.", "attn_pool", f"{DINO}blocks.3.mlp"):
            without(part)(tensors)

    with torch.no_grad():
        close(loaded(rewritten(folder, change)).logits(look()), vectors()["action_logits"], 1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((16,), torch.nan), "16 numbers that are NaN"),
        (torch.zeros(16, dtype=torch.int8), "holds torch.int8"),
    ],
)
def test_weights_are_finite_floats(folder: Path, value: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(rewritten(folder, lambda tensors: tensors.update({"projector.fc3.bias": value})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "mistral"),
        ("hidden_act", "gelu"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 500000.0}),
        ("rope_parameters", 3),
        ("sliding_window", 8),
        ("tie_word_embeddings", True),
        ("head_dim", 16),
        ("rope_theta", "x"),
    ],
)
def test_other_language_models_are_refused(folder: Path, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"config.json: field 'text_config.{name.replace('rope_theta', 'rope')}"):
        loaded(configured(folder, "text_config", name, value=value))


def test_the_base_of_rotary_positions_is_read_from_either_field(folder: Path) -> None:
    default = loaded(folder)
    configured(folder, "text_config", "rope_parameters", value={"rope_type": "default", "rope_theta": 10000.0})
    assert loaded(folder).config == default.config
    configured(folder, "text_config", "rope_parameters", value={"rope_type": "default", "rope_theta": 500})
    assert loaded(folder).config.language.rope == 500.0
    with pytest.raises(InputError, match="with one base"):
        loaded(configured(folder, "text_config", "rope_theta", value=10000.0))


def test_the_ids_of_the_bins_follow_from_two_fields(folder: Path) -> None:
    with pytest.raises(InputError, match="'pad_token_id': found 32000, but the other fields give 31936"):
        loaded(configured(folder, "pad_to_multiple_of", value=128))


def test_quantized_weights_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="quantization_config"):
        loaded(configured(folder, "quantization_config", value={"bits": 4}))


@pytest.mark.parametrize("value", ["x", [1] * 7, 3])
def test_a_mask_of_something_else_is_refused(folder: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"bridge_dataset\.action: field 'mask'"):
        loaded(configured(folder, "bridge_dataset", "action", "mask", value=value, file="dataset_statistics.json"))


def test_without_a_mask_every_axis_is_scaled(folder: Path) -> None:
    configured(folder, "bridge_dataset", "action", "mask", value=None, file="dataset_statistics.json")
    assert loaded(folder).config.statistics.mask == (True,) * 7


def test_one_file_and_shards_together_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in write_folder(tmp_path / "sharded", shards=2).glob("model*"):
        shutil.copy(file, folder)
    with pytest.raises(InputError, match="can hold different weights"):
        loaded(folder)


def test_heads_that_do_not_divide_a_tower_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="expected a divisor of the width 16"):
        loaded(folder, tower_heads=(3, 2))
