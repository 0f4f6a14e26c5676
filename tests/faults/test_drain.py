"""Workers that are told to end: by a signal, by a command, one after the other under load."""

import os
import re
import signal
import subprocess
import sys
import time

import httpx

from api.keys import Scope, create_key
from models.job import AttemptOutcome, JobStatus
from models.worker_node import NodeState, WorkerNode
from tests.faults.figures import record
from tests.faults.installation import Installation
from tests.faults.parts import Node
from tests.integration.worker.stand_in_video_rank import BLOCKS_PER_PIECE
from tests.unit.group.conftest import members_of

GRACE_S = 25.0
BLOCK_S = 0.1
"""Of a long job, so that it is in work while all nodes are restarted."""


def test_a_node_in_mid_render_hands_its_job_back_within_the_grace(installation: Installation) -> None:
    goes_on = installation.directory / "goes-on"
    job_id = installation.submit(f"seconds=0.3 until={goes_on}", seconds=10)
    installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    node = installation.node_of(job_id)
    groups = node.groups()
    begun_at = installation.attempts(job_id)[0].started_at.timestamp()
    told_at = time.time()
    node.send(signal.SIGTERM)
    assert node.wait_for_end(timeout_s=GRACE_S) == 0
    assert members_of(groups) == []
    installation.wait_for_row(job_id, lambda row: row.attempt == 2)
    goes_on.touch()
    first, second = installation.attempts(job_id)
    row = installation.row(job_id)
    assert (first.outcome, row.crash_count, row.error_retries) == (AttemptOutcome.DRAINED, 0, 0)
    assert first.ended_at is not None
    record(
        "SIGTERM in mid-render",
        noticed_s=first.ended_at.timestamp() - told_at,
        goes_on_s=second.started_at.timestamp() - told_at,
        repeated_s=told_at - begun_at,
    )
    assert installation.wait_for_end(job_id, timeout_s=60).status == JobStatus.SUCCEEDED


def test_the_command_drains_the_node_it_names_and_no_other(installation: Installation) -> None:
    handed_back = installation.directory / "handed-back"
    job_id = installation.submit(f"seconds=0.3 until={handed_back}", seconds=10)
    installation.wait_for_row(job_id, lambda row: row.blocks_done >= 1)
    node = installation.node_of(job_id)
    other = next(one for one in installation.nodes if one is not node)
    told_at = time.time()
    said = _drain_by_command(installation, node.name)
    assert (said.returncode, said.stdout) == (0, f"{node.name} has stopped.\n"), said.stderr
    assert node.wait_for_end(timeout_s=10) == 0
    assert time.time() - told_at < GRACE_S
    assert other.is_running
    assert installation.outcomes(job_id)[0] == AttemptOutcome.DRAINED
    handed_back.touch()
    again = _drain_by_command(installation, node.name)
    assert (again.returncode, again.stderr) == (1, f"realvideo: {node.name} has ended already.\n")
    unknown = _drain_by_command(installation, "nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "realvideo: there is no worker nobody.\n")
    assert installation.wait_for_end(job_id, timeout_s=60).status == JobStatus.SUCCEEDED
    node.start()  # what it was asked then is not meant for it now
    node.wait_until_ready()
    with installation.database.transaction() as session:
        row = session.get_one(WorkerNode, node.name)
        assert (row.state, row.drain_requested_at) == (NodeState.READY, None)


def test_only_a_key_of_operators_drains_over_http(installation: Installation) -> None:
    node = installation.nodes[0]
    with installation.database.transaction() as session:
        key = create_key(session, tenant_id=installation.tenant_id, name="operator", scopes=[Scope.DRAIN]).token
    path = f"/v1/worker-drains/{node.name}"
    with installation.client() as client:
        assert client.put(path).status_code == 403  # an admin of a tenant
        operator = {"Authorization": f"Bearer {key}"}
        answer: httpx.Response = client.put(path, headers=operator)
        assert (answer.status_code, answer.json()["name"]) == (202, node.name)
        assert answer.json()["drain_requested_at"] is not None
        assert node.wait_for_end(timeout_s=GRACE_S) == 0
        assert client.put(path, headers=operator).json()["code"] == "worker_ended"
        assert client.put("/v1/worker-drains/nobody", headers=operator).status_code == 404


def test_a_rolling_restart_under_load_loses_nothing_and_repeats_a_piece_at_most(installation: Installation) -> None:
    all_restarted = installation.directory / "all-restarted"
    long_id = installation.submit(f"seconds={BLOCK_S} until={all_restarted}", seconds=30)
    installation.wait_for_row(long_id, lambda row: row.blocks_done > BLOCKS_PER_PIECE)
    job_ids = [long_id]
    for _ in range(2):
        for node in _that_draws_first(installation, long_id):
            job_ids += [installation.submit("seconds=0.1", seconds=3) for _ in range(3)]
            _restart(node)
    all_restarted.touch()
    for job_id in job_ids:
        row = installation.wait_for_end(job_id, timeout_s=60)
        assert (row.status, row.crash_count, row.error_retries) == (JobStatus.SUCCEEDED, 0, 0)
        assert set(installation.outcomes(job_id)) <= {AttemptOutcome.DRAINED, AttemptOutcome.SUCCEEDED}
    repeated = _repeated_blocks(installation, long_id)
    assert repeated, "it was drained in mid-render"
    assert max(repeated) <= BLOCKS_PER_PIECE, "ten seconds of video, whose drawing takes less than an interval"
    record("rolling restart, 30 s of video", noticed_s=None, goes_on_s=None, repeated_s=BLOCK_S * sum(repeated))


def _that_draws_first(installation: Installation, job_id: str) -> list[Node]:
    owner = installation.row(job_id).lease_owner
    return sorted(installation.nodes, key=lambda node: node.name != owner)


def _repeated_blocks(installation: Installation, job_id: str) -> list[int]:
    """Each time that it was left in mid-render: how far before that block its next attempt went on."""
    logs = "".join(node.log.read_text(errors="replace") for node in installation.nodes)

    def blocks(word: str) -> dict[int, int]:
        found = re.findall(rf"{job_id}\.(\d+) {word} at block (\d+)", logs)
        return {int(attempt): int(block) for attempt, block in found}

    begun = blocks("goes on")
    return [left - begun.get(attempt + 1, 0) for attempt, left in sorted(blocks("is left").items())]


def _restart(node: Node) -> None:
    node.send(signal.SIGTERM)
    assert node.wait_for_end(timeout_s=GRACE_S) == 0
    node.start()
    node.wait_until_ready()


def _drain_by_command(installation: Installation, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "workers", "drain", name],
        env={**os.environ, "DATABASE_URL": installation.postgres.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
