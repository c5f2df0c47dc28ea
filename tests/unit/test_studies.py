"""The scripts in studies/: variants, files in parts, plain datasets, precomputed sentences."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from studies import episodes as study_episodes
from studies import graphed, parcel, slim_metaworld, variants, worlds
from worldgymnast.actions import metaworld_spec
from worldgymnast.episodes.windows import EpisodeSet, from_episodes
from worldgymnast.errors import InputError
from worldgymnast.registry import to_dict
from worldgymnast.text import SENTENCES_VARIABLE, SentenceEncoder, save_sentences
from worldgymnast.training.world import WorldTraining
from worldgymnast.types import Episode
from worldgymnast.worldmodel.sampler import LatentWorldModel


def recorded(count: int = 4, length: int = 6) -> EpisodeSet:
    rng = np.random.default_rng(0)
    spec = metaworld_spec(6)
    return from_episodes(
        [
            Episode(
                frames=rng.integers(0, 256, (length + 1, 64, 64, 3), dtype=np.uint8),
                actions=rng.uniform(-1, 1, (length, spec.dim)).astype(np.float32),
                instruction="open the drawer",
                task="drawer-open",
                fps=80 / 6,
                spec=spec,
                success=rng.random(length + 1) > 0.5,
                source="policy@1",
                layout=i,
            )
            for i in range(count)
        ]
    )


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for name, own in value.items() for k, v in flat(own, f"{path}.{name}".lstrip(".")).items()}


@pytest.mark.parametrize("name", list(variants.VARIANTS))
def test_a_variant_differs_from_its_base_in_what_it_says_and_in_nothing_else(name: str) -> None:
    variant = variants.VARIANTS[name]
    base = variants.training(variant.base) if variant.base else WorldTraining()
    before, after = flat(to_dict(base)), flat(to_dict(variants.training(name)))
    differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert all(any(path == p or path.startswith(f"{p}.") for p in variant.changes) for path in differing)
    assert all(any(path == p or path.startswith(f"{p}.") for path in differing) for p in variant.changes)
    world = LatentWorldModel(variants.training(name).world, metaworld_spec(6), 13.3)
    assert world.frame_size == (64, 64)
    assert world.config.transformer.tokens == 16


def test_an_unknown_variant_is_refused_with_the_names() -> None:
    with pytest.raises(InputError, match="found 'taday', expected one of default, today, pure"):
        variants.training("taday")


def test_a_world_begins_with_what_fits_of_the_start(tmp_path: Path) -> None:
    data = recorded()
    kept = {}
    for name in ("head", "wide"):
        world, kept[name] = worlds.begin("starter", variants.training(name), data, tmp_path, 1.0, "cpu")
        start = worlds.load_trainable_world(worlds.starter("world"))
        assert torch.equal(world.autoencoder.latent_mean, start.autoencoder.latent_mean)
        same = {
            k: torch.equal(v, world.state_dict()[k])
            for k, v in start.transformer.state_dict(prefix="transformer.").items()
        }
        assert all(same.values()) == (name == "head")
        assert (world.success_head is not None) == (name == "head")
    assert kept == {"head": "all weights", "wide": "the autoencoder"}


def test_a_file_in_parts_is_joined_again(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(2500)
    file = tmp_path / "weights.bin"
    file.write_bytes(content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin.007").write_bytes(b"of an earlier, longer one")
    parts = parcel.split(file, tmp_path / "out", part_bytes=1000)
    assert [part.stat().st_size for part in parts] == [1000, 1000, 500]
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert parcel.join(tmp_path / "out", tmp_path / "again").read_bytes() == content
    parts[1].write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match=r"weights.bin.001: content differs"):
        parcel.join(tmp_path / "out", tmp_path / "third")
    parts[1].unlink()
    with pytest.raises(InputError, match=r"is missing \(1000 bytes\)"):
        parcel.join(tmp_path / "out", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_files_are_packed_and_unpacked(tmp_path: Path) -> None:
    root = tmp_path / "state"
    (root / "world").mkdir(parents=True)
    (root / "world" / "a.txt").write_text("a")
    (root / "b.txt").write_text("b")
    parcel.pack(tmp_path / "out", [root / "world" / "a.txt", root / "b.txt"], root)
    parcel.unpack(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again" / "world" / "a.txt").read_text() == "a"
    assert (tmp_path / "again" / "b.txt").read_text() == "b"


def test_parts_fit_what_comes_back() -> None:
    assert parcel.PART_BYTES < 16 * 2**20


def test_known_sentences_need_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["open the drawer", "close the door"]
    expected = SentenceEncoder()(said)
    save_sentences(tmp_path / "known.safetensors", said)
    asked: list[str] = []

    def encode(self: SentenceEncoder, sentences: list[str]) -> torch.Tensor:
        asked.extend(sentences)
        return torch.zeros(len(sentences), 384)

    monkeypatch.setattr(SentenceEncoder, "_encode", encode)
    monkeypatch.setenv(SENTENCES_VARIABLE, str(tmp_path / "known.safetensors"))
    assert torch.equal(SentenceEncoder()(said), expected)
    assert asked == []
    assert SentenceEncoder()([*said, "fly"])[2].abs().sum() == 0
    SentenceEncoder(model="another")(said[:1])
    assert asked == ["fly", said[0]]


def test_a_plain_set_is_what_was_saved(tmp_path: Path) -> None:
    data = recorded()
    study_episodes.save(tmp_path / "logged.safetensors", data)
    study_episodes.save(tmp_path / "held_out.safetensors", data)
    again = study_episodes.load_training(tmp_path)
    assert study_episodes.training_names(tmp_path) == ["logged"]
    assert worlds.data_hash(again) == worlds.data_hash(data)
    assert (again.spec, again.fps, again.source) == (data.spec, data.fps, data.source)
    assert (again.state, again.state_names) == (None, ())
    with pytest.raises(InputError, match="set 'policy' is missing"):
        study_episodes.load(tmp_path, "policy")
    state = np.random.default_rng(0).random((len(data.frames), 2), dtype=np.float32)
    study_episodes.save(tmp_path / "policy.safetensors", replace(data, state=state, state_names=("a", "b")))
    again = study_episodes.load(tmp_path, "policy")
    np.testing.assert_array_equal(again.state, state)
    assert again.state_names == ("a", "b")


def test_a_share_of_the_recordings_has_every_set() -> None:
    whole, few = study_episodes.sources(), study_episodes.sources(0.02)
    assert list(whole) == list(few)
    assert sum(count for count, _ in whole.values()) == 3216
    assert all(count >= 6 for count, _ in few.values())


def test_the_slim_wheel_keeps_what_a_scene_loads() -> None:
    files = {
        "metaworld/envs/sawyer_door_close_v3.py": b'"sawyer_xyz/door.xml"',
        "metaworld/assets/sawyer_xyz/door.xml": b'<m><include file="../scene/room.xml"/>'
        b'<mesh file="../m/door.stl"/></m>',
        "metaworld/assets/scene/room.xml": b'<m><texture file="../textures/wood.png"/></m>',
        "metaworld/assets/textures/wood.png": b"",
        "metaworld/assets/textures/marble.png": b"",
        "metaworld/assets/m/door.stl": b"",
    }
    (scene,) = slim_metaworld.scenes(files, ["door-close"])
    assert slim_metaworld.loaded(files, scene) == files.keys() - {
        "metaworld/envs/sawyer_door_close_v3.py",
        "metaworld/assets/textures/marble.png",
    }


def test_the_table_has_a_row_a_variant(tmp_path: Path) -> None:
    known = {"value": 0.5, "low": 0.4, "high": 0.6}
    curve = {"mean": [30.0, 28.0, 25.0, 20.0]}
    group = {
        "sources": {"imagined": {"strict": {"known": known}, "auroc": known, "brier": known}},
        "fidelity": {
            "frames": [1, 5, 10, 20],
            "psnr": {"imagined": curve},
            "sharpness": {"imagined": {"mean": [0.9, 0.8, 0.7, 0.6]}, "over_round_trip": {"mean": [1, 1, 0.9, 0.8]}},
        },
    }
    plan = {"variant": "all", "kept": "all weights", "training_frames": 2e6, "seconds_a_step": 0.5, "minutes": 6}
    found = {"plan": plan, "held_out": {"all": group}, "training": {"all": group}, "frames_per_second": 1234.5}
    (tmp_path / "numbers.json").write_text(json.dumps(found))
    row = worlds.table([tmp_path]).splitlines()[-1]
    assert row == (
        "| all | all weights | 50 % [40, 60] | 50 % [40, 60] | 0.500 | 30.0, 28.0, 25.0, 20.0 | 0.70, 0.90 | 0.500 | "
        "1234 | 2.00M | 2.00 | 6.0 |"
    )


def a_world(variant: str = "all", state_dim: int = 0) -> LatentWorldModel:
    torch.manual_seed(0)
    config = replace(variants.training(variant).world, state_dim=state_dim, state_input=state_dim > 0)
    return LatentWorldModel(config, metaworld_spec(6), 80 / 6)


@pytest.mark.parametrize("state_dim", [0, 3])
def test_the_imagination_that_a_graph_captures_is_that_of_the_loss(state_dim: int) -> None:
    world, generator = a_world(state_dim=state_dim), torch.Generator().manual_seed(1)
    grid, channels = world.config.transformer.grid, world.config.transformer.channels
    batch = {
        "latents": torch.randn(2, 4, *grid, channels, generator=generator),
        "actions": torch.rand(2, 3, world.config.transformer.action_dim, generator=generator),
        "mask": torch.ones(2, 3, dtype=torch.bool),
        "success": torch.tensor([[False] * 4, [False, False, True, True]]),
        "labelled": torch.ones(2, dtype=torch.bool),
        "instruction": ("open the drawer", "close the door"),
        "state": torch.randn(2, 4, state_dim, generator=generator),
    }

    def terms(part: Any) -> torch.Tensor:
        return torch.stack(part({**batch, "generator": torch.Generator().manual_seed(2)}).terms)

    own = terms(world._unrolled_loss)
    assert own[0] > 0
    assert own[2] > 0
    object.__setattr__(world, "_unroll", graphed.capture(world, 2, 3))
    assert torch.equal(terms(world._unrolled_loss), own)
    names = {name for name, p in graphed.Imagined(world).named_parameters() if p.requires_grad}
    assert any(name.startswith("state_head.") for name in names) == (state_dim > 0)


def test_training_by_time_lowers_the_loss_and_ends_with_averaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two milliseconds pass between two looks at the clock, however busy the machine."""
    clock = itertools.count()
    monkeypatch.setattr(graphed, "time", SimpleNamespace(monotonic=lambda: 0.002 * next(clock)))
    layer = torch.nn.Linear(3, 1)
    target = torch.tensor([[1.0, -2.0, 0.5]])

    class Fitted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def loss(self, batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
            loss = (self.layer(batch["x"]) - batch["x"] @ target.T).square().mean()
            return loss, {"loss": float(loss.detach())}

    def batches(step: int) -> dict[str, torch.Tensor]:
        return {"x": torch.randn(16, 3, generator=torch.Generator().manual_seed(step))}

    steps, last = graphed.train_for(Fitted(), batches, 1.0, 0.1, ema=0.9, weight_decay=0.0, precision="fp32")
    assert 400 < steps <= 500
    assert last["loss"] < 1e-2
    assert torch.allclose(layer.weight, target, atol=0.1)


def test_explorers_make_up_the_share_that_was_asked_for(tmp_path: Path) -> None:
    for name in ("policy", "explored-0", "explored-1", study_episodes.HELD_OUT):
        study_episodes.save(tmp_path / f"{name}.safetensors", recorded())
    sets, shares = study_episodes.load_shared(tmp_path, 0.4)
    assert len(sets) == 3
    assert shares == pytest.approx((0.6, 0.2, 0.2))
    sets, shares = study_episodes.load_shared(tmp_path, None)
    assert [len(part) for part in sets] == [12]
    assert shares == ()


def test_a_set_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found 'explored-99', expected one of held_out, logged, policy, explored-0"):
        study_episodes.record_all(tmp_path, 0.01, 1, only=("explored-99",))
