"""How a long sound is cut into windows that overlap, and how their frames become one row again.

Knows frame numbers at 50 per second, not sound. Every window has context on both sides of the frames it is for, since
attention looks both ways. Where two windows meet, one is faded into the other, so that a lip never jumps at a border.
The reference has nothing of the kind: it cuts speech every 5 s (specification, section 13 and quirk 8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CORE_FRAMES = 1000
"""Frames that a window is for: 20 s."""
CONTEXT_FRAMES = 250
"""Frames that a window sees on each side beyond those: 5 s."""
FADE_FRAMES = 25
"""Frames on each side of a border over which windows fade: half a second."""


@dataclass(frozen=True)
class Window:
    """Frames `start` to `stop` are computed, of which `core_start` to `core_stop` are used."""

    start: int
    stop: int
    core_start: int
    core_stop: int


def windows(total_frames: int) -> Iterator[Window]:
    """Windows whose cores cover all frames in order. A sound of up to 25 s is one window."""
    core_start = 0
    while core_start < total_frames:
        core_stop = core_start + CORE_FRAMES
        if total_frames - core_stop <= CONTEXT_FRAMES:  # a rest so short goes with this window
            core_stop = total_frames
        yield Window(
            start=max(0, core_start - CONTEXT_FRAMES),
            stop=min(total_frames, core_stop + CONTEXT_FRAMES),
            core_start=core_start,
            core_stop=core_stop,
        )
        core_start = core_stop


def joined(encoded: Iterable[tuple[Window, Tensor]]) -> Iterator[Tensor]:
    """All frames in order, in pieces [N, frames, D], from each window and its own frames [N, stop - start, D]."""
    tail: Tensor | None = None
    for window, frames_NTD in encoded:

        def part(start: int, stop: int, *, of: Tensor = frames_NTD, origin: int = window.start) -> Tensor:
            return of[:, start - origin : stop - origin]

        first_own = window.core_start
        if tail is not None:
            first_own += FADE_FRAMES
            share_T1 = (torch.arange(2 * FADE_FRAMES, device=tail.device, dtype=tail.dtype)[:, None] + 0.5) / (
                2 * FADE_FRAMES
            )
            yield torch.lerp(tail, part(window.core_start - FADE_FRAMES, first_own), share_T1)
        if window.stop == window.core_stop:
            yield part(first_own, window.stop)
            return
        yield part(first_own, window.core_stop - FADE_FRAMES)
        tail = part(window.core_stop - FADE_FRAMES, window.core_stop + FADE_FRAMES).clone()
