"""`realvideo render`: a file made without any queue, and nothing left behind when it is not made."""

import os
import signal
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import psutil
import pytest
from PIL import Image

from infra.local.mp4_check import look_at, sound_duration_s
from infra.samples import PORTRAIT, SPEECH
from tests.e2e.up_process import command_line, still_alive, wait_for
from tests.photograph import photograph

pytestmark = pytest.mark.timeout(180)

PATTERNS = ("--preset", "tiny")
SMALL = (*PATTERNS, "--width", "64", "--height", "96")


def test_one_file_is_rendered_with_the_rate_that_was_asked_for(tmp_path: Path) -> None:
    video = tmp_path / "made.mp4"
    rendered = render(tmp_path, "-a", str(SPEECH), "-i", str(PORTRAIT), "-o", str(video), "--fps", "25", *SMALL)
    assert rendered.returncode == 0, rendered.stderr
    seen = look_at(video)
    assert (seen.width, seen.height, seen.fps) == (64, 96, 25)
    assert seen.video_duration_s == pytest.approx(sound_duration_s(SPEECH), abs=1 / 25)
    assert f"{seen.frames} frames" in rendered.stderr
    assert [left.name for left in tmp_path.iterdir()] == ["made.mp4"]


def test_the_ways_of_the_reference_reach_the_video(tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (320, 180), "white").save(wide)
    video = tmp_path / "made.mp4"
    ways = ("--size-policy", "reference-bars", "--audio_mode", "reference", "--sink-rotation", "reference_rounding")
    rendered = render(tmp_path, "-a", str(short_speech(tmp_path)), "-i", str(wide), "-o", str(video), *ways, *PATTERNS)
    assert rendered.returncode == 0, rendered.stderr
    seen = look_at(video)
    assert (seen.width, seen.height) == (704, 384)


def test_low_memory_is_taken_on_a_processor_too(tmp_path: Path) -> None:
    video = tmp_path / "made.mp4"
    speech = str(short_speech(tmp_path))
    rendered = render(tmp_path, "-a", speech, "-i", str(PORTRAIT), "-o", str(video), "--low_memory", *SMALL)
    assert rendered.returncode == 0, rendered.stderr
    assert look_at(video).frames > 0


def test_without_weights_a_drawn_portrait_speaks_in_its_own_size_and_one_line_says_who_draws(tmp_path: Path) -> None:
    upright = tmp_path / "upright.png"
    Image.open(PORTRAIT).resize((600, 600)).crop((60, 0, 540, 600)).save(upright)
    for picture, size in ((PORTRAIT, (192, 192)), (upright, (144, 192))):
        video = tmp_path / "made.mp4"
        rendered = render(tmp_path, "-a", str(short_speech(tmp_path)), "-i", str(picture), "-o", str(video))
        assert rendered.returncode == 0, rendered.stderr
        seen = look_at(video)
        assert (seen.width, seen.height, seen.frames) == (*size, 8)
        (said,) = [line for line in rendered.stderr.splitlines() if "avatar preset draws" in line]
        assert said.startswith("No 14B weights were given (--weights), so the small avatar preset draws;")
        assert "trained on" not in rendered.stderr


def test_a_picture_of_another_kind_is_warned_of(tmp_path: Path) -> None:
    photograph(0, grain=3.0).save(tmp_path / "other.png")
    speech = str(short_speech(tmp_path))
    rendered = render(tmp_path, "-a", speech, "-i", "other.png", "--preset", "avatar")
    assert rendered.returncode == 0, rendered.stderr
    assert len([line for line in rendered.stderr.splitlines() if "not one of the drawn portraits" in line]) == 1
    assert look_at(tmp_path / "output.mp4").width == 144


def short_speech(directory: Path) -> Path:
    """Half a second: of the reference's size there are not many frames to be made in a test."""
    with wave.open(str(SPEECH)) as whole, wave.open(str(directory / "short.wav"), "wb") as cut:
        cut.setparams(whole.getparams())
        cut.writeframes(whole.readframes(whole.getframerate() // 2))
    return directory / "short.wav"


def test_ctrl_c_leaves_no_process_and_no_half_file(tmp_path: Path) -> None:
    places = tmp_path / "output", tmp_path / "temporary"
    for place in places:
        place.mkdir()
    process = start(places[1], "-a", str(SPEECH), "-i", str(PORTRAIT), "-o", str(places[0] / "made.mp4"), *PATTERNS)
    started: list[psutil.Process] = []

    def rank_runs() -> bool:
        assert process.poll() is None
        started[:] = psutil.Process(process.pid).children(recursive=True)
        return any("worker.group.rank" in " ".join(command_line(child)) for child in started)

    try:
        wait_for(rank_runs, timeout_s=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert still_alive(started) == []
        assert [list(place.iterdir()) for place in places] == [[], []]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("-a", "text.wav", "-i", str(PORTRAIT)), 1, "audio_unreadable"),
        (("-a", "empty.wav", "-i", str(PORTRAIT)), 1, "audio_empty"),
        (("-a", str(SPEECH), "-i", "text.wav"), 1, "picture_unreadable"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--preset", "7b"), 2, "there are avatar, tiny, 14b"),
        (("-a", "nothing.wav", "-i", str(PORTRAIT)), 2, "no file nothing.wav"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "-o", "no/such/place.mp4"), 2, "no/such"),
        (("-a", "text.wav", "-i", str(PORTRAIT), "-o", "./text.wav"), 2, "would replace text.wav"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--weights", "no-such-weights"), 2, "no-such-weights"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--width", "192"), 2, "without a size the picture decides"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), *PATTERNS, "--ranks", "4"), 2, "of ranks: 1, 2, 3."),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--size-policy", "reference", "--width", "64"), 2, "leave --width"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--audio-mode", "fast"), 2, "windowed or reference"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--precision", "fp8"), 1, "precision fp8 needs an NVIDIA GPU"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--precision", "int4"), 2, "bf16 or fp8 or fp8-attention"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--layout", "latency"), 2, "is for GPUs, and none can be seen"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--layout", "2x1"), 2, "auto or latency or latency-shared"),
        (("-a", str(SPEECH), "-i", str(PORTRAIT), "--layout", "latency", "--ranks", "2"), 2, "leave one out"),
    ],
)
def test_what_cannot_be_rendered_is_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    (tmp_path / "text.wav").write_text("this is text " * 100)
    (tmp_path / "empty.wav").touch()
    answered = render(tmp_path, *arguments)
    assert answered.returncode == status, answered.stderr
    assert said in answered.stderr
    assert "Traceback" not in answered.stderr
    assert not (tmp_path / "output.mp4").exists()


def test_the_large_preset_without_weights_says_what_it_needs(tmp_path: Path) -> None:
    answered = render(tmp_path, "-a", str(SPEECH), "-i", str(PORTRAIT), "--preset", "14b")
    assert answered.returncode == 1
    assert "weights_missing" in answered.stderr
    assert "Traceback" not in answered.stderr


def render(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(Path(tempfile.gettempdir()), *arguments, working_directory=directory)
    output, errors = process.communicate(timeout=150)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def start(temporary: Path, *arguments: str, working_directory: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "render", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=working_directory,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
