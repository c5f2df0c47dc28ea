"""Collects imagined rollouts in Ray actors, on this machine or on a cluster.

Every worker holds the policy and the surrogate. A group is a unit with its own random stream (`surrogates.units`), so
the result equals that of `LocalPool(..., streams="group")` bit for bit on CPUs of one kind, whatever the number of
workers and whichever of them die.
"""

from __future__ import annotations

import math
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import Tensor

from worldgymnast.configs import Between, Positive, checked
from worldgymnast.errors import FieldError, InputError
from worldgymnast.protocols import Policy
from worldgymnast.rl.judging import JudgeVerdicts
from worldgymnast.rl.reinforce import ReinforceConfig
from worldgymnast.surrogates.imagination import Imagination, Surrogate
from worldgymnast.surrogates.pool import AssignRewards
from worldgymnast.surrogates.ray_cluster import connected
from worldgymnast.surrogates.ray_dispatch import Dispatcher, RecoveryConfig
from worldgymnast.surrogates.ray_worker import Broadcast, Parts, SharedJudge, Worker, group_of, unpack
from worldgymnast.surrogates.units import Unit, UnitCounter
from worldgymnast.types import Metrics, Rollout, RolloutGroup, StartOrLayout
from worldgymnast.weights import savable, weights_hash

_KEPT_BROADCASTS = 3
"""Versions of the weights that stay in the object store; older ones are only fetched by units in flight."""
_POLL = 0.05
"""Seconds between two looks at workers that start."""
_SHOWN = 64
"""Workers whose rates are logged."""
_JUDGED_AT_ONCE = 16
"""Groups that the shared judge takes at a time; its own concurrency limits the requests."""


@checked
class RayConfig:
    """Workers, and where they run.

    Attributes:
        workers: processes that roll out.
        address: of a running Ray cluster, or "auto"; "" starts a Ray on this machine.
        threads: threads of torch per worker.
        gpus: GPUs per worker, also a share of one; None divides all GPUs of the cluster, at most one each. Not 0 where
            the policy and the world model are on a GPU.
        store_mb: object store of a Ray that is started here, in MB; Ray's choice if omitted.
        recovery: when work is given to another worker.
    """

    workers: Positive = 2
    address: str = ""
    threads: Positive = 1
    gpus: Annotated[float, Between(0, 64)] | None = 0.0
    store_mb: Annotated[int, Between(76)] | None = None
    recovery: RecoveryConfig = RecoveryConfig()


@dataclass(frozen=True)
class _Fetch:
    """Gets weights from the object store. The list keeps Ray from fetching them where they are loaded already."""

    reference: list[Any]

    def __call__(self) -> Mapping[str, Tensor]:
        import ray

        return ray.get(self.reference[0])


class RayPool:
    """A `RolloutPool` over Ray actors. Use `ray_pool`, which also connects to Ray.

    Args:
        ray: the module, connected.
        policy: acts; it is copied to the workers and never changed here.
        surrogate: where it acts; copied to the workers, apart from a remote judge, which all of them share.
        config: the workers.
        rows: most parallel rollouts per worker.
        temperature: of sampling.
        seed: of sampling.
        assign_rewards: sets the rewards of a judged group, if they are not the verdicts.

    Raises:
        InputError: a part cannot be sent to another process.
    """

    def __init__(
        self,
        ray: Any,
        policy: Policy,
        surrogate: Surrogate,
        config: RayConfig,
        *,
        rows: int,
        temperature: float,
        seed: int,
        assign_rewards: AssignRewards | None = None,
    ):
        self.ray, self.config, self.assign_rewards, self.version = ray, config, assign_rewards, 0
        source, spawn_judge = surrogate.verdict_source, None
        is_shared = isinstance(source, JudgeVerdicts) and source.judge.is_remote
        if is_shared:
            assert isinstance(source, JudgeVerdicts)
            surrogate, spawn_judge = self._share_judge(surrogate, source)
        parts = Parts(policy, surrogate, not is_shared, rows, temperature, config.threads)
        self._parts = ray.put(self._pickled(parts, "policy or surrogate"))
        self._gpus = config.gpus
        if config.gpus is None:
            self._gpus = gpu_share(config.workers, ray.cluster_resources().get("GPU", 0.0))
        self._units = UnitCounter(seed)
        self._broadcasts: dict[str, Broadcast] = {}
        self._newest: Broadcast | None = None
        self._dispatcher = Dispatcher(ray, self._spawn, spawn_judge, config.workers, config.recovery)
        self._rated = time.monotonic(), [0] * config.workers

    def begin(self, starts: Sequence[StartOrLayout], group_size: int) -> Callable[[], list[RolloutGroup]]:
        """Queue a group from each start; the workers begin at once. The returned function waits for them, in order."""
        assert self._newest is not None, "call sync first"
        units = self._units.units(starts, group_size, self.version)
        pending = [(unit, self._dispatcher.submit(unit, self._newest)) for unit in units]
        return lambda: [self._group(unit, future) for unit, future in pending]

    def begin_filled(
        self,
        starts: Sequence[StartOrLayout],
        group_size: int,
        replace: Callable[[RolloutGroup], Sequence[StartOrLayout]],
    ) -> Callable[[], list[RolloutGroup]]:
        """Queue a group from each start; idle workers get those that `replace` asks for. See `FillingPool`."""
        assert self._newest is not None, "call sync first"
        version, broadcast = self.version, self._newest
        pending: dict[Future[tuple[bytes, bytes | None]], Unit] = {}

        def submit(more: Sequence[StartOrLayout]) -> None:
            units = self._units.units(more, group_size, version)
            pending.update((self._dispatcher.submit(unit, broadcast), unit) for unit in units)

        def finish() -> list[RolloutGroup]:
            groups: dict[int, RolloutGroup] = {}
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    unit = pending.pop(future)
                    groups[unit.index] = self._group(unit, future)
                    submit(replace(groups[unit.index]))
            return [groups[index] for index in sorted(groups)]

        submit(starts)
        return finish

    def sync(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Put `weights` into the object store, unless they are there; units that begin later act with them."""
        self.version = version
        digest = weights_hash(weights)
        if digest not in self._broadcasts:
            plain = {name: tensor.detach().cpu() for name, tensor in weights.items()}
            self._broadcasts[digest] = Broadcast(digest, _Fetch([self.ray.put(savable(plain))]))
            while len(self._broadcasts) > _KEPT_BROADCASTS:
                del self._broadcasts[next(iter(self._broadcasts))]
        self._newest = self._broadcasts[digest]

    def metrics(self) -> Metrics:
        """Return counts since the beginning, and the rate of each worker since the last call."""
        names = ("units", "requeued", "restarts", "backups", "duplicates", "errors", "bytes")
        counts = {f"pool/{name}": float(self._dispatcher.counts[name]) for name in names}
        counts |= {"pool/workers": float(self.config.workers), "pool/queued": float(self._dispatcher.queued)}
        return counts | self._rates()

    def status(self) -> str:
        """Say how many groups are in rollout, queued, and at the judge."""
        return self._dispatcher.status()

    def _rates(self) -> Metrics:
        """Return the groups per second of each worker since the last call."""
        now, finished = time.monotonic(), self._dispatcher.finished()
        seconds = max(now - self._rated[0], 1e-9)
        rates = [(after - before) / seconds for before, after in zip(self._rated[1], finished, strict=True)]
        self._rated = now, finished
        return {f"pool/rate/{index}": rate for index, rate in enumerate(rates[:_SHOWN])}

    def wait_until_started(self, seconds: float = 600.0) -> None:
        """Wait until every worker has loaded its parts; groups can begin earlier.

        Raises:
            InputError: it takes longer than that.
        """
        end = time.monotonic() + seconds
        while (started := self._dispatcher.started) < self.config.workers:
            if time.monotonic() > end:
                raise InputError(
                    f"--workers: {started} of {self.config.workers} started within {seconds:.0f} seconds. The others "
                    "wait for a free CPU or GPU of the cluster. Use fewer workers, or add nodes"
                )
            time.sleep(_POLL)

    def close(self) -> None:
        """Stop the workers."""
        self._dispatcher.close()

    def _group(self, unit: Unit, future: Future[tuple[bytes, bytes | None]]) -> RolloutGroup:
        """Wait for a unit, and build its group."""
        packed, verdicts = future.result()
        rollouts: list[Rollout] = unpack(packed, unit.start)
        if verdicts is not None:
            judged = zip(rollouts, pickle.loads(verdicts), strict=True)
            rollouts = [rollout.with_verdict(*verdict) for rollout, verdict in judged]
        group = group_of(rollouts)
        return group if self.assign_rewards is None else self.assign_rewards(group)

    def _pickled(self, value: object, name: str) -> bytes:
        try:
            return self.ray.cloudpickle.dumps(value)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise InputError(
                f"{name}: cannot be sent to a worker ({str(error).splitlines()[0]}). Nothing was rolled out. Keep "
                "files, threads and locks out of its attributes, or use --pool local"
            ) from error

    def _spawn(self) -> Any:
        """Start a worker."""
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_restarts": 0}
        return self.ray.remote(Worker).options(**options).remote(self._parts, sys.path)

    def _share_judge(self, surrogate: Surrogate, source: JudgeVerdicts) -> tuple[Surrogate, Callable[[], Any]]:
        """Take a remote judge out of the surrogate; return the rest, and what starts the judge on this node."""
        ray, pickled = self.ray, self._pickled((source.judge, source.chunk), "judge")
        if not isinstance(surrogate, Imagination):
            raise InputError(
                f"surrogate {type(surrogate).__name__}: its judge is remote, and only an Imagination can share one "
                "between workers. Nothing was rolled out. Use --pool local"
            )
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        options = {"num_cpus": 0, "max_concurrency": _JUDGED_AT_ONCE, "scheduling_strategy": here}

        def spawn() -> Any:
            return ray.remote(SharedJudge).options(**options).remote(pickled, sys.path)

        return replace(surrogate, judge=_Elsewhere()), spawn


@dataclass(frozen=True)
class _Elsewhere:
    """Stands for the shared judge in a worker's surrogate."""

    name: str = "shared"
    identity: str = "shared"
    is_remote: bool = False

    def score(self, clips: Sequence[Any]) -> list[Any]:
        """Raise; only the shared judge scores."""
        raise RuntimeError(f"{len(clips)} clips: the shared judge scores them")


def gpu_share(count: int, gpus: float) -> float:
    """GPUs of one of `count` workers: one, or a part of one such that all workers find a place.

    >>> gpu_share(2, 4), gpu_share(3, 2), gpu_share(2, 0)
    (1.0, 0.5, 0.0)
    """
    return 1 / math.ceil(count / gpus) if gpus else 0.0


def workers(config: RayConfig) -> Callable[[Policy, Surrogate, ReinforceConfig], AbstractContextManager[RayPool]]:
    """Make the `make_pool` of `recipes.finetune.finetune`: workers that collect for a training.

    Raises:
        FieldError: the training's `streams` is not "group".
    """

    def open_pool(policy: Policy, surrogate: Surrogate, rl: ReinforceConfig) -> AbstractContextManager[RayPool]:
        if rl.streams != "group":
            raise FieldError("streams", f"found '{rl.streams}', expected 'group': workers need a stream per group")
        return ray_pool(
            policy,
            surrogate,
            config,
            rows=rl.rows,
            temperature=rl.temperature,
            seed=rl.seed,
            assign_rewards=surrogate.assign_rewards,
        )

    return open_pool


@contextmanager
def ray_pool(
    policy: Policy,
    surrogate: Surrogate,
    config: RayConfig,
    *,
    rows: int,
    temperature: float,
    seed: int,
    assign_rewards: AssignRewards | None = None,
) -> Iterator[RayPool]:
    """Connect to Ray and make a `RayPool`, which ends with the context; arguments as in `RayPool`.

    Raises:
        InputError: Ray is not installed or cannot be reached, or a part cannot be sent to another process.
    """
    store = None if config.store_mb is None else config.store_mb * 2**20
    with connected(config.address, cpus=config.workers, store_bytes=store) as ray:
        pool = RayPool(
            ray,
            policy,
            surrogate,
            config,
            rows=rows,
            temperature=temperature,
            seed=seed,
            assign_rewards=assign_rewards,
        )
        try:
            yield pool
        finally:
            pool.close()
