"""From wav2vec2 frames, 50 per second, to one row per pixel frame, 16 per second (specification, sections 9.4 and 9.5).

Knows rates and indices, not sound. The way is that of the reference: first linearly to 30 per second over the whole
length, then for every row the nearest of those. `RowStream` goes the same way without ever holding the whole length.

Shapes: N states, T frames, D width, R rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.pipeline.config import VIDEO_FPS

FRAME_RATE = 50
"""wav2vec2 frames per second."""
BETWEEN_RATE = 30
"""Frames per second between the two steps."""


def frames_between(frames: int) -> int:
    """How many frames at 30 per second come of so many at 50 (in the reference's own arithmetic)."""
    return int(frames / FRAME_RATE * BETWEEN_RATE)


def interpolate(features_NTD: Tensor) -> Tensor:
    """50 to 30 frames per second, ends kept in place, [N, frames_between(T), D].

    Positions are rounded to float32 whatever the features are in, as PyTorch's `interpolate` does to float32 features
    in the reference.
    """
    frames = features_NTD.shape[1]
    between = frames_between(frames)
    scale = np.float32(frames - 1) / np.float32(max(between - 1, 1))
    return _at(features_NTD, np.arange(between, dtype=np.float32) * scale)


def _at(features_NTD: Tensor, positions: NDArray[np.floating[Any]]) -> Tensor:
    """Features at fractional frames, [N, len(positions), D]."""
    lower = positions.astype(np.int64)
    upper = np.minimum(lower + 1, features_NTD.shape[1] - 1)
    below, above = (features_NTD[:, torch.from_numpy(index).to(features_NTD.device)] for index in (lower, upper))
    share_T1 = torch.from_numpy(positions - lower).to(features_NTD.device, features_NTD.dtype)[:, None]
    return below * (1 - share_T1) + above * share_T1


def nearest_between(rows: NDArray[np.int64], *, fps: int = VIDEO_FPS) -> NDArray[np.int64]:
    """Index at 30 per second that each row takes; halves go to the even one."""
    nearest: NDArray[np.int64] = np.round(rows / fps * BETWEEN_RATE).astype(np.int64)
    return nearest


def bucket(features_NTD: Tensor, *, batch_frames: int, fps: int = VIDEO_FPS, context: int = 0) -> Tensor:
    """Rows [R, N, D * (2 * context + 1)] of features at 30 per second; zero past their end.

    R is the smallest multiple of `batch_frames` that lasts longer than the features. A row has its `context` neighbours
    on both sides beside it.
    """
    frames = features_NTD.shape[1]
    rows = batch_frames * (int(frames / (batch_frames * (BETWEEN_RATE / fps))) + 1)
    taken = nearest_between(np.arange(rows), fps=fps)
    inside = taken[taken < frames]
    offsets = np.arange(-context, context + 1) * int(BETWEEN_RATE / fps)
    index = torch.from_numpy(np.clip(inside[:, None] + offsets, 0, frames - 1)).to(features_NTD.device)
    picked_RND = features_NTD[:, index].flatten(2).transpose(0, 1)
    return functional.pad(picked_RND, (0, 0, 0, 0, 0, rows - len(inside)))


class RowStream:
    """The rows of a long sound out of its frames at 50 per second, as they come.

    Positions are in float64, where the reference's float32 would be off by a hundredth of a frame after an hour.
    """

    def __init__(self, *, total_frames: int, total_rows: int) -> None:
        between = frames_between(total_frames)
        if nearest_between(np.array([total_rows - 1]))[0] >= between:
            raise ValueError(f"{total_frames} frames do not last for {total_rows} rows")
        self._total_frames = total_frames
        self._total_rows = total_rows
        self._scale = (total_frames - 1) / max(between - 1, 1)
        self._next_row = 0
        self._held: Tensor | None = None
        self._held_from = 0

    def push(self, frames_NTD: Tensor) -> Tensor:
        """The next frames in; all rows that are now certain out, [N, D, R], R may be 0."""
        held = frames_NTD if self._held is None else torch.cat((self._held, frames_NTD), dim=1)
        end = self._held_from + held.shape[1]
        positions = self._positions(frames=held.shape[1])
        # a row needs the frame after its position too, but for the very last frame, which has none
        is_whole = end == self._total_frames
        ready = len(positions) if is_whole else int((positions < end - 1).sum())
        rows_NRD = _at(held, positions[:ready] - self._held_from)
        self._next_row += ready
        keep_from = min(int(positions[ready]), end) if ready < len(positions) else end
        self._held = held[:, keep_from - self._held_from :].clone()
        self._held_from = keep_from
        return rows_NRD.transpose(1, 2)

    def _positions(self, *, frames: int) -> NDArray[np.float64]:
        """Of the next rows: at least as many as `frames` frames can decide, and one more if there is one."""
        stop = self._next_row + frames * VIDEO_FPS // FRAME_RATE + 2
        rows = np.arange(self._next_row, min(stop, self._total_rows))
        positions: NDArray[np.float64] = np.minimum(nearest_between(rows) * self._scale, self._total_frames - 1)
        return positions
