"""One worker of a `RayPool`: holds a policy and a surrogate, and rolls out units.

This module does not import Ray. The pool wraps `Worker` as an actor, so the class also works in one process.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from worldgymnast.protocols import Policy
from worldgymnast.rl.judging import JudgeVerdicts
from worldgymnast.surrogates.imagination import Surrogate
from worldgymnast.surrogates.units import Unit, roll_out_unit
from worldgymnast.types import IMAGE, Rollout, RolloutGroup, StartOrLayout
from worldgymnast.weights import weights_hash

_SAME_FRAMES = "last"
"""Key of the last frame where the others are the policy's images, which travel once."""


@dataclass(frozen=True)
class Parts:
    """What a worker needs to roll out.

    Attributes:
        policy: acts.
        surrogate: where it acts.
        is_judging: whether the worker judges its rollouts; otherwise the shared judge does.
        rows: most parallel rollouts.
        temperature: of sampling.
        threads: threads of torch.
    """

    policy: Policy
    surrogate: Surrogate
    is_judging: bool
    rows: int
    temperature: float
    threads: int


@dataclass(frozen=True)
class Broadcast:
    """A version of the trainable weights.

    Attributes:
        digest: SHA-256 of the weights.
        fetch: returns the weights; called only where they are not loaded yet.
    """

    digest: str
    fetch: Callable[[], Mapping[str, Tensor]]


class Worker:
    """Rolls out units with the weights that each of them names.

    Args:
        parts: pickled `Parts`.
        path: `sys.path` of the driver, where classes of a script's folder are.
    """

    def __init__(self, parts: bytes, path: Sequence[str] = ()):
        sys.path += [folder for folder in path if folder not in sys.path]
        self._pickled: bytes | None = parts
        self.digest = ""

    def ready(self) -> int:
        """Load the parts; return the process ID."""
        if self._pickled is not None:
            self.parts: Parts = pickle.loads(self._pickled)
            self._pickled = None
            torch.set_num_threads(self.parts.threads)
        return os.getpid()

    def roll_out(self, unit: bytes, broadcast: Broadcast) -> bytes:
        """Roll out a pickled `Unit` with the given weights; return its rollouts packed by `pack`.

        Raises:
            RuntimeError: the loaded weights are not those that were sent.
        """
        parts, todo = self.parts, pickle.loads(unit)
        self._load(broadcast)
        rolled = roll_out_unit(todo, parts.policy, parts.surrogate, rows=parts.rows, temperature=parts.temperature)
        if parts.is_judging:
            rolled = parts.surrogate.verdict_source.begin(rolled)()
        return pack(rolled, todo.start)

    def _load(self, broadcast: Broadcast) -> None:
        """Load weights unless they are loaded, and check them by their identity."""
        if broadcast.digest == self.digest:
            return
        self.digest = ""
        self.parts.policy.load_trainable(broadcast.fetch())
        loaded = weights_hash(self.parts.policy.trainable_state())
        if loaded != broadcast.digest:
            raise RuntimeError(f"weights: loaded {loaded[:16]}, but {broadcast.digest[:16]} were sent")
        self.digest = loaded


def pack(rollouts: Sequence[Rollout], start: StartOrLayout) -> bytes:
    """Pickle rollouts for the way to the driver, without what it has or can restore.

    The start stays behind. Frames that equal the policy's images are sent once.
    """
    rows = []
    for rollout in rollouts:
        row = {field.name: getattr(rollout, field.name) for field in fields(Rollout)}
        if rollout.start is start:
            del row["start"]
        images = rollout.images.get(IMAGE)
        if images is not None and np.array_equal(rollout.frames[:-1], images):
            row[_SAME_FRAMES] = row.pop("frames")[-1]
        rows.append(row)
    return pickle.dumps(rows, protocol=5)


def unpack(packed: bytes, start: StartOrLayout) -> list[Rollout]:
    """Restore the rollouts that `pack` packed, from the same start.

    >>> from worldgymnast.types import Layout
    >>> unpack(pack([], Layout("door", 0, "open it")), Layout("door", 0, "open it"))
    []
    """
    rollouts = []
    for row in pickle.loads(packed):
        row.setdefault("start", start)
        if _SAME_FRAMES in row:
            row["frames"] = np.concatenate([row["images"][IMAGE], row.pop(_SAME_FRAMES)[None]])
        rollouts.append(Rollout(**row))
    return rollouts


def group_of(rollouts: Sequence[Rollout]) -> RolloutGroup:
    """Group the rollouts of one unit."""
    return RolloutGroup(rollouts[0].start, tuple(rollouts))


class SharedJudge:
    """The one client of a remote judge: all workers share its rate limit, budget and ledger.

    Args:
        source: pickled pair of the judge and the actions per look.
        path: as in `Worker`.
    """

    def __init__(self, source: bytes, path: Sequence[str] = ()):
        sys.path += [folder for folder in path if folder not in sys.path]
        judge, chunk = pickle.loads(source)
        self.source = JudgeVerdicts(judge, chunk)

    def score(self, packed: bytes, unit: bytes) -> bytes:
        """Judge the packed rollouts of a pickled `Unit`; return pickled pairs of verdict and looks until success."""
        todo: Unit = pickle.loads(unit)
        judged = self.source.begin(unpack(packed, todo.start))()
        return pickle.dumps([(rollout.verdict, rollout.looks_until_success) for rollout in judged])
