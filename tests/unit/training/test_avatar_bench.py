"""The limits of the bench hold for the truth, and break for each way to be wrong; so does an untrained avatar."""

import numpy as np
import pytest
import torch

from tests.bench.avatar import __main__ as bench
from tests.bench.avatar import clips
from tests.bench.avatar.clips import Clip, long_clip, short_clips, silent_clip
from tests.bench.avatar.mutants import MUTANTS
from tests.bench.avatar.sources import Drawn
from tests.bench.avatar.verdict import quiet, same, spoken, steady
from worker.pipeline import encoders
from worker.pipeline.config import AVATAR
from worker.pipeline.dit.kv_cache import KVCache
from worker.pipeline.sink_rotation import SinkRotation


@pytest.fixture(scope="module")
def clip() -> Clip:
    return next(short_clips(1))


@pytest.fixture(scope="module")
def truth(clip: Clip) -> np.ndarray:
    return Drawn().frames(clip)


@pytest.fixture
def half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a whole one: of drawn videos, beginning and end are no nearer to each other by that."""
    monkeypatch.setattr(clips, "LONG_S", 30.0)


@pytest.mark.usefixtures("half_a_minute")
def test_the_truth_is_within_all_limits(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one clip of each size, the silent one and the long one."""
    assert bench.main(["--drawn", "--clips", "2", "--minutes", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("avatar: 4 of 4 verdicts within the limits")


def test_without_weights_the_bench_fails(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--weights", str(tmp_path / "none.safetensors")]) == 1
    assert "not found" in capsys.readouterr().out


def test_a_video_that_is_a_block_late_breaks_lag_and_correlation(clip: Clip, truth: np.ndarray) -> None:
    late = np.concatenate((truth[:8], truth[:-8]))
    assert {"lag", "correlation"} <= set(spoken(clip, late).broken)


def test_a_still_picture_is_found_out(clip: Clip, truth: np.ndarray) -> None:
    assert "the mouth does not move" in spoken(clip, np.repeat(truth[:1], len(truth), axis=0)).broken


def test_a_mouth_open_in_silence_is_found_out(clip: Clip, truth: np.ndarray) -> None:
    widest = truth[clip.truth.argmax()]
    agape = truth.copy()
    agape[clip.silent] = widest
    assert "silence" in spoken(clip, agape).broken
    silence = silent_clip()
    assert quiet(silence, Drawn().frames(silence)).broken == ()


@pytest.mark.usefixtures("half_a_minute")
def test_a_person_that_changes_within_a_minute_is_found_out() -> None:
    minute = long_clip(0)
    frames = Drawn().frames(minute)
    assert steady(minute, frames).broken == ()
    faded = frames.copy()
    faded[-16:] = (frames[-16:] * 0.95).astype(np.uint8)
    assert "colour" in steady(minute, faded).broken
    moving = frames.copy()
    moving[-320:] = np.roll(moving[-320:], 1, axis=2)
    assert "shape" in steady(minute, moving).broken


def test_a_video_is_the_plain_one_only_with_the_same_frames(clip: Clip, truth: np.ndarray) -> None:
    rounded = truth.copy()
    rounded[0, 0, 0, 0] ^= 1
    assert same(clip, rounded, truth).broken == ()
    assert same(clip, truth ^ 1, truth).broken == ("off",)
    assert same(clip, truth[:-1], truth).broken == ("frames",)


def test_every_mutant_changes_what_it_is_about() -> None:
    rows = [torch.arange(64.0).expand(AVATAR.audio.num_states, AVATAR.dit.audio_dim, 64)]
    right = [window[0, 0, -1] for _, window in zip(range(3), encoders.audio_windows(rows, AVATAR.dit), strict=False)]
    with MUTANTS["late-sound"]():
        late = [window[0, 0, -1] for _, window in zip(range(3), encoders.audio_windows(rows, AVATAR.dit), strict=False)]
    assert late == [right[0], right[0], right[1]]
    cache = KVCache(
        AVATAR.dit,
        tokens_per_frame=4,
        heads=4,
        rotation=SinkRotation.EXACT,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert cache.block_slots(1).write != cache.block_slots(0).write
    with MUTANTS["ring-slot"]():
        assert cache.block_slots(1).write == cache.block_slots(0).write
