"""What a stream of decoded frames offers, on whatever device. Knows arrays and latents; decodes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class FramesOnTheWay(Protocol):
    """Frames that a device is making, or has made."""

    def wait(self) -> NDArray[np.uint8]:
        """Frames uint8 [n, H, W, 3] in RGB, when they are there; a second call gives the same array.

        It is the caller's for good. No timeout of its own: a device that hangs cannot be told to stop, and the group
        ends a rank that makes no progress.
        """
        ...


class DecodeStream(Protocol):
    """Turns the latents of one video into frames, in pieces of any length, as if it had been given them all at once.

    The first latent frame gives one frame, every other four. Shapes: c latent channels, T latent frames, n frames,
    h x w latent cells, H = 8h, W = 8w. On a GPU all calls belong on one CUDA stream. Raises `ValueError` for latents of
    another shape.
    """

    def begin(self, latents_cThw: Tensor) -> FramesOnTheWay:
        """Asks the device for the frames and does not wait for it. Latents must not be written to before it has."""
        ...

    def decode(self, latents_cThw: Tensor) -> NDArray[np.uint8]:
        """The frames."""
        ...

    def decode_pixels(self, latents_cThw: Tensor) -> Tensor:
        """The same frames as numbers in -1 .. 1, [3, n, H, W]."""
        ...


@dataclass(frozen=True)
class FramesThere:
    """Frames that were made at once."""

    frames: NDArray[np.uint8]

    def wait(self) -> NDArray[np.uint8]:
        """The frames."""
        return self.frames


def check_latents(latents_cThw: Tensor) -> None:
    """Raises `ValueError`."""
    if latents_cThw.ndim != 4 or not latents_cThw.shape[1]:
        raise ValueError(f"latents {list(latents_cThw.shape)} are not [c, T, h, w] with at least one frame")
