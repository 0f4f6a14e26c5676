"""Whether writing the video holds up whoever draws it: `python -m tests.bench.pace --help`.

A stand-in for the network hands over blocks of 8 frames at a GPU's pace: some Python, as when kernels are launched,
then a wait, as for the device. Each pace runs by turns with the frames thrown away and with the MP4 written by
`Mp4Writer`; the ratio of the two times per block is what writing costs. Several videos at once are several processes,
as replicas are.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from tests.bench.talking_head import FPS, SPEECH, Clip, frames
from worker.media.mp4 import Frames, Mp4Writer
from worker.media.muxing import Quality

BLOCK_FRAMES = 8
SIZE = (480, 640)
_POOL_BLOCKS = 8
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Stretch:
    """One run at one pace: how often, how fast, with how much Python, and how the frames are encoded."""

    pace_ms: float
    launching_ms: float
    blocks: int
    quality: Quality


@dataclass(frozen=True)
class Seen:
    """Milliseconds of every block, of every `write`, and of what was left to do after the last block."""

    block_ms: list[float]
    write_ms: list[float]
    finish_ms: float


@dataclass(frozen=True)
class Row:
    pace_ms: float
    videos: int
    thrown_away_ms: float
    written_ms: float
    ratio: float
    write_ms: float
    write_worst_ms: float
    finish_ms: float

    @property
    def frames_per_s(self) -> float:
        """Of all videos together."""
        return self.videos * BLOCK_FRAMES * 1000 / self.written_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pace-ms", nargs="+", type=float, default=[220.0, 110.0, 55.0], help="of a block of 8 frames")
    parser.add_argument("--launching-ms", type=float, default=20.0, help="of each block: Python that holds the GIL")
    parser.add_argument("--videos", type=int, default=1, help="written at once, each by a process of its own")
    parser.add_argument("--blocks", type=int, default=30, help="in each turn")
    parser.add_argument("--rounds", type=int, default=2, help="turns with the frames thrown away, and as many written")
    parser.add_argument("--preset", default=Quality().preset)
    parser.add_argument("--threads", type=int, default=Quality().threads, help="of x264")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    asked = parser.parse_args()
    quality = Quality(preset=asked.preset, threads=asked.threads)
    print(f"blocks of {BLOCK_FRAMES} frames of {SIZE[0]} × {SIZE[1]}, {os.cpu_count()} processors, {quality}")
    rows = []
    with ProcessPoolExecutor(asked.videos, mp_context=get_context("spawn"), initializer=_warm_up) as processes:
        for pace_ms in asked.pace_ms:
            stretch = Stretch(pace_ms, min(asked.launching_ms, pace_ms), asked.blocks, quality)
            rows.append(_compare(processes, stretch, videos=asked.videos, rounds=asked.rounds))
            print(_line(rows[-1]), flush=True)
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def _compare(processes: ProcessPoolExecutor, stretch: Stretch, *, videos: int, rounds: int) -> Row:
    thrown_away: list[Seen] = []
    written: list[Seen] = []
    for _ in range(rounds):  # in turn, so that a noisy minute falls on both
        for run, into in ((_throw_away, thrown_away), (_write, written)):
            running = [processes.submit(run, stretch) for _ in range(videos)]
            into += [one.result(timeout=_START_TIMEOUT_S + stretch.blocks * stretch.pace_ms) for one in running]
    alone_ms = statistics.mean(ms for seen in thrown_away for ms in seen.block_ms)
    beside_ms = statistics.mean(ms for seen in written for ms in seen.block_ms)
    writes_ms = [ms for seen in written for ms in seen.write_ms]
    return Row(
        pace_ms=stretch.pace_ms,
        videos=videos,
        thrown_away_ms=alone_ms,
        written_ms=beside_ms,
        ratio=beside_ms / alone_ms,
        write_ms=statistics.median(writes_ms),
        write_worst_ms=max(writes_ms),
        finish_ms=statistics.median(seen.finish_ms for seen in written),
    )


def _throw_away(stretch: Stretch) -> Seen:
    return drawn(stretch, lambda _: None, finish=lambda: None)


def _write(stretch: Stretch) -> Seen:
    with (
        tempfile.TemporaryDirectory() as directory,
        Mp4Writer(
            Path(directory) / "video.mp4",
            width=SIZE[0],
            height=SIZE[1],
            output_fps=FPS,
            sound=SPEECH,
            duration_s=stretch.blocks * BLOCK_FRAMES / FPS,
            quality=stretch.quality,
        ) as video,
    ):
        return drawn(stretch, video.write, finish=video.finish)


def drawn(stretch: Stretch, write: Callable[[Frames], None], *, finish: Callable[[], object]) -> Seen:
    pool = _blocks()
    launches = _launches(stretch.launching_ms)
    block_ms, write_ms = [], []
    ended = time.monotonic()
    for number in range(stretch.blocks):
        began = ended
        _launch(launches)
        time.sleep((stretch.pace_ms - stretch.launching_ms) / 1000)  # not less when the launches took longer
        block = pool[number % len(pool)].copy()  # as frames come from a device: each block in memory of its own
        handed_over = time.monotonic()
        write(block)
        ended = time.monotonic()
        write_ms.append(1000 * (ended - handed_over))
        block_ms.append(1000 * (ended - began))
    finish()
    return Seen(block_ms=block_ms, write_ms=write_ms, finish_ms=1000 * (time.monotonic() - ended))


def _warm_up() -> None:
    """In every process before its first turn: the clip is made, and this much Python is known to take so long."""
    _blocks()
    _launches(1.0)


@cache
def _blocks() -> list[Frames]:
    clip = list(frames(Clip(seconds=_POOL_BLOCKS * BLOCK_FRAMES / FPS)))
    return [np.stack(clip[start : start + BLOCK_FRAMES]) for start in range(0, len(clip), BLOCK_FRAMES)]


def _launches(milliseconds: float) -> int:
    return round(milliseconds * _launches_per_ms())


@cache
def _launches_per_ms() -> float:
    counts = 20_000
    took = []
    for _ in range(9):
        began = time.monotonic()
        _launch(counts)
        took.append(time.monotonic() - began)
    return counts / (1000 * statistics.median(took))


def _launch(count: int) -> None:
    """So much of Python's own work."""
    left = count
    while left:
        left -= 1


def _line(row: Row) -> str:
    return (
        f"pace {row.pace_ms:5.0f} ms, {row.videos} at once: {row.thrown_away_ms:7.2f} ms per block thrown away,"
        f" {row.written_ms:7.2f} written: {row.ratio:.4f} ×, {row.frames_per_s:5.1f} frames/s;"
        f" write() {row.write_ms:.3f} ms, at worst {row.write_worst_ms:.2f}; finish() {row.finish_ms:.0f} ms"
    )


if __name__ == "__main__":
    main()
