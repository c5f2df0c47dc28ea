"""One person in a world model: lines of imagined frames that can be undone, forked, resampled and judged.

A *line* is a path through the tree of states (`playground.tree`), shown as one video. Nothing is ever lost: undo moves
the tip of a line back to the node where it was. Without the web; every model is used through its Protocol.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float, UInt8

from worldgymnast.actions import converter, motionless
from worldgymnast.envs.imagined import observed
from worldgymnast.errors import InputError
from worldgymnast.evaluation.uncertainty import look_indices
from worldgymnast.playground.lines import Belief, Line
from worldgymnast.playground.scenes import Scene
from worldgymnast.playground.tree import Node, Origin, StateTree, Turn
from worldgymnast.protocols import Actor, Judge, PredictsSuccess, WorldModel, tiling_of
from worldgymnast.rl.rollout import observe
from worldgymnast.types import IMAGE, Clip, Observation, Verdict

MAX_LINES = 4
"""Most lines side by side."""
MAX_LOOKS = 64
"""Most frames of a line that the judge sees: the first, and the newest others."""
MEMORY = 256 << 20
"""Bytes of the states that a session keeps."""
LIVE_SECONDS = 0.25
"""A judge that takes longer is asked on request only."""
_NAMES = "ABCD"


class Session:
    """Lines of one scene.

    Attributes:
        world: the world model.
        policy: the policy, or None.
        judge: the judge, or None.
        scene: where the lines begin.
        instruction: sentence for policy and judge.
        temperature: of the policy; 0 is greedy.
        lines: the lines by name, in order.
        stride: frames between two that the judge sees.

    Example, with the starter world model::

        session = Session(wg.load_world(wg.starter("world")), Scene("drawer", start))
        session.drive(["A"], [0, 0.5, 0, -1])
        session.undo("A")
    """

    def __init__(
        self,
        world: WorldModel,
        scene: Scene,
        *,
        policy: Actor | None = None,
        judge: Judge | None = None,
        stride: int = 2,
        seed: int = 0,
        memory: int = MEMORY,
        turn: Turn = nullcontext,
    ):
        """Begin at a scene.

        Args:
            world: the world model.
            scene: where to begin.
            policy: acts on request; its actions are converted to those of the world model.
            judge: judges the lines.
            stride: frames between two that the judge sees.
            seed: of all random draws.
            memory: most bytes of the states that are kept.
            turn: entered around every use of a model; sessions that share models take turns.

        Raises:
            ActionSpecMismatch: the actions of the policy cannot be converted.
            InputError: the scene does not fit the world model.
        """
        self.world, self.policy, self.judge, self.stride = world, policy, judge, stride
        self.temperature = 0.0
        self._turn, self._memory, self._random = turn, memory, random.Random(seed)
        self._convert = None if policy is None else converter(policy.action_spec, world.action_spec)
        self._judge_seconds = 0.0
        self.begin(scene)

    def begin(self, scene: Scene) -> Node:
        """Start over at a scene; returns the node of its start."""
        self.scene, self.instruction = scene, scene.start.instruction
        has_log = scene.log is not None
        self.tree = StateTree(self.world, scene.start, memory=self._memory, has_log=has_log, turn=self._turn)
        self.lines: dict[str, Line] = {"A": Line("A", self.tree.root)}
        self._beliefs: dict[tuple[int, str], Belief] = {}
        return self.tree.root

    def line(self, name: str) -> Line:
        """Line of a name.

        Raises:
            InputError: there is none.
        """
        if name not in self.lines:
            raise InputError(f"line: found '{name}', expected {', '.join(self.lines)}")
        return self.lines[name]

    # -- imagination ------------------------------------------------------------------------------------------------

    def drive(self, names: Sequence[str], action: Sequence[float] | np.ndarray, origin: Origin = "hand") -> list[Node]:
        """Imagine the next frame of these lines with one action, each with a draw of its own.

        Args:
            names: of the lines.
            action: float [a], in the units of the world model.
            origin: who chose it.
        """
        given = np.asarray(action, np.float32)
        given = self.world.action_spec.check(given, "action")
        return self._extend([self.line(name) for name in names], [given] * len(names), origin)

    def _extend(self, lines: Sequence[Line], actions: Sequence[np.ndarray], origin: Origin) -> list[Node]:
        tips = [line.tip for line in lines]
        on_log = [self._is_logged(tip, action) for tip, action in zip(tips, actions, strict=True)]
        nodes = self.tree.extend(tips, np.stack(actions), self._random.getrandbits(62), origin, on_log)
        for line, node in zip(lines, nodes, strict=True):
            line.move(node)
        return nodes

    def _is_logged(self, tip: Node, action: np.ndarray) -> bool:
        logged = self.logged_action(tip.depth)
        return tip.is_on_log and logged is not None and np.array_equal(logged, action)

    def logged_action(self, depth: int) -> np.ndarray | None:
        """Logged action at a depth, float32 [a]; None after the end, or without a log."""
        log = self.scene.log
        return None if log is None or depth >= len(log.actions) else log.actions[depth]

    def follow(self, names: Sequence[str]) -> list[Node]:
        """Imagine the next frame of these lines with the logged action at their depths.

        Lines whose log has ended stay; empty if all did.

        Raises:
            InputError: the scene has no log.
        """
        if self.scene.log is None:
            raise InputError("follow: this start has no recorded actions. Start from an episode (play --data DATA)")
        moving = [line for name in names if self.logged_action((line := self.line(name)).tip.depth) is not None]
        actions = [action for line in moving if (action := self.logged_action(line.tip.depth)) is not None]
        return self._extend(moving, actions, "log") if moving else []

    def act(self, name: str) -> Iterator[Node]:
        """Let the policy look once, and imagine its chunk of actions; yields each frame.

        Raises:
            InputError: there is no policy, or it needs what the world model does not provide.
        """
        line = self.line(name)
        for action in self.choose_actions(line.tip):
            yield self._extend([line], [action], "policy")[0]

    def choose_actions(self, node: Node) -> Float[np.ndarray, "k a"]:
        """Actions of the policy at a node, in the units of the world model.

        Raises:
            InputError: there is no policy, or it needs what the world model does not provide.
        """
        if self.policy is None or self._convert is None:
            raise InputError("act: there is no policy. Start with play --policy FILE")
        state = self.tree.state(node)
        with self._turn():
            obs = self._observation(self.policy, node, state)
            generator = torch.Generator().manual_seed(self._random.getrandbits(62))
            chunk = self.policy.act(obs, temperature=self.temperature, generator=generator)
        return np.asarray(self._convert(chunk.actions[0].float().cpu().numpy()), np.float32)

    def _observation(self, policy: Actor, node: Node, state: object) -> Observation:
        tiling, sentences = tiling_of(self.world), [self.instruction]
        seen = observed(self.world, state, node.frame[None])  # pyright: ignore[reportArgumentType]
        first = observe(policy, {**seen, IMAGE: self.tree.root.frame[None]}, sentences, None, tiling)
        return observe(policy, seen, sentences, first.images, tiling)

    def resample(self, name: str, depth: int | None = None) -> Iterator[Node]:
        """Imagine the frames of a line after a depth again: the same actions, new random draws.

        Args:
            name: of the line.
            depth: last frame to keep; where the line was forked, if None.

        Yields:
            Each new frame. Undo returns to the old ones at once.
        """
        line = self.line(name)
        begin = line.forked if depth is None else max(0, min(depth, line.tip.depth))
        again = [node for node in line.tip.path() if node.depth > begin]
        before, back = line.tip, list(line.back)
        line.tip = line.tip.ancestor(begin)
        for node in again:
            assert node.action is not None
            fresh = self._extend([line], [node.action], node.origin)[0]
            line.back = [*back, before]
            yield fresh

    # -- lines ------------------------------------------------------------------------------------------------------

    def undo(self, name: str, count: int = 1) -> Node:
        """Return the tip of a line to where it was `count` frames or operations ago."""
        return self.line(name).undo(count)

    def redo(self, name: str, count: int = 1) -> Node:
        """Take back an undo."""
        return self.line(name).redo(count)

    def rewind(self, name: str, depth: int) -> Node:
        """Move the tip of a line to an earlier frame, to continue from there; undo returns."""
        line = self.line(name)
        if 0 <= depth < line.tip.depth:
            line.move(line.tip.ancestor(depth))
        return line.tip

    def fork(self, name: str, depth: int | None = None) -> Line:
        """Begin another line at a frame of a line; both share the past.

        Args:
            name: of the line.
            depth: frame at which to fork; the newest if None.

        Raises:
            InputError: there are `MAX_LINES` lines already.
        """
        source = self.line(name)
        free = [letter for letter in _NAMES if letter not in self.lines]
        if not free:
            raise InputError(f"fork: there are {MAX_LINES} lines already. Close one")
        tip = source.tip if depth is None else source.tip.ancestor(max(0, depth))
        self.lines[free[0]] = Line(free[0], tip, forked=tip.depth)
        return self.lines[free[0]]

    def close(self, name: str) -> None:
        """Remove a line; the last one stays."""
        self.line(name)
        if len(self.lines) > 1:
            del self.lines[name]

    # -- belief and reality -----------------------------------------------------------------------------------------

    @property
    def is_judge_live(self) -> bool:
        """Whether the judge is fast and local, and so asked while driving."""
        return self.judge is not None and not self.judge.is_remote and self._judge_seconds < LIVE_SECONDS

    def belief(self, node: Node, *, is_asked: bool = False) -> Belief:
        """Belief of success at a node.

        The world model's own belief is computed at every node, that of a live judge at every `stride`-th.

        Args:
            node: the node.
            is_asked: ask the judge at any node, live or not.
        """
        key = (node.id, self.instruction)
        known = self._beliefs.get(key)
        if known is not None and not (is_asked and known.judge is None):
            return known
        foreseen = known.foreseen if known else self._foresee(node)
        belief = Belief(foreseen=foreseen)
        if self.judge is not None and (is_asked or (self.is_judge_live and node.depth % self.stride == 0)):
            verdict = self._judge(self.judge, node, foreseen)
            belief = Belief(verdict.probability, verdict.succeeded, foreseen, verdict.error or "")
        self._beliefs[key] = belief
        return belief

    def _foresee(self, node: Node) -> float | None:
        """The world model's own success probability: 0 at the start, None without a success head."""
        if not isinstance(self.world, PredictsSuccess):
            return None
        state = self.tree.state(node)
        with self._turn():
            probability = self.world.predict_success(state, [self.instruction])
        if probability is None:
            return 0.0 if node.parent is None and self._has_success_head else None
        return float(probability[0])

    @property
    def _has_success_head(self) -> bool:
        return getattr(self.world, "success_head", None) is not None

    def _judge(self, judge: Judge, node: Node, newest: float | None) -> Verdict:
        path = node.path()
        looks = [path[int(i)] for i in look_indices(len(path), self.stride)]
        looks = looks if len(looks) <= MAX_LOOKS else [looks[0], *looks[1 - MAX_LOOKS :]]
        foreseen: list[float | None] = [newest if one is node else self._foreseen_before(one) for one in looks]
        is_known = all(value is not None for value in foreseen)
        is_own = self.instruction == self.scene.start.instruction
        clip = Clip(
            np.stack([one.frame for one in looks]),
            self.instruction,
            self.scene.start.task if is_own else "",
            imagined=True,
            foreseen=np.array(foreseen, np.float32) if is_known else None,
        )
        began = time.perf_counter()
        try:
            with self._turn() if not judge.is_remote else nullcontext():
                verdict = judge.score([clip])[0]
        except InputError as error:  # such as a sentence that it does not know
            verdict = Verdict(None, error=str(error))
        if node.parent is not None:  # the first call may load something
            self._judge_seconds = time.perf_counter() - began
        return verdict

    def _foreseen_before(self, node: Node) -> float | None:
        known = self._beliefs.get((node.id, self.instruction))
        return known.foreseen if known else self._foresee(node)

    def real_frame(self, depth: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """Real frame at a depth; None without a log, or after its end."""
        log = self.scene.log
        return None if log is None or not 0 <= depth < len(log.frames) else log.frames[depth]

    def error(self, node: Node) -> float | None:
        """Root mean square difference from the real frame, as a share of the range of a pixel.

        None where an action since the start is not the logged one.
        """
        real = self.real_frame(node.depth)
        if real is None or not node.is_on_log:
            return None
        return float(np.sqrt(np.square((node.frame.astype(np.float32) - real) / 255).mean()))

    def still_action(self, node: Node) -> Float[np.ndarray, " a"]:
        """Action without motion at a node: zero deltas, and targets and grippers as they were."""
        spec = self.world.action_spec
        before = node.action if node.action is not None else self.logged_action(0)
        zeros = np.zeros((1, spec.dim), np.float32)
        return motionless(spec, zeros, before)[0] if before is not None else zeros[0]

    # -- export -----------------------------------------------------------------------------------------------------

    def clip(self, name: str) -> UInt8[np.ndarray, "t h w 3"]:
        """Frames of a line from the start to its tip."""
        return np.stack([node.frame for node in self.line(name).tip.path()])

    def real_clip(self, length: int) -> UInt8[np.ndarray, "t h w 3"] | None:
        """First frames of the log; None without one."""
        return None if self.scene.log is None else np.asarray(self.scene.log.frames[:length])
