"""What x264's settings cost and give: `python -m tests.bench.x264 --help`.

Encodes a talking head (`talking_head.py`) by the very command of a finished video and measures every combination of
the settings asked for: frames per second, processor time per frame, size, and what is left of the picture (PSNR, SSIM,
VMAF, against the frames as they go into the encoder). The first rows are the floor: frames read and thrown away, and
frames converted to yuv420p and thrown away.
"""

import argparse
import itertools
import json
import os
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import ffmpeg

from tests.bench.talking_head import FPS, SPEECH, Clip, frames
from worker.media.errors import FfmpegFailed
from worker.media.ffmpeg import FfmpegProcess, ProcessLimits, run
from worker.media.muxing import Quality, converted, muxing
from worker.media.timing import frames_for

SIZE = (480, 640)
_LIMITS = ProcessLimits(wall_s=600.0, cpu_s=3600)


@dataclass(frozen=True)
class Cost:
    """Of encoding one clip once."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Kept:
    """What is left of the picture. `vmaf` is None where this ffmpeg has no libvmaf."""

    psnr_db: float
    ssim: float
    vmaf: float | None


@dataclass(frozen=True)
class Row:
    name: str
    fps: int
    frames_per_s: float
    cpu_ms_per_frame: float
    kilobytes_per_s: float | None = None
    kept: Kept | None = None


@dataclass(frozen=True)
class Job:
    """One row to be: a command, and its file, if it makes one."""

    name: str
    fps: int
    command: Any
    video: Path | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["ultrafast", "superfast", "veryfast", "faster", "medium"])
    parser.add_argument("--crf", nargs="+", type=int, default=[16, 18, 20, 23])
    parser.add_argument("--tune", nargs="+", default=["none"], help="none, film, zerolatency, …")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="0: as many as x264 likes")
    parser.add_argument("--fps", nargs="+", type=int, default=[16])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--grain", type=float, default=1.0, help="noise of each frame, in levels of 255")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured; the median counts")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    asked = parser.parse_args()
    clip = Clip(seconds=asked.seconds, grain=asked.grain)
    qualities = [
        Quality(preset=preset, crf=crf, tune=None if tune == "none" else tune, threads=threads)
        for tune, threads, preset, crf in itertools.product(asked.tune, asked.threads, asked.presets, asked.crf)
    ]
    with tempfile.TemporaryDirectory() as directory:
        rows = measured(clip, qualities, rates=asked.fps, rounds=asked.rounds, directory=Path(directory))
    print(f"{clip.count} frames of {SIZE[0]} × {SIZE[1]}, grain {clip.grain}, {os.cpu_count()} processors")
    for row in rows:
        print(_line(row))
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def measured(
    clip: Clip, qualities: Sequence[Quality], *, rates: Sequence[int], rounds: int, directory: Path
) -> list[Row]:
    raw = directory / "clip.rgb"
    with raw.open("wb") as file:
        for frame in frames(clip):
            file.write(frame.data)
    jobs = _jobs(clip, qualities, rates=rates, directory=directory)
    costs: list[list[Cost]] = [[] for _ in jobs]
    for _ in range(rounds):  # in turn, so that a noisy minute falls on all of them
        for job, seen in zip(jobs, costs, strict=True):
            seen.append(_encode(job.command, raw))
    return [_row(job, seen, clip, raw) for job, seen in zip(jobs, costs, strict=True)]


def _jobs(clip: Clip, qualities: Sequence[Quality], *, rates: Sequence[int], directory: Path) -> list[Job]:
    jobs = [Job("read and thrown away", FPS, ffmpeg.output(_raw("pipe:0"), "-", format="null"), None)]
    for rate in rates:
        shown = converted(SIZE, output_fps=rate, frames=frames_for(clip.seconds, fps=rate))
        jobs.append(Job("and converted", rate, ffmpeg.output(shown, "-", format="null"), None))
        for number, quality in enumerate(qualities):
            video = directory / f"{rate}-{number}.mp4"
            command = muxing(video, size=SIZE, output_fps=rate, sound=SPEECH, duration_s=clip.seconds, quality=quality)
            name = f"{quality.preset} {quality.crf} {quality.tune or '–'} threads {quality.threads or 'auto'}"
            jobs.append(Job(name, rate, command, video))
    return jobs


def _raw(source: str) -> Any:
    return ffmpeg.input(source, format="rawvideo", pix_fmt="rgb24", video_size=SIZE, framerate=FPS)


def _encode(command: Any, raw: Path) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with raw.open("rb") as file, FfmpegProcess(command, limits=_LIMITS, stdin=file.fileno()) as process:
        process.finish()
    wall_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall_s, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime))


def _row(job: Job, costs: Sequence[Cost], clip: Clip, raw: Path) -> Row:
    shown = frames_for(clip.seconds, fps=job.fps)
    row = Row(
        name=job.name,
        fps=job.fps,
        frames_per_s=clip.count / statistics.median(cost.wall_s for cost in costs),
        cpu_ms_per_frame=1000 * statistics.median(cost.cpu_s for cost in costs) / clip.count,
    )
    if job.video is None:
        return row
    with av.open(str(job.video)) as container:
        size = sum(packet.size for packet in container.demux(video=0))
    kept = _kept(job.video, raw, fps=job.fps, frames_shown=shown)
    return Row(**{**vars(row), "kilobytes_per_s": size / clip.seconds / 1000, "kept": kept})


def _kept(video: Path, raw: Path, *, fps: int, frames_shown: int) -> Kept:
    with_vmaf = _has_vmaf()
    seen = ffmpeg.input(str(video))["v:0"].filter("settb", f"1/{fps}").filter("setpts", "N")
    source = converted(SIZE, output_fps=fps, frames=frames_shown).filter("settb", f"1/{fps}").filter("setpts", "N")
    sources = source.filter_multi_output("split", 3 if with_vmaf else 2)
    compared = ffmpeg.filter([seen, sources[0]], "psnr")
    compared = ffmpeg.filter([compared, sources[1]], "ssim")
    if with_vmaf:
        compared = ffmpeg.filter([compared, sources[2]], "libvmaf", n_threads=2)
    with raw.open("rb") as file:
        command = ffmpeg.output(compared, "-", format="null")
        with FfmpegProcess(command, limits=_LIMITS, stdin=file.fileno()) as process:
            process.finish()
            said = process.stderr
    return Kept(
        psnr_db=_number(said, r"PSNR .*average:([\d.]+|inf)"),
        ssim=_number(said, r"SSIM .*All:([\d.]+)"),
        vmaf=_number(said, r"VMAF score: ([\d.]+)") if with_vmaf else None,
    )


def _has_vmaf() -> bool:
    """Whether this ffmpeg was built with it: the filter is asked to compare two frames of nothing."""
    nothing = [ffmpeg.input("color=s=64x64:d=0.1:r=20", format="lavfi") for _ in range(2)]
    try:
        run(ffmpeg.output(ffmpeg.filter(nothing, "libvmaf"), "-", format="null"), limits=_LIMITS)
    except FfmpegFailed:
        return False
    return True


def _number(said: str, pattern: str) -> float:
    found = re.search(pattern, said)
    if found is None:
        raise ValueError(f"ffmpeg did not say {pattern}: {said}")
    return float(found[1])


def _line(row: Row) -> str:
    line = f"{row.name:34} {row.fps:2} fps {row.frames_per_s:7.1f} frames/s {row.cpu_ms_per_frame:7.2f} CPU ms/frame"
    if row.kept is None:
        return line
    vmaf = "–" if row.kept.vmaf is None else f"{row.kept.vmaf:.1f}"
    return f"{line} {row.kilobytes_per_s:6.1f} kB/s  {row.kept.psnr_db:.2f} dB  SSIM {row.kept.ssim:.4f}  VMAF {vmaf}"


if __name__ == "__main__":
    main()
