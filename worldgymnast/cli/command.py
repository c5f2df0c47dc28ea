"""Base classes of the commands: their flags and defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from pydantic import AfterValidator, BeforeValidator
from tyro.conf import Positional

from worldgymnast import processes
from worldgymnast.cli.parse import check_first
from worldgymnast.configs import Between, Count, Positive, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.hub import fetch
from worldgymnast.measure.unplayed import MOST
from worldgymnast.preprocessing import parse_size, sides, size_text
from worldgymnast.recipes.reproduce import Recipe
from worldgymnast.run import check_folder

REPORT = "report.html"
_MAX_THREADS = 256
"""Limit on machines with few cores: far more end the process, since the system does not grant them."""
_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of surrogate pairs, except those that stand for bytes of names that are not UTF-8."""
_MAX_NAME_BYTES = 255
"""Bytes of a file name on nearly every file system."""
NO_PREFIX: Any = tyro.conf.arg(name="")
"""Annotates a config whose fields become flags without a prefix."""
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
OptionalPositive = Annotated[Positive | None, tyro.conf.arg(metavar="N")]


def _in_range(size: Any) -> Any:
    """Refuse a size that is no picture's; tyro's own constructor skips the range of the type."""
    for side in () if size is None else sides(size):
        if not 1 <= side <= 4096:
            raise FieldError("", f"found {side}, expected 1 to 4096")
    return size


_SIZE: Any = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="N|HxW",
    instance_from_str=lambda words: parse_size(words[0]),
    is_instance=lambda value: value is None or isinstance(value, int | tuple),
    str_from_instance=lambda value: ["None" if value is None else size_text(value)],
)
_Side = Annotated[int, Between(1, 4096)]
Size = Annotated[_Side | tuple[_Side, _Side] | None, BeforeValidator(_in_range), _SIZE]
"""Pixels of square frames, N, or height and width, HxW."""
HeldOut = Annotated[Count | Literal["auto"] | None, tyro.conf.arg(metavar="N|auto")]
"""Episodes per task to hold out; "auto" follows the number of episodes (see `inputs.hold_out`)."""
DataSets = Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DATA...", help_behavior_hint="(required)")]


@checked(kw_only=True)
class Command:
    """A command of `worldgymnast`; a call returns the exit code."""

    takes_preset: ClassVar[bool] = False
    takes_environment: ClassVar[bool] = False
    """Whether the first argument is a reference, whose fields are the flags `--env.FIELD`."""
    sizes: ClassVar[Mapping[str, Callable[[], Any]]] = {}
    """Named configs; the first argument may choose one."""
    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {}
    """Fields of configs that have no effect in this command, and get no flag."""
    hidden_hint: ClassVar[str] = ""
    """What to do instead of setting a hidden field."""
    given_flags: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(default=frozenset(), init=False)
    """Flags on the command line, such as "--policy.chunk". Defaults of all others may be adapted to the data."""
    given_words: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = field(default=(), init=False)
    """Name and arguments as typed; empty for a command that was made in Python."""

    @classmethod
    def from_preset(cls, recipe: Recipe, name: str) -> Command:
        """Make the command with the defaults of a preset."""
        raise NotImplementedError

    @classmethod
    def from_size(cls, size: str) -> Command:
        """Make the command with the defaults of one of its `sizes`."""
        raise NotImplementedError

    def __call__(self) -> int:
        """Run the command."""
        raise NotImplementedError

    def prepare(self, out: Path | None = None) -> None:
        """Check the run folder, then download the components that are given as `hf:OWNER/NAME`.

        Every command that reads components calls this, after the checks of its flags and of other outputs.

        Args:
            out: run folder.

        Raises:
            InputError: no run can be written to `out`, or a component cannot be downloaded.
        """
        if out is not None:
            processes.on_rank_zero(lambda: check_folder(out))
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Path):
                object.__setattr__(self, entry.name, fetch(value))
            elif isinstance(value, tuple) and any(isinstance(one, Path) for one in value):
                object.__setattr__(self, entry.name, tuple(map(fetch, value)))


@checked(kw_only=True)
class DeviceCommand(Command):
    """A command that runs models.

    Attributes:
        device: device for training and imagination.
        threads: CPU threads; 0 for all cores.
    """

    is_distributed: ClassVar[bool] = False
    """Whether several processes may run it together."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Between(0, max(_MAX_THREADS, 4 * (os.cpu_count() or 1)))] = 0

    def prepare(self, out: Path | None = None) -> None:
        """Set up the device, the threads and the process group; then see `Command.prepare`.

        Raises:
            InputError: there is no such device, the command does not run in several processes, or as in
                `Command.prepare`.
        """
        if not self.is_distributed and (count := processes.launched_processes()) > 1:
            raise InputError(
                f"started in {count} processes, but this command runs in one. Start it without "
                "torchrun or accelerate launch; only sft, train-world, distill, train-judge and rl run in several"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device: no CUDA device is available. Use --device cpu")
        if self.threads or "OMP_NUM_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(self.threads or cores)
        processes.initialize(self.device)
        super().prepare(out)


@checked(kw_only=True)
class EvaluationCommand(DeviceCommand):
    """A command that ends in a real evaluation.

    Attributes:
        imagined: extra layouts per task and seed that are imagined only; they narrow the intervals of real success
            where imagination predicts it. May be raised in a later run.
    """

    imagined: Annotated[int, Between(0, MOST)] = 0


@checked(kw_only=True)
class DatasetCommand(Command):
    """A command that reads frames of data sets.

    Attributes:
        image_key: cameras of data sets that have several: one name, several names, or "all".
        fps: frames per second to read, an integer fraction of the data's rate. For data sets that do not state a rate
            (RLDS other than BridgeData V2), it is their rate.
        resize: how a picture of another shape becomes a frame: squash (height and width separately, the default for
            data), crop (its center) or pad (black bars). Recorded with trained components, and then their default.
    """

    image_key: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ()
    fps: Annotated[float | None, tyro.conf.arg(metavar="N")] = None
    resize: Literal["squash", "crop", "pad"] | None = None

    @property
    def cameras(self) -> str | tuple[str, ...] | None:
        """The cameras as `formats.read` takes them."""
        return self.image_key if len(self.image_key) > 1 else next(iter(self.image_key), None)


@checked(kw_only=True)
class LabelledCommand(DatasetCommand):
    """A command that uses success labels of data sets.

    Attributes:
        labels: files of `label`, with success labels of the data sets' episodes; they replace the data's own.
    """

    labels: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()


@checked(kw_only=True)
class TrainingCommand(DeviceCommand, LabelledCommand):
    """A command that trains on data sets.

    Attributes:
        data: data set folders.
        size: pixels to resize the frames to: N for squares, HxW for height and width.
        out: run folder.
    """

    is_distributed: ClassVar[bool] = True
    data: DataSets
    size: Size = None
    out: Path

    def prepare(self, out: Path | None = None) -> None:
        """See `DeviceCommand.prepare`; a first argument that is no size, kind or folder is named before that."""
        if self.given_words:
            check_first(self.given_words[0], self.given_words[1:], self.sizes)
        super().prepare(out)


def file_suffix(*suffixes: str) -> AfterValidator:
    """Annotate the path of a file that ends in one of `suffixes`."""

    def check(path: Path | None) -> Path | None:
        if path is not None and path.suffix not in suffixes:
            raise FieldError("", f"found {path}, expected a file that ends in {' or '.join(suffixes)}")
        return path

    return AfterValidator(check)


def check_names(config: Any, prefix: str = "") -> None:
    """Refuse paths, in a command or config, that cannot exist."""
    for entry in fields(config):
        if not entry.init:  # noted by the parser, no flag
            continue
        value = getattr(config, entry.name)
        name = f"{prefix}{entry.name}"
        if is_dataclass(value):
            check_names(value, "" if entry.name == "config" else f"{name}.")
            continue
        for one in value if isinstance(value, tuple | list) else (value,):
            if problem := _name_problem(one):
                raise FieldError(name, problem)


def _name_problem(value: Any) -> str:
    """Describe why a path cannot exist, or return ""."""
    if isinstance(value, str | Path) and "\0" in str(value):
        return "found a null byte in the path. Give another path"
    if isinstance(value, Path) and _SURROGATES.search(str(value)):
        return "found half a surrogate pair, which no file name can have. Give another path"
    if isinstance(value, Path) and any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in value.parts):
        return f"found a name longer than {_MAX_NAME_BYTES} bytes. Give a shorter path"
    return ""


def print_written(path: Path) -> int:
    """Print the path of the result; return the exit code of success."""
    print(path)
    return 0
