"""The frame of a source video that becomes the portrait. Knows videos; the choice is by `faces.py`."""

import io
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import ffmpeg
from PIL import Image

from worker.media.errors import FfmpegFailed, FfmpegTimedOut, MediaError, MediaErrorCode
from worker.media.faces import face_score, sharpness, small_grey
from worker.media.ffmpeg import MAX_FRAME_PIXELS, VIDEO_FORMATS, FfmpegProcess, untrusted_input
from worker.media.limits import MediaLimits
from worker.media.probe import Probed, Unreadable, probe

SAMPLES = 16
_WANTED = "Send MP4, MOV, WebM, MKV or AVI, or a picture instead."


class FrameChoice(StrEnum):
    ASKED = "asked"  # the frame at the reference time
    FACE = "face"  # the sampled frame with the largest and sharpest face
    SHARPEST = "sharpest"  # no sampled frame has a face that was found


@dataclass(frozen=True)
class ReferenceFrame:
    picture: Image.Image  # RGB, upright, square pixels
    time_s: float
    choice: FrameChoice


def reference_frame(video: Path, *, time_s: float | None, limits: MediaLimits) -> ReferenceFrame:
    """The frame at `time_s`; without a time the best of sixteen frames spread over the video. Raises MediaError."""
    probed = _probed(video, limits)
    if time_s is not None:
        picture = _frame_at(video, time_s, limits=limits) if time_s >= 0 else None
        if picture is None and 0 <= time_s < (probed.about_s or 0.0):
            picture = _frame_after_decoding(video, time_s, limits=limits)
        if picture is None:
            raise MediaError(
                MediaErrorCode.REFERENCE_TIME_OUTSIDE,
                f"The video has no frame at {time_s:g} s. Give a reference time within the video, or none.",
            )
        return ReferenceFrame(picture=picture, time_s=time_s, choice=FrameChoice.ASKED)
    return _best_frame(video, probed.about_s or 0.0, limits=limits)


def _probed(video: Path, limits: MediaLimits) -> Probed:
    if video.stat().st_size == 0:
        raise MediaError(MediaErrorCode.VIDEO_EMPTY, f"The video file is empty (0 bytes). {_WANTED}")
    try:
        probed = probe(video, formats=VIDEO_FORMATS)
    except Unreadable as error:
        raise MediaError(MediaErrorCode.VIDEO_UNREADABLE, f"The video cannot be read. {_WANTED}") from error
    if probed.video is None:
        raise MediaError(MediaErrorCode.VIDEO_UNREADABLE, f"The file has sound but no picture. {_WANTED}")
    if probed.video.width * probed.video.height > min(MAX_FRAME_PIXELS, limits.max_picture_pixels):
        raise MediaError(
            MediaErrorCode.VIDEO_TOO_LARGE,
            f"The video has {probed.video.width} × {probed.video.height} pixels. Scale it down to 8K or less.",
        )
    return probed


def _best_frame(video: Path, length_s: float, *, limits: MediaLimits) -> ReferenceFrame:
    best: ReferenceFrame | None = None
    best_score = (-1.0, -1.0)
    for time_s in sorted({length_s * sample / SAMPLES for sample in range(SAMPLES)}):
        picture = _frame_at(video, time_s, limits=limits)
        if picture is None:
            continue
        grey = small_grey(picture)
        score = (face_score(grey), sharpness(grey))
        if score > best_score:
            choice = FrameChoice.FACE if score[0] > 0 else FrameChoice.SHARPEST
            best, best_score = ReferenceFrame(picture=picture, time_s=time_s, choice=choice), score
    if best is None:
        raise MediaError(MediaErrorCode.VIDEO_UNREADABLE, f"No frame of the video can be decoded. {_WANTED}")
    return best


def _frame_at(video: Path, time_s: float, *, limits: MediaLimits) -> Image.Image | None:
    """None: the video has no frame there, or cannot be entered there."""
    stream = untrusted_input(video, formats=VIDEO_FORMATS, ss=time_s, an=None)["v:0"]
    return _first_frame(stream, limits=limits)


def _frame_after_decoding(video: Path, time_s: float, *, limits: MediaLimits) -> Image.Image | None:
    """For videos without an index, such as a transport stream with few key frames."""
    stream = untrusted_input(video, formats=VIDEO_FORMATS, an=None)["v:0"].filter("trim", start=time_s)
    return _first_frame(stream, limits=limits)


def _first_frame(stream: Any, *, limits: MediaLimits) -> Image.Image | None:
    square = stream.filter("scale", "iw*sar", "ih").filter("setsar", 1)
    wanted = ffmpeg.output(square, "pipe:1", format="image2pipe", vcodec="ppm", pix_fmt="rgb24", vframes=1)
    try:
        with FfmpegProcess(wanted, limits=limits.decode) as process:
            data = process.stdout.read()
            process.finish()
    except FfmpegTimedOut:
        raise
    except FfmpegFailed as error:
        raise MediaError(
            MediaErrorCode.VIDEO_UNREADABLE, f"The video cannot be decoded; the file may be damaged. {_WANTED}"
        ) from error
    if not data:
        return None
    with Image.open(io.BytesIO(data), formats=("PPM",)) as picture:
        return picture.convert("RGB")
