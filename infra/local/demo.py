"""`python3 run.py demo`: one job through the whole system, from an upload over HTTP to a verified webhook and an MP4.

Knows the order of a customer's steps, and what has to be true of the result. Each run has a fresh directory below
`.realvideo/demo`, of which only the video, its poster and the logs stay.
"""

import argparse
import datetime as dt
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from api.schemas import JobCreate, JobOut
from cli.bars import progress_bar
from cli.client import Service
from cli.connection import ServiceConnection
from cli.errors import CommandError
from infra.local.mp4_check import look_at, sound_duration_s
from infra.local.parts import RANKS_OF_SMALL_PRESETS
from infra.local.process import ServerError, free_port
from infra.local.receiver import Received, WebhookReceiver
from infra.local.signals import StopRequestedError, stop_at_first_signal
from infra.local.stack import Stack, StackSettings
from infra.local.state import STATE_DIRECTORY
from infra.local.status_lines import StatusLines
from infra.samples import PORTRAIT, SPEECH
from models.job import JobStatus
from models.webhook import EventType
from worker.usual_preset import SMALL

WEBHOOK_TIMEOUT_S = 30.0
KEPT_RUNS = 3
RANKS = RANKS_OF_SMALL_PRESETS[SMALL]


WEBHOOK = "webhook, its signature verified"
DOWNLOAD = "download of video and poster"
CHECK = "check of the MP4 against the speech"


@dataclass(frozen=True)
class Made:
    job: JobOut
    video: Path
    poster: Path


@dataclass(frozen=True)
class Times:
    """Points in time, of the monotonic clock."""

    began: float
    started: float
    stopping: float
    ended: float


class DemoFailedError(Exception):
    """Something on the way was not as it has to be."""


def main() -> None:
    arguments = _arguments()
    console = Console(highlight=False)
    stop_at_first_signal()
    try:
        directory = _fresh_directory(arguments.directory.resolve())
    except OSError as error:
        console.print(f"[red]run.py demo:[/red] {escape(str(error))}")
        sys.exit(1)
    try:
        _run(directory, console)
    except StopRequestedError as signal_name:
        console.print(f"Stopped by {signal_name}; no process is left.")
        sys.exit(130)
    except (DemoFailedError, CommandError, ServerError, OSError) as error:
        console.print(f"[red]run.py demo:[/red] {escape(str(error))}\nLogs: {directory / 'logs'}", soft_wrap=True)
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py demo", description="One job, all the way through.")
    parser.add_argument(
        "--directory",
        type=Path,
        default=STATE_DIRECTORY / "demo",
        help="where runs are kept (default: .realvideo/demo)",
    )
    return parser.parse_args()


def _fresh_directory(runs: Path) -> Path:
    """A new directory for this run. Of the earlier ones the last few stay."""
    runs.mkdir(parents=True, exist_ok=True)
    for old in sorted(path for path in runs.iterdir() if path.is_dir())[: -KEPT_RUNS + 1 or None]:
        shutil.rmtree(old, ignore_errors=True)
    directory = runs / dt.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    directory.mkdir()
    return directory


def _run(directory: Path, console: Console) -> None:
    lines = StatusLines(console)
    settings = StackSettings(
        directory=directory, secrets_directory=directory, api_port=free_port(), durable=False, ranks=RANKS
    )
    began = time.monotonic()
    with _data_removed_after(directory):
        with Stack(settings, on_step=lines.step) as stack:
            started = time.monotonic()
            made = _one_job(stack, directory, lines=lines, console=console)
            stopping = time.monotonic()
        times = Times(began=began, started=started, stopping=stopping, ended=time.monotonic())
    _tell(console, lines=lines, made=made, times=times)


def _one_job(stack: Stack, directory: Path, *, lines: StatusLines, console: Console) -> Made:
    """A customer's steps. Raises `DemoFailedError` when one of them does not end as it has to."""
    secret = ""
    with (
        WebhookReceiver(secret=lambda: secret) as receiver,
        Service(ServiceConnection(stack.url, stack.api_key)) as service,
    ):
        secret = service.create_webhook_endpoint(receiver.url).secret
        with lines.step("upload of speech and portrait"):
            speech, portrait = service.upload(SPEECH), service.upload(PORTRAIT)
        job = service.create_job(JobCreate(audio=speech, image=portrait))
        console.print(f"[green]✓[/green] job accepted: {job.id}")
        job = _follow(service, job.id, console)
        with lines.step(WEBHOOK):
            _check_webhook(receiver, job)
        made = Made(job, video=directory / "video.mp4", poster=directory / "poster.jpg")
        with lines.step(DOWNLOAD):
            service.download(job.id, variant="video", to=made.video)
            service.download(job.id, variant="poster", to=made.poster)
    with lines.step(CHECK):
        _check_video(made.video, job)
    return made


def _follow(service: Service, job_id: str, console: Console) -> JobOut:
    with progress_bar(console, "  rendering") as bar:
        for job in service.follow(job_id):
            bar.show(
                job.phase or job.status,
                blocks_done=job.progress.blocks_done,
                blocks_total=job.progress.blocks_total,
                frames_per_block=8,
            )
    if job.status != JobStatus.SUCCEEDED:
        why = f"{job.error.code}: {job.error.message}" if job.error else "no reason is given"
        raise DemoFailedError(f"the job ended as {job.status}; {why}")
    return job


def _check_webhook(receiver: WebhookReceiver, job: JobOut) -> Received:
    try:
        received = receiver.wait_for(job.id, timeout_s=WEBHOOK_TIMEOUT_S)
    except TimeoutError as error:
        raise DemoFailedError(str(error)) from error
    if receiver.refused:
        raise DemoFailedError(f"a webhook had a wrong signature: {', '.join(receiver.refused)}")
    if received.type != EventType.JOB_SUCCEEDED:
        raise DemoFailedError(f"the webhook says {received.type}")
    return received


def _check_video(video: Path, job: JobOut) -> None:
    assert job.output is not None
    seen, speech_s = look_at(video), sound_duration_s(SPEECH)
    wrong = [
        f"{what} is {found}, not {expected}"
        for what, found, expected in (
            ("the video codec", seen.video_codec, "h264"),
            ("the audio codec", seen.audio_codec, "aac"),
            ("the number of frames", seen.frames, job.output.frames),
            ("the size", (seen.width, seen.height), _portrait_size()),
        )
        if found != expected
    ]
    if abs(seen.video_duration_s - speech_s) > 1 / job.input.fps:
        wrong.append(f"the video lasts {seen.video_duration_s:.3f} s and the speech {speech_s:.3f} s")
    if wrong:
        raise DemoFailedError("; ".join(wrong))


def _portrait_size() -> tuple[int, int]:
    """Width and height in pixels, which are those of the video: it is one of the sizes that the avatar knows."""
    with Image.open(PORTRAIT) as picture:
        return picture.size


@contextmanager
def _data_removed_after(directory: Path) -> Iterator[None]:
    """The databases and objects of a run are of no use after it; its logs and its video are."""
    try:
        yield
    finally:
        for name in ("postgres", "valkey", "objects", "work"):
            elsewhere = directory / name / "elsewhere"
            if elsewhere.is_symlink():
                shutil.rmtree(elsewhere.resolve(), ignore_errors=True)
            shutil.rmtree(directory / name, ignore_errors=True)
        for name in ("api-key", "secrets.json"):
            (directory / name).unlink(missing_ok=True)


def _tell(console: Console, *, lines: StatusLines, made: Made, times: Times) -> None:
    job = made.job
    assert job.output is not None
    assert job.started_at is not None
    assert job.completed_at is not None
    table = Table("part", "seconds", title="How long each part took", title_justify="left", box=None)
    table.columns[1].justify = "right"
    for name, seconds in (
        ("start of the stack", times.started - times.began),
        ("job in the queue", (job.started_at - job.created_at).total_seconds()),
        ("job at the worker", (job.completed_at - job.started_at).total_seconds()),
        ("  of it, the network", job.metrics.gpu_seconds / RANKS if job.metrics.gpu_seconds else None),
        ("webhook after the job", lines.seconds[WEBHOOK]),
        ("download", lines.seconds[DOWNLOAD]),
        ("check of the MP4", lines.seconds[CHECK]),
        ("stop of the stack", times.ended - times.stopping),
        ("all of it", times.ended - times.began),
    ):
        table.add_row(name, "" if seconds is None else f"{seconds:.1f}")
    console.print()
    console.print(table)
    console.print(
        f"\n{job.output.frames} frames of {job.output.width} × {job.output.height} at {job.output.fps} frames/s, "
        f"{job.output.duration:.2f} s of video and sound."
    )
    console.print("The person was drawn by the small avatar preset, which knows drawn portraits only: docs/avatar.md.")
    console.print(f"[bold green]Video[/bold green]  {made.video}\n[bold]Poster[/bold] {made.poster}", soft_wrap=True)


if __name__ == "__main__":
    main()
