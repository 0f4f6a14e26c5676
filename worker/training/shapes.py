"""Shapes with smooth edges, many pictures at once.

Knows coordinates and coverage only. A shape is how much of every pixel it covers, 0 to 1, from the distance of the
pixel's middle to the outline; distances to ellipses are those of their level sets, which is right where it matters,
near the outline.

Shapes: B pictures, h x w pixels. Lengths are in units of the face, numbers of one picture are [B, 1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.training.faces import Frame


@dataclass(frozen=True)
class Canvas:
    """The middles of the pixels of a part of a picture, [h, w] each, and the size of a unit."""

    x: Tensor
    y: Tensor
    unit: float

    @classmethod
    def of(cls, frame: Frame, box: tuple[int, int, int, int], *, device: torch.device) -> Canvas:
        """`box` is left, top, right and bottom in pixels."""
        left, top, right, bottom = box
        (centre_x, centre_y), unit = frame.centre, frame.unit
        across = (torch.arange(left, right, device=device, dtype=torch.float32) + 0.5 - centre_x) / unit
        down = (torch.arange(top, bottom, device=device, dtype=torch.float32) + 0.5 - centre_y) / unit
        y, x = torch.meshgrid(down, across, indexing="ij")
        return cls(x, y, unit)

    def ellipse(self, x: Tensor | float, y: Tensor | float, half_width: Tensor, half_height: Tensor) -> Tensor:
        return self.cover(self.to_ellipse(x, y, half_width, half_height))

    def to_ellipse(self, x: Tensor | float, y: Tensor | float, half_width: Tensor, half_height: Tensor) -> Tensor:
        """Distance in units, negative inside."""
        across, down = (self.x - x) / half_width, (self.y - y) / half_height
        level = (across.square() + down.square()).sqrt()
        slope = ((across / half_width).square() + (down / half_height).square()).sqrt().clamp_min(1e-6)
        return level * (level - 1) / slope

    def box(
        self, x: Tensor | float, y: Tensor | float, half_width: Tensor, half_height: Tensor, corner: float
    ) -> Tensor:
        return self.cover(self.to_box(x, y, half_width, half_height, corner))

    def to_box(
        self, x: Tensor | float, y: Tensor | float, half_width: Tensor, half_height: Tensor, corner: float
    ) -> Tensor:
        """Distance in units to a rectangle whose corners are rounded by `corner`."""
        across = (self.x - x).abs() - half_width + corner
        down = (self.y - y).abs() - half_height + corner
        outside = (across.clamp_min(0).square() + down.clamp_min(0).square()).sqrt()
        return outside + torch.maximum(across, down).clamp_max(0) - corner

    def above(self, y: Tensor) -> Tensor:
        """Everything over the line y, which may bend."""
        return self.cover(self.y - y)

    def line(self, distance: Tensor, half_thickness: Tensor | float) -> Tensor:
        """A stroke along an outline."""
        return self.cover(distance.abs() - half_thickness)

    def cover(self, distance: Tensor) -> Tensor:
        """How much of each pixel lies inside, from distances in units."""
        return (0.5 - distance * self.unit).clamp(0, 1)


def paint(picture_B3hw: Tensor, cover_Bhw: Tensor, colour_B3: Tensor) -> Tensor:
    """A colour laid over a picture where a shape covers it."""
    return torch.lerp(picture_B3hw, colour_B3[..., None, None], cover_Bhw.unsqueeze(-3))
