"""Customers' pictures: upright, opaque and in sRGB, or refused by name."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from worker.media.errors import MediaError, MediaErrorCode
from worker.media.limits import MediaLimits
from worker.media.portrait import open_picture

RED, WHITE = (255, 0, 0), (255, 255, 255)


def open_(path: Path) -> Image.Image:
    picture = open_picture(path, limits=MediaLimits())
    assert picture.mode == "RGB"
    return picture


def code_of(path: Path) -> MediaErrorCode:
    with pytest.raises(MediaError) as caught:
        open_(path)
    assert caught.value.message.endswith(".")
    return caught.value.code


def near(pixel: object, wanted: tuple[int, int, int], *, within: int = 6) -> bool:
    return bool((np.abs(np.subtract(np.asarray(pixel), wanted)) <= within).all())


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("format_", "mode"),
    [("JPEG", mode) for mode in ("RGB", "L", "CMYK")]
    + [(format_, mode) for format_ in ("PNG", "WEBP") for mode in ("RGB", "L", "P", "RGBA", "LA", "1")],
)
def test_every_mode_of_every_format_becomes_rgb(tmp_path: Path, format_: str, mode: str) -> None:
    path = tmp_path / "picture"
    Image.new("RGB", (40, 30), WHITE).convert(mode).save(path, format=format_)
    picture = open_(path)
    assert picture.size == (40, 30)
    assert near(picture.getpixel((20, 15)), WHITE)


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 10, 20))
    picture.save(tmp_path / "a.png")
    opened = open_(tmp_path / "a.png")
    assert opened.getpixel((5, 5)) == RED
    assert opened.getpixel((15, 5)) == WHITE


def test_a_palette_with_a_transparent_colour_becomes_white_there(tmp_path: Path) -> None:
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    picture.paste(0, (10, 0, 20, 20))
    picture.save(tmp_path / "a.png", transparency=0)
    opened = open_(tmp_path / "a.png")
    assert (opened.getpixel((5, 5)), opened.getpixel((15, 5))) == (RED, WHITE)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path, format_: str) -> None:
    picture = Image.new("RGB", (64, 32), WHITE)
    picture.paste(RED, (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture.save(tmp_path / "a", format=format_, exif=exif)
    opened = open_(tmp_path / "a")
    assert opened.size == (32, 64)
    assert near(opened.getpixel((16, 4)), RED, within=40)
    assert near(opened.getpixel((16, 60)), WHITE, within=40)


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((10, 10), 32_768, dtype=np.uint16)).save(tmp_path / "a.png")
    assert near(open_(tmp_path / "a.png").getpixel((5, 5)), (128, 128, 128), within=2)


def test_colours_of_a_wider_space_are_converted(tmp_path: Path) -> None:
    # a profile whose red and blue are swapped: what is stored as blue is seen as red
    swapped = io.BytesIO()
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped.write(plain.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ"))
    Image.new("RGB", (10, 10), (0, 0, 255)).save(tmp_path / "a.png", icc_profile=swapped.getvalue())
    assert near(open_(tmp_path / "a.png").getpixel((5, 5)), RED)


def test_a_broken_or_foreign_profile_is_ignored(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10), RED).save(tmp_path / "a.png", icc_profile=b"no profile at all")
    assert open_(tmp_path / "a.png").getpixel((5, 5)) == RED
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("RGB", (10, 10), RED).save(tmp_path / "b.png", icc_profile=profile)
    assert open_(tmp_path / "b.png").getpixel((5, 5)) == RED


def test_an_empty_file_is_named_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert code_of(tmp_path / "a.png") is MediaErrorCode.PICTURE_EMPTY


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"%PDF-1.7\n" + bytes(100), "PDF"),
        (b"GIF89a" + bytes(100), "GIF"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "sound"),
        (b"just some text", "not a picture"),
    ],
)
def test_a_file_that_is_no_picture_is_called_what_it_is(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(MediaError, match=word) as caught:
        open_(tmp_path / "a.png")
    assert caught.value.code is MediaErrorCode.PICTURE_UNREADABLE


def test_a_gif_is_not_opened_although_pillow_could(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10), RED).save(tmp_path / "a.png", format="GIF")
    assert code_of(tmp_path / "a.png") is MediaErrorCode.PICTURE_UNREADABLE


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_was_cut_off_is_damaged(tmp_path: Path, format_: str) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    noise.save(tmp_path / "whole", format=format_)
    data = (tmp_path / "whole").read_bytes()
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    assert code_of(tmp_path / "a") is MediaErrorCode.PICTURE_UNREADABLE


@pytest.mark.parametrize("size", [(30_000, 10), (10, 30_000), (10_000, 10_000), (30_000, 30_000)])
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(png_header(*size))
    assert code_of(tmp_path / "a.png") is MediaErrorCode.PICTURE_TOO_LARGE


def test_a_text_chunk_that_unpacks_to_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    data = b"comment\0\0" + zlib.compress(bytes(300 * 1024 * 1024), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    header = png_header(8, 8)
    (tmp_path / "a.png").write_bytes(header[:33] + chunk + header[33:])
    assert code_of(tmp_path / "a.png") is MediaErrorCode.PICTURE_UNREADABLE
