"""The webhook event that reports a job's end, written in the transaction that ends it. Knows no HTTP."""

import json

from sqlalchemy import func, insert, literal, or_, select
from sqlalchemy.orm import Session

from models.ids import IdPrefix, new_id
from models.job import Job, JobStatus
from models.output import OutputReport
from models.webhook import EventType, WebhookDelivery, WebhookEndpoint, WebhookEvent

EVENT_OF = {
    JobStatus.SUCCEEDED: EventType.JOB_SUCCEEDED,
    JobStatus.FAILED: EventType.JOB_FAILED,
    JobStatus.CANCELED: EventType.JOB_CANCELED,
    JobStatus.EXPIRED: EventType.JOB_EXPIRED,
}


def write_event(session: Session, job: Job) -> None:
    """The event of an ended job, and a delivery for each endpoint that wants it. The body is frozen here."""
    event_id = new_id(IdPrefix.EVENT)
    kind = EVENT_OF[JobStatus(job.status)]
    assert job.finished_at is not None
    body = {"type": kind, "timestamp": job.finished_at.isoformat(), "data": _event_data(job)}
    session.execute(
        insert(WebhookEvent).values(
            id=event_id,
            tenant_id=job.tenant_id,
            job_id=job.id,
            type=kind,
            body=json.dumps(body, separators=(",", ":")).encode(),
        )
    )
    deliveries = [
        {
            "id": new_id(IdPrefix.DELIVERY),
            "event_id": event_id,
            "endpoint_id": endpoint_id,
            "tenant_id": job.tenant_id,
        }
        for endpoint_id in _interested_endpoints(session, job, kind)
    ]
    if deliveries:
        session.execute(insert(WebhookDelivery), deliveries)


def _interested_endpoints(session: Session, job: Job, kind: EventType) -> list[str]:
    wanted = select(WebhookEndpoint.id).where(
        WebhookEndpoint.tenant_id == job.tenant_id,
        WebhookEndpoint.disabled_at.is_(None),
        WebhookEndpoint.deleted_at.is_(None),
        or_(func.cardinality(WebhookEndpoint.events) == 0, literal(str(kind)) == func.any(WebhookEndpoint.events)),
    )
    if job.webhook_endpoint_id is not None:
        wanted = wanted.where(WebhookEndpoint.id == job.webhook_endpoint_id)
    return list(session.scalars(wanted.order_by(WebhookEndpoint.id)))


def _event_data(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "attempt": job.attempt,
        "batch_id": job.batch_id,
        "custom_id": job.custom_id,
        "metadata": job.labels,
        "error": None if job.error_code is None else {"code": job.error_code, "message": job.error_message},
        "output": None if job.output is None else OutputReport.model_validate(job.output).as_published(),
    }
