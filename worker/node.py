"""One node: a process that keeps a warm group, and a Celery consumer beside it that feeds the group with jobs.

The consumer is a child of its own because a single malformed message ends a Celery worker; the group and its weights
outlive that. Knows processes and the order of starting and stopping them; the story of a job is in `tasks/render.py`.

It ends with status 0 after SIGTERM or a request to drain, 1 when the group failed too often, 2 when it can never run as
it is configured.
"""

import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from pathlib import Path

from models.worker_node import NodeState
from worker.consumer_process import CONSUMER_MODULE, ConsumerProcess
from worker.group.failures import RestartBudget
from worker.group.group import Group
from worker.group.rank_process import RANK_MODULE
from worker.group.server import GroupServer
from worker.group.stations import Stations
from worker.group.warm_group import GroupState, WarmGroup
from worker.health import HealthServer, PortTaken
from worker.node_metrics import NodeMetrics
from worker.node_report import NodeReport
from worker.processes import die_with_parent
from worker.settings import WorkerSettings

POLL_S = 0.1
HURRY_S = 5.0
"""After a second SIGTERM, for handing back the job."""

log = logging.getLogger(__name__)


class ExitStatus(IntEnum):
    DRAINED = 0
    UNHEALTHY = 1
    REFUSED = 2  # starting it again as it is would not help


def main(arguments: list[str], *, rank_module: str = RANK_MODULE) -> None:
    """The process of a node beside others: `parent-pid` on the command line. Ends it with an `ExitStatus`."""
    die_with_parent(int(arguments[0]))
    settings = WorkerSettings()
    start_log(settings.node_name)
    raise SystemExit(run_node(settings, rank_module=rank_module))


def start_log(node_name: str) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {node_name} %(levelname)s %(name)s: %(message)s")


def run_node(
    settings: WorkerSettings, *, rank_module: str = RANK_MODULE, consumer_module: str = CONSUMER_MODULE
) -> ExitStatus:
    """One node, in this process, until it ends."""
    try:
        return Node(settings, rank_module=rank_module, consumer_module=consumer_module).run()
    except (NodeNameTaken, PortTaken) as error:
        log.error("%s", error)
        return ExitStatus.REFUSED


class Node:
    """Owns the group, the consumer, the health server and the node's row."""

    def __init__(
        self, settings: WorkerSettings, *, rank_module: str = RANK_MODULE, consumer_module: str = CONSUMER_MODULE
    ) -> None:
        group_settings = settings.group_settings()
        self._settings = settings
        self._consumer_module = consumer_module
        self._signals = 0
        self._signaled = threading.Event()
        self._group = WarmGroup(
            lambda: Group(group_settings, rank_module=rank_module),
            budget=RestartBudget(failures=settings.group_failures_allowed),
        )
        self._stations = Stations()
        self._metrics = NodeMetrics(self._group, stations=self._stations)

    def run(self) -> ExitStatus:
        """Until a signal or a request to drain comes, or the group is given up.

        Call it in the main thread, which its children are tied to.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with ExitStack() as stack:
            stack.enter_context(_own_directory(self._settings.node_directory))
            socket_path = self._settings.node_directory / "group.sock"
            server = GroupServer(
                self._group, stations=self._stations, socket_path=socket_path, on_progress=self._metrics.on_progress
            )
            consumer = ConsumerProcess(socket_path, module=self._consumer_module)
            report = NodeReport(
                self._settings, group=self._group, server=server, metrics=self._metrics, on_drain=self._signaled.set
            )
            health = HealthServer(
                host=self._settings.health_host,
                port=self._settings.health_port,
                is_ready=lambda: self._is_ready(consumer),
                registry=self._metrics.registry,
            )
            stack.callback(report.stop)
            report.start()
            stack.callback(self._group.close)
            self._group.start()
            stack.callback(health.close)
            health.start()
            stack.callback(server.close)
            server.start()
            stack.callback(consumer.kill)
            status = self._watch(consumer)
            if status is not ExitStatus.DRAINED:
                log.error("the node ends: %s", self._group.status.reason)
            report.say(NodeState.DRAINING if status is ExitStatus.DRAINED else NodeState.UNHEALTHY)
            self._drain(consumer, server)
        return status

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1
        self._signaled.set()

    def _watch(self, consumer: ConsumerProcess) -> ExitStatus:
        """Keep the consumer running from when the group was ready for the first time."""
        has_been_ready = False
        while not self._signaled.wait(POLL_S):
            status = self._group.status
            match status.state:
                case GroupState.REFUSED:
                    return ExitStatus.REFUSED
                case GroupState.UNHEALTHY:
                    return ExitStatus.UNHEALTHY
                case GroupState.READY if not has_been_ready:
                    has_been_ready = True
                    log.info("the group is ready: ranks %s", status.pids)
            if has_been_ready:
                consumer.keep_running()
        return ExitStatus.DRAINED

    def _drain(self, consumer: ConsumerProcess, server: GroupServer) -> None:
        """Take no more jobs, and give the one that runs the time to be handed back."""
        log.info("draining")
        deadline = time.monotonic() + self._settings.drain_grace_s
        consumer.ask_to_end()
        server.drain()
        is_hurried = False
        while consumer.is_running and time.monotonic() < deadline:
            if self._signals > 1 and not is_hurried:
                is_hurried = True
                deadline = min(deadline, time.monotonic() + HURRY_S)
                consumer.ask_to_end()  # the second time: the job is handed back as it is
                self._group.close()
            time.sleep(POLL_S)
        if consumer.is_running:
            log.warning("the consumer did not end in time; its job goes on elsewhere when its lease has expired")

    def _is_ready(self, consumer: ConsumerProcess) -> bool:
        is_warm = self._group.status.state in (GroupState.READY, GroupState.BUSY)
        return is_warm and consumer.is_lively and not self._signaled.is_set()


@contextmanager
def _own_directory(directory: Path) -> Iterator[None]:
    """The node's directory, locked, empty and closed to other users.

    Raises `NodeNameTaken` when another node of this name has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeNameTaken(f"another node works in {directory}; set REALVIDEO_NODE_NAME") from None
        _empty(directory)  # of what a killed node left
        yield
        _empty(directory)
    finally:
        os.close(descriptor)


class NodeNameTaken(Exception):
    """Two nodes of one name on one machine."""


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
