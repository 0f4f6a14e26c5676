"""The test set: speech, voices, languages and faces that nothing was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tests.unit.training.heard import unheard
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS
from worker.training.acting import Acted, act, joined
from worker.training.drawing import opening
from worker.training.faces import Face, Frame, face
from worker.training.visemes import OPEN

FRAMES = (Frame(192, 192), Frame(144, 192))
FIRST_FACE = 10**10
"""Above all seeds of faces in training."""
GAP_S = 0.6
LONG_S = 60.0
SILENT_S = 3.0


@dataclass(frozen=True)
class Clip:
    """A person, what he or she is to say, and how that looks."""

    name: str
    person: Face
    frame: Frame
    acted: Acted

    @property
    def truth(self) -> np.ndarray:
        """Area between the lips, [T]."""
        return opening([self.person], self.acted.track[None])[0]

    @property
    def silent(self) -> np.ndarray:
        """Frames in the midst of silence, [T]."""
        shut = np.pad(self.acted.track[:, OPEN] < 0.01, 2, mode="edge")
        return np.lib.stride_tricks.sliding_window_view(shut, 5).all(1)

    def first(self, seconds: float) -> "Clip":
        """Its beginning."""
        frames, acted = round(seconds * VIDEO_FPS), self.acted
        samples = frames * AUDIO_SAMPLE_RATE // VIDEO_FPS
        return replace(self, acted=Acted(acted.samples[:samples], acted.track[:frames], acted.lids[:frames]))


def short_clips(count: int) -> Iterator[Clip]:
    """Up to 20 of 5 to 10 seconds, with silence before and behind."""
    for number, spoken in enumerate(unheard()[:count]):
        acted = act(joined([spoken], gap_s=GAP_S), seed=number)
        yield Clip(f"{number} {spoken.voice}", face(FIRST_FACE + number), FRAMES[number % 2], acted)


def long_clip(number: int) -> Clip:
    """A minute of many voices."""
    acted = act(joined(unheard(), gap_s=GAP_S), seed=number)
    return Clip(f"minute {number}", face(FIRST_FACE + 100 + number), FRAMES[number % 2], acted).first(LONG_S)


def silent_clip() -> Clip:
    """A room in which nobody speaks, with the noise that every microphone has."""
    frames = round(SILENT_S * VIDEO_FPS)
    samples = frames * AUDIO_SAMPLE_RATE // VIDEO_FPS
    noise = 0.001 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    nothing = Acted(noise, np.zeros((frames, 4), np.float32), np.zeros(frames, np.float32))
    return Clip("silence", face(FIRST_FACE + 200), FRAMES[0], nothing)
