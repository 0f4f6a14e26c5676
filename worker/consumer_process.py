"""The node's side of its Celery consumer: started, started again when it dies, asked to end, killed."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

from worker.processes import ending, kill_groups, start_child

CONSUMER_MODULE = "worker.consumer"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
LIVED_WELL_S = 30.0
"""A consumer that lived so long died of something new, and is started again at once."""
KILL_TIMEOUT_S = 3.0

log = logging.getLogger(__name__)


class ConsumerProcess:
    """One consumer, and the next when it dies. Use it from one thread that lives as long as the node."""

    def __init__(self, socket_path: Path, *, module: str = CONSUMER_MODULE) -> None:
        """`socket_path` is where the node's group listens."""
        self._socket_path = socket_path
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0

    def keep_running(self) -> None:
        """Start it unless it runs; after each quick death a little later. Never waits."""
        now = time.monotonic()
        if self._process is not None:
            how = ending(self._process)
            if how is None:
                return
            self.kill()
            lived_well = now - self._started_at > LIVED_WELL_S
            self._pause_s = FIRST_PAUSE_S if lived_well else min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._not_before = now + (0.0 if lived_well else self._pause_s)
            log.error("the consumer %s; starting it again", how)
        if now >= self._not_before:
            self._process = start_child(self._module, [str(self._socket_path)], environment={})
            self._started_at = now

    @property
    def is_running(self) -> bool:
        return self._process is not None and ending(self._process) is None

    def ask_to_end(self) -> None:
        """It takes no more messages and ends when its job has ended."""
        if self._process is not None and self.is_running:
            self._process.terminate()

    def kill(self) -> None:
        """Nothing of it is left after this, whatever it was doing."""
        if self._process is not None:
            left = kill_groups([self._process], timeout_s=KILL_TIMEOUT_S)
            if left:
                log.critical("process groups %s outlived SIGKILL", left)
            self._process = None
