"""Reads a talking head back from its frames: how far the mouth is open, and whether it is still the same person.

Knows pictures only, and where a mouth can be in them; nothing of the face's numbers, of sound or of networks. Whatever
in the mouth's box has the colour of the inside of a mouth, or of teeth, and had not in the portrait, is opening.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.training.faces import INSIDE, MOUTH_BOX, TEETH, TONGUE, Frame

Frames = NDArray[np.uint8]
"""[T, H, W, 3] RGB."""

_COLOURS = ((INSIDE, 0.30), (TEETH, 0.22), (TONGUE, 0.16))
"""What is between lips, and the distance in colour at which nothing is left of the likeness."""
_SHAPE_S = 5
"""Seconds whose median is compared for the shape: neither a blink nor what is peculiar to one block is left in it."""
_SHADING = 0.01
"""Slope of levels from pixel to pixel below which it is no outline."""


@dataclass(frozen=True)
class Agreement:
    """How a reading follows the truth: the correlation at lag 0, and the lag in frames at which it is highest (positive
    where the picture is late)."""

    correlation: float
    best_lag: int


@dataclass(frozen=True)
class Drift:
    """Changes outside the mouth from the beginning of a video to its end."""

    colour: float
    """Of the mean colour from the first second to the last, as a share of the full range."""
    shape: float
    """Of the outlines from the first five seconds to the last, as a share of all that there are."""


def read_openings(frames: Frames, portrait: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Area between the lips in squared units of the face, [T]. `portrait` [H, W, 3] has the mouth closed."""
    frame = Frame(width=portrait.shape[1], height=portrait.shape[0])
    left, top, right, bottom = frame.box(MOUTH_BOX)
    mouth = _levels(frames[:, top:bottom, left:right])
    closed = _levels(portrait[top:bottom, left:right])
    likeness = _inside(mouth) * (1 - _inside(closed))
    changed = np.clip(np.abs(mouth - closed).max(-1) / 0.12 - 0.5, 0, 1)
    return np.asarray((likeness * changed).sum((1, 2)) / frame.unit**2, dtype=np.float64)


def agreement(read: NDArray[np.floating], truth: NDArray[np.floating], *, lags: int = 8) -> Agreement:
    """Of two tracks of the same length. Raises ValueError where one of them does not move at all."""
    correlations = {lag: _correlation(*_shifted(read, truth, lag)) for lag in range(-lags, lags + 1)}
    return Agreement(correlations[0], max(correlations, key=lambda lag: correlations[lag]))


def drift(frames: Frames, *, fps: int) -> Drift:
    """Raises ValueError for less than ten seconds."""
    if len(frames) < 2 * _SHAPE_S * fps:
        raise ValueError(f"{len(frames)} frames are less than {2 * _SHAPE_S} seconds")
    height, width = frames.shape[1:3]
    left, top, right, bottom = Frame(width=width, height=height).box(MOUTH_BOX)
    elsewhere = np.ones((height, width), dtype=bool)
    elsewhere[top:bottom, left:right] = False
    first, last = (_median(part)[elsewhere].mean(0) for part in (frames[:fps], frames[-fps:]))
    colour = float(np.abs(first - last).max())
    long = _SHAPE_S * fps
    one, other = (_outlines(_median(part))[elsewhere] for part in (frames[:long], frames[-long:]))
    return Drift(colour, shape=float(np.abs(one - other).sum() / one.sum()))


def _median(frames: Frames) -> NDArray[np.float32]:
    return _levels(np.median(frames, axis=0))


def _levels(part: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.float32]:
    """0 to 1."""
    return np.asarray(part, dtype=np.float32) / np.float32(255)


def _inside(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much each pixel looks like the inside of a mouth, 0 to 1."""
    likeness = np.zeros(part.shape[:-1], dtype=np.float32)
    for colour, reach in _COLOURS:
        distance = np.sqrt(((part - np.array(colour, dtype=np.float32)) ** 2).sum(-1))
        likeness = np.maximum(likeness, np.clip(2 - 2 * distance / reach, 0, 1))
    return likeness


def _shifted(
    read: NDArray[np.floating], truth: NDArray[np.floating], lag: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The two with the truth moved later by `lag` frames, where they overlap."""
    count = len(read) - abs(lag)
    return read[max(lag, 0) :][:count], truth[max(-lag, 0) :][:count]


def _correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    if one.std() < 1e-9 or other.std() < 1e-9:
        raise ValueError("one of the tracks does not move")
    return float(np.corrcoef(one, other)[0, 1])


def _outlines(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of the edges of a smoothed picture, where they are more than shading."""
    smooth = picture
    for axis in (0, 1):
        beside = np.roll(smooth, 1, axis) + np.roll(smooth, -1, axis)
        smooth = np.asarray((beside + 2 * smooth) / 4, dtype=np.float32)
    across, down = np.gradient(smooth, axis=1), np.gradient(smooth, axis=0)
    strength = np.sqrt((across**2 + down**2).sum(-1))
    return np.asarray(np.clip(strength - _SHADING, 0, None), dtype=np.float32)
