"""The node's group as other processes of the node reach it: a Unix socket that only this user can open.

A client opens a session for one job and holds it until the job ends; closing it, or dying, stops a render of it within
about a block. Knows renders and who asked for them; nothing of SQL or of the ranks.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
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
from worker.group.warm_group import WarmGroup

POLL_S = 0.1
ACCEPT_POLL_S = 0.2
ADMISSION_TIMEOUT_S = 30.0
CANCEL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hello:
    """Client: this job wants the group."""

    name: str


@dataclass(frozen=True)
class Admitted:
    """Node: the group is warm and nobody else's until you hang up."""


@dataclass(frozen=True)
class Unavailable:
    """Node: not now."""

    reason: str


class StopReason(StrEnum):
    CANCELED = "canceled"  # the client asked for it
    DRAINING = "draining"  # the node is going away


@dataclass(frozen=True)
class StoppedFor:
    reason: StopReason


@dataclass(frozen=True)
class Lost:
    """The group went down under the render."""

    code: str
    message: str


Outcome = Finished | StoppedFor | Refused | Interrupted | Lost


class GroupServer:
    """Lets one client at a time use the group."""

    def __init__(self, group: WarmGroup, *, socket_path: Path, on_progress: OnProgress) -> None:
        """`socket_path` lies in a directory that only this user can enter. `on_progress` sees every client's."""
        self._group = group
        self._on_progress = on_progress
        self._socket_path = socket_path
        self._turn = threading.Lock()
        self._draining = threading.Event()
        self._closing = threading.Event()
        self._current: str | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._accept, name="group-server", daemon=True)

    def start(self) -> None:
        self._listener.bind(str(self._socket_path))
        self._socket_path.chmod(0o600)
        self._listener.listen()
        self._listener.settimeout(ACCEPT_POLL_S)
        self._thread.start()

    def drain(self) -> None:
        """Admit nobody more, and stop the render that runs at its next block border."""
        self._draining.set()

    def close(self) -> None:
        self._draining.set()
        self._closing.set()
        self._thread.join(timeout=5 * ACCEPT_POLL_S)
        self._listener.close()
        self._socket_path.unlink(missing_ok=True)

    @property
    def current(self) -> str | None:
        """What has the group now."""
        return self._current

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                accepted, _ = self._listener.accept()
            except TimeoutError:
                continue
            if not _is_same_user(accepted):
                accepted.close()
                continue
            accepted.setblocking(True)
            connection = Connection(accepted.detach())
            threading.Thread(target=self._serve, args=(connection,), name="group-session", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        """One session, to its end by either side."""
        with connection, suppress(EOFError, ConnectionResetError, BrokenPipeError):
            hello = connection.recv()
            assert isinstance(hello, Hello)
            with self._admitted(hello, connection) as refusal:
                if refusal is not None:
                    connection.send(Unavailable(refusal))
                    return
                connection.send(Admitted())
                while True:
                    message = connection.recv()  # without a limit: fetching and uploading take their time
                    if isinstance(message, RenderRequest):
                        connection.send(self._render(message, connection))

    @contextmanager
    def _admitted(self, hello: Hello, connection: Connection) -> Iterator[str | None]:
        """Holds the turn, with None; or the reason why there is none."""
        deadline = time.monotonic() + ADMISSION_TIMEOUT_S
        refusal = "the group is busy"
        while time.monotonic() < deadline and not self._draining.is_set():
            if connection.poll():  # it hung up, as it has nothing to say now
                connection.recv()
            if not self._turn.acquire(timeout=POLL_S):
                continue
            try:
                self._group.wait_until_ready(timeout_s=POLL_S)
            except GroupUnavailable as unavailable:
                self._turn.release()
                refusal = str(unavailable)
                continue
            self._current = hello.name
            try:
                yield None
            finally:
                self._current = None
                self._turn.release()
            return
        yield "the node is draining" if self._draining.is_set() else refusal

    def _render(self, request: RenderRequest, connection: Connection) -> Outcome:
        client = _Client(connection)

        def on_progress(progress: RenderProgress) -> None:
            self._on_progress(progress)
            client.tell(progress)

        def should_stop() -> bool:
            return client.wants_out() or self._draining.is_set()

        if self._draining.is_set():
            return StoppedFor(StopReason.DRAINING)
        try:
            return Finished(self._group.render(request, on_progress=on_progress, should_cancel=should_stop))
        except RenderCanceled:
            return StoppedFor(StopReason.CANCELED if client.wants_out() else StopReason.DRAINING)
        except RenderRefused as refused:
            return Refused(refused.code, refused.message)
        except RenderInterrupted as interrupted:
            return Interrupted(interrupted.code, interrupted.message)
        except GroupUnavailable as unavailable:
            return Interrupted("group_unavailable", str(unavailable))
        except GroupFailed as failure:
            if self._draining.is_set():
                return StoppedFor(StopReason.DRAINING)  # the node took it down itself
            return Lost(failure.code, failure.message)


class _Client:
    """The other end of a session while it renders."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_out = False

    def tell(self, progress: RenderProgress) -> None:
        try:
            self._connection.send(progress)
        except (BrokenPipeError, ConnectionResetError):
            self._is_out = True

    def wants_out(self) -> bool:
        """It sent a cancel, or is gone."""
        try:
            while not self._is_out and self._connection.poll():
                self._is_out = isinstance(self._connection.recv(), Cancel)
        except (EOFError, ConnectionResetError):
            self._is_out = True
        return self._is_out


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
            opened.connect(str(self._socket_path))
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
        """As `Group.render`; also raises `RenderDrained` when the node stopped the render because it goes away."""
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

    def _drive(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> Outcome:
        self._connection.send(request)
        canceled_at: float | None = None
        while True:
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
        if not connection.poll(2 * ADMISSION_TIMEOUT_S):
            raise GroupUnavailable("the node does not answer")
        answer = connection.recv()
    except (EOFError, ConnectionResetError, BrokenPipeError) as error:
        raise GroupUnavailable("the node hung up") from error
    if isinstance(answer, Unavailable):
        raise GroupUnavailable(answer.reason)


def _is_same_user(accepted: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.getuid())
