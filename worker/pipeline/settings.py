"""What a caller asks of one render, and what he gives for it. Knows no network; settings are checked when made.

Units are pixels, frames and samples (specification, sections 12 and 13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.errors import InvalidRender
from worker.pipeline.noise import check_seed
from worker.pipeline.schedule import denoising_steps
from worker.pipeline.sink_rotation import SinkRotation
from worker.pipeline.sound import ReadSamples

if TYPE_CHECKING:
    from worker.pipeline.resumption import Resumption

OnPassed = Callable[[], None]

SIDE_MULTIPLE = 16
"""Pixels of a side that the VAE (8) and the patches of the DiT (2) need to divide."""


@dataclass(frozen=True)
class RenderSettings:
    """One video. The same on every rank. Raises `InvalidRender`."""

    height: int
    width: int
    frames: int
    """Pixel frames wanted, at 16 per second."""
    seed: int
    denoising_steps: int
    """2 or 4."""
    prompt: str
    audio_mode: AudioMode = AudioMode.WINDOWED
    sink_rotation: SinkRotation = SinkRotation.EXACT

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if side < SIDE_MULTIPLE or side % SIDE_MULTIPLE:
                raise InvalidRender(f"{name} is {side}, must be a multiple of {SIDE_MULTIPLE}")
        if self.frames < 1:
            raise InvalidRender(f"frames is {self.frames}, must be at least 1")
        check_seed(self.seed)
        denoising_steps(self.denoising_steps)


@dataclass(frozen=True)
class RenderInputs:
    """What a video is made from."""

    read_samples: ReadSamples
    """The sound, float32 mono at 16 kHz, a piece at a time."""
    total_samples: int
    image: NDArray[np.uint8]
    """[height, width, 3] RGB, of the size of the video."""
    resumption: Resumption | None = None
    """Where the render goes on, if some of the video was made before."""
    on_passed: OnPassed = lambda: None
    """Called again and again while sound before that is passed over: an hour of it may take half a minute."""
