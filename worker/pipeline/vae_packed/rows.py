"""What happens between two convolutions, in plain torch: sums, norms and the next convolution's input.

Knows single values and the frames before them, no layers and no weights but those of a norm. This is the reference for
the Triton kernels, and what runs on a CPU. A value that is still to be summed up is a `Pending`; whoever reads it makes
the sum on the way, so a bias, a residual or an upsampling never is a pass over memory of its own.

Shapes: T frames, P pairs of frames (the last may be half empty), H x W pixels, C channels, N pictures of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.vae_packed.weights import COLOURS, PAST

Four = tuple[Tensor, Tensor, Tensor, Tensor]

SHORTEST = 1e-12
"""The norm's smallest length of a row."""


@dataclass(frozen=True)
class Frames:
    """Values [T, H, W, C] as they are."""

    values: Tensor


@dataclass(frozen=True)
class Products:
    """m0 .. m3 of each pair of frames, [P, H, W, C], whose sums are the values (`packing.frame_pairs`)."""

    four: Four
    frames: int


@dataclass(frozen=True)
class Cells:
    """Values of an enlarged picture where `packing.on_cells` puts them.

    With `halves` = 2 the pictures are all even frames, then all odd ones.
    """

    values: Tensor
    """[N, H / 2 + 1, W / 2 + 1, 4C]"""
    halves: int


@dataclass(frozen=True)
class Pending:
    """source + bias [C] + residual [T, H, W, C]."""

    source: Frames | Products | Cells
    bias: Tensor | None = None
    residual: Tensor | None = None


class Rows:
    """Plain torch. What comes back is in the dtype of what was given; sums and norms are exact.

    A `Pending` must not be used again after a call: a kernel may write over it. A `cache` [2, H, W, C] holds the last
    frames of what a causal convolution was given, is read for what comes before frame 0, and is brought up to date.
    """

    def total(self, x: Pending) -> Tensor:
        """The sum, [T, H, W, C]."""
        return _sum(x).to(_dtype(x))

    def normed(self, x: Pending, norm_C: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and its norm."""
        total_THWC = _sum(x)
        return total_THWC.to(_dtype(x)), _norm(total_THWC, norm_C).to(_dtype(x))

    def activated(self, x: Pending, norm_C: Tensor) -> Tensor:
        """SiLU of the norm of the sum."""
        return functional.silu(_norm(_sum(x), norm_C)).to(_dtype(x))

    def taps(self, x: Pending, cache_2HWC: Tensor) -> Tensor:
        """The sum of each frame after those of the two frames before it, [T, H, W, 3C]."""
        seen = torch.cat((cache_2HWC.to(_sum(x).dtype), _sum(x)))
        cache_2HWC.copy_(seen[-PAST:])
        frames = len(seen) - PAST
        return torch.cat([seen[t : t + frames] for t in range(PAST + 1)], dim=-1).to(_dtype(x))

    def pairs(self, x: Pending, norm_C: Tensor, cache_2HWC: Tensor) -> Four:
        """SiLU of the norm of the sum, as the four convolutions of a `PairConv` take it, [P, H, W, C] each."""
        return _pairs(_sum(x), norm_C, cache_2HWC, dtype=_dtype(x))

    def total_and_pairs(self, x: Pending, norm_C: Tensor, cache_2HWC: Tensor) -> tuple[Tensor, Four]:
        """The sum as well."""
        total_THWC = _sum(x)
        return total_THWC.to(_dtype(x)), _pairs(total_THWC, norm_C, cache_2HWC, dtype=_dtype(x))

    def pixels(self, planes_QSHW: Tensor, bias_3: Tensor) -> Tensor:
        """Pixels [T, H, W, 3] in -1 .. 1, exact, from what every place gives to its neighbours.

        `planes` [81, 2 + T, H, W] begin two frames before; plane ((dt * 3 + dy) * 3 + dx) * 3 + colour goes to the
        frame 2 - dt later, and to the pixel at row + 1 - dy, column + 1 - dx.
        """
        planes = planes_QSHW.to(exact_dtype(planes_QSHW.dtype)).view(3, 3, 3, COLOURS, *planes_QSHW.shape[1:])
        *_, frames, height, width = planes.shape
        padded = functional.pad(planes, (1, 1, 1, 1))
        total = bias_3[:, None, None, None].expand(-1, frames - PAST, height, width)
        for dt in range(3):
            for dy in range(3):
                for dx in range(3):
                    place = padded[dt, dy, dx, :, dt : dt + frames - PAST, dy : dy + height, dx : dx + width]
                    total = total + place
        return total.clamp(-1.0, 1.0).permute(1, 2, 3, 0).contiguous()

    def bytes_of_pixels(self, planes_QSHW: Tensor, bias_3: Tensor) -> Tensor:
        """The same as uint8; truncated, not rounded (specification, section 12)."""
        pixels_THW3 = self.pixels(planes_QSHW, bias_3)
        return (((pixels_THW3 + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)


def shape_of(x: Pending) -> tuple[int, int, int, int]:
    """T, H, W, C of the sum."""
    match x.source:
        case Frames(values):
            frames, height, width, channels = values.shape
        case Products(four, frames):
            _, height, width, channels = four[0].shape
        case Cells(values):
            frames, height, width, channels = values.shape
            height, width, channels = 2 * (height - 1), 2 * (width - 1), channels // 4
    return frames, height, width, channels


def _dtype(x: Pending) -> torch.dtype:
    match x.source:
        case Products(four):
            return four[0].dtype
        case Frames(values) | Cells(values):
            return values.dtype


def _sum(x: Pending) -> Tensor:
    exact = exact_dtype(_dtype(x))
    match x.source:
        case Frames(values):
            total = values.to(exact)
        case Products(four, frames):
            m0, m1, m2, m3 = (m.to(exact) for m in four)
            total = torch.stack((m0 + m1 + m2, m1 - m2 - m3), dim=1).flatten(0, 1)[:frames]
        case Cells(values, halves):
            total = _enlarged(values.to(exact), halves)
    if x.bias is not None:
        total = total + x.bias.to(exact)
    if x.residual is not None:
        total = total + x.residual.to(exact)
    return total


def _enlarged(values_NHW4C: Tensor, halves: int) -> Tensor:
    parts = values_NHW4C.view(*values_NHW4C.shape[:3], 2, 2, -1)
    rows, columns = parts.shape[1] - 1, parts.shape[2] - 1
    shifted = [[parts[:, a : a + rows, b : b + columns, a, b] for b in (0, 1)] for a in (0, 1)]
    large = torch.stack([torch.stack(row, dim=3) for row in shifted], dim=2).flatten(3, 4).flatten(1, 2)
    return large.view(halves, -1, *large.shape[1:]).transpose(0, 1).flatten(0, 1)


def _norm(x_THWC: Tensor, norm_C: Tensor) -> Tensor:
    length = x_THWC.square().sum(-1, keepdim=True).sqrt().clamp_min(SHORTEST)
    return x_THWC / length * norm_C


def _pairs(total_THWC: Tensor, norm_C: Tensor, cache_2HWC: Tensor, *, dtype: torch.dtype) -> Four:
    new_THWC = functional.silu(_norm(total_THWC, norm_C))
    seen = torch.cat((cache_2HWC.to(new_THWC.dtype), new_THWC))
    cache_2HWC.copy_(seen[-PAST:])
    if len(new_THWC) % 2:
        seen = torch.cat((seen, torch.zeros_like(seen[:1])))
    d0, d1, d2, d3 = seen[:-2:2], seen[1:-2:2], seen[2::2], seen[3::2]
    return (d0 - d2).to(dtype), (d1 + d2).to(dtype), (d2 - d1).to(dtype), (d1 - d3).to(dtype)
