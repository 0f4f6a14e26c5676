"""A long video is made of pieces: the same frames, at the same times, as in one go, and the same bytes after a stop."""

import shutil
import threading
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.media_files import clicks, decoded, onsets, sine, write_wav
from worker.media.checking import Expected, check
from worker.media.errors import FfmpegFailed, FramesMissing
from worker.media.frames_file import Frames, FramesFile
from worker.media.measure import measure
from worker.media.mp4 import Mp4Writer
from worker.media.muxing import Quality, muxing
from worker.media.segments import SEGMENT_FRAMES, Segmentation, Segments, finished_segments
from worker.media.timing import frames_for

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "tone.wav", sine(24, rate=48_000), rate=48_000)


def drawn(count: int) -> Frames:
    """Every frame is told from its neighbours by its level."""
    levels = np.random.default_rng(5).integers(20, 235, count, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, HEIGHT, WIDTH, 3)).copy()


def writer(path: Path, sound: Path, *, duration_s: float, fps: int = 16, segments: Segments | None = None) -> Mp4Writer:
    return Mp4Writer(
        path, width=WIDTH, height=HEIGHT, output_fps=fps, sound=sound, duration_s=duration_s, segments=segments
    )


def write(path: Path, sound: Path, *, duration_s: float, fps: int = 16, segments: Segments | None = None) -> Path:
    """Frames come five, and then eight at a time, as they are drawn."""
    frames = drawn(frames_for(duration_s, fps=16))
    with writer(path, sound, duration_s=duration_s, fps=fps, segments=segments) as video:
        frames = frames[len(frames) - video.frames_missing :]
        for part in np.split(frames, range(5, len(frames), 8)):
            video.write(part)
        return video.finish()


def picture(path: Path) -> tuple[list[float], np.ndarray]:
    """Times and mean levels of all frames."""
    with av.open(str(path)) as container:
        shown = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    times, levels = zip(*shown, strict=True)
    return list(times), np.array(levels)


@pytest.mark.parametrize(
    ("duration_s", "fps"), [(22.06, 16), (22.06, 24), (20.0, 25), (12.5, 30), (21.0, 60), (23.0, 8)]
)
def test_frames_are_those_of_one_go_and_on_time(tone: Path, tmp_path: Path, duration_s: float, fps: int) -> None:
    path = write(tmp_path / "v.mp4", tone, duration_s=duration_s, fps=fps)
    frames = drawn(frames_for(duration_s, fps=16))
    one_go = FramesFile(
        tmp_path / "one.mp4",
        command=lambda partial: muxing(
            partial, size=(WIDTH, HEIGHT), output_fps=fps, sound=tone, duration_s=duration_s, quality=Quality()
        ),
        size=(WIDTH, HEIGHT),
        frames=len(frames),
    )
    with one_go:
        one_go.write(frames)
        one_go.finish()
    times, levels = picture(path)
    wanted_times, wanted_levels = picture(tmp_path / "one.mp4")
    assert times == wanted_times
    assert np.abs(levels - wanted_levels).max() < 3  # two encoders; the frames differ by far more
    check(measure(path, sound=tone), Expected(duration_s=duration_s, fps=fps, width=WIDTH, height=HEIGHT))


def test_the_sound_is_where_it_is_in_one_go(tmp_path: Path) -> None:
    moments = [0.5, 9.9, 10.1, 15.0, 20.3]
    sound = write_wav(tmp_path / "clicks.wav", clicks(21.0, rate=48_000, at_s=moments), rate=48_000)
    path = write(tmp_path / "v.mp4", sound, duration_s=21.0)
    assert onsets(decoded(path, rate=48_000)[:, 0], rate=48_000) == pytest.approx(moments, abs=0.012)


@pytest.mark.parametrize("fps", [16, 25])
@pytest.mark.parametrize("made", [1, 2])
def test_a_video_that_goes_on_from_its_pieces_has_the_bytes_of_one_that_never_broke_off(
    tone: Path, tmp_path: Path, made: int, fps: int
) -> None:
    whole = write(tmp_path / "whole.mp4", tone, duration_s=22.06, fps=fps)
    broken, rescued = tmp_path / "broken", tmp_path / "rescued"
    broken.mkdir()
    rescued.mkdir()
    with writer(tmp_path / "v.mp4", tone, duration_s=22.06, fps=fps, segments=Segments(broken)) as video:
        video.write(drawn(353)[: made * SEGMENT_FRAMES + 40])
        wait_for_pieces(broken, made)
    assert sorted(path.name for path in broken.iterdir()) == [f"segment-0000{n}.mp4" for n in range(made)]
    for path in broken.iterdir():
        shutil.copy(path, rescued / path.name)
    path = write(tmp_path / "v.mp4", tone, duration_s=22.06, fps=fps, segments=Segments(rescued, made=made))
    assert path.read_bytes() == whole.read_bytes()
    assert finished_segments(rescued) == 3


def test_leaving_early_leaves_no_process_and_no_file(tone: Path, tmp_path: Path) -> None:
    with writer(tmp_path / "v.mp4", tone, duration_s=22.0) as video:
        video.write(drawn(352)[:200])
    assert not encoders()
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]
    assert not [thread for thread in threading.enumerate() if "v.mp4" in thread.name]


def test_a_finished_video_leaves_nothing_beside_it(tone: Path, tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", tone, duration_s=22.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tone.wav", "v.mp4"]
    assert not encoders()
    assert not [thread for thread in threading.enumerate() if "v.mp4" in thread.name]


def test_frames_missing_are_told(tone: Path, tmp_path: Path) -> None:
    with writer(tmp_path / "v.mp4", tone, duration_s=22.0) as video:
        video.write(drawn(352)[:170])
        with pytest.raises(FramesMissing, match="170 of 352"):
            video.finish()


def test_an_encoder_that_is_killed_in_a_later_piece_is_noticed(tone: Path, tmp_path: Path) -> None:
    with writer(tmp_path / "v.mp4", tone, duration_s=900.0) as video:
        frames = drawn(8)
        while video.frames_missing > 900 * 16 - SEGMENT_FRAMES:
            video.write(frames)
        encoders()[-1].kill()
        with pytest.raises(FfmpegFailed, match="status -9"):
            write_often(video, frames, times=2 * SEGMENT_FRAMES)


def test_a_sound_that_cannot_be_opened_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_bytes(b"no sound")
    with pytest.raises(av.FFmpegError), writer(tmp_path / "v.mp4", tmp_path / "sound.wav", duration_s=22.0):
        pass
    assert not encoders()
    assert [path.name for path in tmp_path.iterdir()] == ["sound.wav"]


def test_a_sound_that_is_not_encoded_is_noticed_in_the_end(tone: Path, tmp_path: Path) -> None:
    with writer(tmp_path / "v.mp4", tone, duration_s=22.0) as video:
        encoders()[1].kill()
        video.write(drawn(352))
        with pytest.raises(FfmpegFailed, match="status -9"):
            video.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["tone.wav"]


def test_a_last_piece_always_has_frames_at_both_rates() -> None:
    for fps in (8, 16, 24, 25, 30, 60):
        for duration_s in (9.99, 10.0, 10 + 5e-8, 10 + 6.3e-8, 10.0001, 10.06, 20.0, 20.01, 31.4):
            plan = Segmentation.of(duration_s, output_fps=fps)
            assert all(plan.frames_of(n) > 0 and plan.shown_of(n) > 0 for n in range(plan.count))
            assert sum(plan.frames_of(n) for n in range(plan.count)) == plan.frames
            assert sum(plan.shown_of(n) for n in range(plan.count)) == plan.shown


def test_pieces_count_up_to_the_first_that_is_missing(tmp_path: Path) -> None:
    assert finished_segments(tmp_path) == 0
    for name in ("segment-00000.mp4", "segment-00002.mp4", ".segment-00001.mp4.partial", "latents-00001.safetensors"):
        (tmp_path / name).touch()
    assert finished_segments(tmp_path) == 1
    (tmp_path / "segment-00001.mp4").touch()
    assert finished_segments(tmp_path) == 3


def write_often(video: Mp4Writer, frames: Frames, *, times: int) -> None:
    for _ in range(times):
        video.write(frames)


def wait_for_pieces(directory: Path, count: int) -> None:
    finished = threading.Event()
    for _ in range(400):
        if finished_segments(directory) == count:
            return
        finished.wait(0.05)
    raise AssertionError(f"{finished_segments(directory)} of {count} pieces were finished")


def encoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ffmpeg" in child.name()]
