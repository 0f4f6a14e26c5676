"""Keeps one group warm: launches it, watches it while it is idle, and launches another when it goes down.

Knows lives of groups and how many may be spent; nothing of jobs or sockets.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from worker.group.errors import GroupFailed, GroupRefused, GroupUnavailable
from worker.group.failures import Failures, RestartBudget
from worker.group.group import DrawnVideo, Group
from worker.group.messages import DeviceReport
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.pipeline.dit_clock import DiTSeconds

CHECK_EVERY_S = 5.0
STOP_TIMEOUT_S = 15.0

log = logging.getLogger(__name__)


class GroupState(StrEnum):
    STARTING = "starting"  # ranks are launching or loading weights
    READY = "ready"  # warm; it may finish files of videos that are drawn
    BUSY = "busy"  # draws
    REFUSED = "refused"  # can never start as it is configured
    UNHEALTHY = "unhealthy"  # failed too often
    CLOSED = "closed"


@dataclass(frozen=True)
class GroupStatus:
    state: GroupState
    pids: tuple[int, ...] = ()
    devices: tuple[DeviceReport, ...] = ()
    restarts: int = 0
    reason: str | None = None
    """Of the last failure or refusal."""


class WarmGroup:
    """A group that comes back. One thread of it owns the ranks for as long as it lives."""

    def __init__(self, new_group: Callable[[], Group], *, budget: RestartBudget | None = None) -> None:
        self._new_group = new_group
        self._budget = budget or RestartBudget()
        self._failures = Failures(self._budget)
        self._drawing: str | None = None
        """The video in work; after a failure, the one that it happened under."""
        self._changed = threading.Condition()
        self._group: Group | None = None
        self._state = GroupState.STARTING
        self._state_since = time.monotonic()
        self._seconds: dict[GroupState, float] = {}
        self._restarts = 0
        self._reason: str | None = None
        self._dit_of_earlier_lives = DiTSeconds()
        self._closing = threading.Event()
        self._owner = threading.Thread(target=self._own, name="group-owner")

    def start(self) -> None:
        """Launch the ranks and return at once; `wait_until_ready` says when they are."""
        self._owner.start()

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Raises `GroupUnavailable` when no warm group is there in time, at once when none will ever be."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not GroupState.STARTING, timeout=timeout_s)
            self._warm()

    def announce(self, request: RenderRequest) -> None:
        """As `Group.announce`. A group that is launched later does not know of it, and does not need to."""
        with self._changed:
            group = self._group
        if group is not None:
            group.announce(request)

    def forget(self, name: str) -> None:
        """As `Group.forget`."""
        with self._changed:
            group = self._group
        if group is not None:
            group.forget(name)

    def draw(
        self, request: RenderRequest, *, wanted_since: float, on_progress: OnProgress, should_cancel: ShouldCancel
    ) -> DrawnVideo:
        """As `Group.draw`, in the group that is warm now. Raises `GroupUnavailable` when none is, or it is taken."""
        group = self._take(request)
        try:
            drawn = group.draw(request, wanted_since=wanted_since, on_progress=on_progress, should_cancel=should_cancel)
            with self._changed:
                self._failures.forgive()
            return drawn
        finally:
            with self._changed:
                if self._group is group and not group.is_down:
                    self._drawing = None
                if self._group is group and self._state is GroupState.BUSY:
                    self._enter(GroupState.STARTING if group.is_down else GroupState.READY)

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """Draw one video and wait for its file. Raises as `draw` and `DrawnVideo.finish`."""
        drawn = self.draw(request, wanted_since=time.monotonic(), on_progress=on_progress, should_cancel=should_cancel)
        return drawn.finish(on_progress=on_progress, should_cancel=should_cancel)

    def close(self) -> None:
        """End the ranks; a render in another thread raises `GroupFailed`."""
        self._closing.set()
        with self._changed:
            group = self._group
            self._changed.notify_all()
        if group is not None:
            group.close()
        if self._owner.is_alive():
            self._owner.join(timeout=STOP_TIMEOUT_S)

    @property
    def status(self) -> GroupStatus:
        with self._changed:
            group = self._group
            return GroupStatus(
                state=self._state,
                pids=group.pids if group is not None else (),
                devices=group.devices if group is not None else (),
                restarts=self._restarts,
                reason=self._reason,
            )

    def seconds_in_states(self) -> dict[GroupState, float]:
        """Seconds since `start` by state; they add up to the time it lives."""
        with self._changed:
            now = time.monotonic()
            return {**self._seconds, self._state: self._seconds.get(self._state, 0.0) + now - self._state_since}

    @property
    def dit_seconds(self) -> DiTSeconds:
        """How long the DiT worked and waited, in all lives together."""
        with self._changed:
            now = DiTSeconds() if self._group is None else self._group.dit_seconds
            return self._dit_of_earlier_lives + now

    def _take(self, request: RenderRequest) -> Group:
        with self._changed:
            group = self._warm()
            if self._state is GroupState.BUSY:
                raise GroupUnavailable("the group is busy")
            self._enter(GroupState.BUSY)
            self._drawing = request.subject
            return group

    def _warm(self) -> Group:
        """The group, warm; the lock is held. One that just went down is not, though its owner has yet to notice."""
        group = self._group
        if group is None or self._state not in (GroupState.READY, GroupState.BUSY):
            raise GroupUnavailable(f"the group is {self._state}" + (f": {self._reason}" if self._reason else ""))
        if group.is_down:
            raise GroupUnavailable("the group went down")
        return group

    def _own(self) -> None:
        """The owner's life. It outlives every rank it starts, since Linux ties those to this very thread."""
        try:
            while not self._closing.is_set():
                self._live_once()
                if not self._closing.wait(self._budget.pause_s):
                    self._spend_budget()
        except GroupRefused as refused:
            self._end(GroupState.REFUSED, refused.message)
        except _BudgetSpent as spent:
            self._end(GroupState.UNHEALTHY, str(spent))
        except BaseException as error:
            self._end(GroupState.UNHEALTHY, f"{type(error).__name__}: {error}")
            raise
        else:
            self._end(GroupState.CLOSED, None)

    def _live_once(self) -> None:
        """One life of a group, from its launch to its failure or to `close`."""
        group = self._new_group()
        with self._changed:
            self._group = group
            self._enter(GroupState.STARTING)
        try:
            group.start()
            with self._changed:
                self._enter(GroupState.READY)
            while not self._closing.is_set():
                group.check()
                group.wait_until_down(timeout_s=CHECK_EVERY_S)
        except GroupFailed as failure:
            with self._changed:
                self._reason = failure.message
                self._failures.add(video=self._drawing)
                self._drawing = None
                self._enter(GroupState.STARTING)
        finally:
            seconds = group.dit_seconds
            with self._changed:
                self._dit_of_earlier_lives += seconds
                self._group = None
            group.close()

    def _spend_budget(self) -> None:
        with self._changed:
            if self._failures.are_too_many:
                raise _BudgetSpent(
                    f"{self._failures.count} failures within {self._budget.within_s:g} s; last: {self._reason}"
                )
            self._restarts += 1
        log.warning("launching the group again after: %s", self._reason)

    def _end(self, state: GroupState, reason: str | None) -> None:
        with self._changed:
            self._group = None
            self._reason = reason or self._reason
            self._enter(state)
        if reason is not None:
            log.error("no more group: %s", reason)

    def _enter(self, state: GroupState) -> None:
        """Change the state; the lock is held."""
        now = time.monotonic()
        self._seconds[self._state] = self._seconds.get(self._state, 0.0) + now - self._state_since
        self._state, self._state_since = state, now
        self._changed.notify_all()


class _BudgetSpent(Exception):
    pass
