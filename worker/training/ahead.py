"""Things made by threads before they are asked for. Knows numbers of steps and futures only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")

_LONGEST_S = 120.0


class Ahead(Generic[Made]):
    """What `make` gives for each step; that of the next `depth` steps is under way when one is taken.

    Whatever `make` raises is raised where its step is taken, and `TimeoutError` after two minutes.
    """

    def __init__(self, make: Callable[[int], Made], *, threads: int, depth: int) -> None:
        self._make = make
        self._depth = depth
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="training-data")
        self._under_way: dict[int, Future[Made]] = {}

    def take(self, step: int) -> Made:
        for wanted in range(step, step + self._depth + 1):
            if wanted not in self._under_way:
                self._under_way[wanted] = self._threads.submit(self._make, wanted)
        return self._under_way.pop(step).result(timeout=_LONGEST_S)

    def close(self) -> None:
        """What was not begun is not made."""
        self._threads.shutdown(wait=True, cancel_futures=True)
