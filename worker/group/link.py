"""A client's way to the node's group: a Unix socket that only this user can open. See `server.py`."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from worker.group.errors import (
    GroupFailed,
    GroupUnavailable,
    RenderCanceled,
    RenderDrained,
    RenderInterrupted,
    RenderRefused,
)
from worker.group.messages import Cancel, Finished, Interrupted, Refused
from worker.group.request import OnProgress, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.group.session_messages import Hello, Lost, Outcome, StillHere, StoppedFor, StopReason, Unavailable
from worker.group.socket_address import short_address

POLL_S = 0.1
SIGN_OF_LIFE_EVERY_S = 2.0
ANSWER_TIMEOUT_S = 60.0
CANCEL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0


class GroupLink:
    """A client's way to the node's group."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    @contextmanager
    def session(self, name: str) -> Iterator[Session]:
        """Wait for the group to be warm and free, and hold it. Raises `GroupUnavailable`."""
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(CONNECT_TIMEOUT_S)
        try:
            with short_address(self._socket_path) as address:
                opened.connect(address)
        except OSError as error:
            opened.close()
            raise GroupUnavailable(f"the node does not listen: {error}") from error
        opened.setblocking(True)
        with Connection(opened.detach()) as connection:
            _be_admitted(connection, name)
            yield Session(connection)


class Session:
    """The group, held for one job."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """As `Group.render`; also raises `RenderDrained` when the node stopped the render because it goes away, and
        `GroupUnavailable` when no group was warm in time.
        """
        try:
            outcome = self._drive(request, on_progress=on_progress, should_cancel=should_cancel)
        except (EOFError, ConnectionResetError, BrokenPipeError) as error:
            raise GroupFailed("node_gone", "the node closed the connection") from error
        match outcome:
            case Finished():
                return outcome.result
            case StoppedFor(StopReason.DRAINING):
                raise RenderDrained("the node is draining")
            case StoppedFor():
                raise RenderCanceled(f"{request.name} was stopped")
            case Refused():
                raise RenderRefused(outcome.code, outcome.message)
            case Interrupted():
                raise RenderInterrupted(outcome.code, outcome.message)
            case Lost():
                raise GroupFailed(outcome.code, outcome.message)
            case Unavailable():
                raise GroupUnavailable(outcome.reason)

    def _drive(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> Outcome:
        self._connection.send(request)
        said_at = time.monotonic()
        canceled_at: float | None = None
        while True:
            if time.monotonic() - said_at > SIGN_OF_LIFE_EVERY_S:
                self._connection.send(StillHere())
                said_at = time.monotonic()
            if self._connection.poll(POLL_S):
                message: RenderProgress | Outcome = self._connection.recv()
                if not isinstance(message, RenderProgress):
                    return message
                on_progress(message)
            if canceled_at is None and should_cancel():
                self._connection.send(Cancel())
                canceled_at = time.monotonic()
            if canceled_at is not None and time.monotonic() - canceled_at > CANCEL_TIMEOUT_S:
                raise GroupFailed("no_answer", f"the node did not stop the render within {CANCEL_TIMEOUT_S:g} s")


def _be_admitted(connection: Connection, name: str) -> None:
    try:
        connection.send(Hello(name))
        if not connection.poll(ANSWER_TIMEOUT_S):
            raise GroupUnavailable("the node does not answer")
        answer = connection.recv()
    except (EOFError, ConnectionResetError, BrokenPipeError) as error:
        raise GroupUnavailable("the node hung up") from error
    if isinstance(answer, Unavailable):
        raise GroupUnavailable(answer.reason)
