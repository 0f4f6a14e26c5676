"""How a test orders what happens at a failpoint of another process: one small file for each order.

The test writes `orders/uploaded-node-1.order` with an action in it; the first process that comes to that failpoint on
that node takes the file away, so an order is carried out once, and leaves a note that it struck. It may also be for a
job's id, or for any process.
"""

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.failpoints import Failpoint

ANY = "any"
HOLD_TIMEOUT_S = 90.0


class Action(StrEnum):
    KILL = "kill"  # SIGKILL to the process itself
    FREEZE = "freeze"  # SIGSTOP to the process itself, until somebody sends SIGCONT
    HOLD = "hold"  # this thread waits until the order is released
    RAISE = "raise"


@dataclass(frozen=True)
class Struck:
    """An order that was carried out."""

    pid: int
    at: float
    """By `time.time`."""


class Surprise(Exception):
    """What `RAISE` raises: an error that the code under test cannot know."""


@dataclass(frozen=True)
class Order:
    """The test's handle of one order."""

    file: Path

    @property
    def struck(self) -> Struck | None:
        note = self.file.with_suffix(".struck")
        return Struck(**json.loads(note.read_text())) if note.exists() else None

    def release(self) -> None:
        """Let what is held go on."""
        self.file.with_suffix(".released").touch()


class Orders:
    """The directory that tests and the processes under test share."""

    def __init__(self, directory: Path, *, who: str = ANY) -> None:
        """`who` is the node that this process is of."""
        self._directory = directory
        self._who = who

    def give(self, action: Action, at: Failpoint, whom: str = ANY) -> Order:
        """`whom`: a node's name, a job's or a delivery's id."""
        file = self._file(at, whom)
        for suffix in (".struck", ".released"):
            file.with_suffix(suffix).unlink(missing_ok=True)
        unfinished = file.with_suffix(".written")
        unfinished.write_text(action)
        unfinished.rename(file)
        return Order(file)

    def withdraw_all(self) -> None:
        for file in self._directory.iterdir():
            if file.suffix == ".order":
                file.unlink(missing_ok=True)
                file.with_suffix(".released").touch()

    def strike(self, at: Failpoint, subject: str) -> None:
        """What a process under test calls at a failpoint."""
        for candidate in (subject, self._who, ANY):
            file = self._file(at, candidate)
            taken = file.with_suffix(f".{os.getpid()}")
            with contextlib.suppress(FileNotFoundError):
                file.rename(taken)
                action = Action(taken.read_text())
                taken.write_text(json.dumps({"pid": os.getpid(), "at": time.time()}))
                taken.rename(file.with_suffix(".struck"))
                self._act(action, file)
                return

    def _act(self, action: Action, file: Path) -> None:
        match action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.FREEZE:
                os.kill(os.getpid(), signal.SIGSTOP)
            case Action.HOLD:
                deadline = time.monotonic() + HOLD_TIMEOUT_S
                while not file.with_suffix(".released").exists() and time.monotonic() < deadline:
                    time.sleep(0.02)
            case Action.RAISE:
                raise Surprise(f"ordered at {file.stem}")

    def _file(self, at: Failpoint, whom: str) -> Path:
        return self._directory / f"{at}-{whom or ANY}.order"
