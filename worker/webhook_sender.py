"""The process that delivers webhooks: a Celery worker with threads on the queue `webhooks`. Needs no GPU.

Knows how to start, stop and start again; the story of a delivery is in `tasks/webhooks.py`. A thread costs little while
it waits for a receiver, and there are many: one that begins to hang holds four for 15 seconds, all that are known to be
slow hold a quarter together (`models/deliveries.py`), and the others go on.
"""

import time
from typing import Any

import structlog
from celery import Celery

from models.database import Database, create_database_engine
from models.queues import WEBHOOK_QUEUE
from models.settings import CommonSettings
from worker.celery_app import create_app
from worker.logs import configure_logging
from worker.outbound import AddressPolicy, Client
from worker.tasks.webhooks import DeliveryDesk, register

THREADS = 256
DATABASE_CONNECTIONS = 16  # and as many again when busy; a thread that waits for a receiver holds none
RESTART_PAUSE_S = 1.0

log = structlog.get_logger(__name__)


def main() -> None:
    """Runs until SIGTERM or SIGINT; then it finishes the tries under way, 20 seconds if the record is there."""
    settings = CommonSettings()
    configure_logging()
    engine = create_database_engine(
        settings.database_url, application_name="realvideo-webhooks", pool_size=DATABASE_CONNECTIONS
    )
    policy = AddressPolicy.ANY if settings.allow_http_urls else AddressPolicy.PUBLIC
    app = create_app(settings.broker_url)
    register(app, DeliveryDesk(database=Database(engine), client=Client(policy)))
    while True:
        worker = create_worker(app)
        worker.start()
        if not worker.exitcode:
            return
        # Celery gives up when a message is not JSON; that message is gone, and the next ones are not to blame
        log.error("the Celery worker gave up; starting another", exit_code=worker.exitcode)
        time.sleep(RESTART_PAUSE_S)


def create_worker(app: Celery) -> Any:
    """A `celery.apps.worker.Worker`, which has no types."""
    return app.Worker(
        hostname="webhooks@%h",
        queues=[WEBHOOK_QUEUE],
        pool="threads",
        concurrency=THREADS,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
