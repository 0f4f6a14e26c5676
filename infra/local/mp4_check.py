"""Opens a finished MP4 as a player would and says what is in it. Knows PyAV; independent of the code that made it."""

from dataclasses import dataclass
from pathlib import Path

import av


@dataclass(frozen=True)
class Seen:
    """What a decoder found. Durations in seconds, from the first to the end of the last frame or sample."""

    video_codec: str
    pixel_format: str
    width: int
    height: int
    fps: float
    frames: int
    video_duration_s: float
    audio_codec: str
    audio_duration_s: float


def look_at(video: Path) -> Seen:
    """Decodes every frame. Raises ValueError for a file without both streams, and av's errors for a broken one."""
    with av.open(str(video)) as container:
        if len(container.streams.video) != 1 or len(container.streams.audio) != 1:
            raise ValueError(f"{video} has not exactly one video and one audio stream")
        stream = container.streams.video[0]
        frames, last_end = 0, 0.0
        for frame in container.decode(stream):
            assert frame.pts is not None
            assert frame.time_base is not None
            frames += 1
            last_end = max(last_end, float((frame.pts + frame.duration) * frame.time_base))
        rate = stream.average_rate
        assert rate is not None
        context = stream.codec_context
        return Seen(
            video_codec=context.name,
            pixel_format=str(context.pix_fmt),
            width=context.width,
            height=context.height,
            fps=float(rate),
            frames=frames,
            video_duration_s=last_end,
            audio_codec=container.streams.audio[0].codec_context.name,
            audio_duration_s=sound_duration_s(video),
        )


def sound_duration_s(file: Path) -> float:
    """Seconds of sound that a decoder gets out of a file."""
    with av.open(str(file)) as container:
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(stream))
        return samples / stream.codec_context.sample_rate
