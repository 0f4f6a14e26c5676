"""The Celery worker beside a group: takes ids of jobs from the queues and lives their story in a thread.

Started by the node, which starts it again when it dies. Knows Celery and which resources a job needs; the story itself
is in `tasks/render.py`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from celery import signals

from models.database import Database, create_database_engine
from models.queues import render_queues
from worker.celery_app import create_app
from worker.fetching import InputPlaces
from worker.group.link import GroupLink
from worker.processes import die_with_parent
from worker.settings import WorkerSettings
from worker.storage import open_storage
from worker.tasks.desk import RenderDesk
from worker.tasks.drain import Drain
from worker.tasks.render import register

JOBS_IN_FLIGHT = 1
HAND_BACK_MARGIN_S = 5.0
"""Before the end of the node's grace period, for the record and for Celery's own ending."""


def main(arguments: list[str]) -> int:
    """`parent-pid socket-path` on the command line; the rest from the environment, as the node."""
    die_with_parent(int(arguments[0]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s consumer %(levelname)s %(name)s: %(message)s")
    settings = WorkerSettings()
    drain = Drain(grace_s=max(0.0, settings.drain_grace_s - HAND_BACK_MARGIN_S))
    signals.worker_shutting_down.connect(lambda **_: drain.ask(), weak=False)
    engine = create_database_engine(settings.database_url, application_name=f"consumer {settings.node_name}")
    app = create_app(settings.broker_url)
    desk = RenderDesk(
        database=Database(engine),
        storage=open_storage(settings),
        places=InputPlaces.of(settings),
        link=GroupLink(Path(arguments[1])),
        node_name=settings.node_name,
        preset=settings.preset,
        attempts_directory=settings.attempts_directory,
        drain=drain,
    )
    register(app, desk)
    worker = app.Worker(
        hostname=f"render@{settings.node_name}",
        queues=list(render_queues(settings.preset, settings.priorities)),
        pool="threads",
        concurrency=JOBS_IN_FLIGHT,
        without_gossip=True,
        without_mingle=True,
        loglevel=logging.INFO,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
