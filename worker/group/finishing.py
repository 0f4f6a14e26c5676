"""The end of a video's file on rank 0, while the next video is drawn.

Knows the writer and the directory it writes to; nothing of the network.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from worker.group.errors import RenderCanceled, RenderInterrupted
from worker.group.preparation import Prepared
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult
from worker.media.errors import DiskFull, FfmpegFailed, FramesMissing

REPORT_EVERY_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """How the frames came, by `time.monotonic`."""

    started: float
    drawn_at: Sequence[float]
    """When each block was there."""
    frames: int
    ranks: int


class FileFinishing:
    """A `Finishing` over the real writer."""

    def __init__(self, request: RenderRequest, *, prepared: Prepared, drawing: Drawing) -> None:
        self._request = request
        self._prepared = prepared
        self._drawing = drawing
        self._is_aborted = False

    def finish(self, *, on_progress: OnProgress) -> RenderResult:
        video = self._request.video
        drawing = self._drawing
        try:
            with (
                file_faults_told(),
                self._prepared.files,
                _growth_reported(video.parent, on_progress, blocks=len(drawing.drawn_at)),
            ):
                self._prepared.writer.finish()
        except RenderInterrupted:
            if self._is_aborted:
                raise RenderCanceled(f"{self._request.name} was left unfinished") from None
            raise
        finished = time.monotonic()
        first, last = drawing.drawn_at[0], drawing.drawn_at[-1]
        return RenderResult(
            video=video,
            frames=drawing.frames,
            blocks=len(drawing.drawn_at),
            gpu_seconds=(last - drawing.started) * drawing.ranks,
            ms_per_block=1000 * _typical_gap(drawing),
            encoding_s=first - drawing.started,
            rendering_s=last - first,
            muxing_s=finished - last,
        )

    def abort(self) -> None:
        """Does not wait: whoever draws must not be held up by an encoder that ends slowly, nor fail with it."""
        self._is_aborted = True
        threading.Thread(target=self._prepared.writer.abort, name=f"abort {self._request.name}", daemon=True).start()


@contextmanager
def file_faults_told() -> Iterator[None]:
    """Faults of the disk and of ffmpeg as what they mean for the render: `RenderInterrupted`."""
    try:
        yield
    except DiskFull as error:
        raise RenderInterrupted("node_disk", str(error)) from error
    except (FfmpegFailed, FramesMissing) as error:
        log.error("ffmpeg: %s", error)  # its own words name paths of this machine
        raise RenderInterrupted("ffmpeg_failed", "The video could not be written on the worker.") from error


@contextmanager
def _growth_reported(directory: Path, on_progress: OnProgress, *, blocks: int) -> Iterator[None]:
    """While the block runs, changes of the files in `directory` are reported as progress of the muxing.

    The thread that reports is the only one that does: the caller waits in the block meanwhile.
    """
    done = threading.Event()

    def watch() -> None:
        seen = None
        while True:
            now = _files(directory)
            if now != seen:
                seen = now
                on_progress(RenderProgress(RenderPhase.MUXING, blocks_done=blocks, blocks_total=blocks))
            if done.wait(REPORT_EVERY_S):
                return

    watcher = threading.Thread(target=watch, name="muxing", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _files(directory: Path) -> set[tuple[str, int, int]]:
    found = set()
    with suppress(FileNotFoundError):  # the whole directory was removed, since nobody wants the video any more
        for path in directory.rglob("*"):
            with suppress(FileNotFoundError):  # renamed or removed meanwhile
                stat = path.stat()
                found.add((str(path), stat.st_size, stat.st_mtime_ns))
    return found


def _typical_gap(drawing: Drawing) -> float:
    """Seconds between two blocks of a running stream; of a single block, all it took."""
    gaps = [later - earlier for earlier, later in pairwise(drawing.drawn_at)]
    return median(gaps) if gaps else drawing.drawn_at[0] - drawing.started
