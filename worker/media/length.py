"""How long a video becomes, when a length was asked for that the sound does not have. Knows numbers only."""

from enum import StrEnum

from worker.media.errors import MediaError, MediaErrorCode
from worker.media.timing import NATIVE_FPS

_TOLERANCE_S = 1 / NATIVE_FPS


class LengthPolicy(StrEnum):
    """The same words as in a job."""

    REJECT = "reject"  # refuse a difference of more than one frame
    PAD = "pad"  # silence behind a shorter sound; a longer one is refused
    TRIM = "trim"  # cut a longer sound; a shorter one keeps its length


def resulting_length(sound_s: float, *, asked_s: float | None, policy: LengthPolicy) -> float:
    """The length of the video in seconds. Raises MediaError when the policy does not allow one."""
    if asked_s is None or abs(sound_s - asked_s) <= _TOLERANCE_S:
        return sound_s
    if policy is LengthPolicy.TRIM:
        return min(sound_s, asked_s)
    if policy is LengthPolicy.PAD and sound_s < asked_s:
        return asked_s
    way_out = "pad or trim" if sound_s < asked_s else "trim"
    raise MediaError(
        MediaErrorCode.LENGTH_MISMATCH,
        f"The sound lasts {sound_s:.3f} s and {asked_s:.3f} s were asked for. Send a sound of that length,"
        f" or choose another length policy ({way_out}).",
    )
