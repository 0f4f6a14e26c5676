"""Puts the API together from its settings. Knows every part of the room; importing it does nothing."""

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import (
    attempts,
    content,
    deliveries,
    errors,
    events,
    health,
    jobs,
    local_storage,
    metrics,
    reference,
    uploads,
    webhook_endpoints,
    workers,
)  # fmt: skip
from api.changes import JobChanges
from api.dashboard import job as job_page
from api.dashboard import routes as dashboard
from api.dashboard import webhooks as webhooks_page
from api.dashboard import workers as workers_page
from api.dashboard.pages import problem_page
from api.http_metrics import HttpMetrics
from api.middleware import AnswerUnexpected, LimitBody, Observe, SecureHeaders
from api.openapi import describe
from api.queue import RenderQueue
from api.services import Services
from api.settings import ApiSettings
from api.storage import LocalStorage, open_storage
from api.strict_query import STRICT_QUERY
from models import tables as _tables  # noqa: F401 - foreign keys need every table
from models.database import Database, create_database_engine

APPLICATION_NAME = "realvideo-api"
DATABASE_CONNECTIONS = 20  # and as many again when busy: one for each thread that answers requests
STALE_UPLOAD = dt.timedelta(days=1)


def create_app(settings: ApiSettings) -> FastAPI:
    """The application. Nothing is connected before the first request; the lifespan listens for changes of jobs."""
    services = _services(settings)
    app = FastAPI(
        title="RealVideo Batch",
        version=version("realvideo-batch"),
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    for described in (jobs, attempts, events, content, uploads, webhook_endpoints, deliveries, workers):
        app.include_router(described.router, dependencies=[STRICT_QUERY])
    for part in (health, metrics, local_storage, reference, dashboard, job_page, webhooks_page, workers_page):
        app.include_router(part.router)
    app.mount("/static", dashboard.static_files(), name="static")
    errors.install(app, show=lambda problem: problem_page(problem, services))
    describe(app, settings)
    # the last one added is the outermost
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(AnswerUnexpected)
    app.add_middleware(SecureHeaders)
    app.add_middleware(Observe, metrics=services.http_metrics)
    return app


def _services(settings: ApiSettings) -> Services:
    database = Database(
        create_database_engine(settings.database_url, application_name=APPLICATION_NAME, pool_size=DATABASE_CONNECTIONS)
    )
    secret = settings.session_secret
    return Services(
        settings=settings,
        database=database,
        storage=open_storage(settings),
        queue=RenderQueue(settings.broker_url, database),
        changes=JobChanges(settings.database_url),
        http_metrics=HttpMetrics(),
        session_key=secrets.token_bytes(32) if secret is None else secret.get_secret_value().encode(),
    )


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    if isinstance(services.storage, LocalStorage):
        await run_in_threadpool(local_storage.remove_stale_uploads, services.storage.directory, older_than=STALE_UPLOAD)
    listening = asyncio.create_task(services.changes.listen(), name="job-changes")
    try:
        yield
    finally:
        services.changes.close()
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        await run_in_threadpool(services.queue.close)
        await run_in_threadpool(services.database.close)
