"""The node's row in `worker_nodes`, written every few seconds for people to look at; a request to drain is found there.

No job depends on it: when the record is away, the node goes on and writes again later.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import logging
import threading
from collections.abc import Callable

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from models.database import Database, create_database_engine
from models.worker_node import NodeState, WorkerNode
from worker.group.server import GroupServer
from worker.group.warm_group import GroupState, WarmGroup
from worker.node_metrics import NodeMetrics
from worker.settings import WorkerSettings

REPORT_EVERY_S = 3.0
NOTICE_EVERY_S = 0.2
STOP_TIMEOUT_S = 5.0

NODE_STATE = {
    GroupState.STARTING: NodeState.STARTING,
    GroupState.READY: NodeState.READY,
    GroupState.BUSY: NodeState.BUSY,
    GroupState.REFUSED: NodeState.UNHEALTHY,
    GroupState.UNHEALTHY: NodeState.UNHEALTHY,
    GroupState.CLOSED: NodeState.STOPPED,
}

log = logging.getLogger(__name__)


class NodeReport:
    """Writes the row in a thread of its own, at once when the state or the job changes and else every few seconds."""

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        group: WarmGroup,
        server: GroupServer,
        metrics: NodeMetrics,
        on_drain: Callable[[], None],
    ) -> None:
        """`on_drain` is called once, by the thread of the report, when somebody asks for it."""
        engine = create_database_engine(
            settings.database_url, application_name=f"node {settings.node_name}", pool_size=1
        )
        self._database = Database(engine)
        self._settings = settings
        self._group = group
        self._server = server
        self._metrics = metrics
        self._started_at = dt.datetime.now(dt.UTC)
        self._on_drain = on_drain
        self._has_cleared = False
        self._is_drain_passed_on = False
        self._said: NodeState | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-report", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, state: NodeState) -> None:
        """From now on this is the state, whatever the group's is."""
        self._said = state

    def stop(self) -> None:
        """Write a last time: stopped, unless the node is unhealthy."""
        if self._said is not NodeState.UNHEALTHY:
            self._said = NodeState.STOPPED
        self._stopping.set()
        self._thread.join(timeout=STOP_TIMEOUT_S)
        self._database.close()

    def _run(self) -> None:
        written: tuple[NodeState, str | None] | None = None
        quiet_s = 0.0
        while not self._stopping.wait(NOTICE_EVERY_S):
            quiet_s += NOTICE_EVERY_S
            now = (self._state(), self._server.current)
            if now != written or quiet_s >= REPORT_EVERY_S:
                written, quiet_s = now, 0.0
                self._write(now[0])
        self._write(self._state())

    def _state(self) -> NodeState:
        if self._said is not None:
            return self._said
        state = NODE_STATE[self._group.status.state]
        return NodeState.BUSY if state is NodeState.READY and self._server.current is not None else state

    def _write(self, state: NodeState) -> None:
        status = self._group.status
        moved_at = self._metrics.last_progress_at
        now = {
            "state": state,
            "preset": self._settings.preset,
            "ranks": self._settings.ranks or 1,
            "devices": [
                {
                    "name": device.name,
                    "memory_total_bytes": device.memory_total_bytes,
                    "memory_used_bytes": device.memory_used_bytes,
                }
                for device in status.devices
            ],
            "current_job_id": self._server.current,
            "group_restarts": status.restarts,
            "version": importlib.metadata.version("realvideo-batch"),
            "started_at": self._started_at,
            "last_seen_at": func.now(),
            "last_progress_at": None if moved_at is None else dt.datetime.fromtimestamp(moved_at, dt.UTC),
        }
        if not self._has_cleared:
            now["drain_requested_at"] = None  # that was meant for the node before this one
        row = insert(WorkerNode).values(name=self._settings.node_name, **now)
        try:
            with self._database.transaction() as session:
                asked_at = session.scalar(
                    row.on_conflict_do_update(index_elements=[WorkerNode.name], set_=now).returning(
                        WorkerNode.drain_requested_at
                    )
                )
        except SQLAlchemyError as error:
            log.warning("the node's row was not written: %s", error)
            return
        self._has_cleared = True
        if asked_at is not None and not self._is_drain_passed_on:
            self._is_drain_passed_on = True
            log.info("asked to drain")
            self._on_drain()
