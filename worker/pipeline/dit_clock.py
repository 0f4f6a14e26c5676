"""How long the DiT worked, and how long it waited although there was a video to draw.

Kept where the DiT works. Knows time only: no tensors, so that figures can be passed on by processes without torch. The
clock on the wall is right wherever a section ends with its results on the host; on a GPU that goes on by itself, a
clock of the device's own events tells the share of the DiT from that of the decoder beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class DiTSeconds:
    """Seconds since the rank was started."""

    busy: float = 0.0
    """Denoising."""
    shared: float = 0.0
    """On a rank alone: encoding or decoding on the DiT's device, as part of a stream."""
    idle_between: float = 0.0
    """From when one video was drawn and the next was wanted, until its first work."""
    idle_within: float = 0.0
    """Between two pieces of work on one video."""

    @property
    def idle(self) -> float:
        return self.idle_between + self.idle_within

    def __add__(self, other: DiTSeconds) -> DiTSeconds:
        return DiTSeconds(
            busy=self.busy + other.busy,
            shared=self.shared + other.shared,
            idle_between=self.idle_between + other.idle_between,
            idle_within=self.idle_within + other.idle_within,
        )


OnDiTWork = Callable[[DiTSeconds], None]


class DiTClock(Protocol):
    """Used by the one thread that denoises. What is done before the first `begin`, as a trial, waits for nobody."""

    def begin(self, *, wanted_since: float, on_work: OnDiTWork) -> None:
        """A video comes, wanted since then by `time.monotonic`. `on_work` hears of all the DiT's work on it."""

    def denoising(self) -> AbstractContextManager[None]:
        """The DiT works in the block."""

    def sharing(self) -> AbstractContextManager[None]:
        """The device of the DiT works in the block on something else that the video needs."""


class WallDiTClock:
    """A `DiTClock` by the clock on the wall."""

    def __init__(self) -> None:
        self._seconds = DiTSeconds()
        self._free_since = time.monotonic()
        self._wanted_since = float("inf")
        self._has_begun = False
        self._on_work: OnDiTWork = _ignore

    def begin(self, *, wanted_since: float, on_work: OnDiTWork) -> None:
        self._wanted_since = wanted_since
        self._has_begun = False
        self._on_work = on_work

    @contextmanager
    def denoising(self) -> Iterator[None]:
        started = self._start()
        yield
        self._free_since = time.monotonic()
        self._seconds = replace(self._seconds, busy=self._seconds.busy + self._free_since - started)
        self._on_work(self._seconds)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        started = self._start()
        yield
        self._free_since = time.monotonic()
        self._seconds = replace(self._seconds, shared=self._seconds.shared + self._free_since - started)

    def _start(self) -> float:
        """The time; what lies between it and the work before was idle, as far as there was something to do."""
        now = time.monotonic()
        idle = max(0.0, now - max(self._free_since, self._wanted_since))
        if self._has_begun:
            self._seconds = replace(self._seconds, idle_within=self._seconds.idle_within + idle)
        else:
            self._seconds = replace(self._seconds, idle_between=self._seconds.idle_between + idle)
            self._has_begun = True
        return now


def _ignore(seconds: DiTSeconds) -> None:
    pass
