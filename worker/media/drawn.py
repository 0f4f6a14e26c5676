"""Whether a portrait is one of the drawn kind that the avatar preset was trained on. Knows pixels only.

Such a portrait is made of even colours, is its own mirror image, and has its lips on the axis at a height of their own.
Photographs have grain and hair everywhere, light from one side, and no face that is alike on both sides. A drawn
portrait that was cut off its middle counts as another kind, and rightly: the preset has never seen one. Another cartoon
of even colours that looks straight ahead may pass, and so may a drawn portrait that stands on its head.
"""

import numpy as np
from numpy.typing import NDArray

NOT_DRAWN = "picture_not_drawn"
NOT_DRAWN_MESSAGE = (
    "The picture is not one of the drawn portraits that this preset was trained on: it will probably not speak. "
    "`realvideo avatar portraits` lists some, `realvideo avatar draw` draws more; photographs need the 14b preset."
)

_EVEN = 2
"""Levels that neighbours of one colour may differ by: what JPEG does to even colour."""
_LEAST_EVEN = 0.22
_UNLIKE = 16
"""Levels by which a pixel and its mirror image are not the same colour any more."""
_MOST_UNLIKE = 0.12
_LIPS = 20
"""Levels by which lips stand out from the skin above and below."""
_LIP_ROWS = (0.16, 0.40)
_AXIS = 2
"""Pixels to each side of the axis that are looked at."""


def is_drawn(portrait: NDArray[np.uint8]) -> bool:
    """`portrait`: RGB [height, width, 3] at the size of its video.

    The limits leave room around 100 drawn people in both sizes, halved to four times as large, and as JPEG of quality
    50 and more (tests/unit/media/test_drawn.py).
    """
    levels = portrait.astype(np.int16)
    return _unlike_share(levels) <= _MOST_UNLIKE and _even_share(levels) >= _LEAST_EVEN and _lips_seen(levels) >= _LIPS


def _unlike_share(levels: NDArray[np.int16]) -> float:
    """Of pixels that differ from their mirror image."""
    return float((np.abs(levels - levels[:, ::-1]).max(axis=2) > _UNLIKE).mean())


def _even_share(levels: NDArray[np.int16]) -> float:
    """Of pixels that have the colour of the next ones to the right and below."""
    right = np.abs(np.diff(levels, axis=1)).max(axis=2)[:-1]
    below = np.abs(np.diff(levels, axis=0)).max(axis=2)[:, :-1]
    return float((np.maximum(right, below) <= _EVEN).mean())


def _lips_seen(levels: NDArray[np.int16]) -> float:
    """How far, in levels, anything on the axis stands out from an even passage from nose to chin."""
    height, width, _ = levels.shape
    # the middle of the face and its unit, as `worker.training.faces.Frame` lays them out
    centre, unit = 0.46 * height, min(width, 0.8 * height)
    top, bottom = (round(centre + row * unit) for row in _LIP_ROWS)
    column = levels[top:bottom, width // 2 - _AXIS : width // 2 + _AXIS].mean(axis=1)
    return float(np.abs(column - np.linspace(column[0], column[-1], len(column))).max())
