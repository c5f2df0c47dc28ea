"""Shapes and types are checked in every test: the import hook comes before the first import of the package."""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typecheck
from hypothesis import settings
from places import ROOT

pytest_plugins = ("skip_limit", "refusals", "pytester")
MARKED_BY_FIXTURE = {
    "gl": pytest.mark.gl,
    "vlm_server": pytest.mark.server,
    "taught_vlm": pytest.mark.xdist_group("tiny-vlm"),  # one process teaches it
}
"""A test that asks for such a fixture, itself or through another fixture, has the marker."""

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".pytest_cache" / "hypothesis"))
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba"))  # LIBERO compiles for a minute
_CACHE = tempfile.TemporaryDirectory(prefix="worldgymnast-test-cache-")
os.environ["WORLDGYMNAST_CACHE"] = _CACHE.name  # rather than the home of whoever tests
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # to compile the package is a quarter of the start of a process
sys.dont_write_bytecode = False
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")
torch.set_num_threads(1)
for _name in (
    *("PIL.Image", "beartype.vale", "filelock", "google_crc32c", "gymnasium.vector", "pydantic.dataclasses"),
    *("pydantic.main", "pydantic.type_adapter", "safetensors.torch", "tyro"),
    *("scipy.ndimage", "scipy.optimize", "scipy.special", "scipy.stats"),
):
    importlib.import_module(_name)  # else compiled anew: whatever is first imported under the hook has files of its own
typecheck.install_hook("worldgymnast")


def pytest_itemcollected(item: pytest.Item) -> None:
    for fixture in getattr(item, "fixturenames", ()):
        if fixture in MARKED_BY_FIXTURE:
            item.add_marker(MARKED_BY_FIXTURE[fixture])


def _gl_error() -> str | None:
    try:
        import mujoco

        model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
        mujoco.Renderer(model, 32, 32).close()
    except Exception as error:  # noqa: BLE001 - MuJoCo raises many kinds where there is no GL
        return f"{type(error).__name__}: {error}"
    return None


@pytest.fixture(scope="session")
def gl() -> Iterator[None]:
    """Skip the test where nothing can be rendered; a failure where skips are counted. Scenes are loaded once."""
    if error := _gl_error():
        from skip_limit import COUNT_SKIPS, is_counting

        reason = f"no GL to render with (MUJOCO_GL={os.environ['MUJOCO_GL']}): {error}; run: make gl"
        if is_counting():
            pytest.fail(f"{reason} ({COUNT_SKIPS} is set, so tests that render must run)", pytrace=False)
        pytest.skip(reason)
    import scene_pool

    with scene_pool.kept():
        yield


@pytest.fixture(autouse=True)
def checked_anew() -> None:
    """Check the types of every function in its first calls of each test."""
    typecheck.begin_test()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Undo what a command that ran in this process has set: two threads add in another order than one."""
    torch.set_num_threads(1)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the rows of every real or simulated environment in this process: each of its own would load torch first.

    tests/integration/test_metaworld.py holds rows in processes to those in one.
    """
    from gymnasium.vector import SyncVectorEnv

    from worldgymnast.envs import wrappers

    def rows(members: list[Any], autoreset_mode: Any, **_: object) -> SyncVectorEnv:
        return SyncVectorEnv(members, autoreset_mode=autoreset_mode)

    monkeypatch.setattr(wrappers, "AsyncVectorEnv", rows)


@pytest.fixture(scope="session")
def taught_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny vision-language model that answers questions about clips; see `tiny_vlm.taught`."""
    import tiny_vlm

    return tiny_vlm.taught(tmp_path_factory.mktemp("taught_vlm") / "tiny-qwen2.5-vl")


@pytest.fixture(scope="session")
def vlm_server(taught_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The base URL of a real OpenAI-compatible server of that model on loopback, and the model's name there."""
    from real_server import serve

    with serve(taught_vlm, tmp_path_factory.mktemp("vlm_server") / "server.log") as url:
        yield url, str(taught_vlm)


@pytest.fixture(autouse=True)
def documented_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test whose run logs a metric that `worldgymnast.metrics` does not document."""
    from worldgymnast.metrics import find
    from worldgymnast.run import Run

    log = Run.log

    def checked_log(run: Run, step: int, metrics: Mapping[str, float]) -> None:
        unknown = sorted(key for key in metrics if find(key) is None)
        assert not unknown, f"logged, but not documented in worldgymnast/metrics.py: {', '.join(unknown)}"
        log(run, step, metrics)

    monkeypatch.setattr(Run, "log", checked_log)
