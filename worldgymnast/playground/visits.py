"""The sessions of all visitors, within limits of number and memory."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from worldgymnast.errors import InputError
from worldgymnast.playground.scenes import Scene, Scenes
from worldgymnast.playground.session import Session

KEEP_SECONDS = 900.0
"""How long the session of a closed page is kept, for a reload."""
MAX_VISITS = 8
"""Most sessions at a time, unless the command sets another limit."""

MakeSession = Callable[[Scene, int], Session]
"""Makes a session from a scene and a seed."""


@dataclass
class Visit:
    """One visitor.

    Attributes:
        id: name of the visit in addresses.
        session: the session.
        scene: position of its scene.
        is_connected: whether a page shows it.
        left: time at which the page was closed, of `time.monotonic`.
    """

    id: str
    session: Session
    scene: int
    is_connected: bool = True
    left: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Visits:
    """All visits of a server.

    Attributes:
        scenes: the scenes to choose from.
        limit: most sessions at a time.
    """

    def __init__(self, scenes: Scenes, make: MakeSession, limit: int = MAX_VISITS):
        """Begin without visitors.

        Args:
            scenes: the scenes to choose from.
            make: makes the session of a visitor.
            limit: most sessions at a time.
        """
        self.scenes, self.limit = scenes, limit
        self._make, self._visits, self._lock, self._count = make, dict[str, Visit](), threading.Lock(), 0

    def __len__(self) -> int:
        return len(self._visits)

    def __getitem__(self, name: str) -> Visit:
        """Visit by its id.

        Raises:
            InputError: there is none.
        """
        if name not in self._visits:
            raise InputError("session: it is gone. Reload the page")
        return self._visits[name]

    def enter(self, name: str = "", scene: int = 0) -> Visit:
        """Resume a visit that no page shows, or begin one.

        Args:
            name: id of the visit to resume; a new one begins if it is gone or shown elsewhere.
            scene: where a new one begins.

        Raises:
            InputError: there are too many sessions, or no such scene.
        """
        with self._lock:
            known = self._visits.get(name)
            if known is not None and not known.is_connected:
                known.is_connected = True
                return known
            self._drop_old()
            if len(self._visits) >= self.limit:
                raise InputError(f"{self.limit} sessions are open (limit --sessions {self.limit}). Close another page")
            self._count += 1
            visit = Visit(secrets.token_urlsafe(12), self._make(self.scenes[scene], self._count), scene)
            self._visits[visit.id] = visit
            return visit

    def leave(self, visit: Visit) -> None:
        """Note that the page of a visit was closed."""
        visit.is_connected, visit.left = False, time.monotonic()

    def _drop_old(self) -> None:
        """Drop sessions whose pages were closed: long ago, or the oldest ones where there are too many."""
        closed = sorted((v for v in self._visits.values() if not v.is_connected), key=lambda visit: visit.left)
        for visit in closed:
            is_old = time.monotonic() - visit.left > KEEP_SECONDS
            if is_old or len(self._visits) >= self.limit:
                del self._visits[visit.id]
