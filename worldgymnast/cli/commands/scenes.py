"""The commands that make scenes to train on: scenes photograph, distract, propose, plate.

A scene is a picture and a sentence in a folder (`episodes/starts.py`), so each command's result can be looked at before
anything is spent on it, and given to `rl --starts` or to the next command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.command import (
    Command,
    Computing,
    DataSets,
    Size,
    Watching,
    Weights,
    ending,
    new,
    read,
    writable,
    wrote,
)
from worldgymnast.cli.starters import is_metaworld
from worldgymnast.configs import Between, Count, Seed, checked
from worldgymnast.envs.metaworld import MetaWorldConfig, check_tasks, instructions
from worldgymnast.episodes import formats
from worldgymnast.episodes.starts import folder_hash, frame_of, pictures, said_of, write_start
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.ledger import FILE, Ledger
from worldgymnast.progress import Progress
from worldgymnast.protocols import Editor
from worldgymnast.recipes.edit_episodes import distract_episodes
from worldgymnast.recipes.quickstart import QuickstartConfig, starter_plate
from worldgymnast.registry import environment, load_editor, load_proposer, to_dict
from worldgymnast.run import Run
from worldgymnast.scenes.edit import add_distractors
from worldgymnast.scenes.language import sample_instructions
from worldgymnast.scenes.plate import Plate, estimate_plate, load_plate
from worldgymnast.scenes.proposals import Proposer
from worldgymnast.types import Start
from worldgymnast.weights import fingerprint, write_text

PLATE_FRAMES = 1500
"""Frames in which an empty scene is looked for."""
LEFT_OUT = "left_out.txt"
"""Names of the pictures that an editor changed too little or too much, lest it be asked, and paid, again."""
Source = Annotated[Positional[Path], tyro.conf.arg(metavar="SOURCE")]
Target = Annotated[Positional[Path], tyro.conf.arg(metavar="TARGET")]


@checked(kw_only=True)
class ScenesPhotograph(Command):
    """Photographs of new layouts of the real environment, each with a sentence; no action is taken.

    Attributes:
        target: the folder to write.
        env: the real environment.
        per_task: layouts a task.
        first_layout: layouts count up from here.
    """

    hidden: ClassVar[Mapping[type, tuple[str, ...]]] = {MetaWorldConfig: ("horizon",)}
    instead: ClassVar[str] = "a photograph has none"
    target: Target
    env: MetaWorldConfig = MetaWorldConfig()
    per_task: Annotated[int, Between(1, 100_000)] = 30
    first_layout: Count = QuickstartConfig().photograph_layout

    def __call__(self) -> int:
        """Photographs."""
        check_tasks(self.env.tasks)
        asked = {"env": to_dict(self.env), "per_task": self.per_task, "first_layout": self.first_layout}
        with Run(self.target, asked) as run:
            robot = environment(self.env)
            layouts = [] if run.finished else robot.layouts(self.per_task, self.first_layout)
            for start in robot.photograph(layouts) if layouts else []:
                name = f"{start.task}-{start.layout}"
                write_start(self.target, name, start.frame, instructions(start.task), start.task)
            run.finish({})
        return wrote(self.target)


@checked(kw_only=True)
class ScenesDistract(Computing, Watching):
    """The same scenes with objects on the table that have nothing to do with the task.

    The source is a folder of pictures with sentences, or a data set; of a data set every episode is edited as a whole,
    so that world model and judge can be trained on it too.

    Attributes:
        source: the folder, or the data set.
        target: where the edited ones go.
        editor: the description (.json) of what edits: cut-outs, an inpainting model, a server; cut-outs if left out.
        plate: the empty scene as `scenes plate` writes it; the starter camera's if left out.
        copies: edited pictures of each.
        size: pixels on each side to resize to.
        crop: take the middle square of pictures that are not square.
        seed: of every random draw.
    """

    source: Source
    target: Target
    editor: Weights = None
    plate: Weights = None
    copies: Annotated[int, Between(1, 1000)] = 1
    size: Size = None
    crop: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        apart(self.source, self.target)

    def __call__(self) -> int:
        """Edits."""
        self.prepare()
        plate = load_plate(self.plate or starter_plate())
        if not formats.is_data(self.source):
            return self._pictures(plate)
        new(self.target)
        if self.copies > 1 or self.crop:
            raise InputError("--copies, --crop: found one of them for a data set, expected neither: each episode is "
                             "edited once, as it is; run again with another --seed for more")  # fmt: skip
        editor = load_editor(self.editor, plate, self.device)
        episodes = read([self.source], self.size, self.cameras, self.fps)
        if self.plate is None and not is_metaworld(episodes.spec):
            raise InputError(
                f"--plate: left out. The starter's would be taken, Meta-World's empty table, while {self.source} "
                "is of another robot. Objects would be pasted behind what is there. Make one: worldgymnast scenes plate"
            )
        distract_episodes(editor, episodes, self.target, self.seed)
        return wrote(self.target)

    def _pictures(self, plate: Plate) -> int:
        files = pictures(self.source)
        editor = load_editor(self.editor, plate, self.device, Ledger(self.target / FILE))
        asked = {name: getattr(self, name) for name in ("copies", "size", "crop", "seed")}
        asked |= {"editor": described(self.editor), "plate": fingerprint(plate.frame.tolist())}
        with Run(self.target, asked | {"inputs": {"source": folder_hash(self.source)}}) as run:
            if run.finished is None:
                run.finish({"left_out": float(self._edit(files, editor))})
        return wrote(self.target)

    def _edit(self, files: Sequence[Path], editor: Editor) -> int:
        """Edits every picture that is neither there nor left out before; returns how many are left out."""
        total, noted = len(files) * self.copies, self.target / LEFT_OUT
        left_out = set(noted.read_text().splitlines()) if noted.exists() else set[str]()
        with Progress("editing", total) as progress:
            for number, path in enumerate(files):
                sentences, task = said_of(path)
                start = Start(frame_of(path, self.size, self.crop), sentences[0], task)
                for copy in range(self.copies):
                    name = f"{path.stem}-{copy + 1}"
                    if name not in left_out and not (self.target / f"{name}.json").exists():
                        made = add_distractors(editor, start, np.random.default_rng([self.seed, number, copy]))
                        if made is None:
                            left_out.add(name)
                            write_text(noted, "\n".join(sorted(left_out)) + "\n")
                        else:
                            write_start(self.target, name, made.frame, sentences, task)
                    progress.advance()
        refused = len(left_out)
        if refused > total / 2:
            raise InputError(
                f"{self.source}: found that '{editor.name}' adds nothing, or changes everything, in {refused} of "
                f"{total} pictures; give --plate of this camera (worldgymnast scenes plate), or another --editor"
            )
        if refused:
            print(f"left out {refused} of {total}: nothing was added, or everything changed")
        return refused


@checked(kw_only=True)
class ScenesPropose(Command):
    """The same scenes with new instructions.

    Attributes:
        source: a folder of pictures; sentences beside them are needed where nobody is asked.
        target: where pictures and new sentences go.
        count: instructions for each picture.
        proposer: the description (.json) of a vision-language model that is asked what could be done; each answer is a
            task of its own. If left out they are written from the objects of the scene's task.
        seed: of what is written.
    """

    source: Source
    target: Target
    count: Annotated[int, Between(1, 100)] = 8
    proposer: Weights = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        apart(self.source, self.target)

    def __call__(self) -> int:
        """Proposes; pictures that are there already are kept."""
        files = pictures(self.source)
        proposer = load_proposer(self.proposer, Ledger(self.target / FILE)) if self.proposer else None
        asked = {"count": self.count, "seed": self.seed, "proposer": described(self.proposer)}
        with Run(self.target, asked | {"inputs": {"source": folder_hash(self.source)}}) as run:
            if run.finished is None:
                with Progress("proposing", len(files)) as progress:
                    for number, path in enumerate(files):
                        self._propose(path, number, proposer)
                        progress.advance()
                run.finish({})
        return wrote(self.target)

    def _propose(self, path: Path, number: int, proposer: Proposer | None) -> None:
        """New instructions for one picture, unless it has them."""
        frame = frame_of(path, None)
        if proposer is not None:
            if not (self.target / f"{path.stem}-1.json").exists():
                for i, sentence in reversed(list(enumerate(proposer.propose(frame, self.count)))):
                    write_start(self.target, f"{path.stem}-{i + 1}", frame, [sentence], sentence)
            return
        _, task = said_of(path)
        if not (sentences := sample_instructions(task, self.count, np.random.default_rng([self.seed, number]))):
            raise InputError(
                f"{path.with_suffix('.json')}: field 'task': found '{task}', whose objects are not known; expected a "
                "task of the suite, or --proposer with a model that looks"
            )
        write_start(self.target, path.stem, frame, sentences, task)


@checked(kw_only=True)
class ScenesPlate(Watching):
    """What a camera sees when nothing is on the table, from frames in which robot and objects come and go.

    Attributes:
        data: data sets of one camera.
        out: the file to write, a .png.
        frames: how many frames are looked at.
        size: pixels on each side to resize to.
        seed: which.
    """

    data: DataSets
    out: Annotated[Path, ending(".png")]
    frames: Annotated[int, Between(10, 20_000)] = PLATE_FRAMES
    size: Size = None
    seed: Seed = 0

    def __call__(self) -> int:
        """Looks."""
        writable("--out", self.out)
        frames = some_frames(read(self.data, self.size, self.cameras, self.fps), self.frames, self.seed)
        estimate_plate(frames).save(self.out)
        return wrote(self.out)


def some_frames(episodes: EpisodeSet, count: int, seed: int) -> np.ndarray:
    """That many frames of episodes at most, uint8 [n h w 3]."""
    rows = np.random.default_rng(seed).permutation(episodes.rows)[:count]
    return np.asarray(episodes.frames[np.sort(rows)])


def described(path: Path | None) -> str:
    """What a description (.json) says, to tell it from another; nothing where there is none."""
    return path.read_text() if path else ""


def apart(source: Path, target: Path) -> None:
    """Raises where what is made would lie among what it is made from."""
    if source.resolve() == target.resolve():
        raise InputError(f"TARGET: found {target}, which is the source; expected another folder")
