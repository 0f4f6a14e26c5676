"""The node's side of the socket by which other processes of the node reach its group.

A client has a place on the node from before it claims a job until the job ends: its video is prepared and finished
while others are drawn (`stations.py`). A client that cancels, hangs up or dies stops its render within about a block.
Knows renders and who asked for them; nothing of SQL or of the ranks.
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
from worker.group.group import DrawnVideo
from worker.group.messages import Cancel, Finished, Interrupted, Refused
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest
from worker.group.session_messages import (
    Admitted,
    AskForPlace,
    Hello,
    Lost,
    Outcome,
    StoppedFor,
    StopReason,
    Unavailable,
)
from worker.group.socket_address import short_address
from worker.group.stations import Station, Stations, Visit
from worker.group.warm_group import WarmGroup

POLL_S = 0.1
ACCEPT_POLL_S = 0.2
SILENCE_TIMEOUT_S = 30.0
TELL_WAITING_EVERY_S = 1.0
ADMISSION_TIMEOUT_S = 40.0
"""A cold group holds a message, or a job that waits, this long. Other nodes may have it then."""


class GroupServer:
    """Gives its clients places on the node, and the group in turn."""

    def __init__(self, group: WarmGroup, *, stations: Stations, socket_path: Path, on_progress: OnProgress) -> None:
        """`socket_path` lies in a directory that only this user can enter. `on_progress` sees every client's, from the
        threads of all of them."""
        self._group = group
        self._stations = stations
        self._on_progress = on_progress
        self._socket_path = socket_path
        self._turn = threading.Lock()
        self._draining = threading.Event()
        self._closing = threading.Event()
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
        """Admit nobody more, send away who waits, and stop what is drawn at its next block border.

        Files of what was drawn are finished.
        """
        self._draining.set()

    def close(self) -> None:
        self._draining.set()
        self._closing.set()
        self._thread.join(timeout=5 * ACCEPT_POLL_S)
        self._listener.close()
        self._socket_path.unlink(missing_ok=True)

    @property
    def current(self) -> str | None:
        """What has the group now, or comes next, or is finished."""
        return self._stations.current

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
        """One connection, to its end by either side."""
        with connection, suppress(EOFError, ConnectionResetError, BrokenPipeError):
            match connection.recv():
                case AskForPlace():
                    self._tell_of_place(connection)
                case Hello(name):
                    self._host(name, connection)

    def _tell_of_place(self, connection: Connection) -> None:
        while not self._draining.wait(POLL_S):
            if connection.poll():  # it hung up, as it has nothing to say now
                connection.recv()
            if self._why_cold() is None and self._stations.has_place():
                connection.send(Admitted())
                return
        connection.send(Unavailable("the node is draining"))

    def _host(self, name: str, connection: Connection) -> None:
        with self._admitted(name, connection) as visit:
            if isinstance(visit, Unavailable):
                connection.send(visit)
                return
            connection.send(Admitted())
            while True:
                message = connection.recv()  # without a limit: fetching and uploading take their time
                if isinstance(message, RenderRequest):
                    connection.send(self._render(message, visit, connection))

    @contextmanager
    def _admitted(self, name: str, connection: Connection) -> Iterator[Visit | Unavailable]:
        """A place on the node for as long as the block lasts; or why there is none."""
        deadline = time.monotonic() + ADMISSION_TIMEOUT_S
        refusal = "the group is busy"
        while time.monotonic() < deadline and not self._draining.is_set():
            if connection.poll():  # it hung up, as it has nothing to say now
                connection.recv()
            cold = self._why_cold()
            if cold is not None:
                refusal = cold
                continue
            visit = self._stations.admit(name, timeout_s=POLL_S)
            if visit is None:
                refusal = "the group is busy"
                continue
            try:
                yield visit
            finally:
                self._stations.leave(visit)
            return
        yield Unavailable("the node is draining" if self._draining.is_set() else refusal)

    def _why_cold(self) -> str | None:
        """None when the group is warm, or, after a moment, why it is not."""
        try:
            self._group.wait_until_ready(timeout_s=POLL_S)
        except GroupUnavailable as unavailable:
            self._draining.wait(POLL_S)  # it may have been said at once
            return str(unavailable)
        return None

    def _render(self, request: RenderRequest, visit: Visit, connection: Connection) -> Outcome:
        client = _Client(connection)
        try:
            drawn = self._draw_in_turn(request, visit, client)
        except RenderCanceled:
            return StoppedFor(StopReason.CANCELED if client.wants_out() else StopReason.DRAINING)
        except RenderRefused as refused:
            return Refused(request.name, refused.code, refused.message)
        except RenderInterrupted as interrupted:
            return Interrupted(request.name, interrupted.code, interrupted.message)
        except GroupUnavailable as error:
            return Unavailable(str(error))
        except GroupFailed as failure:
            if self._draining.is_set():
                return StoppedFor(StopReason.DRAINING)  # the node took it down itself
            return Lost(failure.code, failure.message)
        return self._finish(request, drawn, client)

    def _draw_in_turn(self, request: RenderRequest, visit: Visit, client: _Client) -> DrawnVideo:
        """Have rank 0 prepare it, wait until the video before it is drawn, and draw it.

        Raises as `WarmGroup.draw`, and `GroupUnavailable` only when the group stayed cold for too long.
        """

        def on_progress(progress: RenderProgress) -> None:
            self._on_progress(progress)
            self._stations.note(progress)
            client.tell(progress)

        def should_stop() -> bool:
            return client.wants_out() or self._draining.is_set()

        self._stations.move(visit, Station.WAITING)
        self._group.announce(request)
        cold_since: float | None = None
        while not should_stop():
            if not self._turn.acquire(timeout=POLL_S):
                client.tell_waiting(self._stations.moved_at)
                continue
            try:
                self._group.wait_until_ready(timeout_s=POLL_S)
                self._stations.move(visit, Station.DRAWING)
                try:
                    return self._group.draw(
                        request, wanted_since=visit.since, on_progress=on_progress, should_cancel=should_stop
                    )
                finally:
                    self._stations.move(visit, Station.FINISHING)
            except GroupUnavailable:
                self._stations.move(visit, Station.WAITING)
                cold_since = cold_since or time.monotonic()
                if time.monotonic() - cold_since > ADMISSION_TIMEOUT_S:
                    raise
            finally:
                self._turn.release()
            self._draining.wait(POLL_S)
        self._group.forget(request.name)
        raise RenderCanceled(f"{request.name} was not begun")

    def _finish(self, request: RenderRequest, drawn: DrawnVideo, client: _Client) -> Outcome:
        """The file, while others are drawn. A drain lets it be finished."""

        def on_progress(progress: RenderProgress) -> None:
            self._on_progress(progress)
            client.tell(progress)

        try:
            return Finished(request.name, drawn.finish(on_progress=on_progress, should_cancel=client.wants_out))
        except RenderCanceled:
            return StoppedFor(StopReason.CANCELED)
        except RenderInterrupted as interrupted:
            return Interrupted(request.name, interrupted.code, interrupted.message)
        except GroupFailed:
            if self._draining.is_set():
                return StoppedFor(StopReason.DRAINING)
            # not a crash of this job: another was drawn, if any
            return Interrupted(request.name, "group_died", "The group went down while the file was finished.")


class _Client:
    """The other end of a session while it renders. One that is frozen has no use for the group either."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_out = False
        self._heard_at = time.monotonic()
        self._told_of = 0.0

    def tell(self, progress: RenderProgress) -> None:
        try:
            self._connection.send(progress)
        except (BrokenPipeError, ConnectionResetError):
            self._is_out = True

    def tell_waiting(self, moved_at: float) -> None:
        """Its turn has not come, but the video before it moved then."""
        if moved_at > self._told_of + TELL_WAITING_EVERY_S:
            self._told_of = moved_at
            self.tell(RenderProgress(RenderPhase.WAITING, blocks_done=0, blocks_total=None))

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
