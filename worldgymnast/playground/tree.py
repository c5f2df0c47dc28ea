"""The tree of imagined states: every frame is a node, and no node ever changes.

A state of the world model is a function of its parent's state, an action and the seed of a draw. So the tree keeps the
states of some nodes only, within a limit of memory, and computes the others again, bit for bit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from worldgymnast.envs.imagined import start_world
from worldgymnast.errors import InputError
from worldgymnast.protocols import WorldModel
from worldgymnast.types import Start, WorldState

Origin = Literal["start", "hand", "policy", "log"]
"""Who chose the action that led to a frame."""
Turn = Callable[[], AbstractContextManager[object]]
"""Context in which a model may run; sessions that share a model take turns."""
MAX_NODES = 20_000
"""Most frames of a tree."""
MAX_FRAME_BYTES = 1 << 28
"""Most bytes of the frames of a tree, which are all kept."""
KEPT_EVERY = 8
"""Depths whose states are dropped last, so that few frames have to be computed again."""


@dataclass(frozen=True)
class Draw:
    """The random draw of a frame: row `row` of `rows` that were imagined together with this seed."""

    seed: int
    row: int = 0
    rows: int = 1


@dataclass(frozen=True, eq=False)
class Node:
    """One imagined frame.

    Attributes:
        id: number of the node in its tree, from 0.
        parent: the node before; None for the start.
        depth: frames since the start.
        frame: uint8 [h w 3].
        action: float32 [a], the action that led here; None at the start.
        origin: who chose the action.
        draw: the random draw; None at the start.
        is_on_log: whether all actions since the start are the logged ones.
    """

    id: int
    parent: Node | None
    depth: int
    frame: UInt8[np.ndarray, "h w 3"]
    action: Float[np.ndarray, " a"] | None = None
    origin: Origin = "start"
    draw: Draw | None = None
    is_on_log: bool = False

    def ancestor(self, depth: int) -> Node:
        """Node of the same past at a depth from 0 to its own."""
        node = self
        while node.depth > depth and node.parent is not None:
            node = node.parent
        return node

    def path(self) -> list[Node]:
        """All nodes from the start to this one."""
        nodes: list[Node] = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return nodes[::-1]


class StateTree:
    """Imagined futures of one start.

    Attributes:
        world: the world model.
        start: the start.
        root: node of the start.
    """

    def __init__(
        self, world: WorldModel, start: Start, *, memory: int, has_log: bool = False, turn: Turn = nullcontext
    ):
        """Begin a tree.

        Args:
            world: the world model.
            start: frame and, where it is known, the state of the robot.
            memory: most bytes of the states that are kept.
            has_log: whether logged actions begin at the start.
            turn: entered around every use of the world model.
        """
        start = replace(start, frame=np.array(start.frame))  # a data set's frames may be read-only
        self.world, self.start, self._turn, self._memory = world, start, turn, memory
        self.root = Node(0, None, 0, start.frame, is_on_log=has_log)
        self._nodes: dict[int, Node] = {0: self.root}
        self._lock = threading.Lock()
        self._states: OrderedDict[int, WorldState] = OrderedDict()
        self._bytes = 0
        with turn():
            self._keep(self.root, start_world(world, [start]))

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self._nodes)

    def __getitem__(self, number: int) -> Node:
        """Node by its number.

        Raises:
            InputError: there is no such node.
        """
        if number not in self._nodes:
            raise InputError(f"frame: found number {number}, expected 0 to {len(self._nodes) - 1}")
        return self._nodes[number]

    @property
    def state_bytes(self) -> int:
        """Bytes of the states that are kept."""
        return self._bytes

    def extend(
        self,
        nodes: Sequence[Node],
        actions: Float[np.ndarray, "n a"],
        seed: int,
        origin: Origin,
        on_log: Sequence[bool] = (),
    ) -> list[Node]:
        """Imagine the next frame of each node.

        Nodes at one depth are imagined as one batch where the world model's states allow it.

        Args:
            nodes: where to continue.
            actions: float32 [n a], one per node.
            seed: of the draw.
            origin: who chose the actions.
            on_log: whether each action is the logged one; by default none is.

        Raises:
            InputError: the tree is full.
        """
        if len(self) + len(nodes) > (limit := min(MAX_NODES, max(2, MAX_FRAME_BYTES // self.root.frame.nbytes))):
            raise InputError(
                f"this session has {len(self)} frames, at most {limit} are kept. Export it, then start over"
            )
        with self._turn():
            states = [self._state(node) for node in nodes]
            joined = WorldState.join(states)
            if joined is not None:
                results = self._step(joined, actions, [Draw(seed, row, len(nodes)) for row in range(len(nodes))])
            else:
                results = [
                    self._step(state, action[None], [Draw(seed + row)])[0]
                    for row, (state, action) in enumerate(zip(states, actions, strict=True))
                ]
            return [
                self._add(node, action, origin, result, bool(on_log and on_log[row]))
                for row, (node, action, result) in enumerate(zip(nodes, actions, results, strict=True))
            ]

    def state(self, node: Node) -> WorldState:
        """State of a node, computed again if it was dropped."""
        with self._turn():
            return self._state(node)

    def _state(self, node: Node) -> WorldState:
        missing: list[Node] = []
        while node.id not in self._states and node.parent is not None:
            missing.append(node)
            node = node.parent
        if node.id in self._states:
            state = self._states[node.id]
            self._states.move_to_end(node.id)
        else:
            state = start_world(self.world, [self.start])
            self._keep(node, state)
        for one in reversed(missing):
            assert one.draw is not None
            assert one.action is not None
            rows, row = one.draw.rows, one.draw.row
            same = state.fork(torch.zeros(rows, dtype=torch.long))
            results = self._step(
                same, np.repeat(one.action[None], rows, 0), [Draw(one.draw.seed, r, rows) for r in range(rows)]
            )
            state = results[row][0]
            self._keep(one, state)
        return state

    def _step(
        self, state: WorldState, actions: np.ndarray, draws: Sequence[Draw]
    ) -> list[tuple[WorldState, np.ndarray, Draw]]:
        generator = torch.Generator().manual_seed(draws[0].seed)
        given = torch.from_numpy(np.ascontiguousarray(actions[:, None], np.float32))
        after, frames = self.world.step(state, given, generator=generator)
        images = frames[:, -1].cpu().numpy()
        if len(draws) == 1:
            return [(after, images[0].copy(), draws[0])]
        rows = [after.fork(torch.tensor([row])) for row in range(len(draws))]
        return [(rows[row], images[row].copy(), draw) for row, draw in enumerate(draws)]

    def _add(
        self,
        parent: Node,
        action: np.ndarray,
        origin: Origin,
        result: tuple[WorldState, np.ndarray, Draw],
        on_log: bool,
    ) -> Node:
        state, frame, draw = result
        is_on_log = on_log and parent.is_on_log
        with self._lock:
            node = Node(len(self._nodes), parent, parent.depth + 1, frame, action.copy(), origin, draw, is_on_log)
            self._nodes[node.id] = node
        self._keep(node, state)
        return node

    def _keep(self, node: Node, state: WorldState) -> None:
        """Keep a state, and drop the oldest ones beyond the limit of memory; the newest always stays."""
        self._states[node.id] = state
        self._bytes += state.nbytes
        for spares in (True, False):
            for old in list(self._states):
                if self._bytes <= self._memory:
                    return
                if old != node.id and not (spares and self._nodes[old].depth % KEPT_EVERY == 0):
                    self._bytes -= self._states.pop(old).nbytes
