"""The figures of a finished video, and the judgement on them: every way to be wrong is noticed."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media_files import convert, make, sine, write_wav
from worker.media.checking import Expected, check
from worker.media.errors import OutputErrorCode, OutputRejected
from worker.media.faststart import index_comes_first, top_level_boxes
from worker.media.loudness import Loudness, measure_loudness
from worker.media.measure import Measurement, measure
from worker.media.mp4 import Mp4Writer
from worker.media.poster import PREVIEW_LONG_SIDE, make_stills

WIDTH, HEIGHT = 96, 128
EXPECTED = Expected(duration_s=2.0, fps=16, width=WIDTH, height=HEIGHT)


def drawn(
    path: Path, sound: Path, *, duration_s: float = 2.0, fps: int = 16, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Path:
    """A video whose first quarter of a second is white, and the rest red with a bar that moves."""
    width, height = size
    with Mp4Writer(path, width=width, height=height, output_fps=fps, sound=sound, duration_s=duration_s) as video:
        count = video.frames_missing
        frames = np.full((count, height, width, 3), 255, dtype=np.uint8)
        for number in range(4, count):
            frames[number] = (160, 20, 20)
            frames[number, number % HEIGHT] = (20, 20, 160)
        video.write(frames)
        return video.finish()


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("tone") / "tone.wav", sine(2, rate=48_000), rate=48_000)


@pytest.fixture(scope="module")
def video(tone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("video") / "v.mp4", tone)


@pytest.fixture(scope="module")
def measured(video: Path, tone: Path) -> Measurement:
    return measure(video, sound=tone)


def code_of(measured: Measurement, expected: Expected = EXPECTED) -> OutputErrorCode:
    with pytest.raises(OutputRejected) as caught:
        check(measured, expected)
    return caught.value.code


def test_a_finished_video_is_measured_and_accepted(measured: Measurement, video: Path) -> None:
    check(measured, EXPECTED)
    assert (measured.frames, measured.fps, measured.duration_s) == (32, 16.0, 2.0)
    assert (measured.width, measured.height) == (WIDTH, HEIGHT)
    assert (measured.audio_duration_s, measured.source_duration_s) == (2.0, 2.0)
    assert measured.av_difference_ms == 0.0
    assert (measured.audio_rate, measured.audio_channels) == (48_000, 1)
    assert measured.size_bytes == video.stat().st_size
    assert measured.sha256 == hashlib.sha256(video.read_bytes()).hexdigest()
    assert measured.loudness.lufs == pytest.approx(measured.source_loudness.lufs, abs=0.3)
    # a sine of 0.3: its RMS is 0.3 / √2
    assert measured.source_loudness.rms_dbfs == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.1)


@pytest.mark.parametrize(("duration_s", "fps"), [(4.03, 16), (0.5, 24), (0.1, 16), (3.3, 25), (5.0, 30)])
def test_every_length_and_rate_is_accepted(tone: Path, tmp_path: Path, duration_s: float, fps: int) -> None:
    path = drawn(tmp_path / "v.mp4", tone, duration_s=duration_s, fps=fps)
    expected = Expected(duration_s=duration_s, fps=fps, width=WIDTH, height=HEIGHT)
    check(measure(path, sound=tone), expected)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"video_codec": "hevc"}, OutputErrorCode.STREAMS),
        ({"audio_codec": "mp3"}, OutputErrorCode.STREAMS),
        ({"pixel_format": "yuv444p"}, OutputErrorCode.STREAMS),
        ({"colours": (2, 2, 2, 0)}, OutputErrorCode.STREAMS),
        ({"width": 64}, OutputErrorCode.STREAMS),
        ({"index_first": False}, OutputErrorCode.NOT_STREAMABLE),
        ({"frames": 30}, OutputErrorCode.FRAMES),
        ({"fps": 15.0}, OutputErrorCode.FRAMES),
        ({"duration_s": 2.2}, OutputErrorCode.DURATION),
        ({"audio_duration_s": 1.97}, OutputErrorCode.DURATION),
        ({"av_difference_ms": 70.0}, OutputErrorCode.DURATION),
        ({"av_difference_ms": -70.0}, OutputErrorCode.DURATION),
        ({"video_start_s": 0.08}, OutputErrorCode.SYNC),
        ({"audio_start_s": 0.05}, OutputErrorCode.SYNC),
        ({"loudness": Loudness(lufs=-10.0, rms_dbfs=-10.0)}, OutputErrorCode.LOUDNESS),
        ({"loudness": Loudness(lufs=-25.0, rms_dbfs=-25.0)}, OutputErrorCode.LOUDNESS),
        ({"loudness": Loudness(lufs=None, rms_dbfs=-20.0)}, OutputErrorCode.LOUDNESS),
        ({"loudness": Loudness(lufs=None, rms_dbfs=float("-inf"))}, OutputErrorCode.SILENT),
    ],
)
def test_each_figure_that_is_wrong_rejects_the_video(
    measured: Measurement, change: dict[str, object], code: OutputErrorCode
) -> None:
    assert code_of(dataclasses.replace(measured, **change)) is code


def test_a_video_with_the_wrong_sound_is_rejected(tone: Path, tmp_path: Path) -> None:
    silent = drawn(tmp_path / "silent.mp4", write_wav(tmp_path / "s.wav", np.zeros(96_000), rate=48_000))
    assert code_of(measure(silent, sound=tone)) is OutputErrorCode.SILENT
    quiet = drawn(tmp_path / "quiet.mp4", write_wav(tmp_path / "q.wav", sine(2, rate=48_000, level=0.2), rate=48_000))
    assert code_of(measure(quiet, sound=tone)) is OutputErrorCode.LOUDNESS


def test_a_video_without_its_sound_is_rejected(video: Path, tone: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputRejected, match="0 sounds"):
        measure(convert(video, tmp_path / "mute.mp4", "-c", "copy", "-an"), sound=tone)


def test_a_video_whose_index_lies_behind_its_data_is_rejected(video: Path, tone: Path, tmp_path: Path) -> None:
    slow = convert(video, tmp_path / "slow.mp4", "-c", "copy")
    assert not index_comes_first(slow)
    assert code_of(measure(slow, sound=tone)) is OutputErrorCode.NOT_STREAMABLE


def test_a_video_whose_sound_begins_late_is_rejected(video: Path, tone: Path, tmp_path: Path) -> None:
    late = make(
        tmp_path / "late.mp4", "-i", str(video), "-itsoffset", "0.2", "-i", str(video), "-map", "0:v", "-map", "1:a",
        "-c", "copy", "-movflags", "+faststart",
    )  # fmt: skip
    assert code_of(measure(late, sound=tone)) in (OutputErrorCode.SYNC, OutputErrorCode.DURATION)


def test_a_video_that_is_cut_off_or_no_video_is_rejected(video: Path, tone: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    for name, content in {"half.mp4": data[: len(data) // 2], "text.mp4": b"no video", "empty.mp4": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OutputRejected):
            check(measure(tmp_path / name, sound=tone), EXPECTED)


def test_silence_has_no_loudness_and_neither_has_a_blink_of_sound(tmp_path: Path) -> None:
    silence = write_wav(tmp_path / "0.wav", np.zeros(96_000), rate=48_000)
    assert measure_loudness(silence, duration_s=2.0) == Loudness(lufs=None, rms_dbfs=float("-inf"))
    blink = measure_loudness(write_wav(tmp_path / "1.wav", sine(0.2, rate=48_000), rate=48_000), duration_s=0.2)
    assert blink.lufs is None
    assert blink.rms_dbfs == pytest.approx(-13.5, abs=0.2)


def test_silence_behind_a_padded_sound_does_not_make_it_quieter(tmp_path: Path) -> None:
    short = write_wav(tmp_path / "s.wav", sine(0.3, rate=48_000), rate=48_000)
    check(measure(drawn(tmp_path / "v.mp4", short), sound=short), EXPECTED)


def test_a_file_that_is_no_mp4_has_no_boxes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0\0\0\x04free")
    with pytest.raises(ValueError, match="not an MP4"):
        top_level_boxes(tmp_path / "a")


def test_poster_and_preview_show_the_video_and_not_its_odd_beginning(video: Path, tmp_path: Path) -> None:
    stills = make_stills(video, poster=tmp_path / "p.jpg", preview=tmp_path / "p.webp")
    with Image.open(stills.poster) as poster:
        assert (poster.format, poster.size) == ("JPEG", (WIDTH, HEIGHT))
        red, green, _ = poster.convert("RGB").getpixel((48, 64))
        assert red > 100 > green
    with Image.open(stills.preview) as preview:
        assert (preview.format, preview.n_frames, preview.size) == ("WEBP", 15, (WIDTH, HEIGHT))  # two are white


def test_a_long_video_has_a_small_preview(tone: Path, tmp_path: Path) -> None:
    path = drawn(tmp_path / "v.mp4", tone, duration_s=9.0, size=(480, 640))
    stills = make_stills(path, poster=tmp_path / "p.jpg", preview=tmp_path / "p.webp")
    with Image.open(stills.preview) as preview:
        assert (preview.n_frames, preview.size) == (23, (240, PREVIEW_LONG_SIDE))
    assert stills.preview.stat().st_size < 200_000
