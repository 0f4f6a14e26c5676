"""Times of things done one after the other on one device, without waiting for it in between.

Knows marks on a device's time line. On a GPU a mark is an event on the current stream; the processor runs ahead.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Protocol

import torch


class Stopwatch(Protocol):
    """Marks, and afterwards the time between them."""

    def mark(self) -> None:
        """Now on the device: after all that was asked of it so far."""
        ...

    def gaps_ms(self) -> list[float]:
        """Milliseconds between one mark and the next. Waits until the device has passed the last."""
        ...


def stopwatch(device: torch.device) -> Stopwatch:
    """A fresh one for this device."""
    return _EventStopwatch() if device.type == "cuda" else _HostStopwatch()


def wait_for(device: torch.device) -> None:
    """Until the device has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _EventStopwatch:
    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

    def gaps_ms(self) -> list[float]:
        if self._events:
            self._events[-1].synchronize()
        return [earlier.elapsed_time(later) for earlier, later in pairwise(self._events)]


class _HostStopwatch:
    def __init__(self) -> None:
        self._moments: list[float] = []

    def mark(self) -> None:
        self._moments.append(time.perf_counter())

    def gaps_ms(self) -> list[float]:
        return [1000 * (later - earlier) for earlier, later in pairwise(self._moments)]
