"""Noise for the block to come, drawn in a thread while the device makes this one. Knows one draw from the next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

Draw = Callable[[int, int], Tensor]
"""(block, step) to noise; the same whenever and wherever it is called."""


class NoiseAhead:
    """A `Draw` whose results for the next block are there when it is asked for them."""

    def __init__(self, draw: Draw, *, thread: ThreadPoolExecutor) -> None:
        self._draw = draw
        self._thread = thread
        self._drawn: dict[tuple[int, int], Future[Tensor]] = {}

    def __call__(self, block: int, step: int) -> Tensor:
        drawn = self._drawn.pop((block, step), None)
        self._drawn[block + 1, step] = self._thread.submit(self._draw, block + 1, step)
        return self._draw(block, step) if drawn is None else drawn.result()
