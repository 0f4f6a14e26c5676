"""The reconciler's process: elects a leader, does each duty in its time, and outlives outages of what it needs.

Knows time, leadership and outages; the duties are in `reconciler.py`. Any number may run. The one that holds the lock
works; a second leader, possible for a moment when a connection breaks, does no harm.
"""

import datetime as dt
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from pydantic import Field
from sqlalchemy import Connection, text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.database import Database, create_database_engine
from models.settings import CommonSettings
from worker.collecting import Collecting
from worker.collector import Collector
from worker.logs import configure_logging
from worker.outage import Outage
from worker.publisher import BrokerDown, Publisher
from worker.reconciler import Reconciler
from worker.storage import open_storage

LEADER_LOCK = 0x7265636F  # any number that no other lock of this database has
PUBLISH_EVERY_S = 1.0
RESCUE_EVERY_S = 5.0
PRUNE_EVERY_S = 600.0
STANDBY_S = 5.0
AFTER_DATABASE_ERROR_S = 2.0
AFTER_BROKER_ERROR_S = 5.0
STOP_TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class SchedulerSettings(CommonSettings):
    scheduler_alive_file: Path | None = Field(
        default=None, description="touched after each round, so that its age tells whether the scheduler works"
    )
    unused_uploads_kept_days: float = Field(
        default=7.0, ge=1.0, description="how long an upload is kept that no job has named"
    )


def main() -> None:
    """Runs until SIGTERM or SIGINT, and ends within seconds then, whatever hangs."""
    settings = SchedulerSettings()
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    scheduler = Scheduler(settings)
    # not in the main thread, so that a statement that hangs cannot keep a signal from ending the process
    thread = threading.Thread(target=scheduler.run, args=[stop], name="scheduler", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.wait(1):
        pass
    if not stop.is_set():
        raise SystemExit(1)  # the thread died, and its traceback is in the log
    thread.join(STOP_TIMEOUT_S)
    log.info("scheduler stopped", unfinished_round=thread.is_alive())


class Scheduler:
    """The loop. `run` returns once `stop` is set."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._broker_url = settings.broker_url
        self._alive_file = settings.scheduler_alive_file
        engine = create_database_engine(settings.database_url, application_name="realvideo-scheduler", pool_size=3)
        self._database = Database(engine)
        self._collector = Collector(
            self._database,
            open_storage(settings),
            unused_uploads_kept=dt.timedelta(days=settings.unused_uploads_kept_days),
        )
        self._database_outage = Outage("the database")
        self._broker_outage = Outage("the broker")

    def run(self, stop: threading.Event) -> None:
        with Publisher(self._broker_url) as publisher:
            reconciler = Reconciler(self._database, publisher)
            while not stop.is_set():
                try:
                    self._stand_or_lead(reconciler, stop)
                except (OperationalError, InterfaceError, PoolTimeoutError) as error:
                    self._database_outage.goes_on(error)
                    stop.wait(AFTER_DATABASE_ERROR_S)
                except SQLAlchemyError:
                    log.exception("a round failed")
                    stop.wait(AFTER_DATABASE_ERROR_S)
        self._database.close()

    def _stand_or_lead(self, reconciler: Reconciler, stop: threading.Event) -> None:
        with self._leadership() as leader:
            if leader is None:
                self._database_outage.is_over()
                self._show_alive()
                stop.wait(STANDBY_S)
                return
            log.info("leads")
            with Collecting(self._collector):
                self._lead(leader, reconciler, stop)

    def _lead(self, leader: Connection, reconciler: Reconciler, stop: threading.Event) -> None:
        rescue, publish, prune = Duty(RESCUE_EVERY_S), Duty(PUBLISH_EVERY_S), Duty(PRUNE_EVERY_S)
        while not stop.wait(min(duty.seconds_left() for duty in (rescue, publish, prune))):
            leader.execute(text("SELECT 1"))  # raises when the connection is gone, and the lock with it
            if rescue.is_due():
                reconciler.rescue()
            if publish.is_due() and not self._publish(reconciler):
                publish.postpone(AFTER_BROKER_ERROR_S)
            if prune.is_due():
                reconciler.prune()
            self._database_outage.is_over()
            self._show_alive()

    @contextmanager
    def _leadership(self) -> Iterator[Connection | None]:
        """The connection that holds the lock, or None while another process holds it."""
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.detach()  # closed afterwards, not pooled with the lock
            leads = connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LEADER_LOCK})
            yield connection if leads else None

    def _publish(self, reconciler: Reconciler) -> bool:
        try:
            reconciler.publish_jobs()
            reconciler.publish_deliveries()
        except BrokerDown as error:
            self._broker_outage.goes_on(error)
            return False
        self._broker_outage.is_over()
        return True

    def _show_alive(self) -> None:
        if self._alive_file is not None:
            self._alive_file.touch()


class Duty:
    """When something is to be done next."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = time.monotonic()

    def seconds_left(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def is_due(self) -> bool:
        """True once per period."""
        if self.seconds_left() > 0:
            return False
        self._next = time.monotonic() + self._every_s
        return True

    def postpone(self, seconds: float) -> None:
        self._next = time.monotonic() + seconds
