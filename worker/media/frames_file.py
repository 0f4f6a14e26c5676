"""Writes one file of frames by one encoder: a whole video, or a piece of it.

Knows the encoder's process and nothing of where frames come from. Whoever draws hands a block over, uncopied, in a
tenth of a millisecond: a thread feeds the encoder. `write` waits only when the encoder has fallen `QUEUED_BLOCKS`
behind, and until there is room for one more. So bursts are absorbed and memory is bounded; a machine that encodes more
slowly than it draws goes on at the encoder's pace, and an encoder that stands still is an error.
"""

import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worker.media.errors import FfmpegFailed, FramesMissing
from worker.media.ffmpeg import FfmpegProcess, ProcessLimits

Frames = NDArray[np.uint8]
"""[n, height, width, 3], RGB."""

QUEUED_BLOCKS = 8
STALL_TIMEOUT_S = 120.0
FINISH_TIMEOUT_S = 600.0
ENCODER_NICENESS = 5
"""The encoder stands back: it can catch up, but a device that waits for the thread that feeds it cannot."""
LIMITS = ProcessLimits(wall_s=6 * 3600.0, cpu_s=96 * 3600, niceness=ENCODER_NICENESS)
_POLL_S = 0.2


class FramesFile:
    """A file of so many frames. It appears at its path when `finish` returns."""

    def __init__(self, path: Path, *, command: Callable[[Path], Any], size: tuple[int, int], frames: int) -> None:
        """`command`, of ffmpeg, writes frames of `size` (width, height) from its stdin to the path it is given."""
        width, height = size
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._shape = (height, width, 3)
        self._frames = frames
        self._written = 0
        self._blocks: queue.Queue[Frames | None] = queue.Queue(maxsize=QUEUED_BLOCKS)
        self._closed = threading.Event()
        self._ffmpeg = FfmpegProcess(command(self._partial), limits=LIMITS, stdin=subprocess.PIPE)
        self._feeder = threading.Thread(target=self._feed, name=f"frames of {path.name}", daemon=True)

    def __enter__(self) -> Self:
        self._ffmpeg.__enter__()
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def frames_missing(self) -> int:
        """Frames that have yet to be written."""
        return self._frames - self._written

    def write(self, frames: Frames) -> None:
        """Take the next frames; those past the last are dropped. The array must not be changed afterwards.

        Raises FfmpegFailed or DiskFull when the encoder failed or stands still.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._shape:
            raise ValueError(f"frames must be uint8 [n, {self._shape}], not {frames.dtype} {list(frames.shape)}")
        wanted = frames[: self.frames_missing]
        if len(wanted):
            self._put(np.ascontiguousarray(wanted))
            self._written += len(wanted)

    def finish(self) -> Path:
        """Wait for the encoder and give the file its name. Raises FramesMissing, FfmpegFailed, DiskFull."""
        if self.frames_missing:
            raise FramesMissing(f"{self._written} of {self._frames} frames were written")
        self._put(None)
        self._feeder.join(timeout=STALL_TIMEOUT_S)
        if self._feeder.is_alive():
            raise self._stalled()
        self._ffmpeg.finish(timeout_s=FINISH_TIMEOUT_S)
        self._partial.replace(self._path)
        return self._path

    def abort(self) -> None:
        """End the encoder and remove what it wrote; nothing happens to a finished file."""
        self._closed.set()
        self._ffmpeg.__exit__(None, None, None)
        self._feeder.join(timeout=STALL_TIMEOUT_S)
        self._partial.unlink(missing_ok=True)

    def _put(self, block: Frames | None) -> None:
        deadline = time.monotonic() + STALL_TIMEOUT_S
        while not self._closed.is_set():
            try:
                self._blocks.put(block, timeout=_POLL_S)
            except queue.Full:
                if time.monotonic() > deadline:
                    raise self._stalled() from None
            else:
                return
        # ffmpeg takes no more frames: it says why, or it has all that the video shows
        self._ffmpeg.finish(timeout_s=FINISH_TIMEOUT_S)

    def _feed(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    block = self._blocks.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if block is None:
                    self._ffmpeg.stdin.close()
                    return
                self._ffmpeg.stdin.write(block.data)
        except (OSError, ValueError):  # nobody reads the pipe any more, or it was closed
            self._closed.set()

    def _stalled(self) -> FfmpegFailed:
        return FfmpegFailed(f"the encoder took no frame for {STALL_TIMEOUT_S:.0f} s", stderr=self._ffmpeg.stderr)
