"""Writes a long video piece by piece, each by an encoder of its own, and joins them with the sound in the end.

Knows which piece comes next and which processes run. An encoder holds back some frames until it ends, so the next piece
is begun before the last one is whole; one more is never begun before that, so memory is bounded. The sound is encoded
meanwhile, and in the end everything is copied once.
"""

import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from worker.media.errors import FfmpegFailed, FramesMissing
from worker.media.ffmpeg import FfmpegProcess
from worker.media.frames_file import FINISH_TIMEOUT_S, LIMITS, STALL_TIMEOUT_S, Frames, FramesFile
from worker.media.muxing import Quality, joined, segment, sound_track
from worker.media.segments import SEGMENT_FRAMES, SEGMENT_S, Segmentation, Segments, segment_name

CLOSE_TIMEOUT_S = STALL_TIMEOUT_S + FINISH_TIMEOUT_S

_Process = TypeVar("_Process", FramesFile, FfmpegProcess)


class SegmentedFile:
    """One MP4 file of several pieces, to be used as `Mp4Writer`."""

    def __init__(
        self,
        path: Path,
        *,
        plan: Segmentation,
        size: tuple[int, int],
        sound: Path,
        duration_s: float,
        quality: Quality,
        kept: Segments | None,
    ) -> None:
        """`kept`: finished pieces stay there; None: all of them go with this writer."""
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._plan = plan
        self._size = size
        self._sound = sound
        self._duration_s = duration_s
        self._quality = quality
        self._is_kept = kept is not None
        self._directory = path.with_name(f".{path.name}.segments") if kept is None else kept.directory
        self._segment = 0 if kept is None else kept.made
        self._missing = plan.frames - self._segment * SEGMENT_FRAMES
        self._lock = threading.Lock()
        self._is_aborted = False
        self._running: list[FramesFile | FfmpegProcess] = []
        self._closing: Future[None] | None = None
        self._closer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"segments of {path.name}")

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(exist_ok=True)
            self._piece = self._next_piece()
            track = sound_track(self._track_path, sound=self._sound, duration_s=self._duration_s)
            self._track = self._started(FfmpegProcess(track, limits=LIMITS))
        except BaseException:  # nobody leaves a context that was not entered
            self.abort()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def frames_missing(self) -> int:
        """Frames at the network's rate that have yet to be written."""
        return self._missing

    def write(self, frames: Frames) -> None:
        """As `Mp4Writer.write`."""
        if self._closing is not None and self._closing.done():
            self._closing.result()  # tells what went wrong with the last piece
        while True:
            part = frames[: self._piece.frames_missing]
            self._piece.write(part)
            self._missing -= len(part)
            frames = frames[len(part) :]
            if not self._missing or self._piece.frames_missing:
                return
            self._wait_for_last_piece()
            self._closing = self._closer.submit(self._close, self._piece)
            self._segment += 1
            self._piece = self._next_piece()

    def finish(self) -> Path:
        """As `Mp4Writer.finish`."""
        if self._missing:
            raise FramesMissing(f"{self._plan.frames - self._missing} of {self._plan.frames} frames were written")
        self._wait_for_last_piece()
        self._piece.finish()
        self._track.finish(timeout_s=FINISH_TIMEOUT_S)
        self._playlist_path.write_text(
            "".join(f"file {segment_name(number)}\nduration {SEGMENT_S}\n" for number in range(self._plan.count))
        )
        joining = joined(self._partial, playlist=self._playlist_path, track=self._track_path)
        self._started(FfmpegProcess(joining, limits=LIMITS)).finish(timeout_s=FINISH_TIMEOUT_S)
        self._partial.replace(self._path)
        return self._path

    def abort(self) -> None:
        """As `Mp4Writer.abort`. Finished pieces stay where they are kept."""
        with self._lock:
            self._is_aborted = True
            running = tuple(self._running)
        for process in running:
            process.__exit__(None, None, None)
        self._closer.shutdown()
        with self._lock:  # whoever finishes leaves through here as well
            for path in (self._partial, self._track_path, self._playlist_path):
                path.unlink(missing_ok=True)
            if not self._is_kept and self._directory.exists():
                shutil.rmtree(self._directory)

    def _next_piece(self) -> FramesFile:
        number = self._segment

        def command(partial: Path) -> Any:
            return segment(
                partial,
                size=self._size,
                output_fps=self._plan.output_fps,
                frames=self._plan.shown_of(number),
                quality=self._quality,
            )

        path = self._directory / segment_name(number)
        return self._started(FramesFile(path, command=command, size=self._size, frames=self._plan.frames_of(number)))

    def _started(self, process: _Process) -> _Process:
        """Begun, unless the video is left, and ended when it is."""
        with self._lock:
            if self._is_aborted:
                raise FfmpegFailed(f"{self._path.name} was left")
            process.__enter__()
            self._running.append(process)
        return process

    def _close(self, piece: FramesFile) -> None:
        piece.finish()
        piece.abort()  # which ends its clock; there are many pieces
        with self._lock:
            self._running.remove(piece)

    def _wait_for_last_piece(self) -> None:
        if self._closing is not None:
            self._closing.result(timeout=CLOSE_TIMEOUT_S)

    @property
    def _track_path(self) -> Path:
        return self._directory / "sound.m4a"

    @property
    def _playlist_path(self) -> Path:
        return self._directory / "segments.txt"
