"""One server program as a child process: started, waited for, stopped, killed.

Knows processes, ports and log files; not what the program is. The child ends with the thread that started it, so
`start` belongs in a thread that lives as long as the server should: the main one.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LOG_TAIL_BYTES = 4_000
POLL_S = 0.03
PORT_TRIES = 3


class ServerError(Exception):
    """A server that does not run; the message ends with the last lines of its own log."""


class PortTakenError(ServerError):
    """Something else listens on the port."""


class DiskFullError(ServerError):
    """No space is left for the server's data."""


class NotExecutableError(ServerError):
    """The program is missing, or its user may not run it or reach its directory."""


class ServerDiedError(ServerError):
    """It ended by itself; the log says why."""


class NotReadyError(ServerError):
    """It runs, but gave no sign of readiness before the deadline."""


REASONS: tuple[tuple[str, type[ServerError]], ...] = (
    ("address already in use", PortTakenError),
    ("no space left on device", DiskFullError),
    ("disk quota exceeded", DiskFullError),
    ("cannot execute", NotExecutableError),
    ("permission denied", NotExecutableError),
)


@dataclass(frozen=True)
class Account:
    """The user a server runs as, when that is not the caller."""

    uid: int
    gid: int


class ServerProcess:
    """A command that is running or not."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is what the program gets beside the caller's own variables."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._stop_signal = stop_signal
        self._account = account
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._was_asked = False

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Launch it and return once `ready()` says so. Raises a `ServerError` and leaves no process otherwise."""
        assert not self.is_running, f"{self.name} runs already"
        self.log.touch(mode=0o600)
        self._log_start = self.log.stat().st_size
        self._process = self._launch(death_signal=self._stop_signal)
        try:
            self._wait_until(ready, timeout_s=timeout_s)
        except BaseException:
            self.kill()
            raise

    def run_to_end(self, *, timeout_s: float) -> None:
        """Launch a program that does one thing and ends. Raises a `ServerError` unless it ends well in time."""
        self.log.touch(mode=0o600)
        self._log_start = self.log.stat().st_size
        self._process = self._launch(death_signal=signal.SIGKILL)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotReadyError(self._told(f"did not end within {timeout_s:g} s")) from None
        if self._process.returncode != 0:
            raise self._death()

    def stop(self, *, timeout_s: float = 15) -> None:
        """Ask it to end in good order, and kill it when it has not by the deadline."""
        if self._process is None:
            return
        if self.is_running:
            self.ask_to_stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def ask_to_stop(self) -> None:
        """Only the question, and only once, for some programs take a second one as an order to hurry."""
        if self._process is not None and self.is_running and not self._was_asked:
            self._was_asked = True
            self._process.send_signal(self._stop_signal)
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to it and all that it started, as a crash of the machine would; returns when they are gone."""
        if self._process is None:
            return
        processes: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            parent.suspend()  # or it could start another child meanwhile
            processes = [*parent.children(recursive=True), parent]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)
        _wait_gone(processes, timeout_s=10)

    def log_tail(self) -> str:
        """What it wrote since its last start, at most the last few kilobytes."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()

    def _launch(self, *, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        self._was_asked = False
        return launch(
            self._command,
            log=self.log,
            death_signal=death_signal,
            account=self._account,
            environment=self._environment,
        )

    def _wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            if not self.is_running:
                raise self._death()
            if ready():
                return
            if self.is_running and time.monotonic() > deadline:
                raise NotReadyError(self._told(f"was not ready within {timeout_s:g} s"))
            time.sleep(POLL_S)

    def _death(self) -> ServerError:
        assert self._process is not None
        tail = self.log_tail().lower()
        kind = next((kind for words, kind in REASONS if words in tail), ServerDiedError)
        return kind(self._told(f"ended with status {self._process.returncode}"))

    def _told(self, what: str) -> str:
        return f"{self.name} {what} ({self._command[0]}); its log, {self.log}, ends:\n{self.log_tail() or '(empty)'}"


def _wait_gone(processes: Sequence[psutil.Process], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() > deadline:
                    raise ServerError(f"process {process.pid} outlived SIGKILL by {timeout_s:g} s")
                time.sleep(POLL_S)


def launch(
    command: Sequence[str],
    *,
    log: Path,
    death_signal: signal.Signals,
    account: Account | None,
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """The command in a session of its own, tied to the calling thread's life by `death_signal`."""
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    tied = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tied.py"))]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*tied, str(os.getpid()), str(int(death_signal)), str(uid), str(gid), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**os.environ, **environment},
            start_new_session=True,
        )


def run_on_a_port(run: Callable[[int], None], *, fixed: int | None) -> int:
    """Run a server on its fixed port, or on a free one, and return which.

    Somebody else may take a free port before the server does; then another is tried, three in all.
    """
    if fixed is not None:
        run(fixed)
        return fixed
    for _ in range(PORT_TRIES - 1):
        port = free_port()
        with contextlib.suppress(PortTakenError):
            run(port)
            return port
    port = free_port()
    run(port)
    return port


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
