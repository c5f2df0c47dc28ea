"""Looks through a folder of episodes for everything that would spoil training, and says it file by file.

`check` reads every frame and never stops at the first fault. An error is something `read` refuses; a warning is
something it accepts and a person should know.
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
from worldgymnast.episodes.formats import convert, detect, with_commas
from worldgymnast.episodes.lerobot_frames import camera, in_order, side_by_side
from worldgymnast.episodes.lerobot_layout import ImageKey
from worldgymnast.episodes.lerobot_spec import STATS, action_key, own_place, recorded_range
from worldgymnast.episodes.lerobot_survey import Survey, survey
from worldgymnast.episodes.rates import agreed_rate, check_given
from worldgymnast.errors import InputError
from worldgymnast.text import is_sentence
from worldgymnast.video import iterate

__all__ = ["Finding", "check", "convert", "detect"]

_MAX_PER_HINT = 10
_PART = r"(effort\*)?[\d.]*(mm|cm|m|rad|deg)"
_UNIT = re.compile(rf"unknown|worldgym|{_PART}(\+{_PART})*")


@dataclass
class _Episode:
    """One episode on its way through the inspection; `frames` may raise InputError, None is said elsewhere."""

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
    """Findings so far, and what is needed to compare episodes with one another."""

    root: Path
    findings: list[Finding] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    seen: dict[bytes, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], str] = field(default_factory=dict)
    ranges: dict[tuple[str, str], tuple[int, float, float]] = field(default_factory=dict)
    hints: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    episodes: int = 0
    labelled: int = 0
    without_instruction: list[str] = field(default_factory=list)

    def add(
        self, severity: Literal["error", "warning"], file: Path, what: str, found: str, expected: str, hint: str
    ) -> None:
        """Notes a finding; of those with one hint only the first few are kept, the rest are counted."""
        self.hints[hint] += 1
        if self.hints[hint] <= _MAX_PER_HINT:
            self.findings.append(Finding(severity, str(file), what, found, expected, hint))

    def fault(self, file: Path, error: InputError) -> None:
        """Notes that a file cannot be read; its other episodes are not looked at."""
        self.complain(file, error)
        self.broken.add(file)

    def complain(self, file: Path, error: InputError) -> None:
        """Notes what a reader said, in its own words, under the file that it names; the first few of each file."""
        name, _, sentence = str(error).partition(": ")
        if not Path(name).is_relative_to(self.root):
            name, sentence = str(file), str(error)
        finding = Finding("error", name, "file", sentence)
        if finding in self.findings:
            return
        self.complaints[name] += 1
        if self.complaints[name] <= _MAX_PER_HINT:
            self.findings.append(finding)

    def episode(self, episode: _Episode) -> None:
        """Looks at one episode."""
        self.episodes += 1
        self.labelled += episode.labelled
        if episode.instruction is not None and not is_sentence(episode.instruction):
            self.without_instruction.append(episode.instruction.strip())
        self._actions(episode)
        if episode.media in self.broken or episode.frames is None:
            return
        try:
            count, moving, digest = self._frames(episode, episode.frames)
        except InputError as error:
            self.fault(episode.media, error)
            return
        where = f"{episode.name} frames"
        if count != episode.rows:
            self.add("error", episode.media, where, f"{count}", f"{episode.rows}", "copy the file again")
        if count > 1 and not moving:
            hint = "the camera stood still or the video is broken; remove the episode"
            self.add("warning", episode.media, where, "one picture throughout", "a moving scene", hint)
        if digest in self.seen:
            hint = "duplicates leak from training into held-out data; remove one"
            self.add("warning", episode.file, episode.name, f"a copy of {self.seen[digest]}", "distinct episodes", hint)
        self.seen.setdefault(digest, episode.name)

    def _frames(self, episode: _Episode, frames: Iterator[np.ndarray]) -> tuple[int, bool, bytes]:
        """Number of frames, whether any differs from the first, and a hash of the episode."""
        digest = hashlib.sha256(np.ascontiguousarray(episode.actions).tobytes())
        count, moving = 0, False
        first: np.ndarray | None = None
        for frame in frames:
            size = (frame.shape[0], frame.shape[1])
            self.sizes.setdefault(size, episode.name)
            first = frame if first is None else first
            moving = moving or frame.shape != first.shape or not np.array_equal(frame, first)
            digest.update(np.ascontiguousarray(frame).data)
            count += 1
        return count, moving, digest.digest()

    def _actions(self, episode: _Episode) -> None:
        actions, spec, where = episode.actions, episode.spec, f"{episode.name} action"
        if not np.isfinite(actions).all():
            bad = int((~np.isfinite(actions)).sum())
            self.add("error", episode.file, where, f"{bad} NaN or infinity", "finite numbers", "remove the episode")
            return
        slack = 1e-4 * (np.array(spec.high) - np.array(spec.low)) + 1e-6
        outside = (actions < np.array(spec.low) - slack) | (actions > np.array(spec.high) + slack)
        for axis in np.flatnonzero(outside.any(0)):
            column = actions[:, axis]
            low, high = f"{spec.low[axis]:.4g}", f"{spec.high[axis]:.4g}"
            key = (spec.axes[axis], f"{low} to {high}")
            seen = self.ranges.get(key, (0, np.inf, -np.inf))
            self.ranges[key] = (seen[0] + 1, min(seen[1], column.min()), max(seen[2], column.max()))

    def finish(self) -> list[Finding]:
        """Findings about the whole."""
        for (axis, legal), (count, low, high) in self.ranges.items():
            found = f"{low:.4g} to {high:.4g} ({count} of {self.episodes} episodes leave the range)"
            hint = "the action spec or the units are wrong, or such actions get clipped"
            self.add("warning", self.root, f"action axis '{axis}'", found, legal, hint)
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
                alike = next(i for i in reversed(range(len(self.findings))) if self.findings[i].hint == hint)
                more = f"{hint} ({count - _MAX_PER_HINT} more like this)"
                self.findings[alike] = replace(self.findings[alike], hint=more)
        for name, count in self.complaints.items():
            if count > _MAX_PER_HINT:
                last = max(i for i, one in enumerate(self.findings) if (one.file, one.field) == (name, "file"))
                more = f"{self.findings[last].found} ({count - _MAX_PER_HINT} more like this)"
                self.findings[last] = replace(self.findings[last], found=more)
        return sorted(self.findings, key=lambda one: one.severity)


def check(path: str | Path, image_key: ImageKey = None, fps: float | None = None) -> list[Finding]:
    """Everything wrong with the episodes in a folder (LeRobot v3.0 or v2.1, RLDS, WorldGym), errors first.

    Args:
        path: the folder.
        image_key: which cameras, where there are several; more than one are looked at side by side.
        fps: frames per second of robot time, where the format does not say (RLDS other than BridgeData V2).

    Returns:
        Findings; none means that the data set reads and nothing looks odd.

    Raises:
        InputError: the folder holds no episodes in a known format.
    """
    check_given(fps)
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
        inspection.fault(root, error)
    return inspection.finish()


def _rate(root: Path, said: float | None, fps: float | None, inspection: _Inspection) -> None:
    """Notes a rate that nobody says, which training needs, or two that differ."""
    if said is None and fps is None:
        hint = "give the robot's rate wherever it is read: --fps, or in Python fps=..."
        inspection.add("warning", root, "fps", "no frames per second: the format does not say them", "them", hint)
        return
    try:
        agreed_rate(root, said, fps)
    except InputError as error:
        inspection.complain(root, error)


def _short(root: Path, names: list[str], inspection: _Inspection) -> None:
    """Warns of episodes of one frame."""
    if names:
        text = f"one frame and no action in {len(names)} episodes ({', '.join(names[:5])})"
        hint = "nothing can be learned from them; remove them"
        inspection.add("warning", root, "episode length", text, "at least 2 frames", hint)


def _worldgym(root: Path, inspection: _Inspection, fps: float | None) -> None:
    short = []
    for one in worldgym.inspect(root):
        if isinstance(one, InputError):
            inspection.complain(root, one)
            continue
        if not inspection.episodes:
            _rate(root, one.notes.fps, fps, inspection)
        video, labelled = one.video, one.notes.success is not None
        short += [video.stem] if len(one.actions) == 1 else []
        inspection.episode(
            _Episode(
                video.stem,
                video.with_suffix(".npz"),
                video,
                WORLDGYM,
                one.actions[:-1],
                iterate(video),
                len(one.actions),
                labelled,
                one.notes.instruction,
            )
        )
    _short(root, short, inspection)


def _rlds(root: Path, image_key: ImageKey, inspection: _Inspection, fps: float | None) -> None:
    description = rlds.describe(root, with_commas(image_key))
    if description.other_splits:
        inspection.findings.append(Finding("warning", str(root), "splits", rlds.splits_said(description)))
    for path in description.unread:
        hint = "its episodes are left out; rename or remove it"
        inspection.add("warning", path, "file name", path.name, "NAME-SPLIT.tfrecord-00000-of-0000N", hint)
    _rate(root, rlds.spec_of(description, []).rate, fps, inspection)
    short = []
    for index, record in enumerate(rlds.inspect(description)):
        if isinstance(record, InputError):
            inspection.complain(root, record)
            continue
        spec, count = rlds.spec_of(description, [record.actions]), len(record.actions)
        short += [f"episode {index}"] if count == 1 else []
        frames = rlds.pictures_of(record, description, None)
        rows, shard, said = record.actions[:-1], record.shard, record.instruction
        inspection.episode(_Episode(f"episode {index}", shard, shard, spec, rows, frames, count, False, said))
    _short(root, short, inspection)
    if inspection.without_instruction and (texts := rlds.unread_texts(description)):
        hint = "rename the one that holds the sentences"
        inspection.add("warning", root, "instruction", f"text under {texts}", "language_instruction", hint)


def _lerobot(root: Path, image_key: ImageKey, inspection: _Inspection, fps: float | None) -> None:
    found = layout.read_layout(root, image_key)
    _rate(root, found.robot_fps, fps, inspection)
    made = survey(found, state=True)
    _spec(made.layout, inspection)
    for error in made.errors:
        inspection.complain(root, error)
    for one in made.warnings:
        inspection.add("warning", Path(one.file), one.field, one.found, one.expected, one.hint)
    if len({record.index for record in found.records}) == len(found.records):
        _lerobot_episodes(found, made, inspection)
    held = any(rows.success is not None for rows in made.rows)
    if held and not {"success", "next.success"} & set(found.info["features"]):
        hint = "declare it, or other readers miss the labels"
        inspection.add("warning", root / layout.INFO, "features", "no 'success'", "it, as the data files hold it", hint)


def _lerobot_episodes(found: layout.Layout, made: Survey, inspection: _Inspection) -> None:
    rows, cameras = made.rows, []
    for name in found.cameras:
        source, pairings = camera(found, name, rows)
        cameras.append(source)
        for pairing in pairings:
            for error in pairing.errors:
                inspection.complain(pairing.file, error)
            if pairing.unused and not pairing.errors and not made.errors:
                hint = "they are left out; the video was cut otherwise than the rows, or rows were dropped"
                text = f"{pairing.unused} frames that belong to no row"
                inspection.add("warning", pairing.file, "frames", text, "one a row", hint)
    for one in in_order(found, rows):
        name = f"episode {one.record.index}"
        is_paired = all(source.has(one) for source in cameras)
        frames = side_by_side(cameras, one) if is_paired else None
        media = cameras[0].file(one) if is_paired else one.record.data
        labelled, count = one.success is not None, len(one.index)
        inspection.episode(
            _Episode(
                name, one.record.data, media, found.spec, one.actions[:-1], frames, count, labelled, one.instruction
            )
        )


def _spec(found: layout.Layout, inspection: _Inspection) -> None:
    name = f"{own_place(found.info) or layout.OWN}.action_spec"
    if not found.own:
        hint = f"assumed is {found.spec} with the statistics' min and max as its range{_assumed_motion(found.spec)}"
        inspection.add("warning", found.root / layout.INFO, name, "none", "what the actions mean", hint)
        stats = found.root / STATS
        if (
            stats.is_file()
            and recorded_range(found.root, found.version, found.spec.axes, action_key(found.info["features"])) is None
        ):
            hint = "taken from the rows; LeRobot cannot train without: recompute them there, or convert it again"
            inspection.add("warning", stats, "action", "no min and max", "them, of every axis", hint)
    elif not _UNIT.fullmatch(found.spec.unit):
        hint = "no other action spec will match it; correct it unless it is meant"
        expected = "one such as '6cm', 'm+rad', 'effort*0.06m' or 'worldgym'"
        inspection.add("warning", found.root / layout.INFO, f"{name}.unit", f"'{found.spec.unit}'", expected, hint)


def _assumed_motion(spec: ActionSpec) -> str:
    """What is taken for granted where neither names nor ranges say whether actions are deltas or absolute targets."""
    if spec.motion != UNKNOWN:
        return ""
    says = "absolute targets" if spec.is_absolute else "deltas, 0 being no motion"
    return f"; not said is whether they are deltas or absolute targets: taken to be {says}"
