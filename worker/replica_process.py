"""The machine's side of one replica: a node as a child process, started again when it dies, unless it was refused."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Mapping

from worker.node import ExitStatus
from worker.processes import ending, kill_groups, start_child

NODE_MODULE = "worker.node"
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
LIVED_WELL_S = 600.0
"""A node that lived so long died of something new."""
KILL_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class ReplicaProcess:
    """One node, and the next when it dies. Use it from one thread that lives as long as the machine's worker."""

    def __init__(self, name: str, *, environment: Mapping[str, str], module: str = NODE_MODULE) -> None:
        """`environment` is what the node gets beside this process's own."""
        self.name = name
        self.exit_status: int | None = None
        """Of the last node; negative: the signal that killed it. None: none has ended yet."""
        self._environment = environment
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._not_before: float | None = 0.0

    def keep_running(self) -> None:
        """Start it unless it runs or must not; after each quick death later. Never waits for long."""
        self._notice_end()
        if self._process is None and self._not_before is not None and time.monotonic() >= self._not_before:
            self._process = start_child(self._module, [], environment=self._environment)
            self._started_at = time.monotonic()

    @property
    def is_running(self) -> bool:
        return self._process is not None and ending(self._process) is None

    def ask_to_end(self) -> None:
        """It hands its job back and ends; told again, it hurries."""
        if self._process is not None and self.is_running:
            self._process.terminate()

    def kill(self) -> None:
        """Its ranks and its consumer are tied to it and end with it."""
        if self._process is None:
            return
        left = kill_groups([self._process], timeout_s=KILL_TIMEOUT_S)
        if left:
            log.critical("process groups %s outlived SIGKILL", left)
        self.exit_status = self._process.returncode
        self._process = None

    def _notice_end(self) -> None:
        how = None if self._process is None else ending(self._process)
        if how is None:
            return
        self.kill()
        now = time.monotonic()
        if self.exit_status == ExitStatus.DRAINED:
            log.warning("%s was ended by somebody else and is not started again", self.name)
            self._not_before = None
        elif self.exit_status == ExitStatus.REFUSED:
            log.error("%s was refused: it cannot run as it is configured", self.name)
            self._not_before = None
        else:
            lived_well = now - self._started_at > LIVED_WELL_S
            self._pause_s = FIRST_PAUSE_S if lived_well else self._pause_s
            log.error("%s %s; it is started again in %g s", self.name, how, self._pause_s)
            self._not_before = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
