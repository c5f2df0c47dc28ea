"""Episodes and runs as recordings of the Rerun viewer: real beside imagined frames, actions, success, the judge.

Episodes follow one another on the timeline `frame`; the timeline `episode` counts them. Metrics of a run have the
timeline `step`. Entities:

    real, imagined          frames
    action/AXIS             the action taken at a frame
    state/NAME              proprioception
    success/real            1 from the frame of success on; absent if unknown
    success/foreseen        the world model's own success probability
    success/judge, .../judge_imagined   the judge's success probability of the real and the imagined episode
    instruction             instruction, task and source
    metrics/RUN/KEY         numbers of metrics.jsonl
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from worldgymnast.episodes.windows import EpisodeSet
from worldgymnast.errors import InputError
from worldgymnast.report.collect import collect, learners_of
from worldgymnast.report.folder import metrics_of
from worldgymnast.report.report import Pair
from worldgymnast.staging import atomic_path
from worldgymnast.video import png

APPLICATION = "worldgymnast"
"""Name under which the viewer groups these recordings."""
_NOT_METRICS = ("step", "time")


def export_episodes(
    out: Path,
    episodes: EpisodeSet,
    *,
    imagined: EpisodeSet | None = None,
    beliefs: Mapping[str, Float[np.ndarray, " e"]] | None = None,
) -> None:
    """Write episodes as a recording.

    Args:
        out: file to write (.rrd).
        episodes: e real episodes.
        imagined: the same episodes in a world model, as by `training.replay.replay`.
        beliefs: the judge's success probabilities in [0, 1], NaN where it failed: "judge" of the real and
            "judge_imagined" of the imagined episodes.

    Raises:
        InputError: rerun-sdk is not installed, or there is no episode.
    """
    if not len(episodes):
        raise InputError(f"{out}: found no episode to export. Nothing was written")
    with _recording(out) as recording:
        place = 0
        for e in range(len(episodes)):
            rows = episodes.first[e] + np.arange(episodes.length[e] + 1)
            recording.begin(e, place, episodes.instruction[e], f"task: {episodes.task[e] or 'unknown'}")
            for t, row in enumerate(rows.tolist()):
                recording.at(e, place + t)
                recording.picture("real", np.asarray(episodes.frames[row]))
                if t < episodes.length[e]:
                    recording.numbers("action", episodes.spec.axes, episodes.actions[row])
                if episodes.state is not None:
                    recording.numbers("state", episodes.state_names, episodes.state[row])
                if episodes.labelled[e]:
                    recording.number("success/real", float(episodes.success[row]))
                if imagined is not None:
                    _imagined_frame(recording, imagined, e, t)
                for name, values in (beliefs or {}).items():
                    if t in (0, len(rows) - 1):
                        recording.number(f"success/{name}", float(values[e]))
            place += len(rows)


def _imagined_frame(recording: _Recording, imagined: EpisodeSet, e: int, t: int) -> None:
    row = int(imagined.first[e]) + t
    recording.picture("imagined", np.asarray(imagined.frames[row]))
    if imagined.foreseen is not None:
        recording.number("success/foreseen", float(imagined.foreseen[row]))


def export_run(out: Path, run: Path) -> None:
    """Write a run folder as a recording: its pairs of imagined and real videos, and its metrics.

    Args:
        out: file to write (.rrd).
        run: run folder, finished or not.

    Raises:
        InputError: rerun-sdk is not installed, or the folder is no run, or has neither videos nor metrics.
    """
    pairs, learners = collect(run).gallery, learners_of(run)
    logs = {path.name: metrics_of(path) for path in learners}
    if not pairs and not any(logs.values()):
        raise InputError(f"{run}: found neither videos nor metrics to export. Give the run folder of rl or quickstart")
    with _recording(out, metrics=True) as recording:
        place = 0
        for index, pair in enumerate(pairs):
            place = _export_pair(recording, index, pair, place)
        for name, rows in logs.items():
            for row in rows:
                recording.at_step(int(row["step"]))
                for key, value in row.items():
                    if key not in _NOT_METRICS:
                        recording.number(f"metrics/{name}/{key}", value)


def _export_pair(recording: _Recording, index: int, pair: Pair, place: int) -> int:
    """Write a pair of videos from frame `place` on; return the frame after it."""
    videos = {"imagined": pair.imagined, "real": pair.real}
    length = max((len(frames) for frames in videos.values() if frames is not None), default=0)
    real = "unknown" if pair.real_success is None else "success" if pair.real_success else "failure"
    recording.begin(index, place, pair.instruction, f"{pair.note}; real outcome: {real}")
    for t in range(length):
        recording.at(index, place + t)
        for name, frames in videos.items():
            if frames is not None and t < len(frames):
                recording.picture(name, frames[t])
        if t in (0, length - 1):
            if pair.probability is not None:
                recording.number("success/judge_imagined", pair.probability)
            if pair.real_success is not None:
                recording.number("success/real", float(pair.real_success))
    return place + length


# ---------------------------------------------------------------- the recording


class _Recording:
    """A recording being written."""

    def __init__(self, stream: Any, rerun: Any) -> None:
        self._stream, self._rerun = stream, rerun

    def begin(self, episode: int, frame: int, instruction: str, note: str) -> None:
        """Start an episode: what earlier ones said of pictures and success is cleared."""
        self.at(episode, frame)
        for entity in ("real", "imagined", "success"):
            self._stream.log(entity, self._rerun.Clear(recursive=True))
        text = f"{instruction}\n\nepisode {episode}; {note}"
        self._stream.log("instruction", self._rerun.TextDocument(text))

    def at(self, episode: int, frame: int) -> None:
        """Set the time of what follows."""
        self._stream.reset_time()
        self._stream.set_time("frame", sequence=frame)
        self._stream.set_time("episode", sequence=episode)

    def at_step(self, step: int) -> None:
        """Set the step of the metrics that follow."""
        self._stream.reset_time()
        self._stream.set_time("step", sequence=step)

    def picture(self, entity: str, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Log a frame, without loss."""
        self._stream.log(entity, self._rerun.EncodedImage(contents=png(frame), media_type="image/png"))

    def number(self, entity: str, value: float) -> None:
        """Log a number, unless it is NaN."""
        if not math.isnan(value):
            self._stream.log(entity, self._rerun.Scalars(value))

    def numbers(self, entity: str, names: Sequence[str], values: np.ndarray) -> None:
        """Log one number per name."""
        for i, value in enumerate(values.tolist()):
            name = names[i] if i < len(names) else str(i)
            self.number(f"{entity}/{name}", value)


@contextmanager
def _recording(out: Path, *, metrics: bool = False) -> Iterator[_Recording]:
    """Write a recording atomically, with a layout of the viewer."""
    if importlib.util.find_spec("rerun") is None:
        raise InputError("rerun-sdk is not installed. Nothing was written. Run pip install 'worldgymnast[rerun]'")
    rerun: Any = importlib.import_module("rerun")  # optional
    with atomic_path(out) as temporary:
        stream = rerun.RecordingStream(APPLICATION, recording_id=out.stem)
        try:
            stream.save(str(temporary), default_blueprint=_blueprint(metrics))
            yield _Recording(stream, rerun)
            stream.flush()
        finally:
            stream.disconnect()


def _blueprint(metrics: bool) -> Any:
    """Frames side by side above their time series."""
    blueprint: Any = importlib.import_module("rerun.blueprint")
    frames = blueprint.Horizontal(
        blueprint.Spatial2DView(origin="real", name="real"),
        blueprint.Spatial2DView(origin="imagined", name="imagined"),
        blueprint.TextDocumentView(origin="instruction", name="instruction"),
    )
    series = [
        blueprint.TimeSeriesView(origin="action", name="actions"),
        blueprint.TimeSeriesView(origin="success", name="success"),
    ]
    if metrics:
        series.append(blueprint.TimeSeriesView(origin="metrics", name="metrics"))
    return blueprint.Blueprint(
        blueprint.Vertical(frames, blueprint.Horizontal(*series)), blueprint.TimePanel(timeline="frame")
    )
