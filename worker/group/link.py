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
from worker.group.session_messages import (
    AskForPlace,
    Hello,
    Lost,
    Outcome,
    StillHere,
    StoppedFor,
    StopReason,
    Unavailable,
)
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
        """Wait for a place on the node, while its group is warm, and hold it. Raises `GroupUnavailable`."""
        with self._connected() as connection:
            with _node_gone_told():
                connection.send(Hello(name))
                if not connection.poll(ANSWER_TIMEOUT_S):
                    raise GroupUnavailable("the node does not answer")
                answer = connection.recv()
            if isinstance(answer, Unavailable):
                raise GroupUnavailable(answer.reason)
            yield Session(connection)

    def wait_for_place(self, *, until: ShouldCancel) -> None:
        """Until the node would admit one more, or `until` is true.

        It may take as long as the longest render. Raises `GroupUnavailable` when the node is gone or goes away.
        """
        with self._connected() as connection, _node_gone_told():
            connection.send(AskForPlace())
            while not until():
                if connection.poll(POLL_S):
                    answer = connection.recv()
                    if isinstance(answer, Unavailable):
                        raise GroupUnavailable(answer.reason)
                    return

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
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
            yield connection


class Session:
    """A place on the node, held for one job."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """Wait for the turn, for all frames and for the file; others are drawn before and after meanwhile.

        `on_progress` tells the phases in this order: waiting, encoding, rendering, muxing. Raises as `Group.render`;
        also `RenderDrained` when the node stopped the render because it goes away, and `GroupUnavailable` when no group
        was warm in time.
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
                self._connection.send(Cancel(request.name))
                canceled_at = time.monotonic()
            if canceled_at is not None and time.monotonic() - canceled_at > CANCEL_TIMEOUT_S:
                raise GroupFailed("no_answer", f"the node did not stop the render within {CANCEL_TIMEOUT_S:g} s")


@contextmanager
def _node_gone_told() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionResetError, BrokenPipeError) as error:
        raise GroupUnavailable("the node hung up") from error
