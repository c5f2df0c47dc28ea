"""What every command is, and what several of them need."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from pydantic import AfterValidator
from tyro.conf import Positional

from worldgymnast import processes
from worldgymnast.actions import ActionSpec, ActionSpecMismatch, metaworld_spec, require_same
from worldgymnast.cli.starters import is_metaworld
from worldgymnast.configs import Between, Positive, checked
from worldgymnast.envs.metaworld import EXTRA_TASKS, SUITE, MetaWorldConfig, check_tasks, instructions
from worldgymnast.episodes import formats
from worldgymnast.episodes.windows import EpisodeSet, concatenate
from worldgymnast.errors import FieldError, InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.measure.novelty import misspelt, strange_frames, strange_sentences
from worldgymnast.measure.unplayed import MOST
from worldgymnast.protocols import Judge, Policy, WorldModel
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.registry import load_judge, load_policy, load_world
from worldgymnast.run import check_folder
from worldgymnast.types import Start

REPORT = "report.html"
_MOST_THREADS = 256
"""On machines with few cores; far more end the process, since the system grants no more."""
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Of surrogate pairs; the others stand for bytes of names that are no UTF-8."""
_LONGEST_NAME = 255
"""Bytes of a file's name on nearly every file system."""
SPLIT = 0
"""The seed of what `--held-out` keeps out."""
LENT: Any = tyro.conf.arg(name="")
Weights = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Number = Annotated[Positive | None, tyro.conf.arg(metavar="N")]
Size = Annotated[Annotated[int, Between(1, 4096)] | None, tyro.conf.arg(metavar="N")]
DataSets = Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DATA...", help_behavior_hint="(required)")]


@checked(kw_only=True)
class Command:
    """Something that `worldgymnast` does; called, it returns the exit code."""

    takes_preset: ClassVar[bool] = False
    sizes: ClassVar[Mapping[str, Callable[[], Any]]] = {}
    """Named configs of which the first word may choose one."""
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {}
    """Fields of a config that have no effect in this command, and are no flags of it."""
    instead: ClassVar[str] = ""
    """What to do instead."""
    given: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(default=frozenset(), init=False)
    """The flags on the command line, such as "--policy.chunk": what is not among them, the data may decide."""

    @classmethod
    def start(cls, recipe: Recipe, name: str) -> Command:
        """The command as a preset fills it in, before the flags."""
        raise NotImplementedError

    @classmethod
    def sized(cls, size: str) -> Command:
        """The command as one of its `sizes` fills it in, before the flags."""
        raise NotImplementedError

    def __call__(self) -> int:
        """Does it."""
        raise NotImplementedError


@checked(kw_only=True)
class Computing(Command):
    """A command that trains or imagines.

    Attributes:
        device: where to train and imagine.
        threads: CPU threads; 0 takes all cores.
    """

    together: ClassVar[bool] = False
    """Whether several processes may do it together."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Between(0, max(_MOST_THREADS, 4 * (os.cpu_count() or 1)))] = 0

    def prepare(self) -> None:
        """Takes the device and the threads and meets the other processes, or says why not."""
        if not self.together and processes.launched() > 1:
            raise InputError(
                f"processes: found {processes.launched()}, expected 1; only sft, train-world, distill and train-judge "
                "run in several; start this command without torchrun or accelerate launch"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device: found no CUDA device, expected one for cuda; use --device cpu")
        if self.threads or "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(self.threads or cores)
        processes.join(self.device)


@checked(kw_only=True)
class Evaluating(Computing):
    """A command that ends in a real evaluation, and may imagine more layouts than it plays.

    Attributes:
        imagined: layouts a task and seed that are imagined beside those that are played: they narrow the intervals of
            real success where the world knows the outcomes; may be raised later.
    """

    imagined: Annotated[int, Between(0, MOST)] = 0


@checked(kw_only=True)
class Watching(Command):
    """A command that reads frames of data sets.

    Attributes:
        image_key: which cameras, where a data set has several: one name, several, or "all".
        fps: frames per second, where a data set does not say them (RLDS other than BridgeData V2).
    """

    image_key: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    fps: Annotated[float | None, tyro.conf.arg(metavar="N")] = None

    @property
    def cameras(self) -> str | tuple[str, ...] | None:
        """As `formats.read` takes them."""
        return self.image_key if len(self.image_key) > 1 else next(iter(self.image_key), None)


@checked(kw_only=True)
class Learning(Computing, Watching):
    """A command that trains on data sets.

    Attributes:
        data: data sets.
        size: pixels on each side to resize the frames to.
        out: the run folder.
    """

    together: ClassVar[bool] = True
    data: DataSets
    size: Size = None
    out: Path


def ending(*suffixes: str) -> AfterValidator:
    """Annotates the path of a file that ends in one of `suffixes`."""

    def check(path: Path | None) -> Path | None:
        if path is not None and path.suffix not in suffixes:
            raise FieldError("", f"found {path}, expected a file that ends in {' or '.join(suffixes)}")
        return path

    return AfterValidator(check)


def check_names(config: Any, prefix: str = "") -> None:
    """Raises `FieldError` for a path in a command, or in a config of it, that no file system holds."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        name = f"{prefix}{entry.name}"
        if is_dataclass(value):
            check_names(value, "" if entry.name == "config" else f"{name}.")
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if wrong := _wrong(one):
                raise FieldError(name, wrong)


def _wrong(value: Any) -> str:
    """What is wrong with a path, or nothing."""
    if isinstance(value, str | Path) and "\0" in str(value):
        return "found a null byte, expected none; give another path"
    if isinstance(value, Path) and _HALVES.search(str(value)):
        return "found half a surrogate pair, which no file's name has; give another path"
    if isinstance(value, Path) and any(len(os.fsencode(part)) > _LONGEST_NAME for part in value.parts):
        return f"found a name of more than {_LONGEST_NAME} bytes, expected a shorter one; give another path"
    return ""


def ledger(out: Path) -> Ledger:
    """What judges behind servers answer and cost in a run, kept in its folder; raises where that could be none."""
    check_folder(out)
    return Ledger(out / FILE)


Cameras = str | tuple[str, ...] | None


def read(
    paths: Sequence[Path],
    size: int | None,
    cameras: Cameras = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
) -> EpisodeSet:
    """All data sets as one, see `read_each`."""
    return concatenate(read_each(paths, size, cameras=cameras, fps=fps, assumed_fps=assumed_fps))


def read_each(
    paths: Sequence[Path],
    size: int | None,
    spec: ActionSpec | None = None,
    cameras: Cameras = None,
    fps: float | None = None,
    assumed_fps: float | None = None,
) -> list[EpisodeSet]:
    """The data sets, with their actions in `spec`, or in that of the first; see `formats.read` for the others.

    Raises:
        InputError: their frames differ in size or rate, or no conversion between their actions is known.
    """
    if not paths:
        raise InputError("data: found no path, expected at least one data set's folder")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("data: found a data set twice, expected each once; use --shares to weigh one more")
    sets = [
        formats.read(path, size=size, image_key=cameras, fps=fps, assumed_fps=assumed_fps)  # pyright: ignore[reportArgumentType]
        for path in paths
    ]
    head, spec = sets[0], spec or sets[0].spec
    for i, (path, part) in enumerate(zip(paths, sets, strict=True)):
        try:
            sets[i] = part.acting(spec)
        except ActionSpecMismatch as error:
            raise InputError(f"{path}: {error}; train on it alone or leave it out") from error
        if part.fps != head.fps:
            raise InputError(
                f"{path}: found {part.fps:g} frames per second, expected {head.fps:g} as in {paths[0]}; leave one out"
            )
        if part.size != head.size:
            (h, w), (height, width) = part.size, head.size
            raise InputError(
                f"{path}: found frames of {h}x{w} pixels, expected {height}x{width} as in {paths[0]}; add --size to "
                f"resize all, such as --size {height}"
            )
    return sets


def told(paths: Sequence[Path], episodes: EpisodeSet, needed: bool = False) -> None:
    """Says how many episodes have no sentence; raises where none has one and sentences are `needed`."""
    blank, where = episodes.without_instruction, " ".join(map(str, paths))
    if needed and blank == len(episodes):
        raise InputError(
            f"{where}: no episode has a sentence, expected what is to be done in each: a policy that hears nothing "
            "cannot be told tasks apart. Write them into the data set (LeRobot: meta/tasks), then run again"
        )
    if blank:
        print(f"{where}: {blank} of {len(episodes)} episodes have no sentence")


def hold_out(episodes: EpisodeSet, count: int) -> tuple[EpisodeSet, EpisodeSet]:
    """The episodes without `count` of each task, and those; the same ones wherever the data are the same.

    Raises:
        InputError: a task has no more episodes than that.
    """
    for task in sorted(set(episodes.task)) if count else ():
        if (found := len(episodes.where(task=task))) <= count:
            of = f" of task '{task}'" if task else ""
            raise InputError(
                f"--held-out: found {found} episodes{of}, expected more than the {count} to hold out; hold out fewer, "
                "or give more data"
            )
    return episodes.split(count, SPLIT)


def labelled(paths: Sequence[Path], episodes: EpisodeSet) -> None:
    """Raises where no episode of the data sets says whether it succeeded."""
    if not episodes.labelled.any():
        raise InputError(
            f"{' '.join(map(str, paths))}: field 'success': found no labels, expected a boolean feature 'success' or "
            "'next.success' a frame; label some episodes, or record them with record-policy"
        )


def sees(world: WorldModel, size: tuple[int, int], flag: str) -> None:
    """Raises where `world` is not made for frames of that size; `flag` is what resizes them."""
    fits(world.frame_size, size, flag)


def fits(expected: tuple[int, int], size: tuple[int, int], flag: str) -> None:
    """Raises where frames of that size are not what the world model is made for."""
    if size != expected:
        raise InputError(
            f"frames: found {size[0]}x{size[1]} pixels, expected {expected[0]}x{expected[1]} as the world model has; "
            f"resize with {flag} {expected[0]}"
        )


def drives(path: Path, policy: Policy, env: MetaWorldConfig, flag: str = "--env.hold") -> None:
    """Raises where the policy in `path` does not act as `env` does; `flag` is how long an action is held."""
    spec = policy.action_spec
    if not is_metaworld(spec):
        raise InputError(
            f"{path}: acts in {spec}, but the one real environment so far is Meta-World, which takes "
            f"{env.action_spec}. Nothing can be photographed or measured for real. Give a policy of Meta-World, or "
            "train without it: rl PRESET --unscored --data DATA, iter-sft --unscored, adapt --frame PICTURE --data DATA"
        )
    try:
        require_same(spec, env.action_spec, f"{path} and real environment")
    except ActionSpecMismatch as error:
        hold = round(80 / spec.rate) if spec.rate else 0
        advice = "give a policy that was trained on its actions"
        if hold and metaworld_spec(hold).is_same_kind(spec):
            advice = f"add {flag} {hold}"
        raise InputError(f"{error}; {advice}") from error


def agree(policy: Path, acts: ActionSpec, other: Path, imagines: ActionSpec) -> None:
    """Raises where a policy's file and another (a world model, data) were not made for the same actions."""
    try:
        require_same(acts, imagines, f"{policy} and {other}")
    except ActionSpecMismatch as error:
        raise InputError(f"{error}; give two that were trained on the same data") from error


def familiar(
    world: WorldModel,
    starts: Sequence[Start],
    known: Sequence[Start],
    flags: tuple[str, str],
    anyway: bool,
    said: Sequence[str] = (),
) -> None:
    """Raises where starts have frames or sentences unlike all that is known; only says so where that is wanted.

    So it does where a task's name is nearly a known one.

    Args:
        world: imagines from them.
        starts: the ones in question.
        known: starts like those that world, policy and judge were trained on.
        flags: what gave the frames, and what the sentences.
        anyway: go on.
        said: more sentences that policy and judge were trained on.
    """
    suite = SUITE if is_metaworld(world.action_spec) else ()
    if suite and (slip := misspelt(starts, (*SUITE, *EXTRA_TASKS))) and not anyway:
        raise InputError(f"{flags[0]}: {slip}; mend it, or add --anyway")
    sentences = [*said, *(s.instruction for s in known), *(words for task in suite for words in instructions(task))]
    for flag, doubt in zip(flags, (strange_frames(world, starts, known), strange_sentences(starts, sentences)),
                           strict=True):  # fmt: skip
        if doubt and not anyway:
            raise InputError(f"{flag}: {doubt}; train world, policy and judge on such data, or add --anyway")
        if doubt:
            print(f"{flag}: {doubt}")


@dataclass(frozen=True)
class Components:
    """A policy, and where it practises or is planned for, from their files; they fit one another."""

    policy: Policy
    world: WorldModel
    judge: Judge


def components(
    files: Mapping[str, Path], device: str, kept: Ledger, env: MetaWorldConfig | None, flags: str = "--env"
) -> Components:
    """The components in the files of "policy", "world" and "judge".

    Args:
        files: see `parts`.
        device: where they compute.
        kept: what judges behind servers answer.
        env: the real environment; None where nothing real is asked for.
        flags: what its flags begin with.

    Raises:
        InputError: one is missing, or they do not fit one another or `env`.
    """
    policy, world = load_policy(files["policy"], device), load_world(files["world"], device)
    judge = load_judge(files["judge"], device, kept)
    agree(files["policy"], policy.action_spec, files["world"], world.action_spec)
    if env is not None:
        drives(files["policy"], policy, env, f"{flags}.hold")
        sees(world, (env.size, env.size), f"{flags}.size")
        check_tasks(env.tasks)
    return Components(policy, world, judge)


def new(path: Path) -> None:
    """Raises where `path` exists."""
    if path.exists():
        raise InputError(f"{path}: exists already, expected a new path; remove it or name another")


def writable(flag: str, path: Path) -> None:
    """Raises where no file could be written at `path`, so that this is known before any work is done."""
    folder = path.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{flag}: found that {path} cannot be written ({error.strerror}), expected a folder that can be written to"
        ) from error
    if path.is_dir():
        raise InputError(f"{flag}: found a folder at {path}, expected a file's name")


def summary(path: Path, episodes: EpisodeSet) -> None:
    """Prints what is in a data set."""
    labelled = int(episodes.labelled.sum())
    said = f", {int(episodes.succeeded.sum())} of {labelled} labelled ones succeeded" if labelled else ", none labelled"
    print(f"{path}: {len(episodes)} episodes, {int(episodes.length.sum())} actions{said}")


def wrote(path: Path) -> int:
    """Prints where the result is; returns the exit code of success."""
    print(path)
    return 0
