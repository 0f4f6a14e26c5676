"""Rows for tests: valid as they are, with any column changed by keyword."""

import base64
import datetime as dt
import itertools

from sqlalchemy.orm import Session

from models.ids import IdPrefix, new_id
from models.job import Job, JobStatus
from models.output import OutputReport
from models.queues import Priority
from models.tenant import Tenant
from models.transitions import OutputKeys, RenderMetrics
from models.webhook import WebhookEndpoint

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

KEYS = OutputKeys(video="tenants/t/jobs/j/1/video.mp4", poster="tenants/t/jobs/j/1/poster.jpg")
METRICS = RenderMetrics(gpu_seconds=12.5, ms_per_block=310.0)
OUTPUT = OutputReport(
    duration_s=4.0,
    frames=64,
    fps=16,
    width=480,
    height=640,
    size_bytes=123_456,
    sha256="0" * 64,
    video_codec="h264",
    audio_codec="aac",
    audio_duration_s=4.0,
    av_difference_ms=0.0,
    source_duration_s=4.0,
    loudness_lufs=-20.0,
    source_loudness_lufs=-20.0,
)

_numbers = itertools.count(1)


def add_tenant(session: Session, **columns: object) -> Tenant:
    tenant = Tenant(**{"id": new_id(IdPrefix.TENANT), "name": f"tenant {next(_numbers)}", **columns})
    session.add(tenant)
    session.flush()
    session.refresh(tenant)
    return tenant


def add_job(session: Session, *, tenant_id: str, **columns: object) -> Job:
    defaults: dict[str, object] = {
        "id": new_id(IdPrefix.JOB),
        "audio_source": "https://example.com/voice.wav",
        "image_source": None if "video_source" in columns else "https://example.com/portrait.png",
        "prompt": "a person speaks",
        "seed": 1,
        "fps": 16,
        "width": 480,
        "height": 640,
        "denoising_steps": 2,
        "preset": "tiny",
        "priority": Priority.NORMAL,
    }
    job = Job(tenant_id=tenant_id, **{**defaults, **_columns_of(columns.get("status", JobStatus.QUEUED)), **columns})
    session.add(job)
    session.flush()
    session.refresh(job)
    return job


def _columns_of(status: object) -> dict[str, object]:
    """What the table demands of a job in this status."""
    now = dt.datetime.now(dt.UTC)
    if status == JobStatus.QUEUED:
        return {}
    if status == JobStatus.RUNNING:
        lease = {"lease_owner": "a worker", "lease_expires_at": now + dt.timedelta(seconds=60)}
        return {"attempt": 1, "started_at": now, **lease}
    ended: dict[str, object] = {"finished_at": now}
    if status == JobStatus.SUCCEEDED:
        ended |= {"attempt": 1, "result_key": KEYS.video, "poster_key": KEYS.poster, "output": OUTPUT.model_dump()}
    if status == JobStatus.FAILED:
        ended |= {"attempt": 1, "error_code": "test", "error_message": "a test"}
    return ended


def add_endpoint(session: Session, *, tenant_id: str, **columns: object) -> WebhookEndpoint:
    defaults: dict[str, object] = {
        "id": new_id(IdPrefix.ENDPOINT),
        "url": "https://example.com/webhooks",
        "secret": SECRET,
        "events": [],
    }
    endpoint = WebhookEndpoint(tenant_id=tenant_id, **{**defaults, **columns})
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    return endpoint
