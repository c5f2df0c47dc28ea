"""Shapes and types are checked in every test: the import hook comes before the first import of the package."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".pytest_cache" / "hypothesis"))
_CACHE = tempfile.TemporaryDirectory(prefix="worldgymnast-test-cache-")
os.environ["WORLDGYMNAST_CACHE"] = _CACHE.name  # rather than the home of whoever tests
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")
torch.set_num_threads(1)
install_import_hook("worldgymnast", "typecheck.check")


def _gl_error() -> str | None:
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    try:
        mujoco.Renderer(model, 32, 32).close()
    except Exception as error:  # noqa: BLE001 - MuJoCo raises many kinds where there is no GL
        return f"{type(error).__name__}: {error}"
    return None


@pytest.fixture(scope="session")
def gl() -> None:
    """Skips the test where nothing can be rendered."""
    if error := _gl_error():
        pytest.skip(f"no GL to render with (MUJOCO_GL={os.environ['MUJOCO_GL']}): {error}; run: make gl")


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
