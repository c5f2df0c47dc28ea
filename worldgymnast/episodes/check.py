"""Check a dataset for problems that would spoil training.

`check` reads every frame and reports all problems. An error is something that `read` rejects; a warning is something
that it accepts but a user should know.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from worldgymnast.actions import UNKNOWN, WORLDGYM, ActionSpec
from worldgymnast.episodes import lerobot_layout as layout
from worldgymnast.episodes import rlds, worldgym
from worldgymnast.episodes.findings import Finding
from worldgymnast.episodes.formats import convert, detect, join_cameras
from worldgymnast.episodes.lerobot_frames import open_camera, side_by_side, sort_by_file
from worldgymnast.episodes.lerobot_layout import ImageKey
from worldgymnast.episodes.lerobot_spec import STATS, action_key, own_field, recorded_range
from worldgymnast.episodes.lerobot_survey import Survey, survey
from worldgymnast.episodes.rates import check_fps, resolve_rate
from worldgymnast.errors import InputError
from worldgymnast.progress import track
from worldgymnast.text import is_sentence
from worldgymnast.video import iterate_frames

__all__ = ["Finding", "check", "convert", "detect"]

_MAX_PER_HINT = 10
_PART = r"(effort\*)?[\d.]*(mm|cm|m|rad|deg)"
_UNIT = re.compile(rf"unknown|worldgym|(\d+[*x])?{_PART}([+-]{_PART})*")
"""Of one control step, or of N held ones ("4*6cm", "4x5cm+0.5rad")."""


@dataclass
class _Episode:
    """An episode to check.

    Iterating `frames` may raise InputError, None was reported elsewhere.
    """

    name: str
    file: Path
    media: Path
    spec: ActionSpec
    actions: np.ndarray
    frames: Iterator[np.ndarray] | None
    rows: int
    labelled: bool
    instruction: str | None = None


@dataclass
class _Inspection:
    """Findings so far, and the state for comparisons between episodes.

    Attributes:
        root: the dataset.
        findings: the findings.
        broken: media files that cannot be read.
        digests: name of the first episode by hash of its content.
        sizes: name of the first episode by frame size.
        ranges: by axis and its declared range: episodes outside of it, minimum and maximum.
        hints: number of findings by hint.
        file_errors: number of errors by file.
        episodes: number of episodes.
        labelled: number of episodes with success labels.
        without_instruction: the invalid instructions.
    """

    root: Path
    findings: list[Finding] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    digests: dict[bytes, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], str] = field(default_factory=dict)
    ranges: dict[tuple[str, str], tuple[int, float, float]] = field(default_factory=dict)
    hints: Counter[str] = field(default_factory=Counter)
    file_errors: Counter[str] = field(default_factory=Counter)
    episodes: int = 0
    labelled: int = 0
    without_instruction: list[str] = field(default_factory=list)

    def add(
        self, severity: Literal["error", "warning"], file: Path, what: str, found: str, expected: str, hint: str
    ) -> None:
        """Add a finding.

        Beyond the first few with the same hint they are only counted.
        """
        self.hints[hint] += 1
        if self.hints[hint] <= _MAX_PER_HINT:
            self.findings.append(Finding(severity, str(file), what, found, expected, hint))

    def add_broken(self, file: Path, error: InputError) -> None:
        """Add the error of an unreadable file; its other episodes are skipped."""
        self.add_error(file, error)
        self.broken.add(file)

    def add_error(self, file: Path, error: InputError) -> None:
        """Add the message of a reader under the file that it names.

        Beyond the first few they are counted.
        """
        name, _, sentence = str(error).partition(": ")
        if not Path(name).is_relative_to(self.root):
            name, sentence = str(file), str(error)
        finding = Finding("error", name, "file", sentence)
        if finding in self.findings:
            return
        self.file_errors[name] += 1
        if self.file_errors[name] <= _MAX_PER_HINT:
            self.findings.append(finding)

    def check_episode(self, episode: _Episode) -> None:
        """Check an episode."""
        self.episodes += 1
        self.labelled += episode.labelled
        if episode.instruction is not None and not is_sentence(episode.instruction):
            self.without_instruction.append(episode.instruction.strip())
        self._check_actions(episode)
        if episode.media in self.broken or episode.frames is None:
            return
        try:
            count, is_moving, digest = self._read_frames(episode, episode.frames)
        except InputError as error:
            self.add_broken(episode.media, error)
            return
        where = f"{episode.name} frames"
        if count != episode.rows:
            self.add("error", episode.media, where, f"{count}", f"{episode.rows}", "copy the file again")
        if count > 1 and not is_moving:
            hint = "the camera was frozen or the video is broken; remove the episode"
            self.add("warning", episode.media, where, "identical frames", "a moving scene", hint)
        if original := self.digests.get(digest):
            hint = "duplicates leak from training into held-out data; remove one"
            self.add("warning", episode.file, episode.name, f"a copy of {original}", "distinct episodes", hint)
        self.digests.setdefault(digest, episode.name)

    def _read_frames(self, episode: _Episode, frames: Iterator[np.ndarray]) -> tuple[int, bool, bytes]:
        """Number of frames, whether they differ, and the episode's hash."""
        digest = hashlib.sha256(np.ascontiguousarray(episode.actions).tobytes())
        count, is_moving = 0, False
        first: np.ndarray | None = None
        for frame in frames:
            size = (frame.shape[0], frame.shape[1])
            self.sizes.setdefault(size, episode.name)
            first = frame if first is None else first
            is_moving = is_moving or frame.shape != first.shape or not np.array_equal(frame, first)
            digest.update(np.ascontiguousarray(frame).data)
            count += 1
        return count, is_moving, digest.digest()

    def _check_actions(self, episode: _Episode) -> None:
        actions, spec, where = episode.actions, episode.spec, f"{episode.name} action"
        if not np.isfinite(actions).all():
            bad = int((~np.isfinite(actions)).sum())
            self.add("error", episode.file, where, f"{bad} NaN or infinity", "finite numbers", "remove the episode")
            return
        slack = 1e-4 * (np.array(spec.high) - np.array(spec.low)) + 1e-6
        is_outside = (actions < np.array(spec.low) - slack) | (actions > np.array(spec.high) + slack)
        for axis in np.flatnonzero(is_outside.any(0)):
            column = actions[:, axis]
            key = (spec.axes[axis], f"{spec.low[axis]:.4g} to {spec.high[axis]:.4g}")
            count, low, high = self.ranges.get(key, (0, np.inf, -np.inf))
            self.ranges[key] = (count + 1, min(low, column.min()), max(high, column.max()))

    def finish(self) -> list[Finding]:
        """Add the findings about the dataset as a whole; errors first."""
        for (axis, declared), (count, low, high) in self.ranges.items():
            found = f"{low:.4g} to {high:.4g} ({count} of {self.episodes} episodes are out of range)"
            hint = "the action spec or the units are wrong, or such actions are clipped"
            self.add("warning", self.root, f"action axis '{axis}'", found, declared, hint)
        if self.episodes and not self.labelled:
            sentence = "no success labels: world models can be trained on it, judges cannot"
            self.findings.append(Finding("warning", str(self.root), "success", sentence))
        if self.without_instruction:
            example = next((f" (such as '{text[:30]}')" for text in self.without_instruction if text), "")
            count = f"{len(self.without_instruction)} of {self.episodes}"
            use = "world models can be trained on them, policies and judges cannot"
            sentence = f"{count} episodes have no instruction{example}: {use}"
            self.findings.append(Finding("warning", str(self.root), "instruction", sentence))
        if len(self.sizes) > 1:
            found = ", ".join(f"{h}x{w} ({name})" for (h, w), name in sorted(self.sizes.items()))
            self.add("error", self.root, "frame size", found, "one size", "read or convert with a `size`")
        for hint, count in self.hints.items():
            if count > _MAX_PER_HINT:
                last = next(i for i in reversed(range(len(self.findings))) if self.findings[i].hint == hint)
                more = f"{hint} ({count - _MAX_PER_HINT} more like this)"
                self.findings[last] = replace(self.findings[last], hint=more)
        for name, count in self.file_errors.items():
            if count > _MAX_PER_HINT:
                last = max(
                    i for i, finding in enumerate(self.findings) if (finding.file, finding.field) == (name, "file")
                )
                more = f"{self.findings[last].found} ({count - _MAX_PER_HINT} more like this)"
                self.findings[last] = replace(self.findings[last], found=more)
        return sorted(self.findings, key=lambda finding: finding.severity)


def check(path: str | Path, image_key: ImageKey = None, fps: float | None = None) -> list[Finding]:
    """Find all problems of a dataset of any format, errors first.

    Args:
        path: the folder.
        image_key: the cameras; several are checked side by side.
        fps: frames per second of robot time, for formats without a rate (RLDS other than BridgeData V2).

    Returns:
        The findings; empty if the dataset is readable and plausible.

    Raises:
        InputError: the folder has no episodes in a supported format.
    """
    check_fps(fps)
    kind = detect(path)
    root = Path(path)
    inspection = _Inspection(root)
    try:
        if kind == "rlds":
            _rlds(root, image_key, inspection, fps)
        elif kind == "worldgym":
            _worldgym(root, inspection, fps)
        else:
            _lerobot(root, image_key, inspection, fps)
    except InputError as error:
        inspection.add_broken(root, error)
    return inspection.finish()


def _check_declared_rate(root: Path, declared: float | None, fps: float | None, inspection: _Inspection) -> None:
    """Report a missing rate, which training requires, or two different ones."""
    if declared is None and fps is None:
        hint = "give the robot's rate wherever it is read: --fps, or in Python fps=..."
        inspection.add("warning", root, "fps", "no frame rate in this format", "frames per second", hint)
        return
    try:
        resolve_rate(root, declared, fps)
    except InputError as error:
        inspection.add_error(root, error)


def _warn_single_frames(root: Path, names: list[str], inspection: _Inspection) -> None:
    """Warn about episodes of one frame."""
    if names:
        text = f"one frame and no action in {len(names)} episodes ({', '.join(names[:5])})"
        hint = "they have no training pair; remove them"
        inspection.add("warning", root, "episode length", text, "at least 2 frames", hint)


def _worldgym(root: Path, inspection: _Inspection, fps: float | None) -> None:
    single = []
    for episode in worldgym.inspect(root):
        if isinstance(episode, InputError):
            inspection.add_error(root, episode)
            continue
        if not inspection.episodes:
            _check_declared_rate(root, episode.notes.fps, fps, inspection)
        video, actions = episode.video, episode.actions
        single += [video.stem] if len(actions) == 1 else []
        inspection.check_episode(
            _Episode(
                video.stem,
                video.with_suffix(".npz"),
                video,
                WORLDGYM,
                actions[:-1],
                iterate_frames(video),
                len(actions),
                episode.notes.success is not None,
                episode.notes.instruction,
            )
        )
    _warn_single_frames(root, single, inspection)


def _rlds(root: Path, image_key: ImageKey, inspection: _Inspection, fps: float | None) -> None:
    description = rlds.describe(root, join_cameras(image_key))
    if description.other_splits:
        inspection.findings.append(Finding("warning", str(root), "splits", rlds.split_note(description)))
    for path in description.unread:
        hint = "its episodes are skipped; rename or remove it"
        inspection.add("warning", path, "file name", path.name, "NAME-SPLIT.tfrecord-00000-of-0000N", hint)
    _check_declared_rate(root, rlds.spec_of(description, []).rate, fps, inspection)
    single = []
    for index, record in enumerate(rlds.inspect(description)):
        if isinstance(record, InputError):
            inspection.add_error(root, record)
            continue
        spec, count = rlds.spec_of(description, [record.actions]), len(record.actions)
        single += [f"episode {index}"] if count == 1 else []
        frames = rlds.iterate_frames(record, description, None)
        rows, shard, instruction = record.actions[:-1], record.shard, record.instruction
        inspection.check_episode(
            _Episode(f"episode {index}", shard, shard, spec, rows, frames, count, False, instruction)
        )
    _warn_single_frames(root, single, inspection)
    if inspection.without_instruction and (texts := rlds.unread_texts(description)):
        hint = "rename the one with the sentences"
        inspection.add("warning", root, "instruction", f"text under {texts}", "language_instruction", hint)


def _lerobot(root: Path, image_key: ImageKey, inspection: _Inspection, fps: float | None) -> None:
    metadata = layout.read_layout(root, image_key)
    _check_declared_rate(root, metadata.robot_fps, fps, inspection)
    result = survey(metadata, read_state=True)
    _check_spec(result.layout, inspection)
    for error in result.errors:
        inspection.add_error(root, error)
    for warning in result.warnings:
        inspection.add("warning", Path(warning.file), warning.field, warning.found, warning.expected, warning.hint)
    if len({record.index for record in metadata.records}) == len(metadata.records):
        _lerobot_episodes(metadata, result, inspection)
    has_labels = any(rows.success is not None for rows in result.rows)
    if has_labels and not {"success", "next.success"} & set(metadata.info["features"]):
        hint = "declare it, or other readers ignore the labels"
        inspection.add("warning", root / layout.INFO, "features", "no 'success'", "it, as in the data files", hint)


def _lerobot_episodes(metadata: layout.Layout, result: Survey, inspection: _Inspection) -> None:
    cameras = []
    for name in metadata.cameras:
        camera, pairings = open_camera(metadata, name, result.rows)
        cameras.append(camera)
        for pairing in pairings:
            for error in pairing.errors:
                inspection.add_error(pairing.file, error)
            if pairing.unused and not pairing.errors and not result.errors:
                hint = "they are skipped; the video and the rows were cut differently, or rows were dropped"
                text = f"{pairing.unused} frames that belong to no row"
                inspection.add("warning", pairing.file, "frames", text, "one per row", hint)
    for rows in track(f"{metadata.root}: checking episodes", sort_by_file(metadata, result.rows)):
        is_paired = all(camera.has(rows) for camera in cameras)
        inspection.check_episode(
            _Episode(
                f"episode {rows.record.index}",
                rows.record.data,
                cameras[0].file(rows) if is_paired else rows.record.data,
                metadata.spec,
                rows.actions[:-1],
                side_by_side(cameras, rows) if is_paired else None,
                len(rows.index),
                rows.success is not None,
                rows.instruction,
            )
        )


def _check_spec(metadata: layout.Layout, inspection: _Inspection) -> None:
    spec, info = metadata.spec, metadata.root / layout.INFO
    name = f"{own_field(metadata.info) or layout.OWN}.action_spec"
    if not metadata.is_own:
        inspection.findings.append(Finding("warning", str(info), name, f"{name}: {_assumed(spec)}"))
        stats, key = metadata.root / STATS, action_key(metadata.info["features"])
        if stats.is_file() and recorded_range(metadata.root, metadata.version, spec.axes, key) is None:
            hint = "taken from the rows; LeRobot cannot train without: recompute them there, or convert it again"
            inspection.add("warning", stats, "action", "no min and max", "min and max of every axis", hint)
    elif not _UNIT.fullmatch(spec.unit):
        hint = "no other action spec will match it; correct it unless it is intended"
        expected = "one such as '6cm', 'm+rad', 'effort*0.06m' or 'worldgym'"
        inspection.add("warning", info, f"{name}.unit", f"'{spec.unit}'", expected, hint)


def _assumed(spec: ActionSpec) -> str:
    """In words, how actions are read whose meaning the data do not declare."""
    kind = "absolute targets" if spec.is_absolute else "deltas, with 0 as no motion"
    guess = " (a guess by their range)" if spec.motion == UNKNOWN else ""
    rate = "at an unknown rate" if spec.rate is None else f"at {spec.rate:g} Hz"
    return (
        f"the data do not declare what their actions mean. They are read as [{' '.join(spec.axes)}], {rate}, {kind}"
        f"{guess}, in the recorded range. If all your data are from one robot, there is nothing to do; else see "
        "docs/how-to/lerobot.md"
    )
