"""Several nodes on one machine: they render at once, one dies alone, all are drained together."""

import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import func, select, update

from models import transitions
from models.job import Attempt, Job, JobStatus
from models.worker_node import NodeState, WorkerNode
from tests.integration.worker.nodes import REAL_NODE, STAND_IN_NODE, NodeProcess, Surroundings
from tests.waiting import wait_for


@pytest.mark.timeout(180)
def test_two_replicas_render_at_once_and_when_one_is_killed_the_other_goes_on(around: Surroundings) -> None:
    with _machine(around, layout="2x2") as machine:
        _wait_until_both_are(around, NodeState.READY)
        assert {row.ranks for row in _rows(around)} == {2}
        jobs = _jobs_for_both(around, seconds=12)
        lost, kept = (_job_drawn_on(around, jobs, name) for name in ("node-1-0", "node-1-1"))
        assert lost.id != kept.id

        killed = _node_of(machine, "node-1-0")
        started_by_it = killed.children(recursive=True)
        killed.kill()
        wait_for(lambda: not any(_lives(process) for process in started_by_it))
        blocks = around.row(kept).blocks_done
        wait_for(lambda: around.row(kept).blocks_done > blocks + 2)
        row = around.wait_for_status(kept, JobStatus.SUCCEEDED)
        assert (row.crash_count, row.attempt) == (0, 1)

        # it comes back, and its job goes on when its lease has ended
        wait_for(lambda: _node_of(machine, "node-1-0").pid != killed.pid, timeout_s=30)
        _let_leases_of_the_dead_end(around, "node-1-0")
        around.publish(lost)
        row = around.wait_for_status(lost, JobStatus.SUCCEEDED, timeout_s=60)
        assert (row.crash_count, row.attempt) == (1, 2)


def test_both_replicas_hand_their_jobs_back_when_the_machine_is_told_to_end(around: Surroundings) -> None:
    with _machine(around, layout="2x1") as machine:
        _wait_until_both_are(around, NodeState.READY)
        jobs = _jobs_for_both(around, seconds=120)
        started = psutil.Process(machine.process.pid).children(recursive=True)
        machine.send(signal.SIGTERM)
        assert machine.wait_for_end(timeout_s=30) == 0
        assert not any(_lives(process) for process in started)
    assert {row.state for row in _rows(around)} == {NodeState.STOPPED}
    for job in jobs:
        row = around.row(job)
        assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 0, 0)


def test_a_killed_machine_leaves_no_process(around: Surroundings) -> None:
    with _machine(around, layout="2x1") as machine:
        _wait_until_both_are(around, NodeState.READY)
        this = psutil.Process(machine.process.pid)
        wait_for(lambda: len(this.children(recursive=True)) >= 6)  # two nodes, each with a rank and a consumer
        started = this.children(recursive=True)
        machine.process.kill()
        wait_for(lambda: not any(_lives(process) for process in started))


def test_a_machine_whose_replicas_are_all_refused_is_refused(around: Surroundings) -> None:
    with _machine(around, layout="2x4", preset="impossible") as machine:
        assert machine.wait_for_end(timeout_s=60) == 2
        assert machine.log.read_text().count("possible: 1, 2, 3") >= 2


def test_a_machine_none_of_whose_replicas_lives_is_unhealthy(around: Surroundings) -> None:
    with _machine(around, layout="2x1", preset="broken", group_failures_allowed=0) as machine:
        assert machine.wait_for_end(timeout_s=60) == 1
        assert "no replica runs any more" in machine.log.read_text()


def test_a_layout_that_needs_gpus_is_refused_without_any(around: Surroundings) -> None:
    with _machine(around, layout="throughput") as machine:
        assert machine.wait_for_end(timeout_s=60) == 2
        assert "layout throughput is for GPUs, and none can be seen" in machine.log.read_text()


@pytest.mark.timeout(300)
def test_ranks_are_told_the_gpus_that_the_plan_gives_them(
    around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nfor n in 7 8; do echo NVIDIA H200, GPU-$n, 143771, 9.0; done\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8,GPU-7")  # two that PyTorch cannot find, whatever machine this is
    machine = NodeProcess(
        around, module=REAL_NODE, name="node-1", settings={"device": "auto", "priorities": '["high"]'}
    )
    try:
        assert machine.wait_for_end(timeout_s=120) == 2
        log = machine.log.read_text()
        assert "layout latency-shared: 3 ranks on GPUs 0 0 1" in log
        assert re.search(r"rank \d of 3 is to run on GPU [01], and PyTorch \S+ finds 0", log)
    finally:
        machine.kill_everything()


def test_each_replica_answers_at_a_port_of_its_own(around: Surroundings) -> None:
    first = _two_free_ports()
    with _machine(around, layout="2x1", health_port=first) as machine:
        for port in (first, first + 1):
            wait_for(partial(_answers, machine, port), timeout_s=60)


def test_a_node_for_urgent_jobs_leaves_the_others(around: Surroundings) -> None:
    with around.node(priorities='["high"]') as node:
        normal, urgent = around.job(), around.job(priority="high")
        around.publish(normal)
        around.publish(urgent)
        around.wait_for_status(urgent, JobStatus.SUCCEEDED)
        with pytest.raises(AssertionError):  # it would be taken as soon as the urgent one is done
            wait_for(lambda: around.row(normal).attempt > 0, timeout_s=3)
        assert not node.has_ended


@pytest.mark.timeout(300)
def test_two_replicas_of_the_real_network_draw_videos_at_once(around: Surroundings) -> None:
    machine = NodeProcess(around, module=REAL_NODE, name="node-1", settings={"layout": "2x1"})
    try:
        _wait_until_both_are(around, NodeState.READY, timeout_s=180)
        jobs = [around.job(seconds=4) for _ in range(4)]
        for job in jobs:
            around.publish(job)
        _wait_until_both_are(around, NodeState.BUSY, timeout_s=30)
        for job in jobs:
            row = around.wait_for_status(job, JobStatus.SUCCEEDED, timeout_s=120)
            assert row.result_key is not None
            assert (around.objects / row.result_key).stat().st_size > 0
        machine.send(signal.SIGTERM)
        assert machine.wait_for_end(timeout_s=30) == 0
    finally:
        machine.kill_everything()
    with around.database.transaction() as session:
        workers = session.scalars(select(Attempt.worker)).all()
    assert set(workers) == {"node-1-0", "node-1-1"}


@pytest.mark.timeout(300)
def test_a_precision_that_processors_do_not_have_is_refused_in_words(around: Surroundings) -> None:
    node = NodeProcess(around, module=REAL_NODE, name="node-1", settings={"precision": "fp8"})
    try:
        assert node.wait_for_end(timeout_s=120) == 2
        assert "precision fp8 needs an NVIDIA GPU" in node.log.read_text()
    finally:
        node.kill_everything()


@contextmanager
def _machine(around: Surroundings, **settings: object) -> Iterator[NodeProcess]:
    """A machine's worker with stand-in networks; killed with all it started when the block ends."""
    machine = NodeProcess(around, module=STAND_IN_NODE, name="node-1", settings=settings)
    try:
        yield machine
    finally:
        machine.kill_everything()


def _rows(around: Surroundings) -> Sequence[WorkerNode]:
    with around.database.transaction() as session:
        return session.scalars(select(WorkerNode).order_by(WorkerNode.name)).all()


def _wait_until_both_are(around: Surroundings, state: NodeState, *, timeout_s: float = 60) -> None:
    def they_are() -> bool:
        return [(row.name, row.state) for row in _rows(around)] == [("node-1-0", state), ("node-1-1", state)]

    wait_for(they_are, timeout_s=timeout_s)


def _jobs_for_both(around: Surroundings, *, seconds: float) -> list[Job]:
    """As many as it takes, since a node may take one more while it renders."""
    jobs = [around.job("seconds=0.2", seconds=seconds) for _ in range(4)]  # 0.2 s for each block
    for job in jobs:
        around.publish(job)
    _wait_until_both_are(around, NodeState.BUSY)
    return jobs


def _job_drawn_on(around: Surroundings, jobs: Sequence[Job], name: str) -> Job:
    def drawn() -> list[Job]:
        rows = [around.row(job) for job in jobs]
        return [row for row in rows if row.lease_owner == name and row.blocks_done > 0]

    wait_for(lambda: bool(drawn()), timeout_s=30)
    return drawn()[0]


def _let_leases_of_the_dead_end(around: Surroundings, name: str) -> None:
    """What a minute of silence would do."""
    with around.database.transaction() as session:
        session.execute(update(Job).where(Job.lease_owner == name).values(lease_expires_at=func.now()))
    with around.database.transaction() as session:
        assert transitions.rescue_lost(session)


def _node_of(machine: NodeProcess, name: str) -> psutil.Process:
    """The process of one replica. Fails when it is not there within half a minute."""

    def named() -> list[psutil.Process]:
        children = psutil.Process(machine.process.pid).children()
        return [child for child in children if _lives(child) and child.environ()["REALVIDEO_NODE_NAME"] == name]

    wait_for(lambda: len(named()) == 1, timeout_s=30)
    return named()[0]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _answers(machine: NodeProcess, port: int) -> bool:
    assert not machine.has_ended, machine.log.read_text()
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2, trust_env=False, verify=False)
        return answer.status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _two_free_ports() -> int:
    """The first of two neighbours."""
    for _ in range(50):
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            with suppress(OSError, OverflowError):
                other.bind(("127.0.0.1", port + 1))
                return port
    raise AssertionError("no two neighbouring ports are free")
