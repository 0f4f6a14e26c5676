"""Processes that are ended when they take too long, and that leave nothing behind."""

import os
import re
import time
from pathlib import Path
from typing import Any

import ffmpeg
import psutil
import pytest

from tests.media_files import sine, write_wav
from worker.media.errors import FfmpegFailed, FfmpegTimedOut
from worker.media.ffmpeg import SOUND_FORMATS, FfmpegProcess, ProcessLimits, run, untrusted_input
from worker.media.probe import ProbeBroken, Unreadable, probe

PLENTY = ProcessLimits(wall_s=30, cpu_s=30)


def endless(*, realtime: bool) -> Any:
    source = "testsrc2=size=640x640:rate=25"
    options = {"f": "lavfi", "re": None} if realtime else {"f": "lavfi"}
    return ffmpeg.output(ffmpeg.input(source, **options), "pipe:1", format="null")


def children() -> list[psutil.Process]:
    """Of the code under test: the servers of other tests are children too."""
    ours = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in ours if {"ffmpeg", "probe_process"} & set(_words(child))]


def _words(process: psutil.Process) -> list[str]:
    return re.split(r"[/. -]", " ".join(process.cmdline()))


def open_files() -> int:
    return psutil.Process().num_fds()


def test_a_process_past_its_time_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(FfmpegTimedOut):
        run(endless(realtime=True), limits=ProcessLimits(wall_s=0.3, cpu_s=30))
    assert time.monotonic() - started < 5
    assert not children()


@pytest.mark.skipif(not hasattr(__import__("resource"), "prlimit"), reason="computing time is only limited on Linux")
def test_a_process_that_computes_too_much_is_ended() -> None:
    with pytest.raises(FfmpegTimedOut):
        run(endless(realtime=False), limits=ProcessLimits(wall_s=60, cpu_s=1))
    assert not children()


def test_a_process_that_is_left_is_ended_and_its_pipes_closed() -> None:
    descriptors = open_files()
    with FfmpegProcess(endless(realtime=True), limits=PLENTY):
        assert children()
    assert not children()
    assert open_files() == descriptors


def test_what_ffmpeg_said_is_kept_for_the_log_and_not_for_ever(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "a.wav", sine(20, rate=8000), rate=8000)
    talkative = ffmpeg.output(ffmpeg.input(str(sound)).filter("ashowinfo"), "pipe:1", format="null")
    said = run(talkative, limits=PLENTY)
    assert 8_000 < len(said) <= 16 * 1024
    with pytest.raises(FfmpegFailed, match="No such file or directory") as caught:
        run(ffmpeg.output(ffmpeg.input(str(tmp_path / "none")), "pipe:1", format="null"), limits=PLENTY)
    assert "none" in caught.value.stderr


def test_a_playlist_cannot_read_another_file_even_where_nobody_probed_it(tmp_path: Path) -> None:
    secret = write_wav(tmp_path / "secret.wav", sine(1, rate=8000), rate=8000)
    playlist = tmp_path / "a.mp3"
    playlist.write_text(f"ffconcat version 1.0\nfile '{secret.name}'\n")

    def read(source: Any, into: Path) -> int:
        run(ffmpeg.output(source, str(into), format="s16le"), limits=PLENTY)
        return into.stat().st_size

    careless = ffmpeg.input(str(playlist), protocol_whitelist="file,pipe")
    assert read(careless, tmp_path / "stolen") == 16_000  # what the format whitelist is for
    with pytest.raises(FfmpegFailed, match="whitelist"):
        read(untrusted_input(playlist, formats=SOUND_FORMATS), tmp_path / "none")


def test_a_file_that_keeps_the_probe_waiting_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="within"):
        probe(tmp_path / "pipe", formats=SOUND_FORMATS, timeout_s=1.5)
    assert not children()


def test_a_probe_that_crashes_takes_nobody_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "av"
    crash.mkdir()
    (crash / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unreadable, match="status -11"):
        probe(write_wav(tmp_path / "a.wav", sine(1, rate=8000), rate=8000), formats=SOUND_FORMATS)


def test_a_fault_of_the_probe_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "av"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise TypeError('unknown argument')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ProbeBroken, match="unknown argument"):
        probe(write_wav(tmp_path / "a.wav", sine(1, rate=8000), rate=8000), formats=SOUND_FORMATS)


def test_a_file_of_another_format_than_those_asked_for_is_not_opened(tmp_path: Path) -> None:
    sound = write_wav(tmp_path / "a.wav", sine(1, rate=8000), rate=8000)
    assert probe(sound, formats=("flac", "wav")).format == "wav"
    with pytest.raises(Unreadable):
        probe(sound, formats=("flac", "mp3"))
