"""A line of imagined frames, and what is believed of one of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from worldgymnast.playground.tree import Node


@dataclass
class Line:
    """A path through the tree, from the start to its tip.

    Attributes:
        name: one letter.
        tip: the newest node.
        forked: depth at which it left another line; 0 for the first.
        back: tips to which undo returns, the last first.
        ahead: tips to which redo returns.
    """

    name: str
    tip: Node
    forked: int = 0
    back: list[Node] = field(default_factory=list)
    ahead: list[Node] = field(default_factory=list)

    def move(self, node: Node) -> None:
        """Move the tip, so that undo returns to where it was."""
        self.back.append(self.tip)
        self.ahead.clear()
        self.tip = node

    def undo(self, count: int = 1) -> Node:
        """Return the tip to where it was `count` moves ago, or to the first."""
        return self._retrace(self.back, self.ahead, count)

    def redo(self, count: int = 1) -> Node:
        """Take back `count` undos, or all."""
        return self._retrace(self.ahead, self.back, count)

    def _retrace(self, source: list[Node], passed: list[Node], count: int) -> Node:
        for _ in range(min(count, len(source))):
            passed.append(self.tip)
            self.tip = source.pop()
        return self.tip


@dataclass(frozen=True)
class Belief:
    """What is believed of success at a node.

    Attributes:
        judge: probability of the judge that the line up to here succeeds, or None.
        succeeded: verdict of the judge, or None.
        foreseen: the world model's own success probability at this frame; None without a success head.
        error: reason why the judge has no verdict.
    """

    judge: float | None = None
    succeeded: bool | None = None
    foreseen: float | None = None
    error: str = ""
