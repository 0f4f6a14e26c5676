"""The Celery worker beside a group: takes ids of jobs from the queues and begins their stories.

It takes one message at a time, and the next when the node would admit one more job: Celery's only thread waits for that
(`Stories.begin`), while the stories go on in threads of their own. Started by the node, which starts it again when it
dies. Knows Celery and which resources a job needs; the story itself is in `tasks/render.py`.
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
from worker.signs_of_life import show_signs_of_life
from worker.storage import open_storage
from worker.tasks.attempt_directories import AttemptDirectories
from worker.tasks.checkpointing import CheckpointRules
from worker.tasks.desk import RenderDesk
from worker.tasks.drain import Drain
from worker.tasks.render import Stories, register
from worker.tasks.video_identity import NetworkIdentity
from worker.weights.identity import weights_identity

MESSAGES_AT_ONCE = 1
HAND_BACK_MARGIN_S = 5.0
"""Before the end of the node's grace period, for the record and for Celery's own ending."""
HAND_BACK_GRACE_S = 2.0
"""Of that, for handing back what is still in work."""


def main(arguments: list[str]) -> int:
    """`parent-pid socket-path pipe` on the command line; the rest from the environment, as the node."""
    die_with_parent(int(arguments[0]))
    show_signs_of_life(int(arguments[2]))
    settings = WorkerSettings()
    log_format = f"%(asctime)s consumer of {settings.node_name} %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=log_format)
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
        attempts=AttemptDirectories(settings.attempts_directory),
        drain=drain,
        checkpoints=CheckpointRules(network=_network(settings), every_s=settings.checkpoint_every_s),
    )
    stories = Stories(desk)
    register(app, stories)
    worker = app.Worker(
        hostname=f"render@{settings.node_name}",
        queues=list(render_queues(settings.preset, settings.priorities)),
        pool="threads",
        concurrency=MESSAGES_AT_ONCE,
        without_gossip=True,
        without_mingle=True,
        loglevel=logging.INFO,
        quiet=True,
    )
    worker.start()
    stories.wait_until_all_ended(grace_s=HAND_BACK_GRACE_S)
    return int(worker.exitcode or 0)


def _network(settings: WorkerSettings) -> NetworkIdentity:
    return NetworkIdentity(
        preset=settings.preset,
        weights=weights_identity(settings.preset, settings.weights),
        precision=settings.precision,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
