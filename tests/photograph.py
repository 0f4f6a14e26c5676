"""Pictures such as a lens makes of people, without anybody in them. Knows numpy and Pillow only."""

from functools import cache

import numpy as np
from PIL import Image

from tests.drawn_portrait import draw_portrait


def photograph(seed: int, *, grain: float) -> Image.Image:
    """What a lens makes of a person: light from one side, hair, a blurred room, and grain."""
    random = np.random.default_rng(seed)
    person = np.asarray(_person(), dtype=np.float32)
    height, width, _ = person.shape
    is_person = np.abs(person - person[:, :1]).max(axis=2, keepdims=True) > 6
    light = np.linspace(random.uniform(0.55, 0.75), random.uniform(1.0, 1.15), width)[None, :, None]
    strands = _smooth(random.normal(0, 1, (height // 32, width)), width, height)
    strands = strands[..., None] * np.where(person.max(axis=2, keepdims=True) < 90, 18, 4)
    room = np.stack([_smooth(random.normal(120, 40, (8, 6)), width, height) for _ in range(3)], axis=2)
    scene = np.where(is_person, person * light + strands, room) + random.normal(0, grain, (height, width, 1))
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8)).rotate(float(random.uniform(-3, 3)))


@cache
def _person() -> Image.Image:
    return draw_portrait()


def _smooth(numbers: np.ndarray, width: int, height: int) -> np.ndarray:
    """The numbers spread over so many pixels, [height, width]."""
    picture = Image.fromarray(numbers.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
