"""Pictures that stand for a video: a poster, and a short preview that moves. Knows videos that this program made."""

import io
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
from PIL import Image

from worker.media.ffmpeg import FfmpegProcess, ProcessLimits, own_input

PREVIEW_LONG_SIDE = 320
PREVIEW_FPS = 8
PREVIEW_S = 3.0
POSTER_CANDIDATES = 48
_LIMITS = ProcessLimits(wall_s=120.0, cpu_s=120)


@dataclass(frozen=True)
class Stills:
    poster: Path
    preview: Path


def make_stills(video: Path, *, poster: Path, preview: Path) -> Stills:
    """A JPEG of the video's size, of the frame most like the others of its first seconds; and an animated WebP.

    Raises FfmpegFailed.
    """
    _poster(video).save(poster, format="JPEG", quality=88, optimize=True, progressive=True)
    frames = _preview_frames(video)
    frames[0].save(
        preview,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / PREVIEW_FPS),
        loop=0,
        quality=55,
        method=2,
    )
    return Stills(poster=poster, preview=preview)


def _poster(video: Path) -> Image.Image:
    # the first frames of a stream are the least settled ones: `thumbnail` leaves outliers out
    stream = own_input(video, an=None)["v:0"].filter("thumbnail", POSTER_CANDIDATES)
    return _pictures(ffmpeg.output(stream, "pipe:1", vframes=1, **_AS_PPM))[0]


def _preview_frames(video: Path) -> list[Image.Image]:
    stream = (
        own_input(video, an=None, t=PREVIEW_S)["v:0"]
        .filter("fps", PREVIEW_FPS)
        .filter(
            "scale",
            f"min({PREVIEW_LONG_SIDE},iw)",
            f"min({PREVIEW_LONG_SIDE},ih)",
            force_original_aspect_ratio="decrease",
        )
    )
    return _pictures(ffmpeg.output(stream, "pipe:1", **_AS_PPM))


_AS_PPM = {"format": "image2pipe", "vcodec": "ppm", "pix_fmt": "rgb24"}


def _pictures(stream: object) -> list[Image.Image]:
    """Of a stream of PPM pictures. Each says its own size, and lies behind the other."""
    with FfmpegProcess(stream, limits=_LIMITS) as process:
        data = io.BytesIO(process.stdout.read())
        process.finish()
    pictures: list[Image.Image] = []
    while data.tell() < len(data.getbuffer()):
        start = data.tell()
        with Image.open(io.BytesIO(data.getbuffer()[start:]), formats=("PPM",)) as picture:
            pictures.append(picture.convert("RGB"))
            header = len(b"P6\n%d %d\n255\n" % picture.size)
        data.seek(start + header + picture.width * picture.height * 3)
    return pictures
