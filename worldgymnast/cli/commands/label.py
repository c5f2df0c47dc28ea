"""The command label: success labels of the episodes of a data set."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tyro.conf import Positional

from worldgymnast.cli.checks import require_new_path, require_writable
from worldgymnast.cli.command import DatasetCommand, DeviceCommand, OptionalPath, OptionalPositive, Size, print_written
from worldgymnast.cli.commands.diagnose import short_names
from worldgymnast.cli.commands.judge_evaluation import load_judge_with_ledger
from worldgymnast.cli.data_defaults import frames_for, rate_of
from worldgymnast.cli.origins import (
    cameras_of,
    check_same_cameras,
    fps_of,
    rule_of,
    size_of,
    warn_of_new_tasks,
    weight_files,
)
from worldgymnast.configs import Between, Once, Positive, checked
from worldgymnast.episodes import formats
from worldgymnast.episodes.labels import (
    SUFFIX,
    FrameRule,
    Label,
    Labels,
    LabelWriter,
    keys_of,
    labels_of_other_data,
    read_labels,
)
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.judges.combined import check
from worldgymnast.labelling.server import LabelServer
from worldgymnast.labelling.session import Session
from worldgymnast.labelling.sources import labels_from_column, labels_from_csv
from worldgymnast.measure.labels import judge_labels
from worldgymnast.report import tables
from worldgymnast.report.labels import sheets

_OWN = "data set"
"""Name of the data set's own labels in comparisons."""
_OTHER_FILES = (".json", ".csv", ".txt", ".parquet")
"""Endings of files that are no label files; a new folder for a copy does not end so."""
_HAND = "hand"


@checked(kw_only=True)
class LabelEpisodes(DeviceCommand, DatasetCommand):
    """Label the episodes of a data set as success or failure.

    Sources: a person in the browser, judges, a column of the data, a CSV file, or several of these. The data set is
    not changed. Other commands take the labels with --labels FILE.

    Attributes:
        data: data set folder.
        out: label file to write or to continue (.jsonl), or new folder for a copy of the data set with the labels.
        by_hand: label in the browser; the address is printed. Labels are saved at once, and rerunning resumes.
        labeller: name of the person, for --by-hand and --csv.
        judge: judge files; each judges every episode.
        column: column of the data, such as next.success, next.reward or success.
        reward_threshold: with --column, smallest value of a success.
        csv: file with the columns episode, success and perhaps frame, the first successful one.
        compare: further label files to compare with; the data set's own labels are compared too.
        rule: how frames are labelled: "from-frame": success from the marked frame on, or at the last frames if none is
            marked; "last": success at the last frames only. That of an existing file if omitted, else from-frame.
        tail: number of these last frames; 1 if omitted.
        size: height and width to resize the frames to, in pixels.
        stride: frames between two that a judge sees; default 0.15 seconds (2 frames in Meta-World).
        rows: episodes per batch of a judge.
        port: port of the page on this machine; 0 for a free one.
    """

    data: Positional[Path]
    out: OptionalPath = None
    by_hand: bool = False
    labeller: str = ""
    judge: Annotated[tuple[Path, ...], Once, tyro.conf.arg(metavar="FILE...")] = ()
    column: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    reward_threshold: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    csv: OptionalPath = None
    compare: Annotated[tuple[Path, ...], Once, tyro.conf.arg(metavar="FILE...")] = ()
    rule: Literal["from-frame", "last"] | None = None
    tail: OptionalPositive = None
    size: Size = None
    stride: OptionalPositive = None
    rows: Positive = 32
    port: Annotated[int, Between(0, 65535)] = 0

    def __post_init__(self) -> None:
        has_source = bool(self.by_hand or self.judge or self.column or self.csv)
        if not (has_source or self.compare):
            raise InputError(
                "--by-hand, --judge, --column, --csv: all are missing. Give at least one source of labels, or --compare"
            )
        if has_source and self.out is None:
            raise InputError(f"--out: missing. Give a label file, such as --out labels{SUFFIX}")
        if self.out is not None and self.out.suffix in _OTHER_FILES:
            raise InputError(
                f"--out: found {self.out}, expected a label file, such as {self.out.with_suffix(SUFFIX)}, or a new "
                "folder for a copy of the data set with the labels"
            )
        if self.by_hand and not self._is_file:
            raise InputError(f"--out: labels by hand are saved in a label file. Give one that ends in {SUFFIX}")
        if self.reward_threshold is not None and not self.column:
            raise InputError("--reward-threshold: needs --column, such as --column next.reward")
        if self.labeller and not (self.by_hand or self.csv):
            raise InputError("--labeller: names a person, for --by-hand or --csv. Add one of them, or omit it")
        if self.labeller == _OWN:
            raise InputError(f"--labeller: '{_OWN}' means the data set's own labels. Give another name")

    @property
    def _is_file(self) -> bool:
        return self.out is not None and self.out.suffix == SUFFIX

    @property
    def _rule(self) -> FrameRule | None:
        """The rule that the flags give; None for that of the file."""
        if self.rule is None and self.tail is None:
            return None
        return FrameRule(self.rule or "from-frame", self.tail or 1)

    def __call__(self) -> int:
        """Collect the labels, compare the labellers, and write the result."""
        if self.out is not None:
            require_writable("--out", self.out) if self._is_file else require_new_path(self.out)
        files = [read_labels(path) for path in self.compare]  # before anything that takes minutes
        self.prepare()
        episodes, numbers = self._read()
        known = set(keys_of(episodes))
        for file in files:
            if not file.keys & known:
                raise labels_of_other_data(file, str(self.data))
        votes: dict[str, Sequence[Label | None]] = {}
        if episodes.labelled.any():
            votes[_OWN] = _own(episodes, numbers)
        code = 0
        with tempfile.TemporaryDirectory() as folder:
            path = self.out if self.out is not None and self._is_file else Path(folder) / f"labels{SUFFIX}"
            if self.out is not None:
                writer = LabelWriter(path, self.data.resolve().name, self._rule)
                code = self._collect(writer, episodes, numbers)
                files = [writer.file, *files]
            names = short_names([file.path for file in files])
            for file, where in zip(files, names, strict=True):
                for labeller in file.labellers:
                    votes[labeller if labeller not in votes else f"{labeller} ({where})"] = _in_order(
                        file.by(labeller), episodes, numbers
                    )
            if self.compare or len(votes) > 1 + (_OWN in votes):
                for sheet in sheets(votes, numbers, episodes.kinds):
                    tables.show(tables.sheet(sheet))
            if self.out is None:
                return code
            _print_counts(path, self.out, episodes, numbers)
            if not self._is_file:
                formats.convert(self.data, self.out, fps=None, labels=Labels([path]))
        return print_written(self.out) or code

    def _read(self) -> tuple[EpisodeSet, list[int]]:
        """Read the episodes; all cameras side by side, unless flags or the judges' training name some."""
        check_same_cameras(*self.judge, requested=self.image_key)
        trained = [file for path in self.judge for file in weight_files(path)]
        cameras = self.cameras or next(filter(None, map(cameras_of, trained)), None)
        if cameras is None and not self.judge and not formats.detect(self.data).startswith("worldgym"):
            cameras = "all"
        size = self.size or next(filter(None, map(size_of, trained)), None)
        fps = next(filter(None, map(fps_of, trained)), None)
        assumed = fps if self.judge else 10.0  # only the speed of play depends on it
        rule = rule_of(*self.judge, requested=self.resize) or "squash"
        episodes = formats.read(self.data, image_key=cameras, size=size, fps=self.fps, assumed_fps=assumed, resize=rule)
        return episodes, formats.episode_numbers(self.data, len(episodes), cameras)

    def _collect(self, writer: LabelWriter, episodes: EpisodeSet, numbers: list[int]) -> int:
        """Add the labels of all sources; by hand comes last."""
        code = 0
        if self.csv is not None:
            _add(writer, labels_from_csv(self.csv, episodes, numbers, self.labeller or self.csv.stem))
        if self.column:
            _add(writer, labels_from_column(self.data, episodes, numbers, self.column, self.reward_threshold))
        stride = self.stride or frames_for(2, rate_of(episodes))
        for path, name in zip(self.judge, short_names(self.judge), strict=True):
            code |= self._ask(path, name, stride, writer, episodes, numbers)
        if self.by_hand:
            self._serve(writer, episodes, numbers)
        return code

    def _ask(
        self, path: Path, name: str, stride: int, writer: LabelWriter, episodes: EpisodeSet, numbers: list[int]
    ) -> int:
        """Label by a judge; returns 1 if it failed on every episode."""
        judge = load_judge_with_ledger(path, self.device)
        tasks = set(zip(episodes.task, episodes.instruction, strict=True))
        warn_of_new_tasks(path, tasks)
        check(judge, tasks)
        verdicts = []
        for label, verdict in judge_labels(judge, episodes, numbers, name, stride, self.rows):
            writer.add(label)
            verdicts.append(verdict)
        errors = Counter(verdict.error or "no reason given" for verdict in verdicts if verdict.score is None)
        cost = sum(verdict.cost for verdict in verdicts)
        spent = f", cost {cost:.4g}" if cost else ""
        print(f"{name}: {len(verdicts) - errors.total()} of {len(verdicts)} episodes judged{spent}")
        if errors:
            error, count = errors.most_common(1)[0]
            print(
                f"{name}: {errors.total()} judgments failed and are left unlabelled. Most common error ({count}x): "
                f"{error}"
            )
        return int(errors.total() == len(verdicts))

    def _serve(self, writer: LabelWriter, episodes: EpisodeSet, numbers: list[int]) -> None:
        """Serve the page until the person is done."""
        session = Session(episodes, numbers, writer, self.labeller or _HAND)
        with LabelServer(session, self.port) as server:
            successes, failures, rest = session.counts
            print(
                f"{session.labeller}: {successes + failures} of {len(episodes)} episodes are labelled, {rest} are left"
            )
            print(f"Open {server.url} in a browser on this machine. Ctrl-C ends; every label is saved.", flush=True)
            try:
                server.wait()
            finally:
                successes, failures, rest = session.counts
                print(f"{session.labeller}: {successes} successes, {failures} failures, {rest} without a label")


def _add(writer: LabelWriter, labels: Iterable[Label]) -> None:
    """Add labels; those that the file has already are not repeated."""
    for label in labels:
        if writer.file.labels.get((label.labeller, label.key, label.episode)) != label:
            writer.add(label)


def _own(episodes: EpisodeSet, numbers: Sequence[int]) -> list[Label | None]:
    """The data set's own labels."""
    labels: list[Label | None] = []
    for e, (first, length) in enumerate(zip(episodes.first.tolist(), episodes.length.tolist(), strict=True)):
        success = episodes.success[first : first + length + 1]
        frame = int(np.argmax(success)) if success.any() else None
        label = Label(numbers[e], "", _OWN, bool(success.any()), frame)
        labels.append(label if episodes.labelled[e] else None)
    return labels


def _in_order(labels: dict[tuple[str, int], Label], episodes: EpisodeSet, numbers: Sequence[int]) -> list[Label | None]:
    return [labels.get(name) for name in zip(keys_of(episodes), numbers, strict=True)]


def _print_counts(path: Path, out: Path, episodes: EpisodeSet, numbers: Sequence[int]) -> None:
    """Print how many episodes have a common label."""
    labels = Labels([path])
    outcomes = [labels.outcome(key, number) for key, number in zip(keys_of(episodes), numbers, strict=True)]
    known = [outcome for outcome in outcomes if outcome is not None]
    tied = sum(outcome.success is None for outcome in known)
    successes = sum(outcome.success is True for outcome in known)
    line = f"{out}: {len(known) - tied} of {len(episodes)} episodes labelled, {successes} succeeded"
    line += f", {tied} left unlabelled, since the labellers are tied" if tied else ""
    print(f"{line}. Rule: {labels.files[0].rule}")
