"""Sweeps of the collector in a thread beside a leading scheduler, so that a storage that hangs holds up nothing else.

Knows threads, time and what an outage is; what is deleted is the collector's affair.
"""

import threading
from types import TracebackType

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.collector import Collector
from worker.outage import Outage
from worker.storage import StorageError

SWEEP_EVERY_S = 600.0
AFTER_ERROR_S = 60.0
STEP_PAUSE_S = 0.05  # so that a large bucket is read over minutes, and the record and the storage have time for others
STOP_TIMEOUT_S = 1.0

log = structlog.get_logger(__name__)


class Collecting:
    """A context: sweeps while inside of it, the first one at once.

    When it is left, a step that hangs is not waited for: it ends by the storage's time limits, and nothing follows.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._stop = threading.Event()
        self._storage_outage = Outage("the storage")
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause_s = AFTER_ERROR_S
            try:
                self._sweep()
                self._storage_outage.is_over()
                pause_s = SWEEP_EVERY_S
            except StorageError as error:
                self._storage_outage.goes_on(error)
            except (OperationalError, InterfaceError, PoolTimeoutError) as error:
                log.warning("a sweep broke off, the record is away", error=str(error))
            except Exception:
                log.exception("a sweep failed")  # what it did not reach is left for the next one
            self._stop.wait(pause_s)

    def _sweep(self) -> None:
        for _ in self._collector.sweep():
            if self._stop.wait(STEP_PAUSE_S):
                return
