"""One device in turns: what rollouts need and what updates need wait in host memory for each other.

World model, judge and audit judge wait while the policy is updated. The optimizer's moments, the gradients and the
start policy wait while rollouts are collected. The policy itself stays. A tensor that waits is the same object with
other storage, so optimizers and views of modules keep working, and no number changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

_DEPTH = 3
"""Levels of attributes in which modules are looked for."""
Turn = Literal["collect", "update"]
_Homes = list[tuple[Tensor, torch.device]]


class Turns:
    """Gives the device to the collection of rollouts or to the update.

    Until the first turn everything is on the device. Components that are not made of torch modules stay where they are.

    Args:
        collecting: components that only rollouts need: world model, judges, a copy of the policy that acts.
        is_on: with False, nothing ever moves.
        host: device on which tensors wait.

    >>> world = nn.Linear(2, 2)
    >>> turns = Turns([world])
    >>> turns.give_to("update")
    >>> turns.turn, turns.waiting_bytes
    ('update', 24)
    >>> turns.close()
    >>> turns.waiting_bytes
    0
    """

    def __init__(
        self, collecting: Sequence[object] = (), *, is_on: bool = True, host: torch.device | str = "cpu"
    ) -> None:
        self.turn: Turn | None = None
        self.is_on, self._host = is_on, torch.device(host)
        self._collecting = list(collecting)
        self._shared: object = None
        self._updating: Callable[[], Iterable[object]] = tuple
        self._optimizer: torch.optim.Optimizer | None = None
        self._homes: dict[Turn, _Homes] = {"collect": [], "update": []}

    def join(
        self, policy: object, updating: Callable[[], Iterable[object]], optimizer: torch.optim.Optimizer | None
    ) -> None:
        """Add what updates need.

        Args:
            policy: stays on the device, and with it all tensors that others share with it.
            updating: returns the policies that only updates need, such as the start policy.
            optimizer: its state, and the gradients of its parameters.
        """
        self._shared, self._updating, self._optimizer = policy, updating, optimizer

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait now."""
        storages = {t.untyped_storage()._cdata: t.untyped_storage() for h in self._homes.values() for t, _ in h}
        return sum(storage.nbytes() for storage in storages.values())

    def give_to(self, turn: Turn) -> None:
        """Move what the other turn needs away, then what this turn needs to the device."""
        if not self.is_on or self.turn == turn:
            return
        other: Turn = "update" if turn == "collect" else "collect"
        self._send(other)
        self._fetch(turn)
        self.turn = turn

    def close(self) -> None:
        """Move every component back to its device, but not the optimizer's state: the training is over."""
        left = set() if self._optimizer is None else {id(tensor) for tensor in _state_of(self._optimizer)}
        self._homes["update"] = [(tensor, home) for tensor, home in self._homes["update"] if id(tensor) not in left]
        for turn in ("collect", "update"):
            self._fetch(turn)
        self.turn = None

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, turn: Turn) -> None:
        if self._homes[turn]:
            return  # it waits already
        tensors = self._of(turn)
        self._homes[turn] = [(tensor, tensor.device) for tensor in tensors]
        _move([(tensor, self._host) for tensor in tensors])
        if any(home.type == "cuda" for _, home in self._homes[turn]):
            torch.cuda.empty_cache()  # else the blocks that are free are too small for the tensors of the other turn

    def _fetch(self, turn: Turn) -> None:
        _move(self._homes[turn])
        self._homes[turn] = []

    def _of(self, turn: Turn) -> list[Tensor]:
        """Tensors that only this turn needs."""
        parts = self._collecting if turn == "collect" else list(self._updating())
        kept = {tensor.untyped_storage()._cdata for tensor in tensors_in(self._shared)}
        tensors = [tensor for part in parts for tensor in tensors_in(part)]
        if turn == "update" and self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            tensors += list(_state_of(self._optimizer))
        chosen = {id(t): t for t in tensors if t.untyped_storage()._cdata not in kept}
        return list(chosen.values())


def _state_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Tensors of the optimizer's state, without its counters."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor) and value.ndim)


@torch.no_grad()
def _move(moves: Sequence[tuple[Tensor, torch.device]]) -> None:
    """Give tensors storage on other devices; those that share storage share it afterwards."""
    old: dict[int, torch.UntypedStorage] = {}
    new: dict[int, torch.UntypedStorage] = {}
    for tensor, device in moves:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in old:
            old[key], new[key] = storage, _copy(storage, device)
        empty = torch.empty(0, dtype=tensor.dtype, device=device)
        tensor.data = empty.set_(new[key], tensor.storage_offset(), tensor.shape, tensor.stride())  # pyright: ignore


def _copy(storage: torch.UntypedStorage, device: torch.device) -> torch.UntypedStorage:
    """Copy of a storage on a device; in pinned memory, which is copied faster, on the way from a GPU."""
    is_pinned = storage.device.type == "cuda" and device.type == "cpu"
    room = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device, pin_memory=is_pinned).untyped_storage()
    return room.copy_(storage, False)


# ---------------------------------------------------------------- what components are made of


def tensors_in(component: object) -> list[Tensor]:
    """Parameters and buffers of a component.

    >>> [tuple(tensor.shape) for tensor in tensors_in(nn.Linear(2, 3))]
    [(3, 2), (3,)]
    """
    found = [t for module in modules_in(component) for t in (*module.parameters(), *module.buffers())]
    return list({id(tensor): tensor for tensor in found}.values())


def modules_in(component: object) -> list[nn.Module]:
    """Modules of a component: itself, or the outermost ones among its attributes.

    >>> class Judge:
    ...     def __init__(self) -> None:
    ...         self.members = (nn.Linear(1, 1), "remote")
    >>> modules_in(Judge()), modules_in("remote")
    ([Linear(in_features=1, out_features=1, bias=True)], [])
    """
    return list({id(module): module for module in _modules_in(component, _DEPTH, set())}.values())


def _modules_in(component: object, depth: int, seen: set[int]) -> Iterator[nn.Module]:
    if isinstance(component, nn.Module):
        yield component
        return
    if depth == 0 or id(component) in seen or isinstance(component, type):
        return
    seen.add(id(component))
    inner: list[Any] = list(getattr(component, "__dict__", {}).values())
    if isinstance(component, list | tuple):
        inner, depth = list(component), depth + 1  # no level of its own
    elif isinstance(component, Mapping):
        inner, depth = list(component.values()), depth + 1
    for value in inner:
        yield from _modules_in(value, depth - 1, seen)
