"""Jobs and their attempts: one row is one video to make.

Each status says what it means and what a crash does to it. Statuses change only in `models/transitions.py`.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, CreatedAt, Timestamp


class JobStatus(StrEnum):
    QUEUED = "queued"  # waits for a worker; a crash of anything loses nothing: the reconciler sends its message again
    RUNNING = "running"  # one attempt holds the lease; a crash lets the lease expire and the job goes back to queued
    SUCCEEDED = "succeeded"  # terminal: the output is stored and verified
    FAILED = "failed"  # terminal: error_code says why
    CANCELED = "canceled"  # terminal: a client asked for it and no output is given
    EXPIRED = "expired"  # terminal: the deadline passed before any worker started it


TERMINAL_STATUSES = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED})


class Phase(StrEnum):
    """What a running job is doing. A column, not a state: nothing is decided by it."""

    PREPARING = "preparing"
    ENCODING = "encoding"
    RENDERING = "rendering"
    MUXING = "muxing"
    UPLOADING = "uploading"


class LengthPolicy(StrEnum):
    """What to do when the sound is not as long as the `duration_s` that was asked for."""

    REJECT = "reject"  # refuse a difference of more than one frame
    PAD = "pad"  # silence behind a shorter sound; a longer one is refused
    TRIM = "trim"  # cut a longer sound; a shorter one keeps its length


class AudioMode(StrEnum):
    """How a long sound is encoded."""

    WINDOWED = "windowed"  # overlapping windows, normalised as one sound: no seams
    REFERENCE = "reference"  # pieces of 5 s that know nothing of each other, as the released service does


class SizePolicy(StrEnum):
    """What decides the video's size."""

    EXACT = "exact"  # the job's width and height; the picture covers them
    REFERENCE = "reference"  # the picture: about 512 × 512 pixels in 16:9, 4:3 or 1:1, or a size the preset knows
    REFERENCE_BARS = "reference_bars"  # the same with the black bars that the released code leaves


class SinkRotation(StrEnum):
    """How the reference picture's attention keys follow the video in time."""

    EXACT = "exact"  # no error builds up
    REFERENCE_ROUNDING = "reference_rounding"  # rounded at every block, as the released code does: long videos drift


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ('queued','running','succeeded','failed','canceled','expired')", name="status"),
        CheckConstraint("(image_source IS NULL) <> (video_source IS NULL)", name="one_picture"),
        CheckConstraint("audio_mode IN ('windowed','reference')", name="audio_mode"),
        CheckConstraint("size_policy IN ('exact','reference','reference_bars')", name="size_policy"),
        CheckConstraint("sink_rotation IN ('exact','reference_rounding')", name="sink_rotation"),
        CheckConstraint("num_nulls(width, height) = CASE WHEN size_policy = 'exact' THEN 0 ELSE 2 END", name="size"),
        CheckConstraint("status <> 'succeeded' OR (result_key IS NOT NULL AND output IS NOT NULL)", name="output"),
        CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="error"),
        CheckConstraint(
            "num_nulls(lease_owner, lease_expires_at) = CASE WHEN status = 'running' THEN 0 ELSE 2 END", name="lease"
        ),
        CheckConstraint("status <> 'queued' OR cancel_requested_at IS NULL", name="cancel"),
        CheckConstraint("(status IN ('queued','running')) = (finished_at IS NULL)", name="finished"),
        Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
        Index("ix_jobs_tenant_id_status_id", "tenant_id", "status", "id"),
        Index("ix_jobs_batch_id_id", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
        Index(
            "uq_jobs_batch_id_custom_id", "batch_id", "custom_id", unique=True,
            postgresql_where=text("batch_id IS NOT NULL AND custom_id IS NOT NULL"),
        ),
        Index("ix_jobs_queued", "preset", "priority", "tenant_id", "id", postgresql_where=text("status = 'queued'")),
        Index("ix_jobs_leases", "lease_expires_at", postgresql_where=text("status = 'running'")),
        Index(
            "ix_jobs_deadlines", "deadline_at", postgresql_where=text("status = 'queued' AND deadline_at IS NOT NULL")
        ),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    custom_id: Mapped[str | None]
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), comment="the ended job this one repeats")

    # what to make: sources are `upload:<id>`, `s3://bucket/key` or `https://…`
    audio_source: Mapped[str]
    image_source: Mapped[str | None]
    video_source: Mapped[str | None]
    reference_time_s: Mapped[float | None]
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    fps: Mapped[int]
    width: Mapped[int | None] = mapped_column(comment="null: the picture decides, see size_policy")
    height: Mapped[int | None] = mapped_column(comment="null: the picture decides, see size_policy")
    size_policy: Mapped[str] = mapped_column(default=SizePolicy.EXACT, server_default=SizePolicy.EXACT)
    denoising_steps: Mapped[int]
    audio_mode: Mapped[str] = mapped_column(default=AudioMode.WINDOWED, server_default=AudioMode.WINDOWED)
    sink_rotation: Mapped[str] = mapped_column(default=SinkRotation.EXACT, server_default=SinkRotation.EXACT)
    duration_s: Mapped[float | None]
    length_policy: Mapped[str] = mapped_column(default=LengthPolicy.REJECT)
    preset: Mapped[str]
    webhook_endpoint_id: Mapped[str | None] = mapped_column(
        ForeignKey("webhook_endpoints.id"),
        comment="null: every enabled endpoint of the tenant",
    )
    # the attribute cannot be called metadata: SQLAlchemy has one
    labels: Mapped[dict[str, str]] = mapped_column("metadata", JSONB, default=dict)

    # where it is
    status: Mapped[str] = mapped_column(default=JobStatus.QUEUED)
    priority: Mapped[str]
    run_after: Mapped[CreatedAt]
    deadline_at: Mapped[Timestamp | None]
    dispatched_at: Mapped[Timestamp | None] = mapped_column(comment="when its message was last published")
    attempt: Mapped[int] = mapped_column(default=0, comment="the fencing token: it never resets and never decreases")
    crash_count: Mapped[int] = mapped_column(default=0, comment="lost leases and dead groups; three are poison")
    error_retries: Mapped[int] = mapped_column(default=0, comment="attempts that ended with a retryable error")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[Timestamp | None]
    cancel_requested_at: Mapped[Timestamp | None]
    phase: Mapped[str | None]
    blocks_done: Mapped[int] = mapped_column(default=0)
    blocks_total: Mapped[int | None]
    checkpoint_key: Mapped[str | None] = mapped_column(comment="the object that names what is kept of a render")

    # how it ended
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    result_key: Mapped[str | None]
    poster_key: Mapped[str | None]
    preview_key: Mapped[str | None]
    output: Mapped[dict[str, Any] | None] = mapped_column(JSONB, comment="models.output.OutputReport, as measured")
    gpu_seconds: Mapped[float | None]
    ms_per_block: Mapped[float | None]

    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]  # by the trigger, at every update
    started_at: Mapped[Timestamp | None]  # the first claim
    finished_at: Mapped[Timestamp | None]


class AttemptOutcome(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ERROR = "error"  # a retryable error; the job went back to queued
    DRAINED = "drained"  # the worker was asked to stop and handed the job back
    CRASHED = "crashed"  # its GPU group died under it
    LOST = "lost"  # the lease expired


class Attempt(Base):
    """One claim of a job, for people: what happened to each try."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str]
    started_at: Mapped[CreatedAt]
    ended_at: Mapped[Timestamp | None]
    outcome: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
