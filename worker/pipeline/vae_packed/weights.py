"""The decoder's parameters, in the layouts that its packed form computes with. Knows shapes only; `packing` fills them.

Shapes: C channels in, K out.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

PAST = 2
"""Frames of its input that a causal convolution looks back."""

TAPS = 27
"""Places of a 3 x 3 x 3 kernel."""

COLOURS = 3


@dataclass(frozen=True)
class CachePlace:
    """Where a layer finds the last two frames of its input, and how large they are."""

    slot: int
    channels: int
    enlargement: int
    """Pixels per latent cell, on a side."""


@dataclass(frozen=True)
class Linear:
    """A convolution of one place, on rows: weight [K, C], bias [K]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class PairConv:
    """A causal 3 x 3 x 3 convolution as four 2D ones that make two frames at once (see `packing.frame_pairs`)."""

    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    """[K, C, 3, 3] each"""
    bias: Tensor
    cache: CachePlace


@dataclass(frozen=True)
class TapConv:
    """A causal 3 x 3 x 3 convolution as a 2D one of three frames side by side as channels."""

    weight: Tensor
    """[K, 3C, 3, 3], channels of the earliest frame first."""
    bias: Tensor
    cache: CachePlace


@dataclass(frozen=True)
class ResidualWeights:
    """Norm, SiLU, convolution, twice, beside a shortcut."""

    norm1: Tensor
    conv1: PairConv
    norm2: Tensor
    conv2: PairConv
    shortcut: Linear | None


@dataclass(frozen=True)
class AttentionWeights:
    """Attention of one head among the pixels of a frame."""

    norm: Tensor
    to_qkv: Linear
    proj: Linear


@dataclass(frozen=True)
class TimeConv:
    """The convolution over three frames that makes two of each: one product for either."""

    halves: tuple[Linear, Linear]
    """[C, 3C] each, channels of the earliest frame first."""
    cache: CachePlace


@dataclass(frozen=True)
class UpsampleWeights:
    """Nearest upsampling and a 3 x 3 convolution as one of 2 x 2 on the small picture (`packing.on_cells`)."""

    time: TimeConv | None
    weight: Tensor
    """[4K, C, 2, 2]"""
    bias: Tensor


@dataclass(frozen=True)
class LevelWeights:
    """All of one size of picture, and the way to the next one."""

    blocks: tuple[ResidualWeights, ...]
    upsample: UpsampleWeights | None


@dataclass(frozen=True)
class HeadWeights:
    """The last norm, and the last convolution as one product per pixel and a sum over places."""

    norm: Tensor
    weight: Tensor
    """[81, C]: frame, row, column and colour of the kernel, in this order."""
    bias: Tensor
    cache: CachePlace


@dataclass(frozen=True)
class DecoderWeights:
    """The whole decoder."""

    post_quant: Linear
    conv_in: TapConv
    middle_first: ResidualWeights
    middle_attention: AttentionWeights
    middle_last: ResidualWeights
    levels: tuple[LevelWeights, ...]
    head: HeadWeights
    caches: tuple[CachePlace, ...]
