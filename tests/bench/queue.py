"""How long the DiT waits between the jobs of a queue: `python -m tests.bench.queue --help`.

A warm group and its server in this process, and in another one, as in a worker, the stories of the jobs: each is
admitted by the node, its files are prepared, it is drawn in its turn, and its video is finished, measured and put away
while others are drawn. No record, broker or storage: files are local, and stay so. Weights are drawn unless there is a
directory of them.

Prints the share of the time from the first block of the first job to the last block of the last in which the DiT did
nothing, and what the gaps between two jobs were spent on; the last line says it in short.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import shutil
import statistics
import tempfile
import threading
import time
import wave
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

from infra.samples import PORTRAIT, SPEECH
from worker.group.group import Group, GroupSettings
from worker.group.link import GroupLink
from worker.group.request import RenderPhase, RenderProgress, RenderRequest
from worker.group.server import GroupServer
from worker.group.stations import Stations
from worker.group.warm_group import WarmGroup
from worker.media.checking import Expected, check
from worker.media.inputs import PictureFile, prepare
from worker.media.length import LengthPolicy
from worker.media.limits import MediaLimits
from worker.media.measure import measure
from worker.media.picture import ExactSize
from worker.media.poster import make_stills
from worker.pipeline.dit_clock import DiTSeconds
from worker.pipeline.precision import Precision

START_TIMEOUT_S = 900.0
JOB_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Work:
    preset: str
    weights: Path | None
    ranks: int
    device: str
    precision: Precision
    jobs: int
    seconds: float
    width: int
    height: int
    steps: int


@dataclass
class Times:
    """One job, by `time.monotonic`, which both processes share."""

    admitted: float = 0.0
    prepared: float = 0.0
    begun: float = 0.0
    first_block: float = 0.0
    last_block: float = 0.0
    written: float = 0.0
    stored: float = 0.0
    blocks: int = 0
    ms_per_block: float = 0.0


@dataclass(frozen=True)
class Gap:
    """Between two jobs, ms. `idle`: what the DiT itself counted; the rest from the last block to the first, as a client
    sees them: frames that are there."""

    idle: float
    unprepared: float
    """The next job's files were not ready yet."""
    handover: float
    """From the last frames to the order to draw, other than that."""
    first_block: float
    """From the order to draw to the first frames, beyond the time of a usual block."""


@dataclass
class Heard:
    """What the node heard of the DiT: before the first block of each job, and at the end."""

    at_first_block: list[DiTSeconds] = field(default_factory=list)
    at_end: DiTSeconds = field(default_factory=DiTSeconds)


def main() -> None:
    work, out = _arguments()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="queue-") as name:
        directory = Path(name)
        _write_speech(directory / "speech.wav", seconds=work.seconds)
        started = time.monotonic()
        times, heard = _run(work, directory, started)
    gaps = _gaps(times, heard)
    _print(work, times, heard, gaps)
    if out is not None:
        figures = {"work": asdict(work), "jobs": list(map(asdict, times)), "gaps_ms": list(map(asdict, gaps))}
        out.write_text(json.dumps(figures, indent=2, default=str))


def _arguments() -> tuple[Work, Path | None]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", type=Path, help="directory of released weights; none: they are drawn")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", type=Precision, default=Precision.FULL, choices=list(Precision))
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each job's sound")
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--steps", type=int, default=2, choices=[2, 4])
    parser.add_argument("--json", type=Path, help="write what was measured here")
    arguments = vars(parser.parse_args())
    out: Path | None = arguments.pop("json")
    return Work(**arguments), out


def _write_speech(path: Path, *, seconds: float) -> None:
    """The sample speech, from its beginning again as often as it takes."""
    with wave.open(str(SPEECH)) as source, wave.open(str(path), "wb") as file:
        samples = source.readframes(source.getnframes())
        wanted = round(seconds * source.getframerate()) * source.getsampwidth() * source.getnchannels()
        file.setparams(source.getparams())
        file.writeframes((samples * (wanted // len(samples) + 1))[:wanted])


def _run(work: Work, directory: Path, started: float) -> tuple[list[Times], Heard]:
    settings = GroupSettings(
        preset=work.preset,
        ranks=work.ranks,
        weights=work.weights,
        device=work.device,
        precision=work.precision,
        start_deadline_s=START_TIMEOUT_S,
    )
    group = WarmGroup(lambda: Group(settings, rank_module="tests.bench.drawn_rank"))
    heard = Heard()

    def on_progress(progress: RenderProgress) -> None:
        if progress.phase is RenderPhase.RENDERING and progress.blocks_done == 1:
            heard.at_first_block.append(group.dit_seconds)

    server = GroupServer(group, stations=Stations(), socket_path=directory / "group.sock", on_progress=on_progress)
    group.start()
    server.start()
    try:
        group.wait_until_ready(timeout_s=START_TIMEOUT_S)
        print(f"the group of {work.ranks} was ready after {time.monotonic() - started:.1f} s", flush=True)
        times = _in_another_process(work, directory)
        heard.at_end = group.dit_seconds
        restarts = group.status.restarts
    finally:
        server.close()
        group.close()
    assert restarts == 0, f"the group failed {restarts} times; its figures mean nothing"
    return times, heard


def _in_another_process(work: Work, directory: Path) -> list[Times]:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_live_all, args=(work, directory, theirs))
    process.start()
    theirs.close()
    try:
        times: list[Times] = ours.recv()
    finally:
        process.join(timeout=30)
    return times


def _live_all(work: Work, directory: Path, out: Connection) -> None:
    """As a consumer with a full queue does."""
    link = GroupLink(directory / "group.sock")
    times = [Times() for _ in range(work.jobs)]
    stories = []
    for number in range(work.jobs):
        story = threading.Thread(target=_live, args=(work, directory, link, number, times[number]))
        began = time.monotonic()
        story.start()
        stories.append(story)
        while not times[number].admitted:
            assert time.monotonic() - began < JOB_TIMEOUT_S, "it was not admitted"
            time.sleep(0.001)
        link.wait_for_place(until=lambda: False)
    for story in stories:
        story.join(timeout=JOB_TIMEOUT_S)
    out.send(times)


def _live(work: Work, directory: Path, link: GroupLink, number: int, times: Times) -> None:
    """The story of one job, without its record."""
    place = directory / f"job-{number}"
    place.mkdir()
    with link.session(place.name) as session:
        times.admitted = time.monotonic()
        inputs = prepare(
            directory / "speech.wav",
            PictureFile(PORTRAIT),
            size=ExactSize(work.width, work.height),
            duration_s=None,
            length_policy=LengthPolicy.REJECT,
            limits=MediaLimits(),
            into=place,
        )
        request = RenderRequest(
            name=place.name,
            speech=inputs.speech,
            picture=inputs.picture,
            sound=inputs.sound,
            video=place / "output.mp4",
            prompt="A character is talking.",
            seed=number,
            width=inputs.width,
            height=inputs.height,
            frames=inputs.frames,
            output_fps=25,
            duration_s=inputs.duration_s,
            denoising_steps=work.steps,
        )

        def on_progress(progress: RenderProgress) -> None:
            now = time.monotonic()
            if progress.phase is RenderPhase.ENCODING and not times.begun:
                times.begun = now
            if progress.phase is RenderPhase.RENDERING:
                times.first_block = times.first_block or now
                times.last_block = now

        times.prepared = time.monotonic()
        result = session.render(request, on_progress=on_progress, should_cancel=lambda: False)
        times.written = time.monotonic()
        times.blocks, times.ms_per_block = result.blocks, result.ms_per_block
        measured = measure(result.video, sound=inputs.sound)
        check(measured, Expected(inputs.duration_s, fps=25, width=inputs.width, height=inputs.height))
        make_stills(result.video, poster=place / "poster.jpg", preview=place / "preview.webp")
        stored = shutil.copyfile(result.video, directory / f"{place.name}.mp4")
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == measured.sha256
        times.stored = time.monotonic()


def _gaps(times: Sequence[Times], heard: Heard) -> list[Gap]:
    gaps = []
    for (job, following), (before, after) in zip(pairwise(times), pairwise(heard.at_first_block), strict=True):
        unprepared = max(0.0, following.prepared - job.last_block)
        gaps.append(
            Gap(
                idle=1000 * (after.idle_between - before.idle_between),
                unprepared=1000 * unprepared,
                handover=1000 * (following.begun - job.last_block - unprepared),
                first_block=1000 * (following.first_block - following.begun) - following.ms_per_block,
            )
        )
    return gaps


def _print(work: Work, times: Sequence[Times], heard: Heard, gaps: Sequence[Gap]) -> None:
    began, ended = heard.at_first_block[0], heard.at_end
    busy, shared = ended.busy - began.busy, ended.shared - began.shared
    between, within = ended.idle_between - began.idle_between, ended.idle_within - began.idle_within
    whole = busy + shared + between + within
    wall = times[-1].last_block - times[0].first_block
    print(f"{work.jobs} jobs of {work.seconds:g} s ({times[0].blocks} blocks), {work.width} × {work.height}", end=", ")
    print(f"{statistics.median(job.ms_per_block for job in times):.1f} ms per block")
    print(f"from the first block to the last frame {wall:.2f} s; the DiT's own clock {whole:.2f} s:")
    for name, seconds in (
        ("denoising", busy),
        ("encoder and decoder on its device", shared),
        ("idle between two videos", between),
        ("idle within a video", within),
    ):
        print(f"  {name:<36} {seconds:8.2f} s  {100 * seconds / whole:6.2f} %")
    print("gaps between two jobs, ms:            median       max")
    for name in ("idle", "unprepared", "handover", "first_block"):
        values = [getattr(gap, name) for gap in gaps]
        print(f"  {name:<32} {statistics.median(values):9.1f} {max(values):9.1f}")
    for name, seconds in (
        ("a job's files were prepared in", [job.prepared - job.admitted for job in times]),
        ("then waited for its turn", [job.begun - job.prepared for job in times]),
        ("written after the last frame in", [job.written - job.last_block for job in times]),
        ("measured and put away in", [job.stored - job.written for job in times]),
    ):
        print(f"  {name:<32} {statistics.median(seconds):8.2f} s {max(seconds):7.2f} s")
    idle = [gap.idle for gap in gaps]
    print(
        f"QUEUE {work.preset} ranks={work.ranks} steps={work.steps} {work.precision}: DiT idle"
        f" {100 * (between + within) / whole:.2f} % of {whole:.1f} s ({100 * between / whole:.2f} % between jobs,"
        f" {100 * within / whole:.2f} % within); gap median {statistics.median(idle):.1f} ms, max {max(idle):.1f} ms"
    )


if __name__ == "__main__":
    main()
