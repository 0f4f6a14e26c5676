"""The worker of one machine: as many nodes beside each other as the layout has replicas.

Plans the layout and keeps a node running for each replica, a process of its own, so that a GPU that fails takes only
its own job along. A plan of one replica is run as a node in this very process. Knows processes and settings; the work
is the nodes'.

A replica that dies is started again, later each time; one that is refused is not. The worker ends with the `ExitStatus`
of its only node. With several it ends with 0 after SIGTERM, with 2 when every replica was refused, and with 1 when none
runs any more: then starting all of it afresh, which is the supervisor's part, may help more than starting again here.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence

from models.queues import Priority
from worker.gpus import visible_gpus
from worker.group.rank_process import RANK_MODULE
from worker.layout import Goal, ImpossiblePlan, Order, Plan, plan
from worker.memory_needs import Demand
from worker.node import ExitStatus, run_node, start_log
from worker.pipeline.errors import UnknownPreset
from worker.replica_process import NODE_MODULE, ReplicaProcess
from worker.settings import WorkerSettings

POLL_S = 0.1
ENDING_S = 30.0
"""For a node to end after its grace period: its group and its consumer have limits that add up to less."""

log = logging.getLogger(__name__)


def main(*, node_module: str = NODE_MODULE, rank_module: str = RANK_MODULE) -> None:
    """The entry point; ends the process with an `ExitStatus`."""
    settings = WorkerSettings()
    start_log(settings.node_name)
    try:
        made = plan_for(settings)
    except (ImpossiblePlan, UnknownPreset) as error:
        log.error("%s", error)
        raise SystemExit(ExitStatus.REFUSED) from None
    log.info("%s", made)
    for note in made.notes:
        log.warning("%s", note)
    if len(made.replicas) == 1:
        raise SystemExit(run_node(replica_settings(settings, made, 0), rank_module=rank_module))
    replicas = [
        ReplicaProcess(one.node_name, environment=_environment(one), module=node_module)
        for one in (replica_settings(settings, made, number) for number in range(len(made.replicas)))
    ]
    raise SystemExit(Machine(replicas, drain_grace_s=settings.drain_grace_s).run())


def plan_for(settings: WorkerSettings) -> Plan:
    """Raises `ImpossiblePlan` and `UnknownPreset`."""
    only_urgent = set(settings.priorities) == {Priority.HIGH}
    order = Order(
        Demand(settings.preset, settings.precision, settings.memory),
        layout=settings.layout if settings.ranks is None else f"1x{settings.ranks}",
        goal=Goal.LATENCY if only_urgent else Goal.THROUGHPUT,
        places=settings.gpus,
    )
    return plan(order, () if settings.device == "cpu" else visible_gpus())


def replica_settings(settings: WorkerSettings, made: Plan, number: int) -> WorkerSettings:
    """Of one node: `NAME-0`, `NAME-1` …, each with a port of its own; the worker's own name where it is the only one.

    Raises pydantic's `ValidationError`, as for a port that is too high.
    """
    replica = made.replicas[number]
    threads = settings.threads_per_rank or max(1, (os.cpu_count() or 1) // made.ranks)
    mine = {"layout": "auto", "ranks": replica.ranks, "gpus": replica.gpus or None, "threads_per_rank": threads}
    if len(made.replicas) > 1:
        mine["node_name"] = f"{settings.node_name}-{number}"
        mine["health_port"] = settings.health_port and settings.health_port + number
    return WorkerSettings.model_validate({**settings.model_dump(), **mine})


def _environment(settings: WorkerSettings) -> dict[str, str]:
    """What a replica's settings have that the worker's own environment has not."""
    return {
        "REALVIDEO_NODE_NAME": settings.node_name,
        "REALVIDEO_HEALTH_PORT": str(settings.health_port),
        "REALVIDEO_LAYOUT": settings.layout,
        "REALVIDEO_RANKS": str(settings.ranks),
        "REALVIDEO_GPUS": json.dumps(settings.gpus),
        "REALVIDEO_THREADS_PER_RANK": str(settings.threads_per_rank),
    }


class Machine:
    """Several replicas at once. One that fails does not disturb the others."""

    def __init__(self, replicas: Sequence[ReplicaProcess], *, drain_grace_s: float) -> None:
        self._replicas = replicas
        self._drain_grace_s = drain_grace_s
        self._signals = 0
        self._signaled = threading.Event()

    def run(self) -> ExitStatus:
        """Until a signal comes or no replica runs. Call it in the main thread, which the nodes are tied to."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._signaled.is_set():
                for replica in self._replicas:
                    replica.keep_running()
                if not any(replica.is_running for replica in self._replicas):
                    return self._none_is_left()
                self._signaled.wait(POLL_S)
            return self._drain()
        finally:
            for replica in self._replicas:
                replica.kill()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1
        self._signaled.set()

    def _none_is_left(self) -> ExitStatus:
        statuses = {replica.exit_status for replica in self._replicas}
        if ExitStatus.REFUSED in statuses and statuses <= {ExitStatus.REFUSED, ExitStatus.DRAINED}:
            log.error("every replica was refused")
            return ExitStatus.REFUSED
        if statuses == {ExitStatus.DRAINED}:
            return ExitStatus.DRAINED
        log.error("no replica runs any more")
        return ExitStatus.UNHEALTHY

    def _drain(self) -> ExitStatus:
        """Each signal goes on to every node; a second one hurries them."""
        running = [replica for replica in self._replicas if replica.is_running]
        log.info("draining %d of %d replicas", len(running), len(self._replicas))
        deadline = time.monotonic() + self._drain_grace_s + ENDING_S
        passed_on = 0
        while any(replica.is_running for replica in running):
            if time.monotonic() > deadline:
                log.error("%s did not end in time", ", ".join(one.name for one in running if one.is_running))
                return ExitStatus.UNHEALTHY
            if passed_on < self._signals:
                passed_on += 1
                for replica in running:
                    replica.ask_to_end()
            time.sleep(POLL_S)
        for replica in running:
            replica.kill()
        # a node that was told while it was still starting had no chance to say that it ended in good order
        in_order = {ExitStatus.DRAINED, -signal.SIGTERM}
        return ExitStatus.DRAINED if {one.exit_status for one in running} <= in_order else ExitStatus.UNHEALTHY


if __name__ == "__main__":
    main()
