"""`/metrics` for Prometheus: what the database says of jobs, workers, webhooks and leftovers, and how this process
answers requests.

Knows SQL and the text format. Rows are counted at each scrape, so every API process tells the same.
"""

import datetime as dt
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.errors import ErrorCode
from api.openapi import open_problems
from api.pagination import first_id_at
from api.services import InjectedServices
from models.collected import Collected, LeftoverKind
from models.database import Database
from models.ids import IdPrefix
from models.job import Job, JobStatus
from models.queues import Priority
from models.webhook import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from models.worker_node import NodeState, WorkerNode

RECENT = dt.timedelta(hours=1)
LONGEST_JOB = dt.timedelta(days=2)
QUANTILES = (0.5, 0.95)
SILENCE = dt.timedelta(seconds=60)

router = APIRouter(tags=["operation"])


class JobCollector(Collector):
    """Jobs and workers as the database has them at the time of the scrape."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterable[Metric]:
        with self._database.transaction() as session:
            return [
                _jobs_by_status(session),
                *_queue(session),
                *_recent_durations(session),
                _workers_by_state(session),
                *_webhooks(session),
                _collected(session),
            ]


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **open_problems(ErrorCode.database_unavailable),
    },
)
def read_metrics(services: InjectedServices) -> Response:
    """Figures for Prometheus. They tell of every tenant's jobs together: keep this path inside your network."""
    of_jobs = CollectorRegistry(auto_describe=False)
    of_jobs.register(JobCollector(services.database))
    text = generate_latest(of_jobs) + generate_latest(services.http_metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _jobs_by_status(session: Session) -> Metric:
    family = GaugeMetricFamily("realvideo_jobs", "Jobs by status", labels=["status"])
    counted = {row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status)).all()}
    for status in JobStatus:
        family.add_metric([status], counted.get(status, 0))
    return family


def _queue(session: Session) -> Iterator[Metric]:
    depth = GaugeMetricFamily("realvideo_queue_depth", "Jobs that wait for a worker", labels=["priority"])
    age = GaugeMetricFamily(
        "realvideo_queue_oldest_age_seconds", "How long the oldest of them has waited", labels=["priority"]
    )
    waiting = (
        select(Job.priority, func.count(), func.extract("epoch", func.now() - func.min(Job.created_at)))
        .where(Job.status == JobStatus.QUEUED)
        .group_by(Job.priority)
    )
    found = {row[0]: (row[1], float(row[2])) for row in session.execute(waiting).all()}
    for priority in Priority:
        count, oldest = found.get(priority, (0, 0.0))
        depth.add_metric([priority], count)
        age.add_metric([priority], oldest)
    yield depth
    yield age


def _recent_durations(session: Session) -> Iterator[Metric]:
    """Of jobs that ended within the last hour. The id bounds the search; it sorts by the time of creation."""
    now = session.scalar(select(func.now()))
    assert now is not None
    wait = func.extract("epoch", Job.started_at - Job.created_at)
    run = func.extract("epoch", Job.finished_at - Job.started_at)
    row = session.execute(
        select(
            func.count(),
            *(func.percentile_cont(quantile).within_group(wait) for quantile in QUANTILES),
            *(func.percentile_cont(quantile).within_group(run) for quantile in QUANTILES),
            func.percentile_cont(0.5).within_group(Job.ms_per_block),
        ).where(
            Job.id > first_id_at(IdPrefix.JOB, now - LONGEST_JOB),
            Job.status == JobStatus.SUCCEEDED,
            Job.finished_at > now - RECENT,
        )
    ).one()
    count, figures = row[0], [None if value is None else float(value) for value in row[1:]]
    yield GaugeMetricFamily("realvideo_recent_succeeded_jobs", "Jobs that succeeded in the last hour", value=count)
    named = (
        ("realvideo_recent_wait_seconds", "From creation to the first start, last hour", figures[:2]),
        ("realvideo_recent_run_seconds", "From the first start to the end, last hour", figures[2:4]),
    )
    for name, text, values in named:
        family = GaugeMetricFamily(name, text, labels=["quantile"])
        for quantile, value in zip(QUANTILES, values, strict=True):
            if value is not None:
                family.add_metric([str(quantile)], value)
        yield family
    pace = GaugeMetricFamily("realvideo_recent_block_milliseconds", "Median time of one block, last hour")
    if figures[4] is not None:
        pace.add_metric([], figures[4])
    yield pace


def _workers_by_state(session: Session) -> Metric:
    family = GaugeMetricFamily(
        "realvideo_workers", "Workers by state; silent: not heard of for a minute", labels=["state"]
    )
    silent = WorkerNode.last_seen_at < func.now() - SILENCE
    heard = dict.fromkeys([*NodeState, "silent"], 0)
    rows = session.execute(select(WorkerNode.state, silent, func.count()).group_by(WorkerNode.state, silent)).all()
    for state, is_silent, count in rows:
        heard["silent" if is_silent and state != NodeState.STOPPED else state] += count
    for state, count in heard.items():
        family.add_metric([state], count)
    return family


def _webhooks(session: Session) -> Iterator[Metric]:
    overdue = func.extract("epoch", func.now() - func.min(WebhookDelivery.next_try_at))
    waiting = session.execute(
        select(func.count(), overdue).where(WebhookDelivery.status == DeliveryStatus.PENDING)
    ).one()
    yield GaugeMetricFamily("realvideo_webhooks_pending", "Deliveries that wait for a try", value=waiting[0])
    yield GaugeMetricFamily(
        "realvideo_webhooks_overdue_seconds",
        "How long the try is overdue that should have come first",
        value=max(0.0, float(waiting[1] or 0.0)),
    )
    endpoints = GaugeMetricFamily("realvideo_webhook_endpoints", "Endpoints by how they answer", labels=["state"])
    in_use = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.deleted_at.is_(None))
    is_enabled = WebhookEndpoint.disabled_at.is_(None)
    for state, condition in (
        ("quick", is_enabled & (WebhookEndpoint.slow_tries == 0)),
        ("slow", is_enabled & (WebhookEndpoint.slow_tries > 0)),
        ("disabled", ~is_enabled),
    ):
        endpoints.add_metric([state], session.scalar(in_use.where(condition)) or 0)
    yield endpoints


def _collected(session: Session) -> Metric:
    family = CounterMetricFamily(
        "realvideo_collected_objects", "Leftovers that were deleted from the storage", labels=["kind"]
    )
    counted = {row.kind: row.objects for row in session.scalars(select(Collected))}
    for kind in LeftoverKind:
        family.add_metric([kind], counted.get(kind, 0))
    return family
