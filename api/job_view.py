"""A job as clients see it: the row, its place in the queue, and links signed for this one answer. Knows the table."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.orm import Session

from api.estimates import Pace, current_pace, queue_positions
from api.schemas import JobError, JobInput, JobMetrics, JobOut, JobOutput, Progress
from api.services import Services
from api.storage import Disposition, Download
from models.job import TERMINAL_STATUSES, Job, JobStatus
from models.output import OutputReport

UPLOAD_PREFIX = "upload:"


class Variant(StrEnum):
    VIDEO = "video"
    POSTER = "poster"
    PREVIEW = "preview"


_MEDIA = {
    Variant.VIDEO: ("mp4", "video/mp4"),
    Variant.POSTER: ("jpg", "image/jpeg"),
    Variant.PREVIEW: ("webp", "image/webp"),
}


@dataclass(frozen=True)
class SeenJob:
    """A job's answer and its version, which changes whenever the answer does (the guessed `eta` aside)."""

    out: JobOut
    version: str

    @property
    def is_active(self) -> bool:
        return self.out.status not in TERMINAL_STATUSES


def view_jobs(session: Session, jobs: Sequence[Job], services: Services) -> list[SeenJob]:
    """Each job as it is now; two more queries for the whole list when any is active."""
    positions = queue_positions(session, jobs)
    active = any(job.status not in TERMINAL_STATUSES for job in jobs)
    pace = current_pace(session) if active else None
    return [_view(job, services, position=positions.get(job.id), pace=pace) for job in jobs]


def output_link(
    job: Job, variant: Variant, services: Services, *, disposition: Disposition = Disposition.INLINE
) -> str | None:
    """A signed URL of one of the job's outputs; None when it has no such output."""
    key = {Variant.VIDEO: job.result_key, Variant.POSTER: job.poster_key, Variant.PREVIEW: job.preview_key}[variant]
    if key is None:
        return None
    extension, content_type = _MEDIA[variant]
    # the id keeps two downloads apart, whatever their customer calls them
    name = job.id if job.custom_id is None else f"{_file_name(job.custom_id)}-{job.id}"
    return services.storage.presign_get(
        key,
        download=Download(filename=f"{name}.{extension}", content_type=content_type, disposition=disposition),
        lifetime=dt.timedelta(seconds=services.settings.output_url_lifetime_s),
    )


def output_expires_at(job: Job, services: Services) -> dt.datetime | None:
    days = services.settings.output_retention_days
    if days is None or job.finished_at is None or job.result_key is None:
        return None
    return job.finished_at + dt.timedelta(days=days)


def shown_source(source: str | None) -> str | None:
    """A stored source as clients wrote it."""
    return None if source is None else source.removeprefix(UPLOAD_PREFIX)


def _view(job: Job, services: Services, *, position: int | None, pace: Pace | None) -> SeenJob:
    audio = shown_source(job.audio_source)
    assert audio is not None
    out = JobOut(
        id=job.id,
        status=JobStatus(job.status),
        phase=job.phase,
        progress=Progress(blocks_done=job.blocks_done, blocks_total=job.blocks_total),
        queue_position=position,
        eta=None if pace is None else pace.eta(job, position=position),
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.finished_at,
        expires_at=output_expires_at(job, services),
        attempt=job.attempt,
        error=None if job.error_code is None else JobError(code=job.error_code, message=job.error_message or ""),
        input=JobInput(
            audio=audio,
            image=shown_source(job.image_source),
            video=shown_source(job.video_source),
            reference_time=job.reference_time_s,
            prompt=job.prompt,
            seed=job.seed,
            fps=job.fps,
            size_policy=job.size_policy,
            width=job.width,
            height=job.height,
            denoising_steps=job.denoising_steps,
            audio_mode=job.audio_mode,
            sink_rotation=job.sink_rotation,
            duration=job.duration_s,
            length_policy=job.length_policy,
            preset=job.preset,
            webhook_endpoint_id=job.webhook_endpoint_id,
        ),
        output=_output(job, services),
        metrics=JobMetrics(gpu_seconds=job.gpu_seconds, ms_per_block=job.ms_per_block),
        metadata=job.labels,
        batch_id=job.batch_id,
        custom_id=job.custom_id,
        priority=job.priority,
        deadline=job.deadline_at,
        cancel_requested_at=job.cancel_requested_at,
        retry_of=job.retry_of,
    )
    return SeenJob(out=out, version=_version(out, services))


def _output(job: Job, services: Services) -> JobOutput | None:
    url = output_link(job, Variant.VIDEO, services)
    if job.status != JobStatus.SUCCEEDED or job.output is None or url is None:
        return None
    return JobOutput(url=url, **OutputReport.model_validate(job.output).as_published())


def _version(out: JobOut, services: Services) -> str:
    """Of everything but the guess and the link; a new one in time to replace a link before it expires."""
    seen = out.model_dump_json(exclude={"eta": True, "output": {"url"}})
    if out.output is not None:
        half_life = services.settings.output_url_lifetime_s / 2
        seen += str(int(dt.datetime.now(dt.UTC).timestamp() / half_life))
    return hashlib.sha256(seen.encode()).hexdigest()[:24]


def _file_name(custom_id: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in custom_id)[:100].lstrip(".") or "job"
