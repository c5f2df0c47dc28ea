"""Component files that are damaged, of another kind, or ask for more than they hold: the right weights, or one line."""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_builders import parts, seed_component, unsealed
from safetensors.torch import save_file
from timing import within
from torch import Tensor

from worldgymnast.actions import metaworld_spec
from worldgymnast.errors import InputError
from worldgymnast.judges.classifier import ClassifierConfig, SuccessClassifier
from worldgymnast.policies.small_vla import SmallVLAConfig
from worldgymnast.recipes.presets import debug
from worldgymnast.registry import Manifest, load_learned_judge, load_policy, load_world, manifest_of, save_component
from worldgymnast.weights import load_weights, weights_hash
from worldgymnast.worldmodel.autoencoder import AutoencoderConfig
from worldgymnast.worldmodel.sampler import LatentWorldModel
from worldgymnast.worldmodel.transformer import TransformerConfig
from worldgymnast.worldmodel.vae import VAEConfig

SPEC = metaworld_spec(6)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seed_component(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "world.safetensors"
    save_component(path, LatentWorldModel(debug().world.world, SPEC, 80 / 6), Manifest())
    return path


def refusal(load: Callable[[Path], object], path: Path) -> str:
    """The one line that loading ends in, within two seconds of the processor."""
    with within(2), pytest.raises(InputError) as error:
        load(path)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 300 + len(str(path))
    assert str(path) in text
    return text


# ---------------------------------------------------------------- bit rot


def test_every_flipped_bit_of_the_weights_is_seen(policy: Path, tmp_path: Path) -> None:
    content, rng = policy.read_bytes(), random.Random(0)
    start = 8 + int.from_bytes(content[:8], "little")
    for _ in range(20):
        damaged = bytearray(content)
        damaged[rng.randrange(start, len(content))] ^= 1 << rng.randrange(8)
        file = tmp_path / "policy.safetensors"
        file.write_bytes(damaged)
        assert "damaged: its content does not match its SHA-256" in refusal(load_policy, file)


def test_a_changed_config_beside_the_same_weights_is_seen(policy: Path, tmp_path: Path) -> None:
    tensors, meta = parts(policy)
    file = tmp_path / "policy.safetensors"
    save_file(tensors, file, meta | {"action_spec": meta["action_spec"].replace("6cm", "3cm")})
    assert "SHA-256" in refusal(load_policy, file)


def test_what_was_saved_comes_back_and_the_hash_is_no_metadata_of_the_caller(policy: Path) -> None:
    torch.manual_seed(0)
    tensors, meta = load_weights(policy)
    assert "sha256" not in meta
    assert weights_hash(load_policy(policy).state_dict()) == weights_hash(tensors)
    assert manifest_of(policy)["recipe"] == "worldgymnast sft"


def test_files_of_version_0_1_without_a_hash_load(policy: Path, tmp_path: Path) -> None:
    old = unsealed(policy, tmp_path / "old.safetensors", lambda tensors, meta: None)
    assert weights_hash(load_policy(old).state_dict()) == weights_hash(load_policy(policy).state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_load_as_float32(policy: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    def change(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    found = load_policy(unsealed(policy, tmp_path / "other.safetensors", change)).state_dict()
    for name, tensor in load_policy(policy).state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.to(dtype).float())


# ---------------------------------------------------------------- configs

DEEP = "[" * 100_000
CONFIGS: dict[str, tuple[Any, str]] = {
    "deep": (DEEP, "cannot be read as JSON"),
    "list": ([], "field 'config': found [], expected a JSON object"),
    "number": (3, "field 'config': found 3, expected a JSON object"),
    "null": (None, "field 'config': found null"),
    "width 1e9": ({"width": 10**9}, "field 'width' of SmallVLAConfig: found 1000000000, expected 8 to 65536"),
    "hidden 1e6": ({"hidden": 10**6}, "field 'hidden' of SmallVLAConfig: found 1000000"),
    "blocks 1e7": ({"blocks": 10**7}, "field 'blocks' of SmallVLAConfig: found 10000000"),
    "more blocks than tensors": ({"blocks": 900}, "found 900 in a file of 23 tensors"),
    "wider than the file": ({"hidden": 65536}, "misshapen: head.0.weight [8, 160] (expected [65536, 160]) and 4 more"),
    "width as text": ({"width": "8"}, "field 'width' of SmallVLAConfig: found \"8\", expected an integer, 8 to 65536"),
    "width as a fraction": ({"width": 8.5}, "'width' of SmallVLAConfig: found 8.5, expected an integer, 8 to 65536"),
    "width true": ({"width": True}, "field 'width' of SmallVLAConfig: found true, expected an integer, 8 to 65536"),
    "width negative": ({"width": -8}, "field 'width' of SmallVLAConfig: found -8"),
    "beyond 64 bits": ({"width": 10**30}, "found a number beyond 64 bits"),
    "jitter NaN": ({"jitter": float("nan")}, "field 'jitter' of SmallVLAConfig: found nan"),
    "jitter infinite": ({"jitter": float("inf")}, "found inf, expected a finite number, 0 or more"),
    "unknown field": ({"widht": 8}, "did you mean 'width'?"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_none_or_asks_for_too_much(kind: str, policy: Path, tmp_path: Path) -> None:
    value, said = CONFIGS[kind]

    def change(_: dict[str, Tensor], meta: dict[str, str]) -> None:
        whole: Any = json.loads(meta["config"]) | value if isinstance(value, dict) else value
        meta["config"] = DEEP if value is DEEP else json.dumps(whole)

    assert said in refusal(load_policy, unsealed(policy, tmp_path / "p.safetensors", change))


SPECS: dict[str, tuple[Any, str]] = {
    "null": (None, "field 'action_spec': found null"),
    "list": ([1], "field 'action_spec': found [1]"),
    "axes null": ({"axes": None}, "field 'action_spec'"),
    "axes numbers": ({"axes": [1, 2, 3, 4]}, "found [1, 2, 3, 4]"),
    "fewer bounds": ({"low": [0.0]}, "4 axes, 1 lower"),
    "bounds as text": ({"low": ["a"] * 4}, "field 'low'"),
    "bounds NaN": ({"high": [float("nan")] * 4}, "field 'high'"),
    "bounds crossed": ({"low": [2.0] * 4}, "expected axes with low <= high"),
    "no axes": ({"axes": [], "low": [], "high": []}, "field 'action_spec'"),
    "rate 0": ({"rate": 0.0}, "field 'rate': found 0.0"),
    "unknown field": ({"color": 1}, "field 'action_spec'"),
}


@pytest.mark.parametrize("kind", SPECS)
def test_an_action_spec_that_is_none(kind: str, policy: Path, tmp_path: Path) -> None:
    value, said = SPECS[kind]

    def change(_: dict[str, Tensor], meta: dict[str, str]) -> None:
        whole = json.loads(meta["action_spec"]) | value if isinstance(value, dict) else value
        meta["action_spec"] = json.dumps(whole)

    assert said in refusal(load_policy, unsealed(policy, tmp_path / "p.safetensors", change))


WORLDS: dict[str, tuple[str, Any, str]] = {
    "layers 1e7": ("transformer", {"layers": 10**7}, "field 'transformer.layers' of WorldModelConfig: found 10000000"),
    "layers beyond the file": ("transformer", {"layers": 1000}, "found 1000 in a file of"),
    "channels 1e7": ("transformer", {"channels": 10**7}, "field 'transformer.channels' of WorldModelConfig: found"),
    "channels beyond the file": ("transformer", {"channels": 60_000}, "misshapen: transformer.x_proj.weight"),
    "grid 1e9": ("transformer", {"grid": [10**9, 10**9]}, "field 'transformer.grid[0]' of WorldModelConfig"),
    "autoencoder blocks": ("autoencoder", {"blocks": [1000] * 3}, "found [1000, 1000, 1000] in a file of 90 tensors"),
    "autoencoder without widths": ("autoencoder", {"widths": [], "blocks": []}, "expected equal lengths, 1 to 16"),
    "transformer a number": ("transformer", 3, "found 3, expected an object with fields of TransformerConfig"),
}


@pytest.mark.parametrize("kind", WORLDS)
def test_a_world_that_asks_for_too_much(kind: str, world: Path, tmp_path: Path) -> None:
    part, value, said = WORLDS[kind]

    def change(_: dict[str, Tensor], meta: dict[str, str]) -> None:
        config = json.loads(meta["config"])
        config[part] = config[part] | value if isinstance(value, dict) else value
        meta["config"] = json.dumps(config)

    assert said in refusal(load_world, unsealed(world, tmp_path / "w.safetensors", change))


@pytest.mark.parametrize("fps", ["nan", "inf", "0", "-1", "1e300", "ten", ""])
def test_a_world_s_rate_is_a_positive_number(fps: str, world: Path, tmp_path: Path) -> None:
    file = unsealed(world, tmp_path / "w.safetensors", lambda _, meta: meta.update(fps=fps))
    with pytest.raises(InputError, match="field 'fps': found"):
        load_world(file)


@pytest.mark.parametrize("fps", [float("nan"), float("inf"), 0.0, -1.0])
def test_no_world_is_made_with_such_a_rate(fps: float) -> None:
    with pytest.raises(InputError, match="field 'fps'"):
        LatentWorldModel(debug().world.world, SPEC, fps)


@pytest.mark.parametrize("text", [DEEP, "[]", "3", '{"latent_channels": 1e300}', '{"layers_per_block": 10000000}'])
def test_a_vae_s_config_is_checked_before_it_is_made(text: str) -> None:
    with pytest.raises(InputError, match="field 'encoder' of VAEConfig"):
        VAEConfig(encoder=text)


def test_the_largest_sizes_of_flags() -> None:
    for make in (
        lambda: SmallVLAConfig(blocks=10_000_000),
        lambda: TransformerConfig(layers=10_000_000),
        lambda: AutoencoderConfig(widths=(10**9,), blocks=(1,)),
        lambda: ClassifierConfig(widths=()),
        lambda: SmallVLAConfig(width=12),
    ):
        with pytest.raises(InputError, match="expected"):
            make()


# ---------------------------------------------------------------- tensors


def test_nan_weights_are_refused(policy: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
        tensors["head.0.bias"][:2] = float("nan")

    said = refusal(load_policy, unsealed(policy, tmp_path / "p.safetensors", change))
    assert "tensor 'head.0.bias' holds 2 numbers that are NaN or infinite" in said


def test_integer_weights_are_refused(policy: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
        tensors["head.0.bias"] = tensors["head.0.bias"].int()

    said = refusal(load_policy, unsealed(policy, tmp_path / "p.safetensors", change))
    assert "tensor 'head.0.bias' holds torch.int32, expected floats" in said


def test_a_few_of_hundreds_of_names_are_shown(policy: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
        tensors.clear()
        tensors.update({f"model.{'x' * 100}\n{i}": torch.zeros(1) for i in range(400)})

    said = refusal(load_policy, unsealed(policy, tmp_path / "p.safetensors", change))
    assert "and 22 more; extra: " in said
    assert "and 399 more; expected its 23 tensors" in said


def test_another_kind_of_component_is_named(policy: Path, tmp_path: Path) -> None:
    assert "found a policy (SmallVLA), expected a world model" in refusal(load_world, policy)
    judge = tmp_path / "judge.safetensors"
    save_component(judge, SuccessClassifier(ClassifierConfig(widths=(4, 4))), Manifest())
    assert "found a judge (SuccessClassifier), expected a policy" in refusal(load_policy, judge)
    assert "expected a judge" in refusal(load_learned_judge, policy)
    long = unsealed(policy, tmp_path / "p.safetensors", lambda _, meta: meta.update(kind="x" * 10_000))
    assert "expected a policy" in refusal(load_policy, long)


OTHERS = {
    "a web page": (b"<!DOCTYPE html><html>not found</html>", "it is a web page"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "run git lfs pull"),
    "a zip": (b"PK\x03\x04" + bytes(100), "written by torch.save"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(100), "written by torch.save"),
    "JSON": (b'{"a": 1}', "it looks like JSON"),
    "nothing": (b"", "it is empty"),
    "zeros": (bytes(4096), "cannot be read as safetensors weights"),
    "an endless header": ((2**60).to_bytes(8, "little") + b"{}", "cannot be read as safetensors weights"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_file_in_the_place_of_a_component(kind: str, tmp_path: Path) -> None:
    content, said = OTHERS[kind]
    file = tmp_path / "policy.safetensors"
    file.write_bytes(content)
    assert said in refusal(load_policy, file)


def test_no_file_in_the_place_of_a_component(policy: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path, loop, tmp_path / "none", tmp_path / ("x" * 300), Path("a\0b")):
        with pytest.raises(InputError, match="found no file"):
            load_policy(path)
    half = tmp_path / "half.safetensors"
    half.write_bytes(policy.read_bytes()[:-100])
    assert "cannot be read as safetensors weights" in refusal(load_policy, half)


def test_mutated_components_give_the_same_weights_or_one_line(policy: Path, tmp_path: Path) -> None:
    """For minutes by hand: raise the number."""
    content, right, rng = policy.read_bytes(), weights_hash(load_policy(policy).state_dict()), random.Random(7)
    file = tmp_path / "policy.safetensors"
    for _ in range(120):
        damaged = bytearray(content)
        place = rng.choice([rng.randrange(8), rng.randrange(4000), rng.randrange(len(content))])
        rng.choice([_flip, _cut, _insert])(damaged, place, rng)
        file.write_bytes(damaged)
        with contextlib.suppress(InputError):  # any other exception, and other weights, fail the test
            assert weights_hash(load_policy(file).state_dict()) == right


def _flip(content: bytearray, place: int, rng: random.Random) -> None:
    content[place] ^= 1 << rng.randrange(8)


def _cut(content: bytearray, place: int, rng: random.Random) -> None:
    del content[place : place + rng.randrange(1, 9)]


def _insert(content: bytearray, place: int, rng: random.Random) -> None:
    content[place:place] = rng.randbytes(rng.randrange(1, 9))
