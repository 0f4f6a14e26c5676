"""Nodes with the real network in its tiny size, killed and drained in mid-render: long jobs go on where they were."""

import hashlib
import os
import re
import signal
import time

import av
import pytest

from models.job import Job, JobStatus
from tests.integration.worker.nodes import REAL_NODE, NodeProcess, Surroundings
from tests.waiting import wait_for

SECONDS = 32.0
BLOCKS_PER_PIECE = 20


@pytest.mark.timeout(300)  # two nodes import torch, on whatever machine this is
def test_a_long_job_survives_the_death_of_a_rank_and_the_end_of_its_node(around: Surroundings) -> None:
    inputs = around.job(seconds=SECONDS)
    sources = {"audio_source": inputs.audio_source, "image_source": inputs.image_source, "seed": 7, "fps": 25}
    with around.node(module=REAL_NODE, ranks=3, checkpoint_every_s=0.1) as node:
        whole = around.job(**sources)
        around.publish(whole)
        around.wait_for_status(whole, JobStatus.SUCCEEDED, timeout_s=90)

        broken = around.job(**sources)
        around.publish(broken)
        wait_for(lambda: around.row(broken).checkpoint_key is not None, timeout_s=60)
        drawn = around.row(broken).blocks_done
        os.kill(node.rank_pids()[1], signal.SIGKILL)
        row = around.wait_for_status(broken, JobStatus.QUEUED, timeout_s=15)
        assert (row.crash_count, row.error_retries) == (1, 0)
        around.publish(broken)
        around.wait_for_status(broken, JobStatus.SUCCEEDED, timeout_s=90)
        begun_at = _first_block(node, broken)
        assert begun_at % BLOCKS_PER_PIECE == 0
        assert begun_at > 0
        assert drawn - begun_at <= 2 * BLOCKS_PER_PIECE  # one that is drawn, and one whose file is not whole yet
        assert _video(around, broken) == _video(around, whole)

        drained = around.job(**sources)
        around.publish(drained)
        wait_for(lambda: around.row(drained).checkpoint_key is not None, timeout_s=60)
        node.send(signal.SIGTERM)
        told_at = time.monotonic()
        assert node.wait_for_end(timeout_s=30) == 0
        assert time.monotonic() - told_at < 25
        row = around.row(drained)
        assert (row.status, row.crash_count, row.error_retries) == (JobStatus.QUEUED, 0, 0)
        assert node.survivors() == []
    with around.node(module=REAL_NODE, name="node-2", ranks=1) as node:
        around.publish(drained)
        row = around.wait_for_status(drained, JobStatus.SUCCEEDED, timeout_s=90)
        assert _first_block(node, drained) >= BLOCKS_PER_PIECE
        assert row.result_key is not None
        with av.open(str(around.objects / row.result_key)) as container:
            assert sum(1 for _ in container.decode(video=0)) == SECONDS * 25
    assert not list((around.objects / "checkpoints").rglob("*.*")), "an ended job leaves no checkpoint"


def _first_block(node: NodeProcess, job: Job) -> int:
    """Where its last attempt went on, as the rank says in the node's log."""
    found = re.findall(rf"{job.id}\.\d+ goes on at block (\d+)", node.log.read_text())
    assert len(found) == 1, node.log.read_text()
    return int(found[0])


def _video(around: Surroundings, job: Job) -> str:
    row = around.row(job)
    assert row.result_key is not None
    return hashlib.sha256((around.objects / row.result_key).read_bytes()).hexdigest()
