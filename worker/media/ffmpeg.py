"""Runs ffmpeg: one process at a time, on local files of named formats, within limits of time.

Knows processes and the options that every call must have. Knows nothing of what is made.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import ffmpeg
import imageio_ffmpeg

from worker.media.errors import DiskFull, FfmpegFailed, FfmpegTimedOut

# never a playlist (hls, concat, dash): those name other files, whatever the protocol whitelist says
SOUND_FORMATS = ("wav", "mp3", "flac", "aac", "ogg", "mov", "matroska", "webm", "avi", "mpegts")
VIDEO_FORMATS = ("mov", "matroska", "webm", "avi", "mpegts")
MAX_FRAME_PIXELS = 7680 * 4320
_STDERR_TAIL = 16 * 1024
_TERMINATE_S = 10.0


@dataclass(frozen=True)
class ProcessLimits:
    """How long one process may live, how long it may compute, and how far it stands back from others meanwhile."""

    wall_s: float
    cpu_s: int
    niceness: int = 0
    """Added to that of this process; with 5, a busy processor gives it a third of what it gives this one."""


@cache
def program() -> str:
    """The ffmpeg to run: `IMAGEIO_FFMPEG_EXE` if set, else the one of the wheel, else the system's."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def untrusted_input(path: Path, *, formats: Sequence[str], **options: object) -> Any:
    """A customer's file as ffmpeg's input: this file only, read only as one of these formats."""
    return ffmpeg.input(
        _local(path),
        protocol_whitelist="file,pipe",
        format_whitelist=",".join(formats),
        max_pixels=MAX_FRAME_PIXELS,
        threads=2,
        **options,
    )


def own_input(path: Path, **options: object) -> Any:
    """A file that this program made."""
    formats = ",".join((*SOUND_FORMATS, "rawvideo"))
    return ffmpeg.input(_local(path), protocol_whitelist="file,pipe", format_whitelist=formats, **options)


def output_path(path: Path) -> str:
    return _local(path)


class FfmpegProcess:
    """One run of ffmpeg. Leaving the `with` block ends the process, however it is left.

    `finish()` waits for a regular end and raises FfmpegFailed, FfmpegTimedOut or DiskFull.
    """

    def __init__(self, stream: Any, *, limits: ProcessLimits, stdin: int = subprocess.DEVNULL) -> None:
        """`stream`: what ffmpeg-python built; its output `pipe:1` can be read at `stdout`."""
        self._limits = limits
        self._stdin_wanted = stdin
        arguments = ffmpeg.compile(stream, overwrite_output=True)[1:]
        self._command = [program(), "-hide_banner", "-nostdin", "-loglevel", "info", "-nostats", *arguments]
        self._tail = b""
        self._timed_out = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=self._stdin_wanted, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if sys.platform == "linux":
            resource.prlimit(self._process.pid, resource.RLIMIT_CPU, (self._limits.cpu_s, self._limits.cpu_s + 5))
        if self._limits.niceness:
            _stand_back(self._process.pid, by=self._limits.niceness)
        self._reader = threading.Thread(target=self._read_stderr, name="ffmpeg stderr", daemon=True)
        self._reader.start()
        self._clock = threading.Timer(self._limits.wall_s, self._run_out)
        self._clock.daemon = True
        self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._clock.cancel()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                _close(pipe)

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None, "asked for with stdin=PIPE"
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> str:
        """The end of what ffmpeg said so far."""
        return self._tail.decode("utf-8", "replace")

    def finish(self, *, timeout_s: float | None = None) -> None:
        """`timeout_s`: how long it may still take; None leaves that to the limits."""
        try:
            status = self._process.wait(timeout=timeout_s or self._limits.wall_s + _TERMINATE_S)
        except subprocess.TimeoutExpired:
            self._timed_out = True
            self.kill()
            status = self._process.returncode
        self._reader.join(timeout=_TERMINATE_S)
        # ffmpeg answers the kernel's signal by ending in good order
        if self._timed_out or f"received signal {signal.SIGXCPU:d}" in self.stderr:
            raise FfmpegTimedOut("ffmpeg ran longer than it may", stderr=self.stderr)
        if status != 0:
            if "No space left on device" in self.stderr:
                raise DiskFull("There is no room on the disk for the file that ffmpeg writes.")
            raise FfmpegFailed(f"ffmpeg ended with status {status}", stderr=self.stderr)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=_TERMINATE_S)
        self._reader.join(timeout=_TERMINATE_S)

    def _run_out(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            while data := pipe.readline(4096):
                self._tail = (self._tail + data)[-_STDERR_TAIL:]


def run(stream: Any, *, limits: ProcessLimits) -> str:
    """Run ffmpeg to its end and give what it said. Raises as `FfmpegProcess.finish`."""
    with FfmpegProcess(stream, limits=limits) as process:
        process.stdout.read()  # nothing is expected there; a full pipe would stop it
        process.finish()
        return process.stderr


def _stand_back(pid: int, *, by: int) -> None:
    """Raise a child's niceness. On Linux that is a thread's own, so this comes before ffmpeg starts any."""
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + by)


def _local(path: Path) -> str:
    # the protocol is named, so that no file name can be taken for one
    return f"file:{path.absolute()}"


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was still in its buffer has nobody to read it: the process is dead
