"""Writes the finished video: frames as they are drawn, and the original sound, into one MP4.

Knows how long a video is and that a long one is encoded in pieces; who feeds an encoder is in `frames_file.py`, and how
pieces become one video in `segmented_file.py`.
"""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from worker.media.frames_file import Frames, FramesFile
from worker.media.muxing import Quality, muxing
from worker.media.segmented_file import SegmentedFile
from worker.media.segments import Segmentation, Segments

__all__ = ["Frames", "Mp4Writer"]


class Mp4Writer:
    """One MP4 file. `with Mp4Writer(…) as video: video.write(frames) … ; video.finish()`.

    The file appears at `path` when `finish()` returns. Left without it, the `with` block removes what was written.
    Frames are taken at 16 per second. For another `output_fps` some are shown twice or left out, which keeps every lip
    at its sound; frames that are blended or invented in between would smear the mouth, and cost more than the encoder.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        output_fps: int,
        sound: Path,
        duration_s: float,
        quality: Quality = Quality(),
        segments: Segments | None = None,
    ) -> None:
        """`sound`: the original sound; cut, or followed by silence, to `duration_s`. Sides must be even.

        With `segments`, finished pieces of a long video stay in that directory, and the frames of those that were made
        before are not to be written again.
        """
        if width % 2 or height % 2 or min(width, height) < 2:
            raise ValueError(f"H.264 needs even sides, not {width} × {height}")
        size = (width, height)
        plan = Segmentation.of(duration_s, output_fps=output_fps)
        self._file: _VideoFile
        if plan.count == 1:
            self._file = FramesFile(
                path,
                command=lambda partial: muxing(
                    partial, size=size, output_fps=output_fps, sound=sound, duration_s=duration_s, quality=quality
                ),
                size=size,
                frames=plan.frames,
            )
        else:
            self._file = SegmentedFile(
                path, plan=plan, size=size, sound=sound, duration_s=duration_s, quality=quality, kept=segments
            )

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    @property
    def frames_missing(self) -> int:
        """Frames at 16 per second that have yet to be written."""
        return self._file.frames_missing

    def write(self, frames: Frames) -> None:
        """Take the next frames; those past the end of the sound are dropped. The array must not be changed afterwards.

        Raises FfmpegFailed or DiskFull when the encoder failed or stands still.
        """
        self._file.write(frames)

    def finish(self) -> Path:
        """Wait for the encoder and give the file its name. Raises FramesMissing, FfmpegFailed, DiskFull."""
        return self._file.finish()

    def abort(self) -> None:
        """End the encoder and remove what it wrote; nothing happens to a finished file."""
        self._file.abort()


class _VideoFile(Protocol):
    """As `Mp4Writer`."""

    def __enter__(self) -> object: ...

    @property
    def frames_missing(self) -> int: ...

    def write(self, frames: Frames) -> None: ...

    def finish(self) -> Path: ...

    def abort(self) -> None: ...
