"""Gives units to workers, and each unit's result to the pool exactly once.

A unit whose worker dies, or is replaced, goes to another worker. A worker that takes much longer than the others gets a
backup: an idle worker rolls out the same unit, and the first result counts (backup tasks, as in MapReduce). Both have
the same random stream, so the result is the same. A worker that stays slow is replaced.

All state belongs to one thread; `submit` and `close` hand over to it.
"""

from __future__ import annotations

import pickle
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated, Any

from worldgymnast.configs import Between, Count, Positive, checked
from worldgymnast.errors import InputError, Paused
from worldgymnast.surrogates.units import Unit

_POLL = 0.05
"""Seconds between two looks at the queue while units are rolled out."""
_GRACE = 10.0
"""Seconds that questions in flight get at the end."""
_FEWEST_DURATIONS = 3
"""Finished units before a worker can count as slow."""
_RECENT = 50
"""Finished units whose durations define the usual one."""


@checked
class RecoveryConfig:
    """When work is given to another worker.

    Attributes:
        slow: a unit is slow after this multiple of the median duration of the recent units. Then an idle worker rolls
            it out too, and the first result counts. After twice that time the slow worker is replaced.
        patience: seconds before any unit is slow.
        longest: seconds after which a worker is replaced, however long the other units take.
        attempts: most attempts per unit, whether a worker died, was replaced, or raised an error.
        restarts: most workers that are replaced in a row without a finished unit between.
    """

    slow: Annotated[float, Between(1.5, 1000)] = 4.0
    patience: Annotated[float, Between(0.1, 86400)] = 30.0
    longest: Annotated[float, Between(1, 7 * 86400)] = 3600.0
    attempts: Positive = 5
    restarts: Count = 8


@dataclass(eq=False)
class _Job:
    """A unit on its way.

    Attributes:
        packed: the pickled unit.
        broadcast: the weights that act.
        result: packed rollouts, and the shared judge's pickled verdicts or None.
        attempts: calls so far.
        calls: workers that are rolling it out.
        failed_on: workers on which it raised an error.
        rolled: reference to the packed rollouts, while they are judged.
        judge: the shared judge's actor that judges them.
    """

    unit: Unit
    packed: bytes
    broadcast: Any
    result: Future[tuple[bytes, bytes | None]] = field(default_factory=Future)
    attempts: int = 0
    calls: int = 0
    failed_on: set[int] = field(default_factory=set)
    rolled: Any = None
    judge: Any = None


@dataclass(eq=False)
class _Slot:
    """One worker: an actor, what it does, and how many units it has finished, also those before it was replaced."""

    index: int
    actor: Any
    starting: Any
    job: _Job | None = None
    began: float = 0.0
    call: Any = None
    finished: int = 0


class Dispatcher:
    """Runs units on workers.

    Args:
        ray: the module.
        spawn: starts a worker; returns its actor handle.
        spawn_judge: starts the shared judge; None if workers judge.
        workers: number of workers.
        config: when work is given to another worker.

    Attributes:
        counts: "units", "requeued", "restarts", "backups", "duplicates" (results that came second), "errors" and
            "bytes", since the beginning.
    """

    def __init__(
        self,
        ray: Any,
        spawn: Callable[[], Any],
        spawn_judge: Callable[[], Any] | None,
        workers: int,
        config: RecoveryConfig,
    ):
        self.ray, self.config, self.counts = ray, config, Counter[str]()
        self._spawn, self._spawn_judge = spawn, spawn_judge
        self._judge = None if spawn_judge is None else spawn_judge()
        self._slots = [self._new_slot(index) for index in range(workers)]
        self._queue: deque[_Job] = deque()
        self._judging: dict[Any, _Job] = {}
        self._durations: deque[float] = deque(maxlen=_RECENT)
        self._restarts_in_a_row = 0
        self._new: deque[_Job] = deque()
        self._open: set[_Job] = set()
        self._wake, self._is_closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="ray-dispatch", daemon=True)
        self._thread.start()

    def submit(self, unit: Unit, broadcast: Any) -> Future[tuple[bytes, bytes | None]]:
        """Queue a unit; the future is its packed rollouts and the shared judge's pickled verdicts."""
        job = _Job(unit, pickle.dumps(unit, protocol=5), broadcast)
        self._open.add(job)
        job.result.add_done_callback(lambda _: self._open.discard(job))
        self._new.append(job)
        self._wake.set()
        return job.result

    @property
    def queued(self) -> int:
        """Units that no worker has begun."""
        return len(self._queue) + len(self._new)

    def status(self) -> str:
        """What units and workers wait for, in words; "" if nothing is under way."""
        counts = {
            "in rollout": sum(slot.job is not None for slot in self._slots),
            "queued": self.queued,
            "at the judge": len(self._judging),
        }
        words = [f"{count} {what}" for what, count in counts.items() if count]
        groups = f"groups: {', '.join(words)}" if words else ""
        starting = len(self._slots) - self.started
        return ", ".join(filter(None, (groups, f"workers: {starting} starting" if starting else "")))

    @property
    def started(self) -> int:
        """Workers that have loaded their parts."""
        return sum(slot.starting is None for slot in self._slots)

    def finished(self) -> list[int]:
        """Units that each worker has rolled out since the beginning."""
        return [slot.finished for slot in self._slots]

    def close(self) -> None:
        """Stop all workers; units without a result get none.

        Answers that the shared judge waits for are paid for, so they get some seconds to reach the ledger.
        """
        self._is_closed = True
        self._wake.set()
        self._thread.join()
        if self._judging:
            self.ray.wait(list(self._judging), num_returns=len(self._judging), timeout=_GRACE, fetch_local=False)
        for actor in [slot.actor for slot in self._slots] + ([] if self._judge is None else [self._judge]):
            self.ray.kill(actor)

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - whoever waits for a unit gets it
            self._fail_all(error)

    def _turn(self) -> None:
        """Take new units, hand out work, and wait briefly for results."""
        while self._new:
            self._queue.append(self._new.popleft())
        self._assign()
        waiting = [slot.call or slot.starting for slot in self._slots if slot.call or slot.starting]
        waiting += list(self._judging)
        if not waiting:
            self._wake.wait()
            self._wake.clear()
            return
        done, _ = self.ray.wait(waiting, num_returns=1, timeout=_POLL, fetch_local=False)
        for reference in done:
            self._collect(reference)
        self._check_slow()

    def _fail_all(self, error: BaseException) -> None:
        """Give an error to every unit without a result, also to those submitted later."""
        while not self._is_closed:
            for job in list(self._open):
                self._fail(job, error)
            self._wake.wait()
            self._wake.clear()

    def _assign(self) -> None:
        """Give every idle worker a unit, in order; one on which it failed gets it only where all others did too."""
        idle = [slot for slot in self._slots if slot.job is None and slot.starting is None]
        for slot in idle:
            job = next((job for job in self._queue if self._fits(job, slot)), None)
            if job is not None:
                self._queue.remove(job)
                self._call(slot, job)

    def _fits(self, job: _Job, slot: _Slot) -> bool:
        return slot.index not in job.failed_on or len(job.failed_on) >= len(self._slots)

    def _call(self, slot: _Slot, job: _Job) -> None:
        job.attempts += 1
        job.calls += 1
        slot.job, slot.began = job, time.monotonic()
        slot.call = slot.actor.roll_out.remote(job.packed, job.broadcast)

    # ------------------------------------------------------------ results

    def _collect(self, reference: Any) -> None:
        """Handle one finished call."""
        if (judged := self._judging.pop(reference, None)) is not None:
            self._collect_verdicts(judged, reference)
            return
        slot = next(slot for slot in self._slots if reference in (slot.call, slot.starting))
        if reference is slot.starting:
            self._collect_start(slot)
            return
        job, errors = slot.job, self.ray.exceptions
        assert job is not None
        slot.job = slot.call = None
        job.calls -= 1
        try:
            packed = self.ray.get(reference)
        except errors.RayTaskError as error:
            self._retry_elsewhere(job, slot, error)
        except (errors.ObjectLostError, errors.ObjectStoreFullError, errors.OutOfDiskError) as error:
            self._requeue(job, error)  # the worker is fine, its result is not
        except errors.RayError as error:
            self._replace(slot)
            self._requeue(job, error)
        else:
            self._durations.append(time.monotonic() - slot.began)
            slot.finished += 1
            self._restarts_in_a_row = 0
            self._accept(job, reference, packed)

    def _accept(self, job: _Job, reference: Any, packed: bytes) -> None:
        """Take the first result of a unit, or send it to the shared judge; drop any later one."""
        if job.result.done() or job.rolled is not None:
            self.counts["duplicates"] += 1
            return
        self.counts["bytes"] += len(packed)
        if self._judge is None:
            self._finish(job, packed, None)
            return
        job.rolled = reference
        self._ask_judge(job)

    def _finish(self, job: _Job, packed: bytes, verdicts: bytes | None) -> None:
        job.rolled = None
        if not job.result.done():
            self.counts["units"] += 1
            job.result.set_result((packed, verdicts))

    @staticmethod
    def _fail(job: _Job, error: BaseException) -> None:
        if not job.result.done():
            job.result.set_exception(error)

    def _collect_start(self, slot: _Slot) -> None:
        """Let a started worker work; replace one that did not start."""
        reference, slot.starting = slot.starting, None
        errors = self.ray.exceptions
        try:
            self.ray.get(reference)
        except errors.RayTaskError as error:
            self._replace(slot, error.cause or error)
        except errors.RayError as error:
            self._replace(slot, error)

    def _collect_verdicts(self, job: _Job, reference: Any) -> None:
        """Finish a judged unit; replace the shared judge where it died. Its ledger has the answers so far."""
        errors = self.ray.exceptions
        try:
            verdicts, packed = self.ray.get([reference, job.rolled])
        except errors.RayTaskError as error:
            self._fail(job, error.cause or error)
        except errors.ObjectLostError as error:
            job.rolled = None
            self._requeue(job, error)
        except errors.RayError as error:
            self._restart_judge(job, error)
        else:
            self._finish(job, packed, verdicts)

    def _restart_judge(self, job: _Job, error: Exception) -> None:
        job.attempts += 1
        if job.attempts > self.config.attempts or self._spawn_judge is None:
            self._fail(job, _gave_up(job, error))
            return
        self.counts["requeued"] += 1
        if job.judge is self._judge:  # the first unit that tells of its death
            self.counts["restarts"] += 1
            self._judge = self._spawn_judge()
        self._ask_judge(job)

    def _ask_judge(self, job: _Job) -> None:
        job.judge = self._judge
        self._judging[job.judge.score.remote(job.rolled, job.packed)] = job

    # ------------------------------------------------------------ recovery

    def _retry_elsewhere(self, job: _Job, slot: _Slot, error: Any) -> None:
        """Try a unit that raised an error on another worker; an error that a user can fix is final."""
        self.counts["errors"] += 1
        job.failed_on.add(slot.index)
        if isinstance(error.cause, InputError):
            self._fail(job, error.cause)
            return
        self._requeue(job, error.cause or error)

    def _requeue(self, job: _Job, error: Exception) -> None:
        """Put a unit back to the front of the queue, unless another worker has it or it was tried too often."""
        if job.result.done() or job.rolled is not None or job.calls:
            return
        if job.attempts >= self.config.attempts:
            self._fail(job, _gave_up(job, error))
            return
        self.counts["requeued"] += 1
        self._queue.appendleft(job)

    def _new_slot(self, index: int) -> _Slot:
        actor = self._spawn()
        return _Slot(index, actor, actor.ready.remote())

    def _replace(self, slot: _Slot, error: Exception | None = None) -> None:
        """Start a new worker in the place of one that died or is killed."""
        self.counts["restarts"] += 1
        self._restarts_in_a_row += 1
        if self._restarts_in_a_row > self.config.restarts:
            raise Paused(
                f"--workers: {self._restarts_in_a_row} workers ended in a row without a finished group "
                f"({_first_line(error) if error else 'the process died'}). Checkpoint "
                "saved. Check the memory per worker (docs/how-to/cluster.md), then rerun the same command to resume."
            )
        self.ray.kill(slot.actor)
        fresh = self._new_slot(slot.index)
        slot.actor, slot.starting, slot.job, slot.call = fresh.actor, fresh.starting, None, None

    def _check_slow(self) -> None:
        """Start backups of slow units on idle workers, and replace workers that stay slow."""
        config, now = self.config, time.monotonic()
        usual = statistics.median(self._durations) if len(self._durations) >= _FEWEST_DURATIONS else float("inf")
        limit = max(config.patience, config.slow * usual)
        for slot in self._slots:
            job, age = slot.job, now - slot.began
            if job is None or age <= min(limit, config.longest):
                continue
            if age > min(2 * limit, config.longest):
                self._replace(slot)
                job.calls -= 1
                self._requeue(job, TimeoutError(f"no result after {age:.0f} seconds"))
            elif job.calls == 1 and not job.result.done() and job.rolled is None and not self._queue:
                self._back_up(job)

    def _back_up(self, job: _Job) -> None:
        for slot in self._slots:
            if slot.job is None and slot.starting is None:
                self.counts["backups"] += 1
                self._call(slot, job)
                return


def _gave_up(job: _Job, error: Exception) -> Paused:
    unit = job.unit
    return Paused(
        f"step {unit.version}, group {unit.index}: {job.attempts} attempts failed; the last: {_first_line(error)}. "
        "Checkpoint saved. Fix the cause, then rerun the same command to resume."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
