"""ffmpeg's commands for the finished video: raw frames and a sound in, one MP4 out, at once or by way of pieces.

Knows encoders; runs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import ffmpeg

from worker.media.ffmpeg import SOUND_FORMATS, output_path, own_input
from worker.media.timing import NATIVE_FPS, frames_for

KEYFRAME_EVERY_S = 2
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000})
_TOP_RATE = 48000
# the same inputs give the same bytes
_FORM: Mapping[str, object] = MappingProxyType({"format": "mp4", "map_metadata": -1, "fflags": "+bitexact"})
# else a thread for every core of the machine, for a conversion that takes one of them 1 ms
_ONE_FILTER_THREAD = ("-filter_complex_threads", "1")


@dataclass(frozen=True)
class Quality:
    """x264's preset, constant rate factor, threads, and what it is tuned for. Chosen in docs/performance.md."""

    preset: str = "faster"
    crf: int = 19
    threads: int = 2
    """Fixed, as their number is written into the file: the same video has the same bytes on any machine."""
    tune: str | None = None


def muxing(
    path: Path, *, size: tuple[int, int], output_fps: int, sound: Path, duration_s: float, quality: Quality
) -> Any:
    """The whole video by one process."""
    picture = converted(size, output_fps=output_fps, frames=frames_for(duration_s, fps=output_fps))
    track, track_options = _track(sound, duration_s=duration_s)
    muxed = ffmpeg.output(
        picture,
        track,
        output_path(path),
        movflags="+faststart",
        **_picture_options(output_fps, quality),
        **track_options,
        **_FORM,
    )
    return muxed.global_args(*_ONE_FILTER_THREAD)


def segment(path: Path, *, size: tuple[int, int], output_fps: int, frames: int, quality: Quality) -> Any:
    """A piece of a video, without sound: so many frames at the output rate."""
    picture = converted(size, output_fps=output_fps, frames=frames)
    encoded = ffmpeg.output(picture, output_path(path), **_picture_options(output_fps, quality), **_FORM)
    return encoded.global_args(*_ONE_FILTER_THREAD)


def sound_track(path: Path, *, sound: Path, duration_s: float) -> Any:
    """The sound of a video by itself."""
    track, options = _track(sound, duration_s=duration_s)
    return ffmpeg.output(track, output_path(path), **options, **_FORM).global_args(*_ONE_FILTER_THREAD)


def joined(path: Path, *, playlist: Path, track: Path) -> Any:
    """Pieces and their sound as they are, one behind the other, in one video. `playlist` names files beside it."""
    pieces = ffmpeg.input(f"file:{playlist.absolute()}", format="concat", protocol_whitelist="file")
    return ffmpeg.output(
        pieces["v:0"],
        own_input(track)["a:0"],
        output_path(path),
        vcodec="copy",
        acodec="copy",
        movflags="+faststart",
        **_FORM,
    )


def _picture_options(output_fps: int, quality: Quality) -> dict[str, object]:
    return {
        "vcodec": "libx264",
        "preset": quality.preset,
        "crf": quality.crf,
        "threads": quality.threads,
        "pix_fmt": "yuv420p",
        "g": output_fps * KEYFRAME_EVERY_S,
        "profile:v": "high",
        "flags:v": "+cgop+bitexact",
        **({} if quality.tune is None else {"tune": quality.tune}),
    }


def converted(size: tuple[int, int], *, output_fps: int, frames: int) -> Any:
    """Raw RGB frames at 16 per second on stdin, as so many frames of BT.709 at another rate."""
    return (
        ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", video_size=size, framerate=NATIVE_FPS)
        .filter("fps", fps=output_fps, round="near")
        # at other rates the last frame may be one short of the sound's end
        .filter("tpad", stop_mode="clone", stop=output_fps)
        .filter("trim", end_frame=frames)
        .filter("scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int")
        .filter("format", "yuv420p")
        .filter("setparams", colorspace="bt709", color_primaries="bt709", color_trc="bt709", range="tv")
    )


def _track(sound: Path, *, duration_s: float) -> tuple[Any, dict[str, object]]:
    """The sound at its own rate, as long as the video to a sample, and the options of its encoder."""
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(SOUND_FORMATS)}
    with av.open(f"file:{sound.absolute()}", options=options) as container:
        source = container.streams.audio[0].codec_context
        source_rate, channels = source.sample_rate, min(source.channels, 2)
    rate = source_rate if source_rate in _AAC_RATES else _TOP_RATE
    samples = round(duration_s * rate)
    track = (
        own_input(sound)["a:0"]
        .filter("aresample", rate, **{"async": 1, "first_pts": 0})
        .filter("aformat", channel_layouts="mono|stereo")
        .filter("apad", whole_len=samples)
        .filter("atrim", end_sample=samples)
    )
    # an AAC frame of 1024 samples holds at most 6144 bits a channel
    bit_rate = min(96_000 * channels + 32_000, int(rate * 5.5) * channels)
    return track, {"acodec": "aac", "audio_bitrate": bit_rate, "ar": rate, "flags:a": "+bitexact"}
