"""What must hold after any faults, looked up in the record, the storage and the receiver themselves.

A table and a trigger of the suite note every change of a status, so that a job that ended twice cannot hide.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from models.job import TERMINAL_STATUSES, Job, JobStatus
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEvent
from tests.waiting import wait_for
from worker.collector import Collector
from worker.storage.s3 import S3Storage

if TYPE_CHECKING:
    from tests.faults.installation import Installation

SWEEPS_S = 20.0
"""An attempt that has lost its job may still write for a moment, and the next sweep finds it."""
HISTORY = """
    CREATE TABLE faults_history (at timestamptz DEFAULT clock_timestamp(), job_id text, status text, attempt int);
    CREATE FUNCTION faults_note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' OR OLD.status IS DISTINCT FROM NEW.status THEN
            INSERT INTO faults_history (job_id, status, attempt) VALUES (NEW.id, NEW.status, NEW.attempt);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER faults_note AFTER INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION faults_note();
"""


@dataclass(frozen=True)
class Findings:
    """What is wrong, in words; all empty when the five invariants hold."""

    acknowledged_are_rows: list[str]
    all_ended: list[str]
    ended_once: list[str]
    objects_complete: list[str]
    one_webhook_id: list[str]

    @property
    def are_none(self) -> bool:
        return not any(self.by_invariant().values())

    def by_invariant(self) -> dict[str, list[str]]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def check(installation: Installation, *, webhooks_within_s: float) -> None:
    """All five invariants, for all jobs there ever were. Call it when every job should have ended."""
    wait_for(lambda: not undelivered(installation), timeout_s=webhooks_within_s)
    findings = findings_of(installation)
    assert findings.are_none, findings


def findings_of(installation: Installation) -> Findings:
    from tests.faults.installation import OUTPUTS

    stored = etags_of(installation.s3, bucket=OUTPUTS)
    with installation.database.transaction() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        events = list(session.scalars(select(WebhookEvent)))
        ends = Counter(
            session.scalars(
                text("SELECT job_id FROM faults_history WHERE status = ANY(:ends)"),
                {"ends": [str(status) for status in TERMINAL_STATUSES]},
            )
        )
    return Findings(
        acknowledged_are_rows=_differences(installation.acknowledged, set(jobs)),
        all_ended=[f"{job.id} is {job.status}" for job in jobs.values() if job.status not in TERMINAL_STATUSES],
        ended_once=[f"{job_id} ended {count} times" for job_id, count in ends.items() if count != 1],
        objects_complete=[
            complaint
            for job in jobs.values()
            if job.status == JobStatus.SUCCEEDED
            for complaint in _object_complaints(installation, job, stored)
        ],
        one_webhook_id=_webhook_complaints(installation, set(ends), events),
    )


def _differences(acknowledged: set[str], rows: set[str]) -> list[str]:
    """Both ways: a row that nobody was told of is a request that was carried out twice."""
    lost = [f"{job_id} was acknowledged and is lost" for job_id in sorted(acknowledged - rows)]
    return lost + [f"{job_id} was never acknowledged" for job_id in sorted(rows - acknowledged)]


def etags_of(s3: Any, *, bucket: str) -> dict[str, str]:
    """Of all objects there are, by key. An object whose content changes has another."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {found["Key"]: found["ETag"] for page in pages for found in page.get("Contents", [])}


def _object_complaints(installation: Installation, job: Job, stored: dict[str, str]) -> list[str]:
    assert job.output is not None
    complaints = [
        f"{job.id} has no object {key}"
        for key in (job.result_key, job.poster_key, job.preview_key)
        if key not in stored
    ]
    if job.result_key in stored and _sha256_of(installation, job.result_key, stored) != job.output["sha256"]:
        complaints.append(f"{job.result_key} is not the video that was measured")
    if f"/{job.attempt}/" not in str(job.result_key):
        complaints.append(f"{job.id} names {job.result_key}, which is not of its attempt {job.attempt}")
    return complaints


def _sha256_of(installation: Installation, key: str, stored: dict[str, str]) -> str:
    """Of the content, which is read again only when it is another one than at the last check."""
    from tests.faults.installation import OUTPUTS

    if (key, stored[key]) not in installation.checksums:
        body = installation.s3.get_object(Bucket=OUTPUTS, Key=key)["Body"].read()
        installation.checksums[key, stored[key]] = hashlib.sha256(body).hexdigest()
    return installation.checksums[key, stored[key]]


def _webhook_complaints(installation: Installation, ended: set[str], events: list[WebhookEvent]) -> list[str]:
    counts = Counter(event.job_id for event in events)
    complaints = [f"{job_id} has {counts[job_id]} events" for job_id in ended if counts[job_id] != 1]
    bodies: dict[str, set[bytes]] = {}
    for delivery in installation.receiver.deliveries:
        bodies.setdefault(delivery.webhook_id, set()).add(delivery.body)
    complaints += [f"{event.id} never arrived" for event in events if event.id not in bodies]
    complaints += [f"{event_id} was never written" for event_id in bodies.keys() - {event.id for event in events}]
    complaints += [f"{event_id} came with two bodies" for event_id, seen in bodies.items() if len(seen) > 1]
    return complaints + installation.receiver.refused


def left_by_the_collector(installation: Installation) -> list[str]:
    """Every object, whole or not, that sweeps leave and that no succeeded job names. Call it when all jobs ended.

    The grace of the collector passes first: everything on record ended an hour earlier. The guard of the table, which
    keeps ended jobs as they are, is put aside for that.
    """
    from tests.faults.installation import OUTPUTS

    with installation.database.transaction() as session:
        session.execute(text("UPDATE attempts SET ended_at = ended_at - interval '1 h'"))
        session.execute(text("ALTER TABLE jobs DISABLE TRIGGER jobs_guard"))
        session.execute(text("UPDATE jobs SET finished_at = finished_at - interval '1 h'"))
        session.execute(text("ALTER TABLE jobs ENABLE TRIGGER jobs_guard"))
    storage = S3Storage(OUTPUTS, client=installation.s3)
    collector = Collector(installation.database, storage, unused_uploads_kept=dt.timedelta(days=7))
    ends_at = time.monotonic() + SWEEPS_S
    while True:
        for _ in collector.sweep():
            pass
        left = _nobodys_objects(installation, bucket=OUTPUTS)
        if not left or time.monotonic() > ends_at:
            return left
        time.sleep(0.5)


def _nobodys_objects(installation: Installation, *, bucket: str) -> list[str]:
    with installation.database.transaction() as session:
        won = session.execute(
            select(Job.result_key, Job.poster_key, Job.preview_key).where(Job.status == JobStatus.SUCCEEDED)
        )
        named = {key for keys in won for key in keys}
    unfinished = installation.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    objects = etags_of(installation.s3, bucket=bucket).keys() - named
    return sorted(objects) + [f"parts of {upload['Key']}" for upload in unfinished]


def undelivered(installation: Installation) -> list[str]:
    with installation.database.transaction() as session:
        return list(session.scalars(select(WebhookDelivery.id).where(WebhookDelivery.status == DeliveryStatus.PENDING)))
