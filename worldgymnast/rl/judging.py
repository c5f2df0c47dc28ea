"""Judges rollouts, in the background where the judge is remote.

A local judge is called at once. A remote one is called in a thread, and its verdicts are collected later. They may
arrive in any order; the result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from worldgymnast.protocols import Cancelable, Judge
from worldgymnast.rl.rollout import looks_until
from worldgymnast.types import Clip, Rollout, Verdict


class JudgeVerdicts:
    """Takes the verdicts on imagined rollouts from a judge.

    Args:
        judge: sees the frame of every look, and the last one.
        chunk: actions per look, k.
        workers: batches judged concurrently by a remote judge.
    """

    def __init__(self, judge: Judge, chunk: int, workers: int = 4):
        self.judge, self.chunk = judge, chunk
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge") if judge.is_remote else None

    def begin(self, rollouts: Sequence[Rollout]) -> Callable[[], list[Rollout]]:
        """Start judging; the returned function waits for the verdicts and returns the judged rollouts."""
        clips = [judge_clip(rollout) for rollout in rollouts]
        if self._threads is None:
            verdicts = self.judge.score(clips)
            return lambda: self._with_verdicts(rollouts, verdicts)
        pending: Future[list[Verdict]] = self._threads.submit(self.judge.score, clips)
        return lambda: self._with_verdicts(rollouts, pending.result())

    def _with_verdicts(self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> list[Rollout]:
        """Attach verdicts, with success frames counted in actions instead of looks."""
        judged = []
        for rollout, verdict in zip(rollouts, verdicts, strict=True):
            look = verdict.success_frame
            frame = None if look is None else look * self.chunk
            dated = replace(verdict, success_frame=frame)
            judged.append(rollout.with_verdict(dated, looks_until(look, rollout.looks)))
        return judged

    def cancel(self) -> None:
        """Cancel pending requests for good, without waiting for those in flight."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            if isinstance(self.judge, Cancelable):
                self.judge.cancel()


class EnvironmentVerdicts:
    """Takes the verdicts that the environment itself reported, as a simulator does."""

    def begin(self, rollouts: Sequence[Rollout]) -> Callable[[], list[Rollout]]:
        """Return a function that returns the rollouts unchanged."""
        return lambda: list(rollouts)


def judge_clip(rollout: Rollout) -> Clip:
    """Return what the judge sees of a rollout: the frame of every look, and the last one."""
    start = rollout.start
    return Clip(rollout.keyframes, start.instruction, start.task, True, rollout.foreseen)
