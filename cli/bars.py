"""Progress bars: of a job that runs elsewhere, and of a render that runs here."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator["Bar"]:
    """A bar while the block runs; on a terminal that is none, nothing is drawn."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.fields[blocks]} blocks"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=console,
        transient=False,
    )
    with progress:
        yield Bar(progress, progress.add_task(title, total=None, blocks="?", rate=""), title)


class Bar:
    """One bar, told how many blocks are done."""

    def __init__(self, progress: Progress, task: TaskID, title: str) -> None:
        self._progress = progress
        self._task = task
        self._title = title
        self._first_block_at: float | None = None

    def show(self, phase: str, *, blocks_done: int, blocks_total: int | None, frames_per_block: int | None) -> None:
        """`frames_per_block` None: the rate is not shown."""
        self._progress.update(
            self._task,
            description=f"{self._title} {phase:<10}",
            completed=blocks_done,
            total=blocks_total,
            blocks="?" if blocks_total is None else blocks_total,
            rate=self._rate(blocks_done, frames_per_block),
        )

    def _rate(self, blocks_done: int, frames_per_block: int | None) -> str:
        """Frames per second since the first block, which has the start of everything in it."""
        if frames_per_block is None or blocks_done < 1:
            return ""
        now = time.monotonic()
        if self._first_block_at is None:
            self._first_block_at = now
        seconds = now - self._first_block_at
        return f"{(blocks_done - 1) * frames_per_block / seconds:.1f} frames/s" if blocks_done > 1 and seconds else ""
