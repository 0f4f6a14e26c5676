"""Inputs of a render that nobody recorded: noise for the sound, noise for the picture, the same each time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worker.pipeline.settings import RenderInputs, RenderSettings


def drawn_inputs(settings: RenderSettings, *, samples: int) -> RenderInputs:
    drawn = np.random.default_rng(3)
    image = drawn.integers(0, 256, (settings.height, settings.width, 3), dtype=np.uint8)
    sound = drawn.standard_normal(samples).astype(np.float32)
    return RenderInputs(read_samples=reader(sound), total_samples=len(sound), image=image)


def reader(sound: NDArray[np.float32]) -> Callable[[int], NDArray[np.float32]]:
    position = 0

    def read(count: int) -> NDArray[np.float32]:
        nonlocal position
        position += count
        return sound[position - count : position]

    return read
