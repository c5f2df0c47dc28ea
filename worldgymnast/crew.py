"""Several processes of one training, of which process 0 leads and the others follow.

RL draws random numbers, asks judges, renders and writes files. Process 0 does all of that alone, as if it were the only
process (`processes.alone`). The others wait. They join only the calls that process 0 announces, such as an update, so
nothing but these calls has to agree between processes.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from worldgymnast import processes
from worldgymnast.errors import InputError, ProcessLost

_PATIENCE = timedelta(days=30)
"""Longest wait of a follower; process 0 may roll out, or wait for a judge, for hours."""
_FINISH, _STOP = "finish", "stop"
_SIGNS = ("closed by peer", "reset by peer", "broken pipe", "gloo", "nccl", "socket", "timed out")
Params = ParamSpec("Params")
Result = TypeVar("Result")


class Crew:
    """The processes of a training, from the view of one of them.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._is_released = False

    @property
    def is_leader(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    @property
    def group(self) -> Any:
        """Process group for data in host memory."""
        return self._group

    def call_up(self) -> None:
        """Begin to lead; the followers call `follow`."""
        self._is_released = False

    def announce(self, name: str, *arguments: Any) -> None:
        """Have every follower call a method, in `follow`; the leader calls it itself."""
        with lost_processes_as_input_errors():
            dist.broadcast_object_list([name, arguments], src=0, group=self._group)

    def finish(self, value: Any = None) -> None:
        """Release the followers; `follow` returns `value`."""
        self._is_released = True
        self.announce(_FINISH, value)

    def stop(self) -> None:
        """Release the followers after an error of the leader, unless they are released."""
        if not self._is_released:
            self._is_released = True
            self.announce(_STOP)

    def abandon(self) -> None:
        """Send nothing more: the followers may be in the middle of a call."""
        self._is_released = True

    def follow(self, begin: Callable[..., object]) -> Any:
        """Follow the leader until it finishes; return the value of `finish`.

        Args:
            begin: makes, from the arguments of the announcement "begin", the object whose methods are called then.

        Raises:
            InputError: the leader stopped with an error, or a process was lost.
        """
        target: Any = None
        while True:
            call: list[Any] = [None, None]
            with lost_processes_as_input_errors():
                dist.broadcast_object_list(call, src=0, group=self._group)
            name, arguments = call
            if name == _FINISH:
                return arguments[0]
            if name == _STOP:
                raise InputError("process 0 stopped. So did this one. The reason is in the message of process 0")
            if name == "begin":
                target = begin(*arguments)
            else:
                getattr(target, name)(*arguments)

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all processes on the leader, in the order of ranks; an empty list elsewhere."""
        gathered: list[Any] = [None] * self.size if self.is_leader else []
        with lost_processes_as_input_errors():
            dist.gather_object(value, gathered or None, dst=0, group=self._group)
        return gathered

    def share(self, tensors: Mapping[str, Tensor] | None) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors of the leader on every process, one at a time, in host memory.

        Args:
            tensors: of the leader; None on followers.
        """
        described = [[(k, tuple(v.shape), v.dtype) for k, v in (tensors or {}).items()]]
        with lost_processes_as_input_errors():
            dist.broadcast_object_list(described, src=0, group=self._group)
            for name, shape, dtype in described[0]:
                tensor = torch.empty(shape, dtype=dtype) if tensors is None else tensors[name].detach().cpu()
                plain = tensor.contiguous()
                if plain.numel():
                    dist.broadcast(plain.reshape(-1).view(torch.uint8), src=0, group=self._group)
                yield name, plain


Method = Callable[Concatenate[Any, Params], Result]


def announced(method: Method[Params, Result]) -> Method[Params, Result]:
    """Decorate a method of an object with a `crew`: called on the leader, every process calls it.

    Positional arguments only; they must be picklable. An error in the middle of the call ends the training: the others
    may wait for this process somewhere in the call, so they only learn of it when this process exits.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        assert not kwargs, "announce positional arguments"
        if not self.crew.is_leader:
            return method(self, *args, **kwargs)
        self.crew.announce(method.__name__, *args)
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.crew.abandon()
            raise

    return call


@functools.cache
def crew() -> Crew:
    """Return the processes that a launcher started, after `processes.initialize`."""
    return Crew()


def leader() -> Crew | None:
    """Return the crew while this process leads one, else None."""
    return crew() if processes.is_alone() else None


@contextmanager
def leading() -> Iterator[Crew | None]:
    """Lead the other processes within the context; yields None if there are none.

    An error releases the followers. A launcher ends all processes with SIGTERM when one of them ends; it is raised here
    as `ProcessLost`. Contexts may be nested.
    """
    if processes.world_size() == 1:  # without a launcher, or inside of another such context
        yield leader()
        return
    with processes.alone(), _terminated():
        own = crew()
        own.call_up()
        try:
            yield own
        except ProcessLost:
            raise
        except BaseException:
            with suppress(InputError):  # a follower may be lost, too; the first error is the one to report
                own.stop()
            raise
        own.stop()


@contextmanager
def _terminated() -> Iterator[None]:
    """Raise `ProcessLost` on SIGTERM within the context, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise ProcessLost(
            "stopped by SIGTERM, which the launcher sends when another process ends. Rerun the same command to resume "
            "from the newest checkpoint, with any number of processes"
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def lost_processes_as_input_errors() -> Iterator[None]:
    """Convert errors of the connection to other processes into one line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if isinstance(error, torch.OutOfMemoryError) or not any(sign in text for sign in _SIGNS):
            raise
        raise ProcessLost(
            "another process of this training ended. The step it was in is lost, and this process stops, too. Rerun "
            "the same command to resume from the newest checkpoint, with any number of processes"
        ) from error
