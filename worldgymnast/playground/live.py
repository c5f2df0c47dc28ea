"""The conversation of a page with its session, over one WebSocket.

The page sends commands as JSON objects with "do"; the server answers with JSON objects with "is". A frame is one binary
message: the length of a JSON header as four bytes (big endian), the header, and the picture. Commands are done one
after another; a command that arrives while frames are streamed ends the stream.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
from PIL import Image
from starlette.websockets import WebSocket, WebSocketDisconnect

from worldgymnast.actions import ActionSpecMismatch
from worldgymnast.errors import InputError
from worldgymnast.playground.controls import clipped, controls
from worldgymnast.playground.session import Session
from worldgymnast.playground.tree import Node
from worldgymnast.playground.visits import Visit, Visits
from worldgymnast.protocols import tiling_of

MAX_TEXT = 400
"""Most characters of an instruction."""
_QUEUE = 32
"""Most commands that wait; a page that sends more is disconnected."""
_MAX_MESSAGE = 16_384
_WRONG = 1003
"""Close code after a message that no page of ours sends."""
_EXACT_PIXELS = 128 * 128
"""Frames up to this size are sent without loss."""


def picture(frame: np.ndarray) -> bytes:
    """uint8 [h w 3] as the content of a picture file: PNG if it is small, else JPEG."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(frame))
    if frame.shape[0] * frame.shape[1] <= _EXACT_PIXELS:
        image.save(buffer, format="PNG", compress_level=1)
    else:
        image.save(buffer, format="JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def summary(session: Session, node: Node, *, is_asked: bool = False) -> dict[str, Any]:
    """Everything about a node except its picture, as JSON values."""
    belief, error = session.belief(node, is_asked=is_asked), session.error(node)
    return {
        "id": node.id,
        "parent": None if node.parent is None else node.parent.id,
        "depth": node.depth,
        "origin": node.origin,
        "action": None if node.action is None else [round(float(x), 4) for x in node.action],
        "log": node.is_on_log,
        "error": None if error is None else round(error, 5),
        "foreseen": _rounded(belief.foreseen),
        "judge": _rounded(belief.judge),
        "succeeded": belief.succeeded,
        "problem": belief.error,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def describe_scene(visit: Visit) -> dict[str, Any]:
    """The scene of a visit, as JSON values."""
    session = visit.session
    scene, log = session.scene, session.scene.log
    axes = controls(session.world.action_spec, _initial(session))
    return {
        "scene": visit.scene,
        "instruction": session.instruction,
        "axes": [axis.to_dict() for axis in axes],
        "log": None
        if log is None
        else {
            "length": len(log.frames),
            "success": None if log.success is None else [int(i) for i in np.flatnonzero(log.success)[:1]],
        },
        "name": scene.name,
    }


def _initial(session: Session) -> np.ndarray | None:
    """Action to begin with where axes keep their value, float32 [a]: the logged one, or the pose of the robot."""
    spec, state = session.world.action_spec, session.scene.start.state
    if (logged := session.logged_action(0)) is not None:
        return logged
    return state if state is not None and spec.is_absolute and len(state) == spec.dim else None


def describe(visit: Visit, visits: Visits, names: Mapping[str, str]) -> dict[str, Any]:
    """What a page has to know at the beginning, as JSON values."""
    session = visit.session
    tiling = tiling_of(session.world)
    boxes = [] if tiling is None or not tiling.names_cameras else [(name, *box) for name, box in tiling.boxes.items()]
    height, width = session.world.frame_size
    return {
        "is": "hello",
        "visit": visit.id,
        "names": dict(names),
        "scenes": list(visits.scenes.names),
        "size": [height, width],
        "cameras": [[name.rpartition(".")[2], *box] for name, *box in boxes],
        "fps": session.world.fps,
        "spec": str(session.world.action_spec),
        "policy": session.policy is not None,
        "chunk": 0 if session.policy is None else session.policy.chunk,
        "judge": None if session.judge is None else {"name": session.judge.name, "live": session.is_judge_live},
        "stride": session.stride,
        "sessions": [len(visits), visits.limit],
        **describe_scene(visit),
    }


class Live:
    """One open page.

    Attributes:
        visit: its visit.
    """

    def __init__(self, socket: WebSocket, visit: Visit, visits: Visits, names: Mapping[str, str]):
        self.visit = visit
        self._socket, self._visits, self._names = socket, visits, names
        self._commands: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "drive": self._drive,
            "play": self._play,
            "resample": self._resample,
            "undo": self._undo,
            "redo": self._redo,
            "rewind": self._rewind,
            "fork": self._fork,
            "close": self._close,
            "open": self._open,
            "say": self._say,
            "judge": self._judge,
            "stop": self._stop,
        }

    @property
    def _session(self) -> Session:
        return self.visit.session

    async def run(self) -> None:
        """Converse until the page is closed."""
        await self._send(await self._thread(lambda: describe(self.visit, self._visits, self._names)))
        await self._send_nodes()
        send, receive = anyio.create_memory_object_stream[dict[str, Any]](_QUEUE)
        self._waiting = receive
        is_wrong = False
        async with anyio.create_task_group() as group, send, receive:
            group.start_soon(self._do_all)
            try:
                while True:
                    send.send_nowait(_command(await self._socket.receive_text()))
            except WebSocketDisconnect:
                pass
            except (anyio.WouldBlock, KeyError, ValueError):
                is_wrong = True
            group.cancel_scope.cancel()
        if is_wrong:
            await self._socket.close(_WRONG)

    async def _do_all(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):  # the page was closed while frames were streamed
            async for command in self._waiting:
                try:
                    await self._commands[command["do"]](command)
                except (InputError, ActionSpecMismatch) as error:
                    await self._send({"is": "error", "text": str(error)})
                await self._send_lines()

    def _is_interrupted(self) -> bool:
        return self._waiting.statistics().current_buffer_used > 0

    # -- commands ---------------------------------------------------------------------------------------------------

    async def _drive(self, command: dict[str, Any]) -> None:
        action, names = clipped(self._session.world.action_spec, command.get("action")), _names(command)
        await self._show(await self._thread(lambda: self._found(names, self._session.drive(names, action))))

    async def _play(self, command: dict[str, Any]) -> None:
        """Stream frames: of the policy, of the log, or without motion."""
        names, by, left = _names(command), command.get("by"), _count(command, "frames", 10**6)
        rate = self._session.world.fps * min(max(_number(command, "speed", 1.0), 0.0), 100.0)
        if "temperature" in command:
            self._session.temperature = min(max(_number(command, "temperature", 0.0), 0.0), 10.0)
        moves = {"policy": self._policy_moves, "log": self._log_moves, "still": self._still_moves}.get(str(by))
        if moves is None:
            raise InputError(f"play: found by {by!r}, expected policy, log or still")
        steps = moves(names)
        due = time.monotonic()
        while left > 0 and (found := await self._thread(lambda: next(steps, None))):
            await self._show(found)
            left -= 1
            if self._is_interrupted():
                break
            if rate:
                due = max(due + 1 / rate, time.monotonic() - 1 / rate)
                await anyio.sleep(max(0.0, due - time.monotonic()))

    def _found(self, names: Sequence[str], nodes: Sequence[Node]) -> list[tuple[str, Node, dict[str, Any]]]:
        """Nodes with their lines and summaries."""
        tips = {self._session.line(name).tip.id: name for name in names}
        return [(tips[node.id], node, summary(self._session, node)) for node in nodes]

    def _policy_moves(self, names: Sequence[str]) -> Iterator[list[tuple[str, Node, dict[str, Any]]]]:
        while True:
            for frames in zip(*(self._chunk(name) for name in names), strict=False):
                yield [found for frame in frames for found in frame]

    def _chunk(self, name: str) -> Iterator[list[tuple[str, Node, dict[str, Any]]]]:
        for node in self._session.act(name):
            yield self._found([name], [node])

    def _log_moves(self, names: Sequence[str]) -> Iterator[list[tuple[str, Node, dict[str, Any]]]]:
        while nodes := self._session.follow(names):
            yield self._found(names, nodes)

    def _still_moves(self, names: Sequence[str]) -> Iterator[list[tuple[str, Node, dict[str, Any]]]]:
        while True:
            action = self._session.still_action(self._session.line(names[0]).tip)
            yield self._found(names, self._session.drive(names, action))

    async def _resample(self, command: dict[str, Any]) -> None:
        name, session = str(command.get("line")), self._session
        old = {node.depth: node for node in session.line(name).tip.path()}
        steps = session.resample(name, _optional_count(command, "depth"))
        is_same, count = True, 0
        while (node := await self._thread(lambda: next(steps, None))) is not None:
            await self._show(await self._thread(lambda node=node: self._found([name], [node])))
            is_same, count = is_same and np.array_equal(node.frame, old[node.depth].frame), count + 1
            if self._is_interrupted():
                break
        if count and is_same:
            await self._note(f"The {count} new frames are identical: this world model draws nothing at random.")
        elif not count:
            await self._note("There is nothing to imagine again: the line has no frames after this one.")

    async def _undo(self, command: dict[str, Any]) -> None:
        self._session.undo(str(command.get("line")), _count(command, "count", 1))

    async def _redo(self, command: dict[str, Any]) -> None:
        self._session.redo(str(command.get("line")), _count(command, "count", 1))

    async def _rewind(self, command: dict[str, Any]) -> None:
        self._session.rewind(str(command.get("line")), _count(command, "depth", 0))

    async def _fork(self, command: dict[str, Any]) -> None:
        line = self._session.fork(str(command.get("line")), _optional_count(command, "depth"))
        await self._send({"is": "forked", "line": line.name})

    async def _close(self, command: dict[str, Any]) -> None:
        self._session.close(str(command.get("line")))

    async def _open(self, command: dict[str, Any]) -> None:
        index = _count(command, "scene", 0)
        scene = self._visits.scenes[index]
        await self._thread(lambda: self._session.begin(scene))
        self.visit.scene = index
        await self._send({"is": "scene", **describe_scene(self.visit)})
        await self._send_nodes()

    async def _say(self, command: dict[str, Any]) -> None:
        """Change the sentence; the beliefs of the tips follow."""
        text = command.get("text")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT:
            raise InputError(f"instruction: expected a sentence of at most {MAX_TEXT} characters")
        self._session.instruction = " ".join(text.split())
        await self._send({"is": "said", "instruction": self._session.instruction})
        await self._believe([line.tip for line in self._session.lines.values()], self._session.is_judge_live)

    async def _judge(self, command: dict[str, Any]) -> None:
        if self._session.judge is None:
            raise InputError("judge: there is none. Start with play --judge FILE")
        await self._believe([self._session.line(name).tip for name in _names(command)], True)

    async def _stop(self, command: dict[str, Any]) -> None:
        """End a stream, as any command does."""

    # -- messages ---------------------------------------------------------------------------------------------------

    async def _thread(self, function: Callable[[], Any]) -> Any:
        def locked() -> Any:
            with self.visit.lock:
                return function()

        return await anyio.to_thread.run_sync(locked)

    async def _show(self, found: Sequence[tuple[str, Node, dict[str, Any]]]) -> None:
        for name, node, known in found:
            header = json.dumps({"is": "frame", "line": name, "node": known}).encode()
            await self._socket.send_bytes(len(header).to_bytes(4, "big") + header + picture(node.frame))

    async def _believe(self, nodes: Sequence[Node], is_asked: bool) -> None:
        def beliefs() -> list[dict[str, Any]]:
            return [summary(self._session, node, is_asked=is_asked) for node in nodes]

        await self._send({"is": "nodes", "nodes": await self._thread(beliefs)})

    async def _send_nodes(self) -> None:
        """Send everything that a new page does not know."""

        def known() -> list[dict[str, Any]]:
            return [summary(self._session, self._session.tree[i]) for i in range(len(self._session.tree))]

        await self._send({"is": "nodes", "nodes": await self._thread(known)})
        await self._send_lines()

    async def _send_lines(self) -> None:
        lines = [
            {
                "name": line.name,
                "tip": line.tip.id,
                "forked": line.forked,
                "undo": len(line.back),
                "redo": len(line.ahead),
            }
            for line in self._session.lines.values()
        ]
        await self._send({"is": "lines", "lines": lines})

    async def _note(self, text: str) -> None:
        await self._send({"is": "note", "text": text})

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._socket.send_text(json.dumps(message, ensure_ascii=False))


_COMMANDS = frozenset(
    ("drive", "play", "resample", "undo", "redo", "rewind", "fork", "close", "open", "say", "judge", "stop")
)


def _command(text: str) -> dict[str, Any]:
    """A command of a page.

    Raises ValueError unless it is one; only a page of ours connects, so a wrong one ends the connection.
    """
    if len(text) > _MAX_MESSAGE:
        raise ValueError("too long")
    command = json.loads(text)
    if not isinstance(command, dict) or command.get("do") not in _COMMANDS:
        raise ValueError("no command")
    return command


def _names(command: Mapping[str, Any]) -> list[str]:
    names = command.get("lines")
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise InputError("lines: expected a list of names, each once")
    return [str(name) for name in names]


def _number(command: Mapping[str, Any], name: str, default: float) -> float:
    value = command.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(f"{name}: expected a number")
    return float(value)


def _count(command: Mapping[str, Any], name: str, default: int) -> int:
    value = command.get(name, default)
    if type(value) is not int or not 0 <= value <= 10**6:
        raise InputError(f"{name}: expected a whole number from 0 to 1000000")
    return value


def _optional_count(command: Mapping[str, Any], name: str) -> int | None:
    return None if command.get(name) is None else _count(command, name, 0)
