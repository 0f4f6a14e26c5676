"""`Rows` on a GPU: what the kernels in `kernels.py` are called with.

Knows tensors and the sizes of programs. Results go to the memory of what was read wherever shapes allow, so a step
needs no memory but that of its convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.vae_packed import kernels
from worker.pipeline.vae_packed.rows import SHORTEST, Cells, Four, Frames, Pending, Products, Rows, shape_of
from worker.pipeline.vae_packed.weights import COLOURS, PAST

TILE = 1024
"""Values of one frame that a program holds."""

WARPS = 4

LINE = 512
"""Pixels of one program of the last sum."""

OFFSETS = 2**31
"""Offsets of the kernels are 32-bit."""


class TritonRows(Rows):
    """Float32 inside, in one kernel per call. Launches on the current stream, never waits."""

    def total(self, x: Pending) -> Tensor:
        """As `Rows.total`."""
        total = _room_for_total(x)
        _prepare(x, norm=kernels.NORM_NONE, sink=kernels.SINK_NONE, total=total)
        return total

    def normed(self, x: Pending, norm_C: Tensor) -> tuple[Tensor, Tensor]:
        """As `Rows.normed`."""
        total = _room_for_total(x)
        out = torch.empty_like(total)
        _prepare(x, norm=kernels.NORM_PLAIN, sink=kernels.SINK_ROWS, total=total, scale=norm_C, out=(out,))
        return total, out

    def activated(self, x: Pending, norm_C: Tensor) -> Tensor:
        """As `Rows.activated`."""
        out = _room_for_total(x)
        _prepare(x, norm=kernels.NORM_SILU, sink=kernels.SINK_ROWS, scale=norm_C, out=(out,))
        return out

    def taps(self, x: Pending, cache_2HWC: Tensor) -> Tensor:
        """As `Rows.taps`."""
        *leading, channels = shape_of(x)
        out = _first(x).new_empty(*leading, 3 * channels)
        _prepare(x, norm=kernels.NORM_NONE, sink=kernels.SINK_TAPS, cache=cache_2HWC, out=(out,))
        return out

    def pairs(self, x: Pending, norm_C: Tensor, cache_2HWC: Tensor) -> Four:
        """As `Rows.pairs`."""
        out = _room_for_pairs(x)
        _prepare(x, norm=kernels.NORM_SILU, sink=kernels.SINK_PAIRS, scale=norm_C, cache=cache_2HWC, out=out)
        return out

    def total_and_pairs(self, x: Pending, norm_C: Tensor, cache_2HWC: Tensor) -> tuple[Tensor, Four]:
        """As `Rows.total_and_pairs`."""
        total, out = _room_for_total(x), _room_for_pairs(x)
        _prepare(
            x, norm=kernels.NORM_SILU, sink=kernels.SINK_PAIRS, total=total, scale=norm_C, cache=cache_2HWC, out=out
        )
        return total, out

    def pixels(self, planes_QSHW: Tensor, bias_3: Tensor) -> Tensor:
        """As `Rows.pixels`."""
        return _sum_places(planes_QSHW, bias_3, dtype=exact_dtype(planes_QSHW.dtype))

    def bytes_of_pixels(self, planes_QSHW: Tensor, bias_3: Tensor) -> Tensor:
        """As `Rows.bytes_of_pixels`."""
        return _sum_places(planes_QSHW, bias_3, dtype=torch.uint8)


def _room_for_total(x: Pending) -> Tensor:
    return _first(x).new_empty(shape_of(x)) if x.residual is None else x.residual


def _room_for_pairs(x: Pending) -> Four:
    if isinstance(x.source, Products):
        return x.source.four
    frames, height, width, channels = shape_of(x)
    m0, m1, m2, m3 = (_first(x).new_empty((frames + 1) // 2, height, width, channels) for _ in range(4))
    return m0, m1, m2, m3


def _prepare(
    x: Pending,
    *,
    norm: Any,
    sink: Any,
    total: Tensor | None = None,
    scale: Tensor | None = None,
    cache: Tensor | None = None,
    out: tuple[Tensor, ...] = (),
) -> None:
    frames, height, width, channels = shape_of(x)
    sources: tuple[Tensor, ...]
    match x.source:
        case Frames(values):
            kind, sources, halves = kernels.SOURCE_FRAMES, (values,), 1
        case Products(four):
            kind, sources, halves = kernels.SOURCE_PRODUCTS, four, 1
        case Cells(values, halves):
            kind, sources = kernels.SOURCE_CELLS, (values,)
    given = [tensor for tensor in (*sources, *out, x.bias, x.residual, total, cache) if tensor is not None]
    _check(given)
    unused = given[0]
    block_channels = triton.next_power_of_2(channels)
    block_pixels = max(1, TILE // block_channels)
    kernel: Any = kernels.sum_and_prepare
    kernel[(triton.cdiv(height * width, block_pixels),)](
        *_four(sources, unused),
        unused if x.bias is None else x.bias,
        unused if x.residual is None else x.residual,
        unused if total is None else total,
        unused if scale is None else scale,
        unused if cache is None else cache,
        *_four(out, unused),
        height * width,
        width,
        CHANNELS=channels,
        FRAMES=frames,
        SOURCE=kind.value,
        HALVES=halves,
        NORM=norm.value,
        SINK=sink.value,
        HAS_BIAS=x.bias is not None,
        HAS_RESIDUAL=x.residual is not None,
        KEEPS_TOTAL=total is not None,
        SHORTEST=SHORTEST,
        BLOCK_PIXELS=block_pixels,
        BLOCK_CHANNELS=block_channels,
        num_warps=WARPS,
    )


def _sum_places(planes_QSHW: Tensor, bias_3: Tensor, *, dtype: torch.dtype) -> Tensor:
    _, plane_frames, height, width = planes_QSHW.shape
    out = planes_QSHW.new_empty(plane_frames - PAST, height, width, COLOURS, dtype=dtype)
    _check([planes_QSHW, out])
    kernel: Any = kernels.sum_places
    kernel[(triton.cdiv(height * width, LINE), plane_frames - PAST)](
        planes_QSHW,
        bias_3,
        out,
        height * width,
        width,
        PLANE_FRAMES=plane_frames,
        TO_BYTES=dtype is torch.uint8,
        BLOCK=LINE,
        num_warps=WARPS,
    )
    return out


def _first(x: Pending) -> Tensor:
    match x.source:
        case Products(four):
            return four[0]
        case Frames(values) | Cells(values):
            return values


def _four(tensors: tuple[Tensor, ...], unused: Tensor) -> tuple[Tensor, ...]:
    return (*tensors, *(unused for _ in range(4 - len(tensors))))


def _check(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        assert tensor.is_contiguous(), f"{list(tensor.shape)} is no tensor of rows"
        if tensor.numel() >= OFFSETS:
            raise ValueError(f"{list(tensor.shape)} is too large for offsets of 32 bits: decode fewer frames at once")
