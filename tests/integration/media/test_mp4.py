"""The finished file, opened and decoded: its form, its lengths, its colours, its sound, and lips at their sound."""

import errno
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from tests.media_files import clicks, convert, decoded, onsets, sine, write_wav
from tests.waiting import wait_for
from worker.media import frames_file, muxing
from worker.media.errors import DiskFull, FfmpegFailed, FramesMissing
from worker.media.faststart import top_level_boxes
from worker.media.mp4 import Frames, Mp4Writer
from worker.media.timing import frames_for

WIDTH, HEIGHT = 96, 128


def blank(count: int, *, level: int = 128) -> Frames:
    return np.full((count, HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def write(path: Path, sound: Path, *, duration_s: float, fps: int = 16, frames: Frames | None = None) -> Path:
    with Mp4Writer(path, width=WIDTH, height=HEIGHT, output_fps=fps, sound=sound, duration_s=duration_s) as video:
        shown = blank(video.frames_missing) if frames is None else frames
        for start in range(0, len(shown), 8):
            video.write(shown[start : start + 8])
        assert video.finish() == path
    return path


def brightness(path: Path) -> Iterator[tuple[float, float]]:
    """Time and mean level of every frame."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.time, float(frame.to_ndarray(format="gray").mean())


def encoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ffmpeg" in child.name()]


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "tone.wav", sine(12, rate=48_000), rate=48_000)


@pytest.mark.parametrize(
    ("duration_s", "fps"),
    [
        (4.0, 16), (4.03, 16), (0.5, 16), (10.0, 16), (0.1, 16), (4.03, 24), (4.03, 25), (4.0, 30), (10.0, 30),
        (0.5, 60), (2.0, 8), (0.25, 25), (4.0625, 20),
    ],
)  # fmt: skip
def test_the_output_contract(tone: Path, tmp_path: Path, duration_s: float, fps: int) -> None:
    path = write(tmp_path / "video.mp4", tone, duration_s=duration_s, fps=fps)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        video, sound = container.streams.video[0], container.streams.audio[0]
        picture = video.codec_context
        assert (picture.name, picture.profile, picture.pix_fmt) == ("h264", "High", "yuv420p")
        assert (picture.width, picture.height, sound.codec_context.name) == (WIDTH, HEIGHT, "aac")
        assert video.average_rate == fps
        assert (video.start_time, sound.start_time) == (0, 0)
        video_s = float(video.duration * video.time_base)
        sound_s = float(sound.duration * sound.time_base)
        frames = [frame.time for frame in container.decode(video)]
    assert sound_s == pytest.approx(duration_s, abs=1e-3)
    assert -1e-3 <= video_s - sound_s < 1 / fps + 1e-3
    assert len(frames) == frames_for(duration_s, fps=fps)
    assert frames == pytest.approx([number / fps for number in range(len(frames))], abs=1e-3)
    boxes = top_level_boxes(path)
    assert boxes.index("moov") < boxes.index("mdat")


def test_key_frames_come_every_two_seconds_and_close_their_groups(tone: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "video.mp4", tone, duration_s=10.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        keys = [float(packet.pts * packet.time_base) for packet in packets if packet.is_keyframe]
        assert keys == pytest.approx([0, 2, 4, 6, 8])
        # closed: nothing that comes after a key frame in the file is shown before it
        shown = [float(packet.pts * packet.time_base) for packet in packets]
    for key in keys:
        assert min(shown[shown.index(key) :]) == key


def test_colours_are_those_that_were_drawn_and_are_marked_as_such(tone: Path, tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (236, 190, 160), (128, 128, 128)]
    frames = np.concatenate([np.full((8, HEIGHT, WIDTH, 3), colour, dtype=np.uint8) for colour in colours])
    path = write(tmp_path / "video.mp4", tone, duration_s=3.5, frames=frames)
    with av.open(str(path)) as container:
        picture = container.streams.video[0].codec_context
        marked = (picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range)
        assert marked == (1, 1, 1, 1)
        shown = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    for number, colour in enumerate(colours):
        planes = shown[number * 8 + 4]
        y = planes[:HEIGHT].mean()
        u, v = planes[HEIGHT : HEIGHT + HEIGHT // 4].mean(), planes[HEIGHT + HEIGHT // 4 :].mean()
        assert _rgb_of_bt709(y, u, v) == pytest.approx(colour, abs=4)


def _rgb_of_bt709(y: float, u: float, v: float) -> list[float]:
    """By the equations of the standard, not by a library."""
    luma, blue, red = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    r = luma + 1.5748 * red
    b = luma + 1.8556 * blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    return [255 * value for value in (r, g, b)]


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_the_sound_is_the_original_with_both_its_channels_and_its_high_notes(tmp_path: Path, rate: int) -> None:
    stereo = np.stack([sine(3, rate=rate, hertz=12_000), sine(3, rate=rate, hertz=700)], axis=1)
    path = write(tmp_path / "v.mp4", write_wav(tmp_path / "s.wav", stereo, rate=rate), duration_s=3.0)
    with av.open(str(path)) as container:
        codec = container.streams.audio[0].codec_context
        assert (codec.sample_rate, codec.channels) == (rate, 2)
    heard = decoded(path, rate=rate, channels=2)[rate : 2 * rate]
    spectrum = np.abs(np.fft.rfft(heard, axis=0)) / (rate / 2)
    assert spectrum[12_000, 0] == pytest.approx(0.3, rel=0.1)
    assert spectrum[700, 1] == pytest.approx(0.3, rel=0.1)
    assert spectrum[700, 0] < 0.01
    assert spectrum[12_000, 1] < 0.01


@pytest.mark.parametrize(("rate", "kept"), [(8_000, 8_000), (22_050, 22_050), (96_000, 48_000), (37_800, 48_000)])
def test_an_unusual_rate_is_kept_or_becomes_48_khz(tmp_path: Path, rate: int, kept: int) -> None:
    sound = write_wav(tmp_path / "s.wav", sine(1, rate=rate), rate=rate)
    path = write(tmp_path / "v.mp4", sound, duration_s=1.0)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.sample_rate == kept


@pytest.mark.parametrize(
    ("form", "fps"), [("wav", 16), ("wav", 24), ("wav", 25), ("wav", 30), ("mp3", 16), ("mp3", 24), ("m4a", 25)]
)
def test_a_flash_is_seen_when_its_click_is_heard(tmp_path: Path, fps: int, form: str) -> None:
    moments = [0.5, 1.25, 2.0, 3.3125, 3.875]  # on frames of 16 a second, and not on those of the others
    source = write_wav(tmp_path / "clicks.wav", clicks(4.03, rate=48_000, at_s=moments), rate=48_000)
    frames = blank(65, level=16)
    for moment in moments:
        frames[round(moment * 16)] = 240
    sound = source if form == "wav" else convert(source, tmp_path / f"clicks.{form}")
    path = write(tmp_path / "v.mp4", sound, duration_s=4.03, fps=fps, frames=frames)
    heard = onsets(decoded(path, rate=48_000)[:, 0], rate=48_000)
    levels = list(brightness(path))
    seen = [
        now for (_, before), (now, level) in zip([(0.0, 0.0), *levels], levels, strict=False) if level > 128 > before
    ]
    assert heard == pytest.approx(moments, abs=0.012)
    assert seen == pytest.approx(moments, abs=0.5 / fps + 0.001)
    assert seen == pytest.approx(heard, abs=1 / fps)


@pytest.mark.parametrize("fps", [24, 25, 30])
def test_at_another_rate_every_frame_is_shown_and_none_is_blended(tone: Path, tmp_path: Path, fps: int) -> None:
    frames = np.concatenate([blank(1, level=(40, 200)[number % 2]) for number in range(64)])
    path = write(tmp_path / "v.mp4", tone, duration_s=4.0, fps=fps, frames=frames)
    levels = np.array([level for _, level in brightness(path)])
    dark = np.abs(levels - 40) < 5
    assert (dark | (np.abs(levels - 200) < 5)).all()
    assert np.count_nonzero(dark[1:] != dark[:-1]) == 63


def test_a_shorter_sound_is_followed_by_silence(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "s.wav", sine(1, rate=48_000), rate=48_000)
    heard = decoded(write(tmp_path / "v.mp4", sound, duration_s=3.0), rate=48_000)[:, 0]
    assert len(heard) >= 3 * 48_000
    assert np.abs(heard[:47_000]).max() > 0.2
    assert np.abs(heard[50_000:]).max() < 0.001


def test_a_longer_sound_is_cut(tone: Path, tmp_path: Path) -> None:
    with av.open(str(write(tmp_path / "v.mp4", tone, duration_s=2.5))) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(2.5, abs=1e-4)


def test_frames_behind_the_end_of_the_sound_are_dropped(tone: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", tone, duration_s=1.0, frames=blank(40))
    assert len(list(brightness(path))) == 16


def test_a_video_with_frames_missing_is_not_finished(tone: Path, tmp_path: Path) -> None:
    with pytest.raises(FramesMissing, match="15 of 16"):
        write(tmp_path / "v.mp4", tone, duration_s=1.0, frames=blank(15))
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]


def test_the_same_inputs_give_the_same_bytes(tone: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "1.mp4", tone, duration_s=1.0)
    two = write(tmp_path / "2.mp4", tone, duration_s=1.0)
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()


def test_leaving_early_ends_the_encoder_and_leaves_no_file(tone: Path, tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "v.mp4", width=96, height=128, output_fps=16, sound=tone, duration_s=9.0) as video:
        video.write(blank(128))
        assert encoders()
        wait_for(lambda: list(tmp_path.glob(".*")), timeout_s=20)
    assert not encoders()
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]
    assert not [thread for thread in threading.enumerate() if "v.mp4" in thread.name]


def test_writing_waits_only_when_the_encoder_is_blocks_behind_and_not_for_ever(
    tone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_file, "STALL_TIMEOUT_S", 0.5)
    block = np.zeros((8, 640, 640, 3), dtype=np.uint8)
    with Mp4Writer(tmp_path / "v.mp4", width=640, height=640, output_fps=16, sound=tone, duration_s=9.0) as video:
        encoders()[0].suspend()  # one that stands still
        started = time.monotonic()
        for _ in range(frames_file.QUEUED_BLOCKS):
            video.write(block)
        assert time.monotonic() - started < 0.4
        with pytest.raises(FfmpegFailed, match="took no frame"):
            write_for_ever(video, block)
        assert time.monotonic() - started < 5
    assert not encoders()


def write_for_ever(video: Mp4Writer, block: Frames) -> None:
    while True:
        assert video.frames_missing, "the encoder took everything"
        video.write(block)


def test_the_encoder_stands_back_from_whoever_draws_with_all_its_threads(tone: Path, tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "v.mp4", width=96, height=128, output_fps=16, sound=tone, duration_s=9.0) as video:
        video.write(blank(128))
        (encoder,) = encoders()
        deadline = time.monotonic() + 20
        while len(threads := [psutil.Process(thread.id) for thread in encoder.threads()]) < 4:
            assert time.monotonic() < deadline, "the encoder began no threads"
            time.sleep(0.02)
        assert {thread.nice() for thread in threads} == {psutil.Process().nice() + frames_file.ENCODER_NICENESS}


def test_an_encoder_that_is_killed_is_noticed_while_frames_are_written(tone: Path, tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "v.mp4", width=96, height=128, output_fps=16, sound=tone, duration_s=900.0) as video:
        encoders()[0].kill()
        with pytest.raises(FfmpegFailed, match="status -9"):
            write_for_ever(video, blank(8))
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]


def test_an_encoder_that_is_killed_at_the_end_is_noticed(tone: Path, tmp_path: Path) -> None:
    with Mp4Writer(tmp_path / "v.mp4", width=96, height=128, output_fps=16, sound=tone, duration_s=1.0) as video:
        video.write(blank(16))
        encoders()[0].kill()
        with pytest.raises(FfmpegFailed, match="status -9"):
            video.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]


def test_an_encoder_that_cannot_write_says_why(tone: Path, tmp_path: Path) -> None:
    with pytest.raises(FfmpegFailed, match="No such file"):
        write(tmp_path / "no" / "v.mp4", tone, duration_s=1.0)


def test_a_full_disk_is_named(tone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxing, "output_path", lambda _path: "file:/dev/full")
    noise = np.random.default_rng(1).integers(0, 255, (64, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with pytest.raises(DiskFull) as caught:
        write(tmp_path / "v.mp4", tone, duration_s=4.0, frames=noise)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 64, 64, 3), np.uint8),
        np.zeros((1, HEIGHT, WIDTH, 3), np.float32),
        np.zeros((1, 3, HEIGHT, WIDTH), np.uint8),
    ],
)
def test_frames_of_another_form_are_the_callers_mistake(tone: Path, tmp_path: Path, frames: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        write(tmp_path / "v.mp4", tone, duration_s=1.0, frames=frames)


def test_odd_sides_are_the_callers_mistake(tone: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        Mp4Writer(tmp_path / "v.mp4", width=95, height=128, output_fps=16, sound=tone, duration_s=1.0)
