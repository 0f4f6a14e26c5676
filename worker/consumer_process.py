"""The node's side of its Celery consumer: started, started again when it dies or freezes, asked to end, killed."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

from worker.processes import ending, kill_groups, start_child
from worker.signs_of_life import SignsOfLife

CONSUMER_MODULE = "worker.consumer"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
LIVED_WELL_S = 30.0
"""A consumer that lived so long died of something new, and is started again at once."""
KILL_TIMEOUT_S = 3.0
QUIET_S = 10.0
"""Without a sign of life, and the node does not call itself ready."""
FROZEN_S = 30.0
"""Without a sign of life, and it is killed and started again: half of what a lease waits."""

log = logging.getLogger(__name__)


class ConsumerProcess:
    """One consumer, and the next when it dies. Use it from one thread that lives as long as the node."""

    def __init__(self, socket_path: Path, *, module: str = CONSUMER_MODULE) -> None:
        """`socket_path` is where the node's group listens."""
        self._socket_path = socket_path
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._signs: SignsOfLife | None = None
        self._silent_s = 0.0
        self._started_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0

    def keep_running(self) -> None:
        """Start it unless it runs; after each quick death a little later. Waits for nothing but a frozen one's end."""
        now = time.monotonic()
        if self._process is not None:
            how = ending(self._process) or self._frozen()
            if how is None:
                return
            self.kill()
            lived_well = now - self._started_at > LIVED_WELL_S
            self._pause_s = FIRST_PAUSE_S if lived_well else min(2 * self._pause_s, LONGEST_PAUSE_S)
            self._not_before = now + (0.0 if lived_well else self._pause_s)
            log.error("the consumer %s; starting it again", how)
        if now >= self._not_before:
            self._start()
            self._started_at = now

    @property
    def is_running(self) -> bool:
        return self._process is not None and ending(self._process) is None

    @property
    def is_lively(self) -> bool:
        """It runs and is not frozen, as far as `keep_running` saw."""
        return self.is_running and self._silent_s < QUIET_S

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
        if self._signs is not None:
            self._signs.close()
            self._signs = None

    def _start(self) -> None:
        self._signs = signs = SignsOfLife()
        self._silent_s = 0.0
        try:
            self._process = start_child(
                self._module,
                [str(self._socket_path), str(signs.write_end)],
                environment={},
                pass_fds=[signs.write_end],
            )
        finally:
            signs.handed_over()

    def _frozen(self) -> str | None:
        assert self._signs is not None
        self._silent_s = self._signs.silent_s()
        return f"gave no sign of life for {FROZEN_S:g} s" if self._silent_s > FROZEN_S else None
