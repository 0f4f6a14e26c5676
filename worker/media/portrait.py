"""A customer's picture file as an upright RGB image. Knows picture files; cutting to a size is `picture.py`'s."""

import io
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from worker.media.errors import MediaError, MediaErrorCode
from worker.media.limits import MediaLimits
from worker.media.picture import opaque

_FORMATS = ("PNG", "JPEG", "WEBP")
_WANTED = "Send a PNG, JPEG or WebP picture."
_KNOWN_STRANGERS = {
    b"%PDF": "a PDF document",
    b"GIF8": "a GIF",
    b"BM": "a BMP picture",
    b"II*\x00": "a TIFF picture",
    b"MM\x00*": "a TIFF picture",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file",
    b"PK\x03\x04": "a ZIP archive or an office document",
    b"RIFF": "a sound or video file",
    b"\x1aE\xdf\xa3": "a video",
    b"ID3": "a sound file",
}


def open_picture(path: Path, *, limits: MediaLimits) -> Image.Image:
    """The picture in mode RGB, turned as its camera says, transparency over white, colours as sRGB.

    Raises MediaError.
    """
    if path.stat().st_size == 0:
        raise MediaError(MediaErrorCode.PICTURE_EMPTY, f"The picture file is empty (0 bytes). {_WANTED}")
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            check_size(picture.size, limits=limits)
            picture.load()
            return _as_srgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("has far too many pixels", limits) from error
    except UnidentifiedImageError as error:
        raise MediaError(MediaErrorCode.PICTURE_UNREADABLE, f"The picture is {_what(path)}. {_WANTED}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow's decoders raise for broken data
        raise MediaError(
            MediaErrorCode.PICTURE_UNREADABLE, f"The picture is damaged and cannot be read. {_WANTED}"
        ) from error


def check_size(size: tuple[int, int], *, limits: MediaLimits) -> None:
    """Raises MediaError for a picture that would take too much memory to decode."""
    width, height = size
    if max(size) > limits.max_picture_side or width * height > limits.max_picture_pixels:
        raise _too_large(f"has {width} × {height} pixels", limits)


def _as_srgb(picture: Image.Image) -> Image.Image:
    """In RGB. Phones write wider colour spaces; taken for sRGB, their skin tones come out pale."""
    profile = picture.info.get("icc_profile")
    # only the profile knows what four inks look like, so those are not converted before
    coloured = picture if picture.mode == "CMYK" else opaque(picture)
    if not profile:
        return opaque(coloured)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(coloured, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return opaque(coloured)  # a profile that is broken, or of another kind of picture, is ignored as browsers do
    assert converted is not None, "only an in-place conversion returns nothing"
    return converted


def _what(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp":
        return "a video, or a HEIC or AVIF picture"
    for magic, name in _KNOWN_STRANGERS.items():
        if start.startswith(magic):
            return name
    return "not a picture that can be read"


def _too_large(how: str, limits: MediaLimits) -> MediaError:
    return MediaError(
        MediaErrorCode.PICTURE_TOO_LARGE,
        f"The picture {how}; at most {limits.max_picture_side} on a side and {limits.max_picture_pixels // 1_000_000}"
        " million in all are taken. Scale it down.",
    )
