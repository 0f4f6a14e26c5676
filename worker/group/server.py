"""The node's side of the socket by which other processes of the node reach its group.

One client at a time has the group, from before it claims a job until the job ends. A client that cancels, hangs up or
dies stops its render within about a block. Knows renders and who asked for them; nothing of SQL or of the ranks.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from worker.group.errors import GroupFailed, GroupUnavailable, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import Cancel, Finished, Interrupted, Refused
from worker.group.request import OnProgress, RenderProgress, RenderRequest
from worker.group.session_messages import Admitted, Hello, Lost, Outcome, StoppedFor, StopReason, Unavailable
from worker.group.socket_address import short_address
from worker.group.warm_group import WarmGroup

POLL_S = 0.1
ACCEPT_POLL_S = 0.2
SILENCE_TIMEOUT_S = 30.0
ADMISSION_TIMEOUT_S = 40.0
"""A cold group holds a message this long. The job's is sent again to other nodes meanwhile."""


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
        with short_address(self._socket_path) as address:
            self._listener.bind(address)
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

        unavailable = self._wait_until_warm(client)
        if unavailable is not None:
            return unavailable
        try:
            return Finished(self._group.render(request, on_progress=on_progress, should_cancel=should_stop))
        except RenderCanceled:
            return StoppedFor(StopReason.CANCELED if client.wants_out() else StopReason.DRAINING)
        except RenderRefused as refused:
            return Refused(refused.code, refused.message)
        except RenderInterrupted as interrupted:
            return Interrupted(interrupted.code, interrupted.message)
        except GroupUnavailable as error:
            return Unavailable(str(error))
        except GroupFailed as failure:
            if self._draining.is_set():
                return StoppedFor(StopReason.DRAINING)  # the node took it down itself
            return Lost(failure.code, failure.message)

    def _wait_until_warm(self, client: _Client) -> Unavailable | StoppedFor | None:
        """It was warm at admission; it may have gone down while the client fetched its inputs."""
        deadline = time.monotonic() + ADMISSION_TIMEOUT_S
        while not self._draining.is_set() and not client.wants_out():
            try:
                self._group.wait_until_ready(timeout_s=POLL_S)
            except GroupUnavailable as error:
                if time.monotonic() > deadline:
                    return Unavailable(str(error))
            else:
                return None
        return StoppedFor(StopReason.CANCELED if client.wants_out() else StopReason.DRAINING)


class _Client:
    """The other end of a session while it renders. One that is frozen has no use for the group either."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_out = False
        self._heard_at = time.monotonic()

    def tell(self, progress: RenderProgress) -> None:
        try:
            self._connection.send(progress)
        except (BrokenPipeError, ConnectionResetError):
            self._is_out = True

    def wants_out(self) -> bool:
        """It sent a cancel, is gone, or was silent for too long."""
        try:
            while not self._is_out and self._connection.poll():
                self._is_out = isinstance(self._connection.recv(), Cancel)
                self._heard_at = time.monotonic()
            self._is_out = self._is_out or time.monotonic() - self._heard_at > SILENCE_TIMEOUT_S
        except (EOFError, ConnectionResetError):
            self._is_out = True
        return self._is_out


def _is_same_user(accepted: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.getuid())
