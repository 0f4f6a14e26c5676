"""How long a video becomes, and how many frames that is."""

import pytest

from worker.media.errors import MediaError, MediaErrorCode
from worker.media.length import LengthPolicy, resulting_length
from worker.media.timing import frames_for


@pytest.mark.parametrize("policy", list(LengthPolicy))
def test_without_a_wish_or_within_a_frame_of_it_the_sound_keeps_its_length(policy: LengthPolicy) -> None:
    assert resulting_length(4.03, asked_s=None, policy=policy) == 4.03
    assert resulting_length(4.03, asked_s=4.0, policy=policy) == 4.03
    assert resulting_length(3.97, asked_s=4.0, policy=policy) == 3.97


def test_pad_lengthens_and_never_cuts() -> None:
    assert resulting_length(3.0, asked_s=4.0, policy=LengthPolicy.PAD) == 4.0
    with pytest.raises(MediaError) as caught:
        resulting_length(5.0, asked_s=4.0, policy=LengthPolicy.PAD)
    assert caught.value.code is MediaErrorCode.LENGTH_MISMATCH


def test_trim_cuts_and_never_lengthens() -> None:
    assert resulting_length(5.0, asked_s=4.0, policy=LengthPolicy.TRIM) == 4.0
    assert resulting_length(3.0, asked_s=4.0, policy=LengthPolicy.TRIM) == 3.0


@pytest.mark.parametrize(("sound_s", "way_out"), [(3.9, "pad or trim"), (4.1, "trim")])
def test_reject_refuses_both_ways_and_names_the_way_out(sound_s: float, way_out: str) -> None:
    with pytest.raises(MediaError, match=way_out) as caught:
        resulting_length(sound_s, asked_s=4.0, policy=LengthPolicy.REJECT)
    assert caught.value.code is MediaErrorCode.LENGTH_MISMATCH


@pytest.mark.parametrize(
    ("duration_s", "fps", "frames"),
    [
        (4.0, 16, 64), (4.03, 16, 65), (4.0625, 16, 65), (0.5, 16, 8), (0.1, 16, 2), (0.01, 16, 1), (10.0, 30, 300),
        (4.03, 24, 97), (4.03, 25, 101), (0.1 * 3, 10, 3), (1800.0, 60, 108_000),
    ],
)  # fmt: skip
def test_frames_cover_the_sound_and_no_frame_begins_after_it(duration_s: float, fps: int, frames: int) -> None:
    assert frames_for(duration_s, fps=fps) == frames
