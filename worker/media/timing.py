"""How many frames a duration has. Knows numbers only."""

import math

NATIVE_FPS = 16
"""Frames per second that the network draws, whatever the video's rate is."""

_ROUNDING = 1e-6


def frames_for(duration_s: float, *, fps: int) -> int:
    """The frames that cover a sound: the last one begins before the sound ends. Never fewer than one.

    Rounded up, so that a video is never shorter than its sound, and longer by less than one frame.
    """
    return max(1, math.ceil(duration_s * fps - _ROUNDING))
