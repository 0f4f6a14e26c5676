"""What the benchmarks of encoding say is what happened."""

import time
from pathlib import Path

import pytest

from tests.bench import outside, pace, x264
from tests.bench.sampled_rank import Doing
from tests.bench.talking_head import Clip
from worker.group.group import GroupSettings
from worker.media.mp4 import Frames
from worker.media.muxing import Quality
from worker.media.picture import ExactSize


@pytest.mark.parametrize("fps", [16, 25])
def test_a_coarser_encoding_is_measured_as_smaller_and_worse(tmp_path: Path, fps: int) -> None:
    qualities = [Quality(preset="ultrafast", crf=crf) for crf in (8, 40)]
    rows = x264.measured(Clip(seconds=0.5), qualities, rates=[fps], rounds=1, directory=tmp_path)
    fine, coarse = (row for row in rows if row.kept is not None)
    assert fine.kept is not None
    assert coarse.kept is not None
    assert fine.kept.ssim > 0.99, "pictures are compared with those they were made of"
    assert fine.kept.ssim - coarse.kept.ssim > 0.05
    assert fine.kept.psnr_db - coarse.kept.psnr_db > 10
    assert fine.kilobytes_per_s is not None
    assert coarse.kilobytes_per_s is not None
    assert fine.kilobytes_per_s > 5 * coarse.kilobytes_per_s
    assert all(row.cpu_ms_per_frame > 0 for row in rows)


def test_a_write_that_waits_is_seen_in_the_time_of_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_POOL_BLOCKS", 1)  # which pictures, is all the same here

    def slow(block: Frames) -> None:
        time.sleep(0.05)

    stretch = pace.Stretch(pace_ms=20, launching_ms=1, blocks=4, quality=Quality())
    seen = pace.drawn(stretch, slow, finish=lambda: time.sleep(0.03))
    assert min(seen.write_ms) >= 50
    assert min(seen.block_ms) >= 69
    assert seen.finish_ms >= 30


def test_the_moments_of_a_render_are_mostly_in_the_network(tmp_path: Path) -> None:
    settings = GroupSettings(preset="tiny", device="cpu", ranks=2, start_deadline_s=60)
    seen = outside.rendered(settings, 2.0, size=ExactSize(128, 128), directory=tmp_path)
    encoder, dit = seen.ranks
    assert encoder.doing[Doing.VAE] > 0.2 * seen.steps.render
    assert encoder.doing[Doing.DIT] == 0
    assert dit.doing[Doing.DIT] > 0 == dit.doing[Doing.VAE]
    assert dit.doing[Doing.WAITING] > dit.doing[Doing.WRITING] == 0
    assert any("mp4" in place or "ffmpeg" in place for place in encoder.places)
    assert seen.frames == 32
