"""The file at the end of a measured render: an MP4 as a worker writes it, with a sound to go into it.

Knows the writer and the disk. The sound is a tone: it costs the encoder of sound as much as speech.
"""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from worker.media.mp4 import Mp4Writer
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS
from worker.pipeline.settings import RenderSettings

TONE_HZ = 180.0
LOUDNESS = 8_000
"""Of a sample, at most 32 767."""


@contextmanager
def written_video(settings: RenderSettings) -> Iterator[Mp4Writer]:
    """A writer of a video of this length. At the end the file is whole, and gone; after an error only gone."""
    duration_s = settings.frames / VIDEO_FPS
    with tempfile.TemporaryDirectory(prefix="realvideo-bench-") as directory:
        sound = Path(directory) / "sound.wav"
        _write_tone(sound, seconds=duration_s)
        writer = Mp4Writer(
            Path(directory) / "video.mp4",
            width=settings.width,
            height=settings.height,
            output_fps=VIDEO_FPS,
            sound=sound,
            duration_s=duration_s,
        )
        with writer:
            yield writer
            writer.finish()


def _write_tone(path: Path, *, seconds: float) -> None:
    moments = np.arange(round(seconds * AUDIO_SAMPLE_RATE)) / AUDIO_SAMPLE_RATE
    samples = (LOUDNESS * np.sin(2 * np.pi * TONE_HZ * moments)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_SAMPLE_RATE)
        file.writeframes(samples.tobytes())
