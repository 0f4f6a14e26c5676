"""`submit`, `jobs`, `watch`, `cancel`, `retry`: a running service from the command line.

Knows options and output; the HTTP is in `client.py`.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.errors import CommandError, ExitCode, reason_of

if TYPE_CHECKING:
    from api.schemas import JobCreate, JobOut
    from cli.client import Service

NOT_UPLOADED_YET = "https://not-uploaded-yet.invalid/"

JSON = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]
LIMIT = Annotated[int, typer.Option(min=1, max=100)]
AFTER = Annotated[str | None, typer.Option(help="Go on behind this id, which the page before told.")]
JOB_ID = Annotated[str, typer.Argument(help="The id that submit printed: job_…")]
WATCH = Annotated[bool, typer.Option("--watch", help="Wait with a progress bar until it has ended.")]
OUTPUT = Annotated[Path | None, typer.Option("--output", "-o", dir_okay=False, help="Wait, then save the video here.")]


def submit(
    audio: Annotated[str, typer.Option("--audio", "-a", help="A file here, an https URL or an s3:// URI.")],
    image: Annotated[str | None, typer.Option("--image", "-i", help="A portrait, given like --audio.")] = None,
    video: Annotated[str | None, typer.Option(help="A video whose face is used instead of --image.")] = None,
    reference_time: Annotated[float | None, typer.Option(help="Seconds into --video, for its frame.")] = None,
    output: OUTPUT = None,
    watch: WATCH = False,
    prompt: Annotated[str | None, typer.Option(help="What the person does. Default: the service's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    fps: Annotated[int | None, typer.Option(min=1)] = None,
    width: Annotated[int | None, typer.Option(min=16)] = None,
    height: Annotated[int | None, typer.Option(min=16)] = None,
    size_policy: Annotated[
        str | None,
        typer.Option(
            "--size_policy",
            "--size-policy",
            help="exact, or by the picture: reference, reference_bars. Default: exact; for avatar reference.",
        ),
    ] = None,
    denoising_steps: Annotated[int | None, typer.Option("--denoising_steps", "--denoising-steps")] = None,
    audio_mode: Annotated[
        str | None, typer.Option("--audio_mode", "--audio-mode", help="windowed (the default) or reference.")
    ] = None,
    sink_rotation: Annotated[
        str | None,
        typer.Option("--sink_rotation", "--sink-rotation", help="exact (the default) or reference_rounding."),
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds the video shall last. Default: as the sound.")] = None,
    length_policy: Annotated[
        str | None, typer.Option(help="When the sound does not last --duration: reject, pad or trim.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Which network. Default: the service's.")] = None,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Expire if not begun by then: 2027-01-31T12:00:00Z.")] = None,
    custom_id: Annotated[str | None, typer.Option(help="Your own name of it.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="key=value, kept with it; may be repeated.")] = None,
    as_json: JSON = False,
) -> None:
    """Send a job. Prints its id; with --watch or --output, waits for it."""
    if (image is None) == (video is None):
        raise CommandError("give either --image or --video.", exit_code=ExitCode.USAGE)
    _must_have_a_place(output)
    asked: dict[str, Any] = {
        "reference_time": reference_time,
        "prompt": prompt,
        "seed": seed,
        "fps": fps,
        "width": width,
        "height": height,
        "size_policy": _underscored(size_policy),
        "denoising_steps": denoising_steps,
        "audio_mode": _underscored(audio_mode),
        "sink_rotation": _underscored(sink_rotation),
        "duration": duration,
        "length_policy": length_policy,
        "preset": preset,
        "priority": priority,
        "deadline": deadline,
        "custom_id": custom_id,
        "metadata": _metadata(metadata or []),
    }
    given = {"audio": audio, "image": image, "video": video}
    sources = {name: source for name, source in given.items() if source is not None}
    # options and files are looked at before any file travels
    for source in sources.values():
        if not _is_elsewhere(source):
            _must_be_readable(source)
    wanted = _job_create({**asked, **dict.fromkeys(sources, NOT_UPLOADED_YET)})
    with connected_service() as service:
        uploaded = {name: _uploaded(service, source) for name, source in sources.items()}
        job = service.create_job(wanted.model_copy(update=uploaded))
        job = _waited_for(service, job, watch=watch, output=output)
    typer.echo(job.model_dump_json(indent=2) if as_json else str(output or job.id))


def jobs(
    status: Annotated[
        list[str] | None,
        typer.Option(help="queued, running, succeeded, failed, canceled or expired; may be repeated."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="In ids, prompt, sources, error codes, metadata.")] = None,
    batch: Annotated[str | None, typer.Option(help="Of this batch: bat_…")] = None,
    custom_id: Annotated[str | None, typer.Option(help="With this name of yours.")] = None,
    limit: LIMIT = 20,
    after: AFTER = None,
    as_json: JSON = False,
) -> None:
    """List jobs, newest first."""
    filters: list[tuple[str, str]] = [("limit", str(limit)), *(("status", one) for one in status or [])]
    for name, value in (("q", text), ("batch_id", batch), ("custom_id", custom_id), ("after", after)):
        if value is not None:
            filters.append((name, value))
    with connected_service() as service:
        page = service.jobs(filters)
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
        return
    _print_table(page.data)
    if page.has_more:
        typer.echo(f"more: the same command with --after {page.next}")


def watch(job_id: JOB_ID, output: OUTPUT = None, as_json: JSON = False) -> None:
    """Follow a job with a progress bar until it has ended."""
    _must_have_a_place(output)
    with connected_service() as service:
        service.job(job_id)  # tells at once what `follow` would be patient with
        job = _watch(service, job_id)
        if as_json:
            typer.echo(job.model_dump_json(indent=2))
        _must_have_succeeded(job)
        _tell_warnings(job)
        if output is not None:
            _download(service, job_id, to=output)
            typer.echo(str(output))


def cancel(job_id: JOB_ID, as_json: JSON = False) -> None:
    """Cancel a job: at once while it is queued, within about a block while it runs."""
    with connected_service() as service:
        job = service.cancel(job_id)
    if as_json:
        typer.echo(job.model_dump_json(indent=2))
    else:
        typer.echo("canceled" if job.status == "canceled" else "asked its worker to stop")


def retry(job_id: JOB_ID, output: OUTPUT = None, watch: WATCH = False, as_json: JSON = False) -> None:
    """Repeat a failed, canceled or expired job as a new one. Prints its id; with --watch or --output, waits for it."""
    _must_have_a_place(output)
    with connected_service() as service:
        job = _waited_for(service, service.retry(job_id), watch=watch, output=output)
    typer.echo(job.model_dump_json(indent=2) if as_json else str(output or job.id))


def connected_service() -> "Service":
    """The service that the environment names, or that this checkout runs. Raises `NoConnectionError`."""
    from cli.client import Service
    from cli.connection import find_connection

    return Service(find_connection())


def _job_create(asked: dict[str, Any]) -> "JobCreate":
    """Raises `CommandError` naming the option that cannot be."""
    from pydantic import ValidationError

    from api.schemas import JobCreate

    try:
        return JobCreate.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        name = "/".join(map(str, first["loc"])) or "options"
        raise CommandError(f"{name}: {reason_of(first)}.", exit_code=ExitCode.USAGE) from error


def _is_elsewhere(source: str) -> bool:
    """A URL, which the service fetches itself; anything else is a file of this machine."""
    return re.match(r"(https?|s3)://", source) is not None


def _must_be_readable(source: str) -> None:
    """Asked of all files before the first one travels."""
    try:
        with Path(source).open("rb"):
            pass
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: OSError) -> CommandError:
    return CommandError(f"{source} cannot be read: {error.strerror}.", exit_code=ExitCode.USAGE)


def _uploaded(service: "Service", source: str) -> str:
    """What the API takes: an upload's id for a file, else the URL itself."""
    if _is_elsewhere(source):
        return source
    try:
        return service.upload(Path(source))
    except OSError as error:
        raise _unreadable(source, error) from error


def _must_have_a_place(output: Path | None) -> None:
    """Asked before anything is sent, since the video may take hours."""
    if output is not None and not output.parent.is_dir():
        raise CommandError(f"there is no directory {output.parent} for --output.", exit_code=ExitCode.USAGE)


def _waited_for(service: "Service", job: "JobOut", *, watch: bool, output: Path | None) -> "JobOut":
    """The job as it ended, if somebody wants to wait for that."""
    if watch or output is not None:
        job = _watch(service, job.id)
        _must_have_succeeded(job)
        _tell_warnings(job)
    if output is not None:
        _download(service, job.id, to=output)
    return job


def _download(service: "Service", job_id: str, *, to: Path) -> None:
    try:
        service.download(job_id, variant="video", to=to)
    except OSError as error:
        raise CommandError(
            f"{to} cannot be written: {error.strerror}. The video is kept: `realvideo watch {job_id} -o …` saves it."
        ) from error


def _underscored(value: str | None) -> str | None:
    """The values take both spellings, as the options do."""
    return None if value is None else value.replace("-", "_")


def _metadata(pairs: list[str]) -> dict[str, str] | None:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise CommandError(f"--metadata {wrong[0]} is not of the form key=value.", exit_code=ExitCode.USAGE)
    return dict(pair.split("=", 1) for pair in pairs) or None


def _watch(service: "Service", job_id: str) -> "JobOut":
    """Shows the bar on stderr, so that stdout holds the answer alone. Ctrl-C leaves the job alone and says so."""
    from rich.console import Console

    from cli.bars import progress_bar

    try:
        with progress_bar(Console(stderr=True), job_id) as bar:
            for job in service.follow(job_id):
                bar.show(
                    job.phase or job.status,
                    blocks_done=job.progress.blocks_done,
                    blocks_total=job.progress.blocks_total,
                    frames_per_block=None,
                )
    except KeyboardInterrupt:
        raise CommandError(
            f"stopped watching; the job goes on. `realvideo cancel {job_id}` ends it.", exit_code=ExitCode.INTERRUPTED
        ) from None
    return job


def _tell_warnings(job: "JobOut") -> None:
    for warning in job.output.warnings if job.output else []:
        typer.echo(f"{warning.message} [{warning.code}]", err=True)


def _must_have_succeeded(job: "JobOut") -> None:
    if job.status != "succeeded":
        reason = f": {job.error.message} [{job.error.code}]" if job.error else ""
        raise CommandError(f"{job.id} {job.status}{reason}")


def _size(job: "JobOut") -> str:
    known = job.input if job.output is None else job.output
    return f"{known.width}×{known.height}" if known.width else "by picture"


def _print_table(rows: "list[JobOut]") -> None:
    from rich.table import Table

    from cli.tables import print_table

    table = Table("id", "status", "blocks", "created", "seconds", "size", "error", "custom id", box=None)
    for job in rows:
        done, total = job.progress.blocks_done, job.progress.blocks_total
        table.add_row(
            job.id,
            job.phase or job.status,
            f"{done}/{total}" if total else "",
            f"{job.created_at:%Y-%m-%d %H:%M:%S}",
            f"{job.output.duration:.2f}" if job.output else "",
            _size(job),
            job.error.code if job.error else "",
            job.custom_id or "",
        )
    print_table(table)
