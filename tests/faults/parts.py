"""Processes under test, as a test holds them: started, killed, frozen, and looked into. Knows no job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil

from tests.unit.group.conftest import members_of
from tests.waiting import wait_for

START_TIMEOUT_S = 60.0


class Part:
    """One process with all it starts. `start` belongs in the main thread, which the process is tied to."""

    def __init__(self, kind: str, *, name: str, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._kind = kind
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.part", str(os.getpid()), self._kind],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """What it has logged since its last start."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait_for_end(self, *, timeout_s: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """SIGKILL to the process; what it started has to end by itself."""
        if self.is_running:
            self.send(signal.SIGKILL)
            self.wait_for_end(timeout_s=10)

    def is_ready(self) -> bool:
        return self.is_running

    def keep_until_ready(self) -> None:
        """As `wait_until_ready`, and started again when it ends meanwhile, as one does that was told to."""

        def is_ready() -> bool:
            if not self.is_running:
                self.start()
            return self.is_ready()

        wait_for(is_ready, timeout_s=START_TIMEOUT_S)

    def wait_until_ready(self) -> None:
        wait_for(lambda: not self.is_running or self.is_ready(), timeout_s=START_TIMEOUT_S)
        assert self.is_running, self.said()[-4000:]


class Api(Part):
    def is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "/healthz", timeout=2, trust_env=False, verify=False).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._environment['REALVIDEO_API_PORT']}"


class Scheduler(Part):
    def is_ready(self) -> bool:
        return "leads" in self.said()


class Sender(Part):
    """It says nothing when it is ready; what it is to send waits for it."""


class Node(Part):
    """A node with its consumer and ranks."""

    def is_ready(self) -> bool:
        said = self.said()
        if "health at " not in said or f"render@{self.name} ready." not in said:
            return False
        try:
            return self.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def get(self, path: str) -> httpx.Response:
        address = self.said().split("health at ")[1].split()[0]
        return httpx.get(address + path, timeout=5, trust_env=False, verify=False)

    def rank_pids(self) -> list[int]:
        return [child.pid for child in self._children() if "rank" in _command(child)]

    def consumer_pid(self) -> int | None:
        """None: it is being started again."""
        return next((child.pid for child in self._children() if "armed_consumer" in _command(child)), None)

    def wait_for_consumer(self) -> int:
        wait_for(lambda: self.consumer_pid() is not None, timeout_s=START_TIMEOUT_S)
        pid = self.consumer_pid()
        assert pid is not None
        return pid

    def groups(self) -> tuple[int, ...]:
        """The process groups of all it started."""
        return tuple(child.pid for child in self._children())

    def kill_and_see_nothing_left(self) -> None:
        groups = self.groups()
        self.kill()
        wait_for(lambda: members_of(groups) == [], timeout_s=10)

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []


def signal_all(number: signal.Signals, *pids: int) -> float:
    """The time (`time.time`) at which they had it."""
    for pid in pids:
        os.kill(pid, number)
    return time.time()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
