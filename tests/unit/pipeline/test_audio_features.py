"""Rates: 50 to 30 to 16 per second, all at once and as a stream."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate as torch_interpolate

from worker.pipeline.audio_features import RowStream, bucket, frames_between, interpolate, nearest_between
from worker.pipeline.audio_padding import audio_rows, padded_samples, video_blocks


def features(frames: int) -> torch.Tensor:
    return torch.randn(2, frames, 3, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [2, 24, 49, 249, 1999])
def test_interpolation_is_that_of_pytorch(frames: int) -> None:
    size = frames_between(frames)
    theirs = torch_interpolate(features(frames).transpose(1, 2), size=size, mode="linear", align_corners=True)
    torch.testing.assert_close(interpolate(features(frames)), theirs.transpose(1, 2), rtol=0, atol=1e-6)


@given(seconds=st.integers(1, 12), cuts=st.lists(st.integers(1, 200), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_row_stream_gives_the_rows_of_the_whole_however_it_is_cut(seconds: int, cuts: list[int]) -> None:
    frames, rows = seconds * 50 - 1, seconds * 16
    whole = bucket(interpolate(features(frames)), batch_frames=rows).permute(1, 2, 0)
    stream = RowStream(total_frames=frames, total_rows=rows)
    left, made = features(frames), []
    for cut in (*cuts, frames):
        piece, left = left[:, :cut], left[:, cut:]
        if piece.shape[1]:
            made.append(stream.push(piece))
    torch.testing.assert_close(torch.cat(made, dim=2), whole, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("seconds", [1, 2, 5])
def test_a_row_stream_waits_for_the_last_frames_wherever_it_is_cut_before_them(seconds: int) -> None:
    frames, rows = seconds * 50 - 1, seconds * 16
    whole = bucket(interpolate(features(frames)), batch_frames=rows).permute(1, 2, 0)
    for rest in range(1, 8):
        stream = RowStream(total_frames=frames, total_rows=rows)
        made = [stream.push(piece) for piece in features(frames).split([frames - rest, rest], dim=1)]
        torch.testing.assert_close(torch.cat(made, dim=2), whole, rtol=1e-5, atol=2e-4)


def test_a_row_stream_holds_no_more_than_it_needs() -> None:
    stream = RowStream(total_frames=4999, total_rows=1600)
    for piece in features(4999).split(100, dim=1):
        stream.push(piece)
        assert stream._held is not None
        assert stream._held.shape[1] <= 4
        assert stream._held.untyped_storage().nbytes() == stream._held.nbytes


def test_no_row_of_a_sound_of_whole_seconds_lies_past_its_end() -> None:
    for seconds in (*range(1, 400), 3600, 7200):
        last = nearest_between(np.array([seconds * 16 - 1]))[0]
        assert last < frames_between(seconds * 50 - 1)


def test_frames_that_do_not_last_are_refused() -> None:
    with pytest.raises(ValueError, match="do not last"):
        RowStream(total_frames=49, total_rows=17)


def test_padding_fills_the_last_second() -> None:
    assert [padded_samples(n) for n in (1, 15_999, 16_000, 16_001)] == [16_000, 16_000, 16_000, 32_000]
    assert (audio_rows(16_001), video_blocks(16_001, frames_per_block=8)) == (32, 4)
    with pytest.raises(ValueError, match="holds nothing"):
        padded_samples(0)
