"""The decoder's way from latent frames to what the last convolution sums up, several frames in one call.

Knows the order of layers; the layers themselves are torch's convolutions and products on packed weights, and `Rows`
in between. Keeps nothing: what came before a call is in the caches it is given, which hold zeros at first, so that
one piece of a stream is computed like any other.

Shapes: T latent frames, h x w latent cells; n frames, H x W pixels and C channels at the layer at hand.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from worker.pipeline.vae_packed.rows import Cells, Four, Frames, Pending, Products, Rows
from worker.pipeline.vae_packed.weights import (
    COLOURS,
    PAST,
    TAPS,
    AttentionWeights,
    CachePlace,
    DecoderWeights,
    HeadWeights,
    LevelWeights,
    Linear,
    PairConv,
    ResidualWeights,
    TapConv,
    TimeConv,
    UpsampleWeights,
)

Caches = list[Tensor]
"""By slot: [2, H, W, C] each, the last one, of the head, [54, 2, H, W]."""


class Place(Enum):
    """Where a piece stands in its stream."""

    FIRST = "first"
    """The first latent frame, alone: it is not doubled in time, and gives one frame."""
    LATER = "later"
    """Every latent frame gives four."""


class PackedDecoder:
    """The network. Without state, so that streams may share it."""

    def __init__(self, weights: DecoderWeights, rows: Rows) -> None:
        self._weights = weights
        self.rows = rows

    @property
    def head_bias(self) -> Tensor:
        """[3], for `Rows.pixels`."""
        return self._weights.head.bias

    def new_caches(self, height: int, width: int) -> Caches:
        """Of a stream that begins, for latents of `height` x `width` cells."""
        like = self._weights.post_quant.weight
        return [like.new_zeros(self._cache_shape(place, height, width)) for place in self._weights.caches]

    def planes(self, z_Thwc: Tensor, caches: Caches, *, place: Place) -> Tensor:
        """Planes [81, 2 + n, H, W] for `Rows.pixels` from latents as the decoder takes them; `FIRST` has T = 1."""
        weights = self._weights
        x = self._conv_in(_linear(z_Thwc, weights.post_quant), weights.conv_in, caches)
        x = self._residual(x, weights.middle_first, caches)
        x = self._attention(x, weights.middle_attention)
        x = self._residual(x, weights.middle_last, caches)
        for level in weights.levels:
            x = self._level(x, level, caches, place)
        return self._head(x, weights.head, caches)

    def _conv_in(self, z_Thwc: Tensor, conv: TapConv, caches: Caches) -> Pending:
        taps = self.rows.taps(Pending(Frames(z_Thwc)), caches[conv.cache.slot])
        return Pending(Frames(_conv2d(taps, conv.weight)), bias=conv.bias)

    def _residual(self, x: Pending, block: ResidualWeights, caches: Caches) -> Pending:
        total, inputs = self.rows.total_and_pairs(x, block.norm1, caches[block.conv1.cache.slot])
        frames = len(total)
        shortcut = total if block.shortcut is None else _linear(total, block.shortcut)
        h = Pending(_pair_conv(inputs, block.conv1, frames=frames), bias=block.conv1.bias)
        inputs = self.rows.pairs(h, block.norm2, caches[block.conv2.cache.slot])
        made = _pair_conv(inputs, block.conv2, frames=frames)
        return Pending(made, bias=block.conv2.bias, residual=shortcut)

    def _attention(self, x: Pending, attention: AttentionWeights) -> Pending:
        total, normed = self.rows.normed(x, attention.norm)
        q, k, v = _linear(normed, attention.to_qkv).flatten(1, 2)[:, None].chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return Pending(Frames(_linear(mixed.reshape(total.shape), attention.proj)), residual=total)

    def _level(self, x: Pending, level: LevelWeights, caches: Caches, place: Place) -> Pending:
        for block in level.blocks:
            x = self._residual(x, block, caches)
        return x if level.upsample is None else self._upsample(x, level.upsample, caches, place)

    def _upsample(self, x: Pending, upsample: UpsampleWeights, caches: Caches, place: Place) -> Pending:
        if upsample.time is None or place is Place.FIRST:
            pictures, halves = self.rows.total(x), 1
        else:
            taps = self.rows.taps(x, caches[upsample.time.cache.slot])
            pictures, halves = _doubled(taps, upsample.time), 2
        cells = _conv2d(pictures, upsample.weight)
        return Pending(Cells(cells, halves), bias=upsample.bias)

    def _head(self, x: Pending, head: HeadWeights, caches: Caches) -> Tensor:
        x_nHWC = self.rows.activated(x, head.norm)
        frames, height, width, _ = x_nHWC.shape
        planes = x_nHWC.new_empty(TAPS * COLOURS, PAST + frames, height, width)
        cache = caches[head.cache.slot]
        before = planes[: len(cache)]
        before[:, :PAST].copy_(cache)
        # a row per plane and not per pixel, so that the sum over places reads whole lines
        torch.mm(head.weight, x_nHWC.flatten(0, 2).t(), out=planes.flatten(1)[:, PAST * height * width :])
        cache.copy_(before[:, -PAST:])
        return planes

    def _cache_shape(self, place: CachePlace, height: int, width: int) -> tuple[int, ...]:
        height, width = height * place.enlargement, width * place.enlargement
        if place is self._weights.head.cache:
            return (place.channels, PAST, height, width)
        return (PAST, height, width, place.channels)


def _pair_conv(inputs: Four, conv: PairConv, *, frames: int) -> Products:
    m0, m1, m2, m3 = (_conv2d(x, w) for x, w in zip(inputs, conv.weights, strict=True))
    return Products((m0, m1, m2, m3), frames)


def _conv2d(x_NHWC: Tensor, weight: Tensor) -> Tensor:
    """With one pixel of zeros around the picture; the bias is left to whoever reads the result."""
    return functional.conv2d(x_NHWC.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)


def _doubled(taps_THW3C: Tensor, time: TimeConv) -> Tensor:
    """[2T, H, W, C]: the first frames that every frame gives, then the second ones."""
    frames, height, width, _ = taps_THW3C.shape
    rows = taps_THW3C.flatten(0, 2)
    made = rows.new_empty(2, len(rows), len(time.halves[0].bias))
    for half, out in zip(time.halves, made, strict=True):
        torch.addmm(half.bias, rows, half.weight.t(), out=out)
    return made.view(2 * frames, height, width, -1)


def _linear(x: Tensor, linear: Linear) -> Tensor:
    return functional.linear(x, linear.weight, linear.bias)
