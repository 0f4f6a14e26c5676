"""The DiT's clock on a GPU: its own events tell the share of the DiT, as the host runs ahead of it.

Knows events on the stream that denoises. What it reports lags behind by the work that is still queued.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from worker.pipeline.dit_clock import DiTSeconds, OnDiTWork


@dataclass(frozen=True)
class _Section:
    started: torch.cuda.Event
    ended: torch.cuda.Event
    denoises: bool
    longest_wait_s: float | None
    """Of the first section of a video: how long it was wanted when the device was asked for it."""
    on_work: OnDiTWork


class CUDADiTClock:
    """A `DiTClock` for a device whose sections follow one another on one stream."""

    def __init__(self) -> None:
        self._seconds = DiTSeconds()
        self._queued: deque[_Section] = deque()
        self._last_ended: torch.cuda.Event | None = None
        self._wanted_since: float | None = None
        self._on_work: OnDiTWork = lambda _: None

    def begin(self, *, wanted_since: float, on_work: OnDiTWork) -> None:
        self._wanted_since = wanted_since
        self._on_work = on_work

    @contextmanager
    def denoising(self) -> Iterator[None]:
        with self._section(denoises=True):
            yield

    @contextmanager
    def sharing(self) -> Iterator[None]:
        with self._section(denoises=False):
            yield

    @contextmanager
    def _section(self, *, denoises: bool) -> Iterator[None]:
        longest_wait_s = None if self._wanted_since is None else time.monotonic() - self._wanted_since
        self._wanted_since = None
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call,unused-ignore]
        started.record()
        yield
        ended.record()
        self._queued.append(_Section(started, ended, denoises, longest_wait_s, self._on_work))
        while self._queued and self._queued[0].ended.query():  # type: ignore[no-untyped-call,unused-ignore]
            self._count(self._queued.popleft())

    def _count(self, section: _Section) -> None:
        took = DiTSeconds(**{"busy" if section.denoises else "shared": _seconds(section.started, section.ended)})
        waited = 0.0 if self._last_ended is None else _seconds(self._last_ended, section.started)
        if section.longest_wait_s is None:
            idle = DiTSeconds(idle_within=waited)
        else:
            idle = DiTSeconds(idle_between=max(0.0, min(waited, section.longest_wait_s)))
        self._seconds += took + idle
        self._last_ended = section.ended
        section.on_work(self._seconds)


def _seconds(since: torch.cuda.Event, until: torch.cuda.Event) -> float:
    return float(since.elapsed_time(until)) / 1000
