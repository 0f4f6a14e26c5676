"""Work that is done over and over on buffers that stay: as it is, or recorded once and played again.

A recording (a CUDA graph) spares the processor two thousand launches per block, so that nothing it does besides can
hold up the GPU, and holds all memory that the work needs: nothing is allocated in mid-stream.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import torch

from worker.pipeline.graph_pool import GraphPool

Work = Callable[[], None]
"""Reads and writes the same memory at every call, does not wait for the device, and may be done twice."""


class Player(Protocol):
    """Does work that is known under a key."""

    def play(self, key: Hashable, work: Work) -> None:
        """Do the work of that key; under one key it is always the same."""

    def forget(self) -> None:
        """The buffers have changed."""


class DirectPlayer:
    """Calls."""

    def play(self, key: Hashable, work: Work) -> None:  # noqa: ARG002 - each work is its own recording
        work()

    def forget(self) -> None:
        pass


class GraphPlayer:
    """Calls the first time, which also compiles and picks kernels; records; and from the second time on replays."""

    def __init__(self, pool: GraphPool) -> None:
        """`pool` is the memory of all recordings; others that never play at the same time may share it."""
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = pool

    def play(self, key: Hashable, work: Work) -> None:
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
            return
        work()
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, pool=self._pool.handle, capture_error_mode="thread_local"):
            work()
        self._graphs[key] = graph

    def forget(self) -> None:
        self._graphs.clear()
