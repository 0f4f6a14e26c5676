"""How many failures of its groups a node puts up with, and whose they are. Knows times and names; nothing of groups.

A group that fails while it starts or idles has its node to blame. One that fails under a video may have the video to
blame, which its owner gives up after a few tries; so a video counts twice at most, however often it kills, and when the
node has drawn another video since, the node is well and nothing is held against it.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

MOST_BY_ONE_VIDEO = 2


@dataclass(frozen=True)
class RestartBudget:
    """So many failures within so long are put up with."""

    failures: int = 5
    within_s: float = 600.0
    pause_s: float = 1.0
    """Between a failure and the next launch."""


@dataclass(frozen=True)
class _Failure:
    at: float
    video: str | None


class Failures:
    """Those that count. For use under its owner's lock."""

    def __init__(self, budget: RestartBudget) -> None:
        self._budget = budget
        self._failures: list[_Failure] = []

    def add(self, *, video: str | None) -> None:
        """`video` is what the group was drawing; None when it drew nothing."""
        self._failures.append(_Failure(time.monotonic(), video))

    def forgive(self) -> None:
        """A video was drawn: whatever failed under others was theirs."""
        self._failures = [failure for failure in self._failures if failure.video is None]

    @property
    def count(self) -> int:
        since = time.monotonic() - self._budget.within_s
        self._failures = [failure for failure in self._failures if failure.at >= since]
        by_video = Counter(failure.video for failure in self._failures)
        own = by_video.pop(None, 0)
        return own + sum(min(times, MOST_BY_ONE_VIDEO) for times in by_video.values())

    @property
    def are_too_many(self) -> bool:
        return self.count > self._budget.failures
