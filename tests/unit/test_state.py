"""The robot's state and the cameras of data sets, from reading to batches."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import two_cameras
from foreign_data import T as Tensor
from foreign_data import rlds, v3
from rlds_builders import record, step
from small_worlds import SMALL, randomised
from two_cameras import FRONT, JOINTS, SPEC, WRIST

from worldgymnast.cli.origins import check_same_state
from worldgymnast.configs import from_dict, to_dict
from worldgymnast.episodes import formats
from worldgymnast.episodes.lerobot import write
from worldgymnast.episodes.starts import read_starts
from worldgymnast.episodes.windows import EpisodeSet, concatenate, data_hash, from_episodes, state_hash
from worldgymnast.errors import FieldError, InputError
from worldgymnast.policies.flow_vla import FlowVLA, FlowVLAConfig
from worldgymnast.policies.small_vla import SmallVLA, SmallVLAConfig
from worldgymnast.preprocessing import RULES, fit
from worldgymnast.rl.starts import EpisodeStarts, starts_hash
from worldgymnast.testing import check_world
from worldgymnast.tiling import compose
from worldgymnast.training.batches import imitation_batches
from worldgymnast.types import Observation, Start
from worldgymnast.video import png
from worldgymnast.weights import save_weights
from worldgymnast.worldmodel.sampler import WorldModelConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_cameras.write(tmp_path_factory.mktemp("data") / "robot", 3)


@pytest.fixture(scope="module")
def robot(folder: Path) -> EpisodeSet:
    return formats.read(folder, image_key=("front", "wrist"))


def test_state_and_cameras_are_read_as_written(robot: EpisodeSet) -> None:
    assert robot.cameras == (FRONT, WRIST)
    assert robot.state_names == JOINTS
    for index in range(3):
        expected, found = two_cameras.episode(index), robot.episode(index)
        np.testing.assert_array_equal(found.state, expected.state)
        parts = robot.tiling.untile(found.frames)
        np.testing.assert_array_equal(parts[FRONT], expected.frames)
        assert parts[WRIST].shape[1:3] == (48, 48)
        assert found.start(2).state.tolist() == expected.state[2].tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [32, (32, 64), (48, 48)])
def test_one_rule_in_data(folder: Path, rule: str, size: int | tuple[int, int]) -> None:
    one = formats.read(folder, image_key="front", size=size, resize=rule)  # pyright: ignore[reportArgumentType]
    episode = two_cameras.episode(0)
    np.testing.assert_array_equal(np.asarray(one.frames[0]), fit(episode.frames[0], size, rule))
    both = formats.read(folder, image_key="all", size=size, resize=rule)  # pyright: ignore[reportArgumentType]
    pictures = {FRONT: episode.frames[5], WRIST: episode.cameras[WRIST][5]}
    np.testing.assert_array_equal(np.asarray(both.frames[5]), compose(pictures, size, rule))
    assert both.tiling.size == both.size


def test_select_and_concatenate_carry_the_state(robot: EpisodeSet) -> None:
    part = robot.select([2, 0])
    np.testing.assert_array_equal(part.episode(0).state, robot.episode(2).state)
    other = from_episodes([replace(two_cameras.episode(i), frames=robot.episode(i).frames) for i in (0, 1)])
    joint = concatenate([replace(other, state_names=JOINTS), part])
    np.testing.assert_array_equal(joint.episode(3).state, robot.episode(0).state)
    assert joint.tiling is None, "the other set names no cameras"
    assert concatenate([other.without_state(), part]).state is None, "one set has none"
    assert concatenate([replace(other, state_names=("a",) * 6), part]).state is None, "other names"


def test_the_hash_of_data_does_not_depend_on_the_state(robot: EpisodeSet) -> None:
    assert data_hash(robot) == data_hash(robot.without_state())
    assert state_hash(robot) != state_hash(replace(robot, state=robot.state + 1))
    assert state_hash(robot.without_state()) == ""


def test_a_state_can_be_required_or_left_out(folder: Path, tmp_path: Path) -> None:
    assert formats.read(folder, image_key="front", state=False).state is None
    write(tmp_path / "plain", [replace(two_cameras.episode(0), state=None, state_names=())])
    assert formats.read(tmp_path / "plain", image_key="front").state is None
    with pytest.raises(InputError, match=r"found no observation\.state"):
        formats.read(tmp_path / "plain", image_key="front", state=True)


def test_an_invalid_state_is_reported_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", [two_cameras.episode(0)])
    info = json.loads((tmp_path / "data/meta/info.json").read_text())
    info["features"]["observation.state"]["shape"] = [5]
    (tmp_path / "data/meta/info.json").write_text(json.dumps(info))
    assert formats.read(tmp_path / "data", image_key="front").state is None
    assert "The state is not read" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"observation\.state"):
        formats.read(tmp_path / "data", image_key="front", state=True)


def test_starts_have_a_state(robot: EpisodeSet, tmp_path: Path) -> None:
    (drawn,) = EpisodeStarts(robot, ["move"], 0.0)(np.random.default_rng(0), 1)
    assert any(np.array_equal(drawn.state, robot.episode(i).state[0]) for i in range(3))
    assert starts_hash([drawn]) != starts_hash([replace(drawn, state=None)])
    (tmp_path / "a.png").write_bytes(png(two_cameras.front(np.zeros(6))))
    (tmp_path / "a.json").write_text(json.dumps({"instruction": "move", "state": [0, 0.5, -1]}))
    (start,) = read_starts(tmp_path, (32, 32), resize="pad")
    assert start.state.tolist() == [0, 0.5, -1]
    assert start.frame[0].max() == 0, "black bars"
    with pytest.raises(InputError, match="expected a square picture"):
        read_starts(tmp_path, 32)
    assert read_starts(tmp_path, (48, 64))[0].frame.shape == (48, 64, 3)
    (tmp_path / "a.json").write_text(json.dumps({"instruction": "move", "state": "up"}))
    with pytest.raises(InputError, match="field 'state'"):
        read_starts(tmp_path, (48, 64))


@pytest.mark.parametrize("state", [np.zeros((1, 2), np.float32), np.zeros(2), np.array([np.nan], np.float32), [0.0]])
def test_a_start_refuses_what_is_no_state(state: object) -> None:
    with pytest.raises((InputError, TypeError)):
        Start(np.zeros((4, 4, 3), np.uint8), "move", state=state)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", [(SmallVLA, SmallVLAConfig), (FlowVLA, FlowVLAConfig)])
def test_policies_read_their_cameras_and_the_state(kind: tuple[type, type], robot: EpisodeSet) -> None:
    cls, config_type = kind
    torch.manual_seed(0)
    config = config_type(width=16, blocks=1, hidden=32, state_dim=6, cameras=("wrist", "front"))
    policy = cls(config, SPEC)
    policy.measure_state(robot.state)
    assert policy.needs == {"wrist", "front", "state"}
    batch = imitation_batches(robot, 2, 5, 0, {}, cameras=policy.cameras, needs_state=True)(0)
    assert {name: tuple(image.shape[1:3]) for name, image in batch["obs"].images.items()} == {
        "wrist": (48, 48),
        "front": (48, 64),
    }
    loss, _ = policy.loss({**batch, "generator": torch.Generator().manual_seed(0)})
    loss.backward()
    obs = batch["obs"]
    chunk = policy.act(obs, temperature=1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(policy.logprobs(obs, chunk), chunk.logprobs)
    moved = replace(obs, state=obs.state + policy.state_std)
    assert not torch.equal(policy.logprobs(moved, chunk), chunk.logprobs)
    with pytest.raises(InputError, match=r"needs a state of 6 numbers, found none. For a call of `act`, give Obs"):
        policy.act(Observation(obs.images, obs.instruction), temperature=0.0, generator=None)


def test_configs_of_earlier_versions_stay_the_same() -> None:
    for config in (SmallVLAConfig(), FlowVLAConfig()):
        data = to_dict(config)
        assert not {"state_dim", "state_noise", "cameras"} & set(data)
        assert from_dict(type(config), data, "here") == config
    changed = SmallVLAConfig(state_dim=3, cameras=("a", "b"))
    assert from_dict(SmallVLAConfig, to_dict(changed), "here") == changed
    with pytest.raises(FieldError, match="each once"):
        SmallVLAConfig(cameras=("a", "a"))


def test_parts_of_the_state_are_joined(tmp_path: Path) -> None:
    parts = {"observation.state.arm": 3, "observation.state.gripper": 1, "observation.environment_state": 2}
    feats = {name: {"dtype": "float32", "shape": [width], "names": None} for name, width in parts.items()}
    feats["observation.state.gripper"]["names"] = ["opening"]

    def extra(index: int, count: int) -> dict[str, list[list[float]]]:
        return {
            name: [[index + k + row / 10 for k in range(width)] for row in range(count)]
            for name, width in parts.items()
        }

    v3(tmp_path / "v3", extra=extra, feats=feats)
    found = formats.read(tmp_path / "v3")
    assert found.state.shape[1] == 4, "the environment's state is not the robot's"
    assert found.state_names[-1] == "gripper.opening"
    np.testing.assert_allclose(found.episode(1).state[2], [1.2, 2.2, 3.2, 1.2], rtol=1e-6)
    assert found.cameras == ("observation.images.cam",)


def test_rlds_has_a_state(tmp_path: Path) -> None:
    states = [np.arange(3 * 2, dtype=np.float32) + 10 * i for i in range(2)]
    steps = step(state=Tensor([2]))
    rlds(tmp_path / "a", [record(i, 3) | {"steps/observation/state": states[i]} for i in range(2)], steps)
    found = formats.read(tmp_path / "a", fps=10)
    np.testing.assert_array_equal(found.episode(1).state, states[1].reshape(3, 2))
    formats.convert(tmp_path / "a", tmp_path / "b", fps=10)
    np.testing.assert_array_equal(formats.read(tmp_path / "b").episode(1).state, states[1].reshape(3, 2))
    with_hole = [record(0, 3) | {"steps/observation/state": states[0] * np.nan}]
    rlds(tmp_path / "c", with_hole, steps)
    assert formats.read(tmp_path / "c", fps=10).state is None
    with pytest.raises(InputError, match="found no state"):
        formats.read(tmp_path / "c", fps=10, state=True)


def head_config(state_dim: int, grid: tuple[int, int] = (4, 4)) -> WorldModelConfig:
    return replace(SMALL, state_dim=state_dim, transformer=replace(SMALL.transformer, grid=grid))


@pytest.mark.parametrize("grid", [(4, 4), (4, 8), (6, 8)])
def test_a_world_model_of_any_shape_keeps_the_contract_with_and_without_state(grid: tuple[int, int]) -> None:
    for state_dim in (0, 3):
        world = randomised(head_config(state_dim, grid))
        assert (world.frame_size[0] * grid[1], world.state_dim) == (world.frame_size[1] * grid[0], state_dim)
        check_world(world)


def test_the_state_head_changes_nothing_else() -> None:
    plain, headed = randomised(head_config(0)), randomised(head_config(3))
    headed.load_state_dict(plain.state_dict(), strict=False)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *plain.frame_size, 3), dtype=np.uint8))
    actions = torch.zeros(2, 3, plain.action_spec.dim)
    shown = [
        world.step(world.start(images), actions, generator=torch.Generator().manual_seed(0))[1]
        for world in (plain, headed)
    ]
    assert torch.equal(*shown)
    assert plain.predict_state(plain.start(images)) is None
    assert not any(name.startswith("state_head") for name in plain.state_dict())
    assert not {"state_dim", "state_weight"} & set(to_dict(plain.config))


def test_the_state_head_learns_from_both_kinds_of_clips() -> None:
    world = randomised(head_config(2)).train()
    world.measure_state(np.random.default_rng(0).normal(5, 3, (50, 2)).astype(np.float32))
    h, w = world.config.transformer.grid
    batch = {
        "latents": torch.randn(4, 6, h, w, world.config.transformer.channels),
        "actions": torch.zeros(4, 5, world.action_spec.dim),
        "mask": torch.ones(4, 5, dtype=torch.bool),
        "state": torch.randn(4, 6, 2) * 3 + 5,
        "success": torch.zeros(4, 6, dtype=torch.bool),
        "labelled": torch.zeros(4, dtype=torch.bool),
        "instruction": ("move",) * 4,
        "progress": 1.0,
    }
    optimizer = torch.optim.Adam(world.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss, metrics = world.loss(batch | {"generator": torch.Generator().manual_seed(0)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics["state_loss"])
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("recorded", "names", "is_refused"),
    [
        (["s0", "s1"], ["x", "gripper"], False),
        (["x", "gripper"], ["state_0", "state_1"], False),
        (["x", "gripper"], ["a0", "a1"], False),
        (["x", "gripper"], ["observation.state.a0", "observation.state.b.a0"], False),
        (["x", "gripper"], ["x", "gripper"], False),
        (["x", "gripper"], [], False),
        (["x", "gripper"], ["gripper", "x"], True),
        (["s0", "s1"], ["x", "y", "gripper"], True),
    ],
)
def test_names_that_only_count_fit_any_state_of_their_number(
    recorded: list[str], names: list[str], is_refused: bool, tmp_path: Path
) -> None:
    path = tmp_path / "world.safetensors"
    manifest = json.dumps({"origin": {"state_names": recorded}})
    save_weights(path, {"w": torch.zeros(1)}, {"kind": "LatentWorldModel", "manifest": manifest})
    with pytest.raises(InputError, match="components of one robot") if is_refused else contextlib.nullcontext():
        check_same_state(path, names=names)
