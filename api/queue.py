"""Sends queued jobs to the workers, behind the requests' back. Knows the broker; knows nothing of HTTP.

A request that committed a job wakes the one thread here and goes on, so it is accepted whether the broker is up, down
or half open. The thread does what the reconciler does every few seconds anyway: it takes the jobs that are due and
publishes their ids. So nothing here retries, and a tenant's many jobs get no further ahead by this way.
"""

import logging
import threading
from collections.abc import Sequence

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from models.database import Database
from models.dispatch import Dispatch, forget_dispatch, take_undispatched
from models.queues import BROKER_SETTINGS, PUBLISHER_TRANSPORT_OPTIONS, Priority, TaskName, render_queue

logger = logging.getLogger(__name__)


class RenderQueue:
    """The way to the workers. The thread starts with the first call of `wake`."""

    def __init__(self, broker_url: str, database: Database) -> None:
        self._celery = Celery("realvideo.api", broker=broker_url, set_as_current=False)
        self._celery.conf.update({**BROKER_SETTINGS, "broker_transport_options": PUBLISHER_TRANSPORT_OPTIONS})
        self._database = database
        self._woken = threading.Event()
        self._is_closing = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Publish soon what is queued. Never blocks and never fails. Call it after the commit."""
        self._woken.set()
        with self._lock:
            if not self._is_closing and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="render-queue", daemon=True)
                self._thread.start()

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Publish what was asked for, for so long at most; the reconciler has the rest."""
        with self._lock:
            self._is_closing = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return  # it hangs at the broker, and ends with the process
        self._celery.close()

    def _run(self) -> None:
        while not self._is_closing:
            self._woken.wait()
            self._woken.clear()
            try:
                self._publish_due()
            except SQLAlchemyError as error:
                logger.warning("queued jobs are left to the reconciler: %s", error)

    def _publish_due(self) -> None:
        with self._database.transaction() as session:
            due = take_undispatched(session)
        unsent = due[self._publish(due) :]
        if unsent:
            with self._database.transaction() as session:
                forget_dispatch(session, [dispatch.job_id for dispatch in unsent])

    def _publish(self, due: Sequence[Dispatch]) -> int:
        """How many of them the broker took. After its first refusal the rest would only wait for more timeouts."""
        for number, dispatch in enumerate(due):
            try:
                self._celery.send_task(
                    TaskName.RENDER,
                    args=[dispatch.job_id],
                    queue=render_queue(dispatch.preset, Priority(dispatch.priority)),
                    ignore_result=True,
                    retry=False,
                )
            except (KombuError, RedisError, OSError) as error:
                logger.warning("the broker took no message for %d jobs: %s", len(due) - number, error)
                return number
        return len(due)
