"""How good a frame is as a portrait: by the face in it, or by its sharpness alone. Knows pixels only."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import cv2

LONG_SIDE = 320  # faces are looked for in a copy of this size: its cost does not grow with the picture
_SMALLEST_FACE = 0.08  # of the shorter side
_CASCADE = "haarcascade_frontalface_default.xml"


def sharpness(grey: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian: near 0 for a blurred frame, hundreds for a sharp one."""
    pixels = grey.astype(np.float64)
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4.0 * pixels[1:-1, 1:-1]
    return float(laplacian.var()) if laplacian.size else 0.0


def face_score(grey: NDArray[np.uint8]) -> float:
    """0 without a face that looks at the camera; else larger for a larger and a sharper one."""
    height, width = grey.shape
    smallest = max(24, round(min(height, width) * _SMALLEST_FACE))
    found = _detector().detectMultiScale(grey, scaleFactor=1.1, minNeighbors=6, minSize=(smallest, smallest))
    scores = [
        (w * h) / (width * height) * np.log1p(sharpness(grey[y : y + h, x : x + w])) for x, y, w, h in np.asarray(found)
    ]
    return max(map(float, scores), default=0.0)


def small_grey(picture: Image.Image) -> NDArray[np.uint8]:
    scale = LONG_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR).convert("L"))


@cache
def _detector() -> "cv2.CascadeClassifier":
    # 60 MB of code that only a job with a source video needs
    import cv2

    cv2.setNumThreads(1)
    detector = cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / _CASCADE))
    assert not detector.empty(), "the wheel carries its cascades up to version 4"
    return detector
