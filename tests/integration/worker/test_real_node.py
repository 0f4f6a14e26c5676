"""A node with the real network in its small sizes: one job after the other."""

import os
import shutil
import signal
import time

import av
import psutil
import pytest

from infra import samples
from models import transitions
from models.job import JobStatus
from tests.integration.worker.nodes import REAL_NODE, Surroundings
from tests.waiting import wait_for


@pytest.mark.timeout(300)  # three processes import torch, on whatever machine this is
def test_the_real_network_renders_cancels_and_goes_down_in_one_piece(around: Surroundings) -> None:
    with around.node(module=REAL_NODE, ranks=3) as node:
        ranks = node.rank_pids()
        assert len(ranks) == 3

        short = around.job(seconds=1.3, fps=25)
        around.publish(short)
        row = around.wait_for_status(short, JobStatus.SUCCEEDED)
        assert row.result_key is not None
        assert row.ms_per_block is not None
        assert row.ms_per_block > 0
        with av.open(str(around.objects / row.result_key)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 33  # 1.3 s at 25 a second, rounded up
        assert frames[0].std() > 1  # not one colour

        # 6 × 10 latent cells: neither side can be cut in two
        impossible = around.job(width=48, height=80)
        around.publish(impossible)
        refused = around.wait_for_status(impossible, JobStatus.FAILED)
        assert refused.error_code == "impossible_layout"
        assert refused.error_message is not None
        assert refused.error_message.endswith("possible numbers of ranks: 1, 2")

        by_picture = around.job(
            seconds=0.3, width=None, height=None, size_policy="reference_bars", audio_mode="reference",
            sink_rotation="reference_rounding",
        )  # fmt: skip
        around.publish(by_picture)
        row = around.wait_for_status(by_picture, JobStatus.SUCCEEDED, timeout_s=90)
        assert row.output is not None
        assert (row.output["width"], row.output["height"]) == (512, 512)
        assert node.rank_pids() == ranks

        canceled = around.job(seconds=60)
        around.publish(canceled)
        around.wait_for_blocks(canceled, 1)
        with around.database.transaction() as session:
            transitions.request_cancel(session, canceled.id, tenant_id=around.tenant_id)
        asked_at = time.monotonic()
        assert around.wait_for_status(canceled, JobStatus.CANCELED).blocks_done < 100
        assert time.monotonic() - asked_at < 5
        assert node.rank_pids() == ranks

        broken = around.job(seconds=60)
        around.publish(broken)
        around.wait_for_blocks(broken, 1)
        killed_at = time.monotonic()
        os.kill(ranks[1], signal.SIGKILL)
        wait_for(lambda: around.row(broken).crash_count == 1, timeout_s=10)
        assert time.monotonic() - killed_at < 5
        assert not any(psutil.pid_exists(pid) for pid in ranks)


@pytest.mark.timeout(300)
def test_the_avatar_draws_in_the_size_nearest_to_the_picture_and_warns_of_pictures_of_another_kind(
    around: Surroundings,
) -> None:
    *_, upright = samples.portraits()
    drawn = around.upload(lambda path: shutil.copyfile(upright, path))
    asked = {"preset": "avatar", "seconds": 0.3, "width": None, "height": None, "size_policy": "reference"}
    with around.node(module=REAL_NODE, ranks=1, preset="avatar") as node:
        of_a_person, of_a_gradient = around.job(image_source=drawn, **asked), around.job(**asked)
        unknown_size = around.job(**{**asked, "width": 64, "height": 64, "size_policy": "exact"})
        for job in (of_a_person, of_a_gradient, unknown_size):
            around.publish(job)
        output = around.wait_for_status(of_a_person, JobStatus.SUCCEEDED).output
        assert output is not None
        assert (output["width"], output["height"], output["warnings"]) == (144, 192, [])
        output = around.wait_for_status(of_a_gradient, JobStatus.SUCCEEDED).output
        assert output is not None
        assert (output["width"], output["height"]) == (192, 192)
        assert [warning["code"] for warning in output["warnings"]] == ["picture_not_drawn"]
        refused = around.wait_for_status(unknown_size, JobStatus.FAILED)
        assert refused.error_code == "invalid_render"
        assert "192 x 192 or 144 x 192" in str(refused.error_message)
        said = node.log.read_text()
        assert f"{of_a_gradient.id}: The picture is not one of the drawn portraits" in said
        assert f"{of_a_person.id}: The picture" not in said
