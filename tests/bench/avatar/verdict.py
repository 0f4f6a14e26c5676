"""The limits, and what a video has to say to each of them."""

from dataclasses import dataclass

import numpy as np

from tests.bench.avatar.clips import Clip
from worker.pipeline.config import VIDEO_FPS
from worker.training.drawing import opening, portrait
from worker.training.reading import agreement, drift, read_openings

LEAST_CORRELATION = 0.8
MOST_LAG = 1
"""Frames of 62 ms."""
MOST_DRIFT = 0.02
MOST_IN_SILENCE = 0.1
"""Of the widest opening that the face has."""
MOST_OFF = 0.01
"""Mean difference in levels of 255 from what is made without any memory; rounding makes 0.00001."""


@dataclass(frozen=True)
class Verdict:
    """What was measured of one video, and which limits it breaks."""

    name: str
    figures: dict[str, float]
    broken: tuple[str, ...]

    def __str__(self) -> str:
        figures = " ".join(f"{name} {figure:.3f}" for name, figure in self.figures.items())
        return f"{self.name}: {figures}{' BROKEN: ' + ', '.join(self.broken) if self.broken else ''}"


def spoken(clip: Clip, frames: np.ndarray) -> Verdict:
    """Of a clip with speech: mouth and sound belong together, and silence keeps the mouth shut."""
    read = read_openings(frames, portrait(clip.person, clip.frame))
    figures = {"silence": silence_of(clip, read)}
    broken = [] if figures["silence"] <= MOST_IN_SILENCE else ["silence"]
    try:
        found = agreement(read, clip.truth)
    except ValueError:
        return Verdict(clip.name, figures, (*broken, "the mouth does not move"))
    figures |= {"correlation": found.correlation, "lag": found.best_lag}
    if not found.correlation >= LEAST_CORRELATION:
        broken.append("correlation")
    if abs(found.best_lag) > MOST_LAG:
        broken.append("lag")
    return Verdict(clip.name, figures, tuple(broken))


def quiet(clip: Clip, frames: np.ndarray) -> Verdict:
    """Of a clip without any speech."""
    figure = silence_of(clip, read_openings(frames, portrait(clip.person, clip.frame)))
    return Verdict(clip.name, {"silence": figure}, () if figure <= MOST_IN_SILENCE else ("silence",))


def steady(clip: Clip, frames: np.ndarray) -> Verdict:
    """Of a minute: the person at its end is the one at its beginning, and still speaks."""
    moved = drift(frames, fps=VIDEO_FPS)
    last = slice(-20 * VIDEO_FPS, None)
    figures = {"colour": moved.colour, "shape": moved.shape}
    try:
        found = agreement(read_openings(frames[last], portrait(clip.person, clip.frame)), clip.truth[last])
    except ValueError:
        return Verdict(clip.name, figures, ("the mouth does not move",))
    figures["last-correlation"] = found.correlation
    limits = {"colour": moved.colour <= MOST_DRIFT, "shape": moved.shape <= MOST_DRIFT}
    limits["last-correlation"] = found.correlation >= LEAST_CORRELATION
    return Verdict(clip.name, figures, tuple(name for name, kept in limits.items() if not kept))


def same(clip: Clip, frames: np.ndarray, plain: np.ndarray) -> Verdict:
    """Of any clip: the pipeline's caches hold what they are to hold."""
    name = f"{clip.name}, plain"
    if len(frames) != len(plain):
        return Verdict(name, {"frames": len(frames)}, ("frames",))
    off = float(np.abs(frames.astype(np.int16) - plain).mean())
    return Verdict(name, {"off": off}, () if off <= MOST_OFF else ("off",))


def silence_of(clip: Clip, read: np.ndarray) -> float:
    """Mean opening in silence, as a share of the widest."""
    widest = opening([clip.person], np.array([[[1, 0, 0, 0]]], dtype=np.float32))[0, 0]
    return float(read[clip.silent].mean() / widest)
