"""`run.py up` as the process a person starts, and everything it started, found by asking the kernel."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from infra.local.process import free_port
from infra.local.state import Connection, running_connection

READY_S = 150.0
STOP_S = 60.0
POLL_S = 0.1


class UpProcess:
    """One `python -m infra.local.up`, with a state directory of its own."""

    def __init__(
        self,
        state: Path,
        *,
        ranks: int,
        port: int | None = None,
        preset: str | None = "tiny",
        output: str = "terminal.txt",
    ) -> None:
        """`preset` None: none is named."""
        self.state = state
        self.port = port or free_port()
        self._output = state / output
        ours = {name: value for name, value in os.environ.items() if not name.startswith("REALVIDEO_")}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "infra.local.up"),
                    *("--state", str(state), "--port", str(self.port), "--ranks", str(ranks)),
                    *(() if preset is None else ("--preset", preset)),
                ],
                stdout=output,
                stderr=output,
                env={**ours, "OMP_NUM_THREADS": "1"},
            )

    @property
    def terminal(self) -> str:
        """What the person saw."""
        return self._output.read_text()

    def wait_until_up(self) -> Connection:
        connection: list[Connection] = []

        def found() -> bool:
            assert self.process.poll() is None, self.terminal
            connection.extend(filter(None, [running_connection(self.state)]))
            return bool(connection)

        wait_for(found, timeout_s=READY_S)
        return connection[0]

    def descendants(self) -> list[psutil.Process]:
        """Every process that it started, directly or not, and that still has it as an ancestor."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_for_a_rank(self) -> list[psutil.Process]:
        """All descendants, once a rank of the group is among them."""
        seen: list[psutil.Process] = []

        def has_rank() -> bool:
            assert self.process.poll() is None, self.terminal
            seen[:] = self.descendants()
            return any("worker.group.rank" in " ".join(command_line(process)) for process in seen)

        wait_for(has_rank, timeout_s=READY_S)
        return seen

    def interrupt(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def still_alive(processes: list[psutil.Process]) -> list[list[str]]:
    return [command_line(process) for process in processes if is_alive(process)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
        time.sleep(POLL_S)
