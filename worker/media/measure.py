"""What a finished video really is: measured on the file, never computed from what was asked for.

Knows MP4 files. Judging the figures is `checking.py`'s.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from worker.media.errors import FfmpegFailed, FfmpegTimedOut, OutputErrorCode, OutputRejected
from worker.media.faststart import index_comes_first
from worker.media.ffmpeg import SOUND_FORMATS
from worker.media.loudness import Loudness, measure_loudness

BT709 = 1
LIMITED_RANGE = 1


@dataclass(frozen=True)
class Measurement:
    duration_s: float
    """Of the picture."""
    frames: int
    """Decoded, every one of them."""
    fps: float
    width: int
    height: int
    size_bytes: int
    sha256: str
    video_codec: str
    video_profile: str
    pixel_format: str
    colours: tuple[int, int, int, int]
    """Matrix, primaries, transfer (1: BT.709) and range (1: 16 to 235), by the numbers of ISO/IEC 23091-2."""
    video_start_s: float
    audio_codec: str
    audio_rate: int
    audio_channels: int
    audio_start_s: float
    audio_duration_s: float
    av_difference_ms: float
    """How much longer the picture is than the sound."""
    index_first: bool
    loudness: Loudness
    """Without the silence behind a sound that was padded."""
    source_duration_s: float
    """Of the whole original sound."""
    source_loudness: Loudness
    """Of the part of it that the video has."""


def measure(path: Path, *, sound: Path) -> Measurement:
    """Measure a finished video against the sound that it was made of. Every frame and every sample is decoded.

    Raises OutputRejected for a file that does not hold one picture and one sound that can be decoded to their end;
    FfmpegFailed when the sound it was made of cannot be.
    """
    try:
        with av.open(str(path)) as container:
            _check_streams(container)
            video, track = container.streams.video[0], container.streams.audio[0]
            picture = video.codec_context
            video.thread_type = "AUTO"
            frames = sum(1 for _ in container.decode(video))
            assert video.time_base is not None
            assert track.time_base is not None
            duration_s = float((video.duration or 0) * video.time_base)
            audio_duration_s = float((track.duration or 0) * track.time_base)
            source_duration_s = _sound_duration_s(sound)
            compared_s = min(audio_duration_s, source_duration_s)
            return Measurement(
                duration_s=duration_s,
                frames=frames,
                fps=float(video.average_rate or 0),
                width=picture.width,
                height=picture.height,
                size_bytes=path.stat().st_size,
                sha256=_sha256_of(path),
                video_codec=picture.name,
                video_profile=picture.profile or "",
                pixel_format=picture.pix_fmt or "",
                colours=(picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range),
                video_start_s=float((video.start_time or 0) * video.time_base),
                audio_codec=track.codec_context.name,
                audio_rate=track.codec_context.sample_rate,
                audio_channels=track.codec_context.channels,
                audio_start_s=float((track.start_time or 0) * track.time_base),
                audio_duration_s=audio_duration_s,
                av_difference_ms=(duration_s - audio_duration_s) * 1000,
                index_first=index_comes_first(path),
                loudness=_loudness_of_output(path, duration_s=compared_s),
                source_duration_s=source_duration_s,
                source_loudness=measure_loudness(sound, duration_s=compared_s),
            )
    except (av.FFmpegError, ValueError) as error:
        raise OutputRejected(OutputErrorCode.STREAMS, f"The finished video cannot be read: {error}") from error


def _check_streams(container: InputContainer) -> None:
    counts = (len(container.streams), len(container.streams.video), len(container.streams.audio))
    if counts != (2, 1, 1):
        raise OutputRejected(
            OutputErrorCode.STREAMS,
            f"The finished video has {counts[1]} pictures and {counts[2]} sounds in {counts[0]} streams.",
        )


def _loudness_of_output(path: Path, *, duration_s: float) -> Loudness:
    try:
        return measure_loudness(path, duration_s=duration_s)
    except FfmpegTimedOut:
        raise
    except FfmpegFailed as error:
        raise OutputRejected(
            OutputErrorCode.STREAMS, "The sound of the finished video cannot be decoded to its end."
        ) from error


def _sound_duration_s(sound: Path) -> float:
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(SOUND_FORMATS)}
    with av.open(f"file:{sound.absolute()}", options=options) as container:
        track = container.streams.audio[0]
        assert track.time_base is not None
        return float((track.duration or 0) * track.time_base)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
