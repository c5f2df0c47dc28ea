"""The commands that make start scenes: scenes photograph, distract, propose, plate.

A scene is a picture with instructions in a folder (`episodes/starts.py`). Each command's output can be inspected, and
passed to `rl --starts` or to the next command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import require_new_path, require_writable
from worldgymnast.cli.command import (
    Command,
    DatasetCommand,
    DataSets,
    DeviceCommand,
    OptionalPath,
    Size,
    file_suffix,
    print_written,
)
from worldgymnast.cli.environment import HIDDEN_HORIZON, check_tasks, is_metaworld
from worldgymnast.cli.inputs import read
from worldgymnast.configs import Between, Count, Seed, checked
from worldgymnast.environments import DEFAULT_ENVIRONMENT, EnvironmentConfig, environment, environment_dict
from worldgymnast.episodes import formats
from worldgymnast.episodes.starts import folder_hash, list_pictures, read_frame, read_instructions, write_start
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.progress import Progress
from worldgymnast.protocols import Editor
from worldgymnast.recipes.edit_episodes import distract_episodes
from worldgymnast.recipes.quickstart import QuickstartConfig, starter_plate
from worldgymnast.registry import load_editor, load_proposer
from worldgymnast.run import Run, check_folder, check_writable
from worldgymnast.scenes.edit import add_distractors
from worldgymnast.scenes.language import sample_instructions
from worldgymnast.scenes.plate import Plate, estimate_plate, load_plate
from worldgymnast.scenes.proposals import Proposer
from worldgymnast.types import Start
from worldgymnast.weights import fingerprint, write_text

PLATE_FRAMES = 1500
"""Frames from which the empty background is estimated."""
SKIPPED = "left_out.txt"
"""File with the names of pictures that the editor changed too little or too much, so that it is not paid twice."""
Source = Annotated[Positional[Path], tyro.conf.arg(metavar="SOURCE")]
Target = Annotated[Positional[Path], tyro.conf.arg(metavar="TARGET")]


@checked(kw_only=True)
class ScenesPhotograph(Command):
    """Photograph new layouts of the real environment, each with an instruction.

    Attributes:
        target: folder to write.
        env: real environment.
        per_task: layouts per task.
        first_layout: number of the first layout.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = HIDDEN_HORIZON
    hidden_hint: ClassVar[str] = "A photograph has no horizon"
    target: Target
    env: EnvironmentConfig = DEFAULT_ENVIRONMENT
    per_task: Annotated[int, Between(1, 100_000)] = 30
    first_layout: Count = QuickstartConfig().photograph_layout

    def __call__(self) -> int:
        """Take the photographs."""
        check_folder(self.target)
        check_tasks(self.env)
        config = {"env": environment_dict(self.env), "per_task": self.per_task, "first_layout": self.first_layout}
        with Run(self.target, config) as run:
            robot = environment(self.env)
            layouts = [] if run.summary else robot.layouts(self.per_task, self.first_layout)
            for start in robot.photograph(layouts) if layouts else []:
                name = f"{start.task}-{start.layout}"
                write_start(self.target, name, start.frame, robot.instructions(start.task), start.task)
            run.finish({})
        return print_written(self.target)


@checked(kw_only=True)
class ScenesDistract(DeviceCommand, DatasetCommand):
    """Add objects to scenes that are unrelated to the task.

    The source is a folder of pictures with instructions, or a data set. Of a data set, whole episodes are edited, for
    training world model and judge.

    Attributes:
        source: folder of pictures, or data set.
        target: folder to write.
        editor: description (.json) of an editor: cutouts, inpainting model or server; cutouts if omitted.
        plate: empty background, as scenes plate writes it; that of the starter camera if omitted.
        copies: edited copies per picture.
        size: height and width to resize to, in pixels.
        crop: crop pictures that are not square to their central square.
        seed: random seed.
    """

    source: Source
    target: Target
    editor: OptionalPath = None
    plate: OptionalPath = None
    copies: Annotated[int, Between(1, 1000)] = 1
    size: Size = None
    crop: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        require_different(self.source, self.target)

    def __call__(self) -> int:
        """Edit the scenes."""
        check_writable(self.target)
        self.prepare()
        plate = load_plate(self.plate or starter_plate())
        if not formats.has_episodes(self.source):
            return self._pictures(plate)
        require_new_path(self.target)
        if self.copies > 1 or self.crop:
            raise InputError(
                "--copies, --crop: have no effect on a data set, whose episodes are edited once, uncropped. Omit them; "
                "for more copies, rerun with another --seed"
            )
        editor = load_editor(self.editor, plate, self.device)
        episodes = read([self.source], self.size, self.cameras, self.fps, resize=self.resize, state=None)
        if self.plate is None and not is_metaworld(episodes.spec):
            raise InputError(
                f"--plate: omitted, but the starter plate is Meta-World's empty table, while {self.source} is of "
                "another robot. Objects would be pasted behind the scene. Make a plate: worldgymnast scenes plate"
            )
        distract_episodes(editor, episodes, self.target, self.seed)
        return print_written(self.target)

    def _pictures(self, plate: Plate) -> int:
        files = list_pictures(self.source)
        editor = load_editor(self.editor, plate, self.device, Ledger(self.target / FILE))
        config = {name: getattr(self, name) for name in ("copies", "size", "crop", "seed")}
        config |= {"editor": description_of(self.editor), "plate": fingerprint(plate.frame.tolist())}
        with Run(self.target, config | {"inputs": {"source": folder_hash(self.source)}}) as run:
            if run.summary is None:
                run.finish({"left_out": float(self._edit(files, editor))})
        return print_written(self.target)

    def _edit(self, files: Sequence[Path], editor: Editor) -> int:
        """Edit all remaining pictures; return the number of skipped ones."""
        total, skipped_file = len(files) * self.copies, self.target / SKIPPED
        skipped = set(skipped_file.read_text().splitlines()) if skipped_file.exists() else set[str]()
        with Progress("editing", total) as progress:
            for number, path in enumerate(files):
                sentences, task = read_instructions(path)
                start = Start(read_frame(path, self.size, self.crop, self.resize), sentences[0], task)
                for copy in range(self.copies):
                    name = f"{path.stem}-{copy + 1}"
                    if name not in skipped and not (self.target / f"{name}.json").exists():
                        edited = add_distractors(editor, start, np.random.default_rng([self.seed, number, copy]))
                        if edited is None:
                            skipped.add(name)
                            write_text(skipped_file, "\n".join(sorted(skipped)) + "\n")
                        else:
                            write_start(self.target, name, edited.frame, sentences, task)
                    progress.advance()
        if len(skipped) > total / 2:
            raise InputError(
                f"{self.source}: editor '{editor.name}' changed too little or too much in {len(skipped)} of {total} "
                "pictures. Give the --plate of this camera (worldgymnast scenes plate), or another --editor"
            )
        if skipped:
            print(f"skipped {len(skipped)} of {total} pictures, which changed too little or too much")
        return len(skipped)


@checked(kw_only=True)
class ScenesPropose(Command):
    """Write new instructions for scenes.

    Attributes:
        source: folder of pictures; they need instructions unless --proposer is given.
        target: folder to write.
        count: instructions per picture.
        proposer: description (.json) of a vision-language model that proposes instructions, each of which is a task of
            its own. If omitted, instructions are generated from the objects of the scene's task.
        seed: random seed.
    """

    source: Source
    target: Target
    count: Annotated[int, Between(1, 100)] = 8
    proposer: OptionalPath = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        require_different(self.source, self.target)

    def __call__(self) -> int:
        """Write instructions for every picture that is not done yet."""
        check_folder(self.target)
        files = list_pictures(self.source)
        proposer = load_proposer(self.proposer, Ledger(self.target / FILE)) if self.proposer else None
        config = {"count": self.count, "seed": self.seed, "proposer": description_of(self.proposer)}
        with Run(self.target, config | {"inputs": {"source": folder_hash(self.source)}}) as run:
            if run.summary is None:
                with Progress("proposing", len(files)) as progress:
                    for number, path in enumerate(files):
                        self._propose(path, number, proposer)
                        progress.advance()
                run.finish({})
        return print_written(self.target)

    def _propose(self, path: Path, number: int, proposer: Proposer | None) -> None:
        """Write new instructions for one picture, unless done."""
        frame = read_frame(path, None)
        if proposer is not None:
            if not (self.target / f"{path.stem}-1.json").exists():
                for i, sentence in reversed(list(enumerate(proposer.propose(frame, self.count)))):
                    write_start(self.target, f"{path.stem}-{i + 1}", frame, [sentence], sentence)
            return
        _, task = read_instructions(path)
        if not (sentences := sample_instructions(task, self.count, np.random.default_rng([self.seed, number]))):
            raise InputError(
                f"{path.with_suffix('.json')}: field 'task': the objects of '{task}' are unknown. Use a task of the "
                "suite, or give a vision-language model with --proposer"
            )
        write_start(self.target, path.stem, frame, sentences, task)


@checked(kw_only=True)
class ScenesPlate(DatasetCommand):
    """Estimate a camera's empty background from frames with moving robot and objects.

    Attributes:
        data: data sets of one camera.
        out: .png file to write.
        frames: number of frames to use.
        size: height and width to resize to, in pixels.
        seed: random seed of the choice of frames.
    """

    data: DataSets
    out: Annotated[Path, file_suffix(".png")]
    frames: Annotated[int, Between(10, 20_000)] = PLATE_FRAMES
    size: Size = None
    seed: Seed = 0

    def __call__(self) -> int:
        """Estimate and write the background."""
        require_writable("--out", self.out)
        episodes = read(self.data, self.size, self.cameras, self.fps, resize=self.resize)
        estimate_plate(sample_frames(episodes, self.frames, self.seed)).save(self.out)
        return print_written(self.out)


def sample_frames(episodes: EpisodeSet, count: int, seed: int) -> np.ndarray:
    """Sample at most `count` frames of episodes, uint8 [n h w 3]."""
    rows = np.random.default_rng(seed).permutation(episodes.rows)[:count]
    return np.asarray(episodes.frames[np.sort(rows)])


def description_of(path: Path | None) -> str:
    """Return the text of a description (.json), or ""."""
    return path.read_text() if path else ""


def require_different(source: Path, target: Path) -> None:
    """Raise `InputError` if the source would be overwritten."""
    if source.resolve() == target.resolve():
        raise InputError(f"TARGET: {target} is the source. Give another folder")
