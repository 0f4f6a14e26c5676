"""How a node starts and ends: refusals, too many failures, impatient operators."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from models.job import JobStatus
from models.worker_node import NodeState
from tests.integration.worker.nodes import STAND_IN_NODE, NodeProcess, Surroundings
from tests.waiting import wait_for


def test_a_configuration_that_can_never_run_is_refused_with_the_reason(around: Surroundings) -> None:
    with _node(around, preset="impossible", ranks=4) as node:
        assert node.wait_for_end(timeout_s=30) == 2
        assert "possible: 1, 2, 3" in node.log.read_text()
        assert node.survivors() == []


def test_a_group_that_fails_too_often_ends_the_node_as_unhealthy(around: Surroundings) -> None:
    with _node(around, preset="broken", group_failures_allowed=2) as node:
        wait_for(lambda: "health at" in node.log.read_text())
        assert node.get("/healthz").status_code == 200
        assert node.get("/readyz").status_code == 503
        assert node.wait_for_end(timeout_s=40) == 1
        row = node.row()
        assert row is not None
        assert (row.state, row.group_restarts) == (NodeState.UNHEALTHY, 2)
        assert "the weights are torn" in node.log.read_text()


def test_two_nodes_of_one_name_on_one_machine_are_refused(around: Surroundings) -> None:
    with around.node(), _node(around) as second:
        assert second.wait_for_end(timeout_s=30) == 2
        assert "set REALVIDEO_NODE_NAME" in second.log.read_text()


def test_a_taken_port_is_refused_in_plain_words(around: Surroundings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with _node(around, health_port=taken.getsockname()[1]) as node:
            assert node.wait_for_end(timeout_s=30) == 2
            assert "set REALVIDEO_HEALTH_PORT" in node.log.read_text()


def test_a_node_told_to_end_while_it_loads_ends_at_once(around: Surroundings) -> None:
    with _node(around, preset="slow", ranks=2) as node:
        wait_for(lambda: len(node.rank_pids()) == 2, timeout_s=30)
        node.note_groups()
        told_at = time.monotonic()
        node.send(signal.SIGINT)
        assert node.wait_for_end(timeout_s=15) == 0
        assert time.monotonic() - told_at < 6
        assert node.survivors() == []


def test_a_second_signal_does_not_wait_for_a_group_that_stands_still(around: Surroundings) -> None:
    with around.node(ranks=2, drain_grace_s=60, progress_deadline_s=60) as node:
        job = around.job("seconds=0.2", seconds=30)
        around.publish(job)
        around.wait_for_blocks(job, 1)
        os.kill(node.rank_pids()[1], signal.SIGSTOP)
        node.send(signal.SIGTERM)
        with pytest.raises(AssertionError):  # the first signal waits for the block border, which never comes
            wait_for(lambda: node.has_ended, timeout_s=2)
        told_at = time.monotonic()
        node.send(signal.SIGTERM)
        assert node.wait_for_end(timeout_s=20) == 0
        assert time.monotonic() - told_at < 10
        assert node.survivors() == []
    row = around.row(job)
    assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 0, 0)


@contextmanager
def _node(around: Surroundings, **settings: object) -> Iterator[NodeProcess]:
    """A node that need not get ready."""
    node = NodeProcess(around, module=STAND_IN_NODE, name="node-1", settings=settings)
    try:
        yield node
    finally:
        node.kill_everything()
