"""The portrait out of a source video."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.samples import PORTRAIT
from tests.drawn_portrait import draw_portrait
from tests.media_files import make
from worker.media.errors import MediaError, MediaErrorCode
from worker.media.limits import MediaLimits
from worker.media.video_frame import FrameChoice, ReferenceFrame, reference_frame

FPS = 10


def frame(video: Path, time_s: float | None = None) -> ReferenceFrame:
    return reference_frame(video, time_s=time_s, limits=MediaLimits())


def code_of(video: Path, time_s: float | None = None) -> MediaErrorCode:
    with pytest.raises(MediaError) as caught:
        frame(video, time_s)
    assert caught.value.message.endswith(".")
    return caught.value.code


def film(path: Path, pictures: list[Image.Image], *options: str) -> Path:
    """Ten pictures a second."""
    folder = path.with_name(f"{path.name}-pictures")
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:04d}.png", compress_level=0)
    source = ("-framerate", str(FPS), "-i", str(folder / "%04d.png"))
    codec = ("-c:v", "mpeg4", "-q:v", "3") if path.suffix == ".avi" else ("-c:v", "libx264", "-preset", "ultrafast")
    return make(path, *source, *codec, "-pix_fmt", "yuv420p", "-g", "1000", *options)


def greys(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (8 * number,) * 3) for number in range(count)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.ts"])
def test_the_frame_at_the_reference_time_is_taken(tmp_path: Path, name: str) -> None:
    found = frame(film(tmp_path / name, greys(20)), 1.2)
    assert (found.choice, found.time_s, found.picture.size) == (FrameChoice.ASKED, 1.2, (64, 48))
    assert np.asarray(found.picture).mean() == pytest.approx(8 * 12, abs=6)


@pytest.mark.parametrize("time_s", [-1.0, 2.5, 1e6])
def test_a_reference_time_outside_the_video_is_refused(tmp_path: Path, time_s: float) -> None:
    assert code_of(film(tmp_path / "a.mp4", greys(20)), time_s) is MediaErrorCode.REFERENCE_TIME_OUTSIDE


def test_without_a_time_the_frame_with_a_face_is_found(tmp_path: Path) -> None:
    face = draw_portrait().resize((240, 320))
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (320, 240, 3), dtype=np.uint8))
    found = frame(film(tmp_path / "a.mp4", [noise] * 20 + [face] * 10 + [noise] * 10, "-crf", "40"))
    assert found.choice is FrameChoice.FACE
    assert 2.0 <= found.time_s < 3.0


def test_without_any_face_the_sharpest_frame_is_taken_and_said_to_be(tmp_path: Path) -> None:
    checks = Image.fromarray(np.kron(np.indices((6, 8)).sum(0) % 2 * 255, np.ones((8, 8))).astype(np.uint8)).convert(
        "RGB"
    )
    plain = Image.new("RGB", (64, 48), "grey")
    found = frame(film(tmp_path / "a.mp4", [plain] * 20 + [checks] * 10 + [plain] * 10))
    assert found.choice is FrameChoice.SHARPEST
    assert 2.0 <= found.time_s < 3.0


def test_a_video_of_one_frame_has_a_frame(tmp_path: Path) -> None:
    assert frame(film(tmp_path / "a.mp4", greys(1))).picture.size == (64, 48)


def test_a_video_filmed_upright_is_turned(tmp_path: Path) -> None:
    flat = film(tmp_path / "flat.mp4", greys(5))
    make(tmp_path / "upright.mp4", "-display_rotation", "90", "-i", str(flat), "-c", "copy")
    assert frame(tmp_path / "upright.mp4", 0.1).picture.size == (48, 64)


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    wide = film(tmp_path / "a.mp4", greys(5), "-vf", "setsar=2/1")
    assert frame(wide, 0.1).picture.size == (128, 48)


def test_an_empty_file_is_named_empty(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert code_of(tmp_path / "a.mp4") is MediaErrorCode.VIDEO_EMPTY


def test_a_file_that_is_no_video_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"%PDF-1.7\n" + bytes(500))
    assert code_of(tmp_path / "a.mp4") is MediaErrorCode.VIDEO_UNREADABLE


def test_a_sound_with_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    sound = ("-f", "lavfi", "-i", "sine=duration=1")
    make(
        tmp_path / "a.m4a",
        *sound,
        "-i",
        str(PORTRAIT),
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "mjpeg",
        "-disposition:v",
        "attached_pic",
    )
    assert code_of(tmp_path / "a.m4a") is MediaErrorCode.VIDEO_UNREADABLE


def test_a_picture_larger_than_8k_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    size = "9000x5000"
    make(tmp_path / "a.mkv", "-f", "lavfi", "-i", f"color=size={size}:rate=1:duration=1", "-c:v", "mjpeg")
    assert code_of(tmp_path / "a.mkv") is MediaErrorCode.VIDEO_TOO_LARGE


def test_a_video_whose_pictures_are_garbage_is_unreadable(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mkv", greys(10))
    data = bytearray(whole.read_bytes())
    start = data.index(b"\x1f\x43\xb6\x75")  # the first cluster: the headers before it stay whole
    data[start + 40 :] = np.random.default_rng(1).bytes(len(data) - start - 40)
    whole.write_bytes(data)
    assert code_of(whole) is MediaErrorCode.VIDEO_UNREADABLE


def test_a_playlist_named_like_a_video_cannot_read_another_file(tmp_path: Path) -> None:
    secret = film(tmp_path / "secret.mp4", greys(5))
    (tmp_path / "a.mp4").write_text(f"ffconcat version 1.0\nfile '{secret}'\n")
    assert code_of(tmp_path / "a.mp4") is MediaErrorCode.VIDEO_UNREADABLE
