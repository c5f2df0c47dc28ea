"""Label files: success labels of a dataset's episodes, kept outside the dataset.

A label file has one JSON object per line. The first line names the dataset and the rule; each other line is one label
by one labeller. The newest line of a labeller about an episode counts, so a label is withdrawn by a further line.

A label belongs to an episode by the hash of its actions (`episode_key`). So labels survive edits that renumber the
episodes, and labels of another dataset are noticed.

Frame labels follow from an episode's label by a rule (`FrameRule`). Among several labellers the majority counts; a tie
leaves the episode unlabelled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from worldgymnast.configs import Positive, checked, from_dict, to_dict
from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.files import json_object, parse_json, short
from worldgymnast.types import Episode

SUFFIX = ".jsonl"
_VERSION = "worldgymnast_labels"
_MAX_BYTES = 2**28


@checked
class FrameRule:
    """How an episode's label becomes labels of its frames. All frames of a failure are failures.

    Attributes:
        rule: "from-frame": success from the marked frame on, or at the last frames if none is marked; "last": success
            at the last frames, whatever is marked.
        tail: number of these last frames.
    """

    rule: Literal["from-frame", "last"] = "from-frame"
    tail: Positive = 1

    def frames(self, success: bool, frame: int | None, count: int) -> Bool[np.ndarray, " t1"]:
        """Success at each of `count` frames.

        >>> FrameRule().frames(True, 2, 4).astype(int).tolist(), FrameRule(tail=2).frames(True, None, 4).tolist()[1:]
        ([0, 0, 1, 1], [False, True, True])
        """
        is_marked = frame is not None and self.rule == "from-frame"
        first = frame if is_marked and frame is not None else max(0, count - self.tail)
        return success & (np.arange(count) >= first)

    def __str__(self) -> str:
        last = "the last frame" if self.tail == 1 else f"the last {self.tail} frames"
        if self.rule == "last":
            return f"success at {last}"
        return f"success from the marked frame on, else at {last}"


@dataclass(frozen=True)
class Label:
    """One labeller's label of one episode.

    Attributes:
        episode: number of the episode in the dataset.
        key: `episode_key` of the episode.
        labeller: name of a person, a judge or a column.
        success: None withdraws an earlier label, or says that the judge failed.
        frame: first successful frame, or None.
        probability: success probability of a judge, or None.
        error: reason why a judge failed, or "".
    """

    episode: int
    key: str
    labeller: str
    success: bool | None
    frame: int | None = None
    probability: float | None = None
    error: str = ""


@dataclass
class LabelFile:
    """Content of a label file.

    Attributes:
        path: the file.
        data: name of the dataset.
        rule: rule of the frame labels.
        labels: newest label by labeller and episode (key and number), the newest last.
    """

    path: Path
    data: str = ""
    rule: FrameRule = FrameRule()
    labels: dict[tuple[str, str, int], Label] = field(default_factory=dict)

    @property
    def labellers(self) -> list[str]:
        """Names of all labellers, in the order of their first label."""
        return list(dict.fromkeys(label.labeller for label in self.labels.values()))

    @property
    def keys(self) -> set[str]:
        """Keys of all episodes with a valid label."""
        return {label.key for label in self.labels.values() if label.success is not None}

    def by(self, labeller: str) -> dict[tuple[str, int], Label]:
        """Valid labels of one labeller by key and number."""
        return {
            (label.key, label.episode): label
            for label in self.labels.values()
            if label.labeller == labeller and label.success is not None
        }


def episode_key(actions: np.ndarray) -> str:
    """Hash of an episode's actions [t a], 16 hex digits.

    >>> episode_key(np.zeros((2, 3))) == episode_key(np.zeros((2, 3), np.float32)) != episode_key(np.zeros((3, 2)))
    True
    """
    rows = np.ascontiguousarray(actions, dtype="<f4")
    return hashlib.sha256(str(rows.shape).encode() + rows.tobytes()).hexdigest()[:16]


def keys_of(episodes: EpisodeSet) -> list[str]:
    """`episode_key` of every episode."""
    spans = zip(episodes.first.tolist(), episodes.length.tolist(), strict=True)
    return [episode_key(episodes.actions[first : first + length]) for first, length in spans]


# ---------------------------------------------------------------- files


def read_labels(path: Path) -> LabelFile:
    """Read a label file.

    A last line without a newline is the rest of a killed write, and is ignored.

    Raises:
        InputError: the file cannot be read, or a line is no label; names the line.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, expected labels. Write them with: worldgymnast label DATA --by-hand --out {path}"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path}: larger than {_MAX_BYTES // 2**20} MB, expected labels. Give a file of label --out")
    lines = path.read_bytes().split(b"\n")[:-1]
    file = LabelFile(path)
    if not lines:
        raise InputError(f"{path}: found no complete line, expected labels. Give a file of worldgymnast label --out")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        value = json_object(parse_json(line, path, "correct the line", line=number), where, hint="correct the line")
        if _VERSION in value:
            _read_header(file, value, where)
        elif number == 1:
            raise InputError(f"{where}: found no field '{_VERSION}', expected a file of worldgymnast label --out")
        else:
            label = _read_label(value, where)
            _set_newest(file, label)
    return file


def _set_newest(file: LabelFile, label: Label) -> None:
    name = label.labeller, label.key, label.episode
    file.labels.pop(name, None)  # the newest label comes last
    file.labels[name] = label


def _read_header(file: LabelFile, value: dict[str, Any], where: str) -> None:
    if value[_VERSION] != 1:
        raise InputError(
            f"{where}: field '{_VERSION}': found {short(value[_VERSION])}, expected 1. Update worldgymnast"
        )
    file.data = str(value.get("data", ""))
    file.rule = from_dict(FrameRule, {name: value[name] for name in ("rule", "tail") if name in value}, where)


def _read_label(value: dict[str, Any], where: str) -> Label:
    def expect(name: str, is_valid: bool, expected: str) -> None:
        if not is_valid:
            raise InputError(
                f"{where}: field '{name}': found {short(value.get(name))}, expected {expected}. Correct it"
            )

    episode, key, success, frame = (value.get(name) for name in ("episode", "key", "success", "frame"))
    expect("episode", type(episode) is int and episode >= 0, "a number of an episode")
    expect("key", isinstance(key, str) and len(key) == 16, "16 hex digits")
    expect("success", success is None or isinstance(success, bool), "true, false or null")
    expect("frame", frame is None or (type(frame) is int and frame >= 0), "a number of a frame, or null")
    expect("labeller", isinstance(value.get("labeller"), str), "a name")
    probability = value.get("probability")
    expect("probability", probability is None or type(probability) in (int, float), "a number, or null")
    return Label(
        episode=value["episode"],
        key=value["key"],
        labeller=value["labeller"],
        success=success,
        frame=frame,
        probability=None if probability is None else float(probability),
        error=str(value.get("error") or ""),
    )


class LabelWriter:
    """Appends labels to a label file; every label is on the disk when `add` returns.

    Several processes may write to one file: a line is written as a whole, under a lock. The rest of a killed write is
    removed.

    Attributes:
        file: content of the file, with all labels added.
    """

    def __init__(self, path: Path, data: str, rule: FrameRule | None = None):
        """Open a new or existing file.

        Args:
            path: the file.
            data: name of the dataset.
            rule: rule of the frame labels; None keeps that of an existing file.

        Raises:
            InputError: the file exists and is no label file, or cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists() or _has_no_line(path)
        self.file = LabelFile(path, data, rule or FrameRule()) if is_new else read_labels(path)
        if is_new or (rule is not None and rule != self.file.rule):
            self.file.rule = rule or self.file.rule
            self._append({_VERSION: 1, "data": data, **to_dict(self.file.rule)})

    def add(self, label: Label) -> None:
        """Append a label."""
        line = {name: value for name, value in vars(label).items() if value not in (None, "") or name == "success"}
        self._append(line | {"time": datetime.now(UTC).isoformat(timespec="seconds")})
        _set_newest(self.file, label)

    def _append(self, line: Mapping[str, Any]) -> None:
        handle = os.open(self.file.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            _cut_partial_line(handle, size)
            data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
            written = os.write(handle, data)
            if written != len(data):  # a full disk; the next write removes the rest
                raise OSError(28, "No space left on device", str(self.file.path))
            os.fsync(handle)
        finally:
            os.close(handle)


def _has_no_line(path: Path) -> bool:
    """Whether a file has no complete line, as after a kill during the first write."""
    if not path.is_file():
        raise InputError(f"{path}: is no file. Give a file that ends in {SUFFIX}")
    head = path.read_bytes()[:4096]
    return b"\n" not in head and (not head or head.startswith(b'{"' + _VERSION[:1].encode()))


def _cut_partial_line(handle: int, size: int) -> None:
    """Remove an incomplete last line."""
    start = max(0, size - 2**16)
    tail = os.pread(handle, size - start, start)
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(handle, start + tail.rfind(b"\n") + 1)


# ---------------------------------------------------------------- use


@dataclass(frozen=True)
class Outcome:
    """Common label of all labellers.

    Attributes:
        success: None if the votes are tied.
        frame: median of the frames that those in favor marked, or None.
        rule: rule of the frame labels.
    """

    success: bool | None
    frame: int | None
    rule: FrameRule


def combine(votes: Sequence[Label], rule: FrameRule) -> Outcome:
    """Combine the labels of several labellers by majority.

    >>> votes = [Label(0, "", name, success, 4) for name, success in (("a", True), ("b", False), ("c", True))]
    >>> combine(votes, FrameRule()).success, combine(votes[:2], FrameRule()).success
    (True, None)
    """
    yes, no = ([vote for vote in votes if vote.success is outcome] for outcome in (True, False))
    if len(yes) == len(no):
        return Outcome(None, None, rule)
    frames = sorted(vote.frame for vote in yes if vote.frame is not None)
    frame = frames[(len(frames) - 1) // 2] if frames and len(yes) > len(no) else None
    return Outcome(len(yes) > len(no), frame, rule)


class Labels:
    """Label files that apply to the episodes of datasets.

    Attributes:
        files: the files; a labeller's label in a later file replaces the one in an earlier file.
    """

    def __init__(self, paths: Sequence[Path]):
        """Read the files; see `read_labels`."""
        self.files = [read_labels(path) for path in paths]
        self._used: set[Path] = set()
        self._files_of: dict[str, set[Path]] = {}
        self._votes: dict[str, dict[int, dict[str, tuple[Label, FrameRule]]]] = {}
        for file in self.files:
            for label in file.labels.values():
                by_number = self._votes.setdefault(label.key, {}).setdefault(label.episode, {})
                by_number[label.labeller] = label, file.rule
            for key in file.keys:
                self._files_of.setdefault(key, set()).add(file.path)

    def outcome(self, key: str, number: int) -> Outcome | None:
        """The label of an episode; None without one.

        Episodes with the same actions are told apart by their number.
        """
        by_number = self._votes.get(key, {})
        if number in by_number:
            chosen = by_number[number]
        elif len(by_number) == 1:
            chosen = next(iter(by_number.values()))
        else:
            return None
        votes = [vote for vote in chosen.values() if vote[0].success is not None]
        return combine([label for label, _ in votes], votes[-1][1]) if votes else None

    def apply(self, episodes: EpisodeSet, numbers: Sequence[int], where: str | Path) -> EpisodeSet:
        """Episodes with the labels of the files; a line on stdout says how many.

        A label replaces the dataset's own label of the episode. A tie between labellers leaves it unlabelled.

        Args:
            episodes: the episodes as read, before conversion of actions.
            numbers: number of each episode in the dataset.
            where: the dataset, for messages.

        Raises:
            InputError: a marked frame is beyond the end of its episode.
        """
        success, is_labelled = episodes.success.copy(), episodes.labelled.copy()
        counts = _Counts()
        for e, (key, number) in enumerate(zip(keys_of(episodes), numbers, strict=True)):
            outcome = self.outcome(key, number)
            if outcome is None:
                continue
            first, count = int(episodes.first[e]), int(episodes.length[e]) + 1
            own = bool(episodes.succeeded[e]) if episodes.labelled[e] else None
            counts.add(outcome, own)
            success[first : first + count] = self._frames(outcome, count, f"{where}: episode {number}")
            is_labelled[e] = outcome.success is not None
            self._used |= self._files_of[key]
        counts.print(where, len(episodes), self.files)
        return replace(episodes, success=success, labelled=is_labelled)

    def label(self, episode: Episode, number: int) -> Episode:
        """One episode with its label."""
        key = episode_key(episode.actions)
        outcome = self.outcome(key, number)
        if outcome is None:
            return episode
        self._used |= self._files_of[key]
        if outcome.success is None:
            return replace(episode, success=None)
        return replace(episode, success=self._frames(outcome, len(episode.frames), f"episode {number}"))

    def _frames(self, outcome: Outcome, count: int, where: str) -> np.ndarray:
        if outcome.frame is not None and outcome.frame >= count:
            names = ", ".join(str(file.path) for file in self.files)
            raise InputError(
                f"{names}: {where}: the marked frame is {outcome.frame}, expected at most {count - 1}, the last frame "
                "of the episode. Correct the label, or read the dataset at the frame rate that was labelled"
            )
        return outcome.rule.frames(bool(outcome.success), outcome.frame, count)

    def require_used(self, where: str) -> None:
        """Raise InputError if a file labels no episode of the datasets that were read."""
        for file in self.files:
            if file.path not in self._used:
                raise labels_of_other_data(file, where)


def labels_of_other_data(file: LabelFile, where: str) -> InputError:
    """Return the error of a file that labels no episode of a data set."""
    made_for = f" They were made for '{file.data}'." if file.data else ""
    return InputError(
        f"{file.path}: none of its {len(file.keys)} labels belongs to an episode of {where}.{made_for} Give the labels "
        "of this data set"
    )


@dataclass
class _Counts:
    """What `Labels.apply` did, for its message."""

    labelled: int = 0
    succeeded: int = 0
    tied: int = 0
    changed: int = 0

    def add(self, outcome: Outcome, own: bool | None) -> None:
        self.labelled += outcome.success is not None
        self.succeeded += outcome.success is True
        self.tied += outcome.success is None
        self.changed += own is not None and own != outcome.success

    def print(self, where: str | Path, episodes: int, files: Sequence[LabelFile]) -> None:
        if not self.labelled and not self.tied:
            return
        names = ", ".join(str(file.path) for file in files)
        notes = [f"{self.succeeded} of {self.labelled} labelled episodes succeeded ({names}; {files[-1].rule})"]
        if missing := episodes - self.labelled - self.tied:
            notes.append(f"{missing} have no label there")
        if self.tied:
            notes.append(f"{self.tied} are left unlabelled, since the labellers are tied")
        if self.changed:
            notes.append(f"{self.changed} differ from the data set's own label, which they replace")
        print(f"{where}: {'; '.join(notes)}")
