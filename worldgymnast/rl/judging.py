"""Judging rollouts, beside the imagination where the judge waits for somebody else.

A judge that computes is asked at once; one that waits is asked in a thread, and its verdicts are put in their places
when they are wanted. So they may arrive in any order, and the outcome is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from worldgymnast.protocols import Cancelable, Judge
from worldgymnast.rl.rollout import looks_until
from worldgymnast.types import Clip, Rollout, Verdict


class Judging:
    """A judge at work on imagined rollouts.

    Args:
        judge: sees the frame of every look, and the last one.
        chunk: actions a look, k.
        workers: batches that a judge that waits is asked about at a time.
    """

    def __init__(self, judge: Judge, chunk: int, workers: int = 4):
        self.judge, self.chunk = judge, chunk
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge") if judge.is_remote else None

    def begin(self, rollouts: Sequence[Rollout]) -> Callable[[], list[Rollout]]:
        """Has rollouts judged; what it returns gives them with their verdicts, waiting where it must."""
        clips = [seen(rollout) for rollout in rollouts]
        if self._threads is None:
            verdicts = self.judge.score(clips)
            return lambda: self._judged(rollouts, verdicts)
        asked: Future[list[Verdict]] = self._threads.submit(self.judge.score, clips)
        return lambda: self._judged(rollouts, asked.result())

    def _judged(self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> list[Rollout]:
        found = []
        for rollout, verdict in zip(rollouts, verdicts, strict=True):
            look = verdict.success_frame
            dated = replace(verdict, success_frame=None if look is None else look * self.chunk)
            found.append(rollout.with_verdict(dated, looks_until(look, rollout.looks)))
        return found

    def abandon(self) -> None:
        """Asks nothing more, for good; what is under way is not waited for."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            if isinstance(self.judge, Cancelable):
                self.judge.cancel()


class Reported:
    """Takes the verdicts that the environment gave itself, as a simulator does."""

    def begin(self, rollouts: Sequence[Rollout]) -> Callable[[], list[Rollout]]:
        """Gives the rollouts as they are."""
        return lambda: list(rollouts)


def seen(rollout: Rollout) -> Clip:
    """What the judge sees of a rollout: the frame of every look, and the last one."""
    start = rollout.start
    return Clip(rollout.keyframes, start.instruction, start.task, True, rollout.foreseen)
