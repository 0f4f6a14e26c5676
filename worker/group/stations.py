"""Where each video of a node stands, and whether the node takes one more.

A video is prepared (its files fetched, checked and decoded), waits for its turn, is drawn, and is finished (its file
written, measured and stored). One is drawn at a time; the others stand beside it so that the DiT does not wait.

**The rule of admission** is `Stations.has_place`: one more comes when nobody is before the drawing, when not too many
are behind it, and when the drawing is over soon. A node that took more than that would only keep videos from others.

Knows names and clocks; nothing of jobs, sockets or ranks.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum

from worker.group.request import RenderPhase, RenderProgress

PREPARE_AHEAD_S = 30.0
"""What is left of the drawing when the next video is taken, at most: enough to fetch and decode its files."""
LEAST_AHEAD_S = 5.0
AHEAD_OF_SLOWEST = 3.0
"""Times as long as the slowest of the last videos took to prepare is enough too: the longer a video waits here, the
longer another node may have been idle."""
PREPARATIONS_REMEMBERED = 8
FINISHING_AT_MOST = 3
"""When so many stand behind the drawing, disk or network are the slower part, and more would pile up there."""


class Station(StrEnum):
    PREPARING = "preparing"
    WAITING = "waiting"
    DRAWING = "drawing"
    FINISHING = "finishing"


@dataclass
class Visit:
    """One video on this node."""

    name: str
    since: float
    """By `time.monotonic`."""
    station: Station = Station.PREPARING


class Stations:
    """All visits of a node. Any thread may use it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._visits: list[Visit] = []
        self._pace = _Pace()
        self._preparations_s: deque[float] = deque(maxlen=PREPARATIONS_REMEMBERED)

    def admit(self, name: str, *, timeout_s: float) -> Visit | None:
        """Let one more in, as soon as there is a place; None when there was none in time."""
        with self._changed:
            if not self._changed.wait_for(self.has_place, timeout=timeout_s):
                return None
            visit = Visit(name, since=time.monotonic())
            self._visits.append(visit)
            self._changed.notify_all()
            return visit

    def has_place(self) -> bool:
        """The rule of admission, see above."""
        with self._changed:
            at = Counter(visit.station for visit in self._visits)
            if at[Station.PREPARING] or at[Station.WAITING] or at[Station.FINISHING] >= FINISHING_AT_MOST:
                return False
            return not at[Station.DRAWING] or self._pace.left_s() <= self._ahead_s()

    def move(self, visit: Visit, station: Station) -> None:
        with self._changed:
            if visit.station is Station.PREPARING:
                self._preparations_s.append(time.monotonic() - visit.since)
            visit.station = station
            if station is Station.DRAWING:
                self._pace = _Pace()
            self._changed.notify_all()

    def note(self, progress: RenderProgress) -> None:
        """What is drawn moved."""
        with self._changed:
            self._pace.note(progress)
            self._changed.notify_all()

    def leave(self, visit: Visit) -> None:
        with self._changed:
            self._visits.remove(visit)
            self._changed.notify_all()

    @property
    def moved_at(self) -> float:
        """When what is drawn moved last, by `time.monotonic`."""
        with self._changed:
            return self._pace.moved_at

    @property
    def current(self) -> str | None:
        """The video that is drawn, or else the one that is nearest to it."""
        order = (Station.DRAWING, Station.WAITING, Station.PREPARING, Station.FINISHING)
        with self._changed:
            visits = sorted(self._visits, key=lambda visit: order.index(visit.station))
            return visits[0].name if visits else None

    def counts(self) -> dict[Station, int]:
        """Videos at each station."""
        with self._changed:
            return {station: sum(visit.station is station for visit in self._visits) for station in Station}

    def _ahead_s(self) -> float:
        if not self._preparations_s:
            return PREPARE_AHEAD_S
        return min(PREPARE_AHEAD_S, max(LEAST_AHEAD_S, AHEAD_OF_SLOWEST * max(self._preparations_s)))


class _Pace:
    """How fast one video is drawn, and how long it will take."""

    def __init__(self) -> None:
        self.moved_at = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None
        self._blocks: int | None = None

    def note(self, progress: RenderProgress) -> None:
        self.moved_at = time.monotonic()
        if progress.phase is RenderPhase.RENDERING and progress.blocks_total is not None:
            self._blocks = progress.blocks_total
            self._last = (progress.blocks_done, self.moved_at)
            self._first = self._first or self._last

    def left_s(self) -> float:
        """Seconds until the last block; without end while it cannot be said, before the second block."""
        if self._first is None or self._last is None or self._blocks is None:
            return float("inf")
        (first, first_at), (last, last_at) = self._first, self._last
        if last == self._blocks:
            return 0.0
        return (self._blocks - last) * (last_at - first_at) / (last - first) if last > first else float("inf")
